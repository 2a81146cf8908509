"""Folders of sketched drafters: what `foretoken.draft.sketched` reads, with card and log."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from foretoken.draft.sketched import FILE, Sketch, encoded, is_sketched, put, tables_file
from foretoken.errors import ConfigError, ForetokenError, first_line
from foretoken.learn.bpe import save_tokenizer
from foretoken.learn.recipes.card import CURVES, LOG
from foretoken.learn.recipes.curves import curves_svg
from foretoken.learn.recipes.export import export
from foretoken.learn.recipes.sketch import SketchRun
from foretoken.target.narrow import padded

BESIDE = ("vocab_trim.json", "cut.json")  # what goes with the weights that were sketched
_CARD = """# {name}

A drafter whose layers are {bits}-bit codes with small tables (SketchTune, arXiv 2410.06364).

```
foretoken generate --model TARGET --method lm --set model={name} "..."
```

Every `sketch.<domain>.safetensors` holds tables of their own: add `--set domain=<domain>`.{other}
How it was made stands in `{log}`.
"""
_OTHER = """ Other
programs cannot read the folder; `foretoken train draft sketch --dense` writes the weights as well.
"""


def check_places(drafter: Path, out: Path, domain: str, dense: bool) -> None:
    """Raise ConfigError for what would spoil a folder, or cannot be."""
    tables_file(domain)
    known = is_sketched(drafter)
    if known and not domain:
        raise ConfigError("domain", domain, f"a name: {drafter.name} is sketched already")
    if dense and domain:
        raise ConfigError("dense", True, "only together with the drafter's own tables (no domain)")
    same = out.resolve() == drafter.resolve()
    if same and not known:
        raise ConfigError("out", str(out), "another folder than that of the drafter")
    if not same and (out / "model.safetensors").is_file() and not dense:
        raise ConfigError("out", str(out), "a folder that holds no other model")


def write_tables(
    out: Path,
    drafter: Path,
    domain: str,
    tables: Sketch,
    facts: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
) -> None:
    """Add a domain's tables to a sketched drafter, or to a copy of it in `out`."""
    with _beside(out) as folder:
        if out.resolve() != drafter.resolve():
            for path in drafter.iterdir():
                if path.is_file():
                    shutil.copyfile(path, folder / path.name)
        (folder / tables_file(domain)).write_bytes(encoded(tables))
        _log(folder / f"training_log.{domain}.json", facts, log)


def write_sketch(
    out: Path,
    run: SketchRun,
    tokenizer: Any,
    facts: Mapping[str, Any],
    *,
    drafter: Path,
    domain: str = "",
    dense: bool = False,
) -> None:
    """A new folder: with a domain the trained tables are that domain's, and the drafter's own are
    those that training began with. dense: with weights for other programs. drafter: the folder
    that was sketched."""
    own = run.first if domain else run.sketch
    files = {FILE: encoded(own, run.rest)}
    if domain:
        files[tables_file(domain)] = encoded(run.sketch)
    for name in BESIDE:
        if (drafter / name).is_file():
            files[name] = (drafter / name).read_bytes()
    model, curve = run.drafter, run.trainer.log
    if dense:
        put(model, own)
        export(padded(model), tokenizer, out, facts, curve, files)
        return
    with _beside(out) as folder:
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        save_tokenizer(tokenizer, folder)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        _log(folder / LOG, facts, curve)
        (folder / CURVES).write_text(curves_svg(curve), "utf-8")
        text = _CARD.format(name=out.name, bits=own.bits, log=LOG, other=_OTHER)
        (folder / "README.md").write_text(text, "utf-8")


def _log(path: Path, facts: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> None:
    path.write_text(json.dumps({**facts, "curve": list(log)}, indent=1) + "\n", "utf-8")


class _beside:  # noqa: N801  a context manager, used like a function
    """A folder beside `out` whose files are moved there once all are written."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def __enter__(self) -> Path:
        self.out.mkdir(parents=True, exist_ok=True)
        self._made = TemporaryDirectory(dir=self.out.parent, prefix=f".{self.out.name}.")
        return Path(self._made.name)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                for path in Path(self._made.name).iterdir():
                    path.chmod(0o644)
                    path.replace(self.out / path.name)
        finally:
            self._made.cleanup()
        if isinstance(error, OSError):
            why = error.strerror or first_line(error)
            raise ForetokenError(f"{self.out}: it cannot be written ({why})") from None
