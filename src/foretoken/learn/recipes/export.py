"""A trained drafter as a Hugging Face folder that other programs take as it is.

config.json, generation_config.json, model.safetensors, the tokenizer's files, training_log.json
(facts and curve), curves.svg and a README.md made from them (`card`). `transformers` assisted
generation and vLLM read the folder; so does llama.cpp's converter, if it knows the tokenizer (it
refuses any whose pre-tokenizer it has no name for, the target's own as well). Keys that newer
versions of transformers write under other names are written under the old ones, too.
Side files of foretoken (a trimmed vocabulary, exits, an acceptance head) lie beside; other programs
do not look at them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from foretoken.errors import ForetokenError, first_line
from foretoken.learn.bpe import save_tokenizer
from foretoken.learn.recipes.card import CURVES, LOG, SIMULATION, write_card
from foretoken.learn.recipes.curves import curves_svg
from foretoken.learn.recipes.manifest import versions

# what `tokenizer_class` says where only the newest transformers knows the name that it writes
READABLE = {"TokenizersBackend": "PreTrainedTokenizerFast"}
# what belongs to the very weights that it was made for
STALE = (
    SIMULATION, CURVES, "cut.json", "exits.json", "specdec_head.safetensors", "sketch.safetensors"
)  # fmt: skip


def export(
    model: Any,
    tokenizer: Any,
    out: Path,
    facts: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]] = (),
    files: Mapping[str, bytes] | None = None,
) -> dict[str, Any]:
    """Write the folder and return its facts (those given, with versions and size).

    facts: JSON-ready; `recipe`, `command`, `target`, `data` or `corpus` with their sources, and
    whatever the card is to state. log: entries of `curves`. files: side files by name. Everything
    is written beside `out` first, so that a full disk leaves an older drafter whole; then what an
    older one had beside its weights goes, and any other files in `out` stay. Raises ForetokenError
    if it cannot be written.
    """
    known = {"versions": versions(), "parameters": sum(p.numel() for p in model.parameters())}
    told = {**known, **facts, "files": sorted(files or {})}
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as made:
            folder = Path(made)
            _write(model, tokenizer, folder)
            for name, content in (files or {}).items():
                (folder / name).write_bytes(content)
            text = json.dumps({**told, "curve": list(log)}, indent=1) + "\n"
            (folder / LOG).write_text(text, "utf-8")
            if log:
                (folder / CURVES).write_text(curves_svg(log), "utf-8")
            write_card(folder, out.name)
            for name in STALE:
                (out / name).unlink(missing_ok=True)
            for path in folder.iterdir():
                path.chmod(0o644)  # safetensors makes its file private
                path.replace(out / path.name)
    except OSError as error:
        why = error.strerror or first_line(error)
        raise ForetokenError(f"{out}: the drafter cannot be written ({why})") from None
    return told


def _write(model: Any, tokenizer: Any, folder: Path) -> None:
    from transformers import GenerationConfig

    own = model.generation_config
    names = ("eos_token_id", "pad_token_id", "bos_token_id")
    ids = {name: getattr(own, name, None) for name in names}
    found = {n: getattr(tokenizer, n, None) if i is None else i for n, i in ids.items()}
    model.generation_config = GenerationConfig(**found)  # how texts are drawn is the target's say
    try:
        model.save_pretrained(folder)
    finally:
        model.generation_config = own
    save_tokenizer(tokenizer, folder)
    _readable(folder)


def _readable(folder: Path) -> None:
    """Old names beside the new ones, for programs that read the files by themselves."""
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    rope = config.get("rope_parameters") or {}
    if isinstance(rope.get("rope_theta"), int | float):
        config.setdefault("rope_theta", rope["rope_theta"])
        if rope.get("rope_type", "default") != "default":
            config.setdefault("rope_scaling", {k: v for k, v in rope.items() if k != "rope_theta"})
    config.setdefault("torch_dtype", config.get("dtype"))
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    path = folder / "tokenizer_config.json"
    if path.exists():
        words = json.loads(path.read_text("utf-8"))
        kind = words.get("tokenizer_class")
        words["tokenizer_class"] = READABLE.get(kind, kind)
        path.write_text(json.dumps(words, indent=2, ensure_ascii=False) + "\n", "utf-8")
