"""The documents of `foretoken bench`, from files: comparisons and runs over suites."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from foretoken.bench.report import Report
from foretoken.bench.stream_report import StreamReport
from foretoken.errors import ArtifactError, ConfigError


@dataclass(frozen=True)
class Document:
    """One file. Exactly one of the two is there."""

    name: str  # of the file, without folder and suffix
    comparison: Report | None = None
    stream: StreamReport | None = None

    @property
    def reports(self) -> list[tuple[str, Report]]:
        """(task, its comparison); a comparison's task is the file's name."""
        if self.comparison is not None:
            return [(self.name, self.comparison)]
        assert self.stream is not None
        return [(suite.suite, suite.report) for suite in self.stream.suites]

    @property
    def failed(self) -> bool:
        """Whether a text of ours differed that must not."""
        return any(report.failed for _, report in self.reports)


def read(path: Path) -> Document:
    """Raises ConfigError for a file that cannot be read, ArtifactError for one that is no such
    document, or holds no results."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError("results", str(path), f"a readable file ({error.strerror})") from None
    tried: list[str] = []
    for kind in (StreamReport, Report):
        try:
            found = kind.model_validate_json(text)
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) or "the whole"
            tried.append(f"as {kind.__name__}: {where}")
            continue
        document = (
            Document(path.stem, stream=found)
            if isinstance(found, StreamReport)
            else Document(path.stem, comparison=found)
        )
        if not document.reports:
            raise ArtifactError(f"{path}: holds no results yet")
        return document
    raise ArtifactError(f"{path}: not a document of `foretoken bench --save` ({'; '.join(tried)})")
