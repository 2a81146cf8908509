"""README.md of a drafter's folder: a function of the files that lie there.

What it was trained for and how, data with licences and hashes, versions, curves, and, once it was
measured (`train draft simulate --card`), what it is worth in service.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from foretoken.bench.saving import save_text
from foretoken.errors import ArtifactError

LOG, CURVES, SIMULATION = "training_log.json", "curves.svg", "simulation.json"
_HEAD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [speculative-decoding, draft-model]
---
# {name}

Drafts for **{target}**: it proposes tokens, the target checks them all in one forward, and the text
stays the target's own. It shares the target's tokenizer and is not meant to write by itself.

| | |
|---|---|
"""
_USE = """
## Use

```
foretoken generate --model TARGET --method lm --set model={name} "..."
```
```python
target.generate(**inputs, assistant_model=AutoModelForCausalLM.from_pretrained("{name}"))
```

vLLM takes the folder as the `model` of its `speculative_config`. llama.cpp's
`convert_hf_to_gguf.py` converts it where it converts the target: it has to know the tokenizer.
"""


def has_card(folder: Path) -> bool:
    """Whether the folder's README.md is one of these, and may be made anew."""
    return (folder / LOG).is_file() and "recipe" in _json(folder / LOG)


def write_card(folder: Path, name: str | None = None) -> None:
    """Make README.md anew. name: of the drafter, the folder's if None. Raises ArtifactError for a
    folder without a readable training log, OSError."""
    save_text(folder / "README.md", card(folder, name or folder.resolve().name))


def card(folder: Path, name: str) -> str:
    """The text."""
    facts, config = _json(folder / LOG), _json(folder / "config.json")
    has = folder / SIMULATION
    parts = [
        _HEAD.format(name=name, target=facts.get("target", "a target")) + "\n".join(
            f"| {what} | {value} |" for what, value in _table(facts, config)
        ),
        _USE.format(name=name).strip("\n"),
        "\n".join(_recipe(facts)),
    ]  # fmt: skip
    if (folder / CURVES).exists():
        shown = f"![loss and acceptance over steps]({CURVES})"
        parts.append(f"## Curves\n\n{shown}\n\nEvery step is in `{LOG}`.")
    if has.exists():
        parts.append("\n".join(_measured(_json(has))))
    parts.append("\n".join(_data(facts)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(facts: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    shape = [("layers", "num_hidden_layers"), ("hidden", "hidden_size"),
             ("heads", "num_attention_heads"), ("key-value heads", "num_key_value_heads"),
             ("feed-forward", "intermediate_size")]  # fmt: skip
    sizes = ", ".join(f"{what} {config[key]}" for what, key in shape if key in config)
    tied = "tied" if config.get("tie_word_embeddings") else "untied"
    yield "architecture", f"{', '.join(config.get('architectures') or [])}: {sizes}, {tied}"
    yield "parameters", f"{facts['parameters']:,}"
    yield "vocabulary", f"{config.get('vocab_size', 0):,} tokens"
    if "max_position_embeddings" in config:
        yield "context", f"{config['max_position_embeddings']:,} tokens"
    if facts.get("begun_with"):
        yield "begun with", str(facts["begun_with"])
    if facts.get("steps"):
        minutes = facts.get("seconds", 0) / 60
        tokens = f" of {facts['tokens']:,} tokens in all" if facts.get("tokens") else ""
        yield "training", f"{facts['steps']:,} steps{tokens}, {minutes:.1f} minutes"
    before = facts.get("before") or {}
    for figure, value in (facts.get("held_out") or {}).items():
        start = f"{before[figure]:.4f} -> " if figure in before else ""
        yield f"held-out {figure}", f"{start}{value:.4f}"
    if facts.get("files"):
        yield "beside it", ", ".join(f"`{file}`" for file in facts["files"])


def _recipe(facts: Mapping[str, Any]) -> Iterator[str]:
    yield "## Recipe"
    if facts.get("command"):
        yield f"\n```\n{facts['command']}\n```"
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    yield f"\n`{facts.get('recipe', 'train draft')}`; {versions}."


def _measured(simulation: Mapping[str, Any]) -> Iterator[str]:
    report = simulation["report"]
    drawn = report["sampling"] or "greedy"
    yield "## Measured\n"
    yield (
        f"`foretoken train draft simulate` on {report['prompts']['used']} texts ({report['mode']}, "
        f"{drawn}), {report['machine']['processor']}, {report['machine']['threads']} threads, "
        f"{report['dtype']}. c: parameters read per drafted token over the target's; alpha: mean "
        "sum min(p, q).\n"
    )
    yield "| method | depth | acceptance | alpha | tokens per step | c | MBSU | x plain |"
    yield "|---|---|---|---|---|---|---|---|"
    for f in simulation["figures"]:
        figures = [f[k] for k in ("acceptance", "alpha", "tokens_per_step", "cost", "mbsu",
                                  "ratio_to_plain")]  # fmt: skip
        cells = ["-" if value is None else f"{value:.3f}" for value in figures]
        yield f"| {f['method']} | {f['depth'] or '-'} | {' | '.join(cells)} |"


def _data(facts: Mapping[str, Any]) -> Iterator[str]:
    sources = [source for part in _parts(facts) for source in part.get("sources", ())]
    if not sources:
        return
    yield "## Data\n"
    answers = facts.get("data") or {}
    if answers.get("counts"):
        counts = answers["counts"]
        yield (
            f"{counts.get('rows', 0):,} answers that {answers.get('model', 'the target')} wrote "
            f"itself ({counts.get('learned', 0):,} tokens learned):\n"
        )
        yield f"```\n{answers.get('command', '')}\n```\n"
    yield "| source | licence | bytes | sha256 |\n|---|---|---|---|"
    rows = (f"| {s['name']} | {s['licence']} | {s['bytes']:,} | `{s['sha256']}` |" for s in sources)
    yield from dict.fromkeys(rows)
    digests = {
        "prompts": answers.get("prompts_sha256"),
        **{name: part.get("sha256") for name, part in (facts.get("corpus") or {}).items()
           if isinstance(part, Mapping)},
    }  # fmt: skip
    for what, digest in digests.items():
        if digest:
            yield f"\nsha256 of the {what}: `{digest}`."


def _parts(facts: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Manifests: of answers, of one corpus, of several by name."""
    for key in ("data", "corpus"):
        part = facts.get(key)
        if isinstance(part, Mapping):
            yield part
            yield from (inner for inner in part.values() if isinstance(inner, Mapping))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        raise ArtifactError(f"{path}: missing or not readable; is it a drafter's folder?") from None
    return dict(found)
