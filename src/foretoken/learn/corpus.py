"""Training text: the running Python's standard library and JSONL or text files.

Documents that belong together (a module and the functions cut out of it) share a group, and a
whole group is either trained on or held out, so that held-out text is never seen in training.
"""

import ast
import hashlib
import json
import platform
import sys
import sysconfig
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretoken.errors import ConfigError

# Tests, vendored wheels, tables and generated files: little to learn from, or specific to one
# machine (_sysconfigdata holds build paths).
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
SKIPPED_FOLDERS |= {"encodings", "pydoc_data", "_bundled", "msilib"}
SKIPPED_FILES = frozenset({"entities.py", "stringprep.py", "this.py"})
SKIPPED_PREFIXES = ("_sysconfigdata", "__phello__")


@dataclass(frozen=True, slots=True)
class Document:
    """One text that ends with the end-of-text token. `group` decides on which side it is held."""

    kind: str  # module | function | qa | text
    group: str
    text: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where documents came from: what a model card has to state."""

    name: str
    licence: str
    sha256: str
    bytes: int
    documents: dict[str, int]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents split in two, with their sources."""

    train: list[Document]
    held_out: list[Document]
    sources: list[Source]

    def manifest(self) -> dict[str, Any]:
        """Sources, counts and one sha256 over every document, in order, with its side."""
        digest = hashlib.sha256()
        for side, documents in (("train", self.train), ("held_out", self.held_out)):
            for document in documents:
                digest.update(f"{side}\0{document.kind}\0{document.text}\0".encode())
        return {
            "sha256": digest.hexdigest(),
            "train": _counts(self.train),
            "held_out": _counts(self.held_out),
            "sources": [
                {name: getattr(source, name) for name in Source.__slots__}
                for source in self.sources
            ],
        }


def build_corpus(
    files: Iterable[Path], held_out: float, stdlib: Path | None = None, use_stdlib: bool = True
) -> Corpus:
    """Read the standard library and `files`; hold out the fraction `held_out` of the groups.

    Raises ConfigError if a file cannot be read, or if nothing is left to train on.
    """
    parts = [stdlib_source(stdlib)] if use_stdlib else []
    parts += [file_source(path) for path in files]
    documents = list(dict.fromkeys(document for found, _ in parts for document in found))
    held = [d for d in documents if _held(d.group, held_out)]
    held_texts = {d.text for d in held}
    train = [d for d in documents if not _held(d.group, held_out) and d.text not in held_texts]
    if not train:
        raise ConfigError("data", "no documents", "at least one file with text to train on")
    return Corpus(train, held, [source for _, source in parts])


def stdlib_source(root: Path | None = None) -> tuple[list[Document], Source]:
    """Modules of the standard library, and each documented function as a document of its own."""
    root = root or Path(sysconfig.get_paths()["stdlib"])
    documents, digest, size = list[Document](), hashlib.sha256(), 0
    for path in sorted(root.rglob("*.py")):
        if _skipped(path.relative_to(root)):
            continue
        name = path.relative_to(root).as_posix()
        try:
            text = path.read_text("utf-8")
            functions = list(documented_functions(text))
        except (UnicodeDecodeError, SyntaxError, OSError):
            continue  # old code pages and templates that are no Python
        digest.update(f"{name}\0{text}\0".encode())
        size += len(text.encode())
        documents.append(Document("module", name, text))
        documents += [Document("function", name, function) for function in functions]
    name = f"CPython {platform.python_version()} standard library"
    return documents, Source(name, _psf_licence(), digest.hexdigest(), size, _counts(documents))


def file_source(path: Path) -> tuple[list[Document], Source]:
    """Documents of one file: JSONL rows (`question` + `answer`, or `text`), else the whole text.

    The licence is that of `licence_of`.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("data", str(path), "a readable UTF-8 .jsonl or text file") from error
    rows = _rows(path, text) if path.suffix == ".jsonl" else [Document("text", path.name, text)]
    digest = hashlib.sha256(raw).hexdigest()
    return rows, Source(path.name, licence_of(path), digest, len(raw), _counts(rows))


def documented_functions(text: str) -> Iterator[str]:
    """Each function or method with a docstring and a body, dedented, as text of its own.

    Every second one gets those imports of its module that it uses in front, which is how
    completion prompts usually look. Raises SyntaxError.
    """
    tree = ast.parse(text)
    lines = text.splitlines()
    imports = _imports(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node) is None or len(node.body) < 2:
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        body = textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno])).strip() + "\n"
        used = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
        needed = sorted({line for name, line in imports.items() if name in used})
        yield "\n".join(needed) + "\n\n\n" + body if needed and _hash(body) % 2 else body


def _imports(tree: ast.Module) -> dict[str, str]:
    """Name bound by each top-level import -> a line that imports just this name."""
    found: dict[str, str] = {}
    for node in tree.body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            bound = (alias.asname or alias.name).split(".")[0]
            renamed = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
            start = (
                f"from {'.' * node.level}{node.module or ''} "
                if isinstance(node, ast.ImportFrom)
                else ""
            )
            found[bound] = f"{start}import {renamed}"
    return found


def _rows(path: Path, text: str) -> list[Document]:
    documents = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        place = f"{path.name}:{number}"
        try:
            documents.append(_row(place, json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            accepted = "JSON rows with question and answer, or with text"
            raise ConfigError("data", place, accepted) from error
    return documents


def _row(place: str, row: Any) -> Document:
    if "text" in row:
        return Document("text", place, str(row["text"]))
    return Document("qa", place, f"Question: {row['question']}\nAnswer: {row['answer']}")


def licence_of(path: Path) -> str:
    """First line, and copyright, of a `LICENSE.<prefix of the file's name>` beside the file."""
    for notice in sorted(path.parent.glob("LICENSE.*")):
        if path.stem.startswith(notice.suffix[1:]):
            lines = [line.strip() for line in notice.read_text("utf-8").strip().splitlines()]
            return ", ".join([lines[0], *(s for s in lines[1:] if s.startswith("Copyright"))])
    return "not stated"


def _psf_licence() -> str:
    return f"PSF-2.0, {sys.copyright.splitlines()[0]}"


def _skipped(path: Path) -> bool:
    name = path.name
    return (
        bool(SKIPPED_FOLDERS.intersection(path.parts))
        or name in SKIPPED_FILES
        or name.startswith(SKIPPED_PREFIXES)
    )


def _held(group: str, fraction: float) -> bool:
    # By hash of the name: the split does not move when documents are added or reordered.
    return _hash(group) % 10_000 < fraction * 10_000


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _counts(documents: list[Document]) -> dict[str, int]:
    return dict(sorted(Counter(document.kind for document in documents).items()))
