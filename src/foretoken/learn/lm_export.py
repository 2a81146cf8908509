"""Write a trained model as a Hugging Face folder with its card, figures and log."""

import json
import platform
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from transformers import GenerationConfig

from foretoken.learn.bpe import save_tokenizer
from foretoken.learn.lm import LmRun

# Rounding to bfloat16 halves the file. It is done only if no held-out loss moves by more.
ROUNDING_TOLERANCE = 0.002  # nats per token


def export(run: LmRun, out: Path, command: str) -> dict[str, Any]:
    """Write the model of `run` to `out` and return the summary that the card is made from.

    The folder gets config.json, generation_config.json, model.safetensors, tokenizer.json,
    tokenizer_config.json, training_log.json, loss.svg and README.md. config.json says float32
    in any case: weights stored in bfloat16 are widened when they are loaded.
    """
    out.mkdir(parents=True, exist_ok=True)
    held_out = run.evaluate()
    rounded = _round(run, held_out)
    model = run.model
    model.generation_config = GenerationConfig(
        eos_token_id=run.tokenizer.eos_token_id, pad_token_id=run.tokenizer.pad_token_id
    )
    model.to(torch.bfloat16 if rounded else torch.float32).save_pretrained(out)
    model.to(torch.float32)
    _declare_float32(out / "config.json")
    save_tokenizer(run.tokenizer, out)
    result = summary(run, held_out, run.evaluate(), "bfloat16" if rounded else "float32", command)
    log = {**result, "curve": run.log}
    (out / "training_log.json").write_text(json.dumps(log, indent=1) + "\n", "utf-8")
    (out / "loss.svg").write_text(loss_svg(run.log), "utf-8")
    (out / "README.md").write_text(model_card(result), "utf-8")
    return result


def summary(
    run: LmRun, held_out: dict[str, float], stored: dict[str, float], dtype: str, command: str
) -> dict[str, Any]:
    """What was trained, on what, for how long, and how good it is on held-out text."""
    return {
        "command": command,
        "config": run.config.model_dump(),
        "parameters": sum(weight.numel() for weight in run.model.parameters()),
        "steps": run.step,
        "tokens": run.step * run.config.batch,
        "tokens_per_epoch": run.stream.tokens_per_epoch,
        "seconds": round(run.seconds, 1),
        "stored_dtype": dtype,
        "held_out_loss": {kind: round(loss, 4) for kind, loss in held_out.items()},
        "held_out_loss_stored": {kind: round(loss, 4) for kind, loss in stored.items()},
        "corpus": run.data,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }


def model_card(result: dict[str, Any]) -> str:
    """The README.md of the model folder."""
    config, corpus = result["config"], result["corpus"]
    sources = "\n".join(
        f"| {s['name']} | {s['licence']} | {s['bytes']:,} | "
        f"{', '.join(f'{n:,} {kind}' for kind, n in s['documents'].items())} | `{s['sha256']}` |"
        for s in corpus["sources"]
    )
    losses = "\n".join(
        f"| {kind} | {corpus['held_out'][kind]:,} | {loss:.3f} | "
        f"{result['held_out_loss_stored'][kind]:.3f} |"
        for kind, loss in result["held_out_loss"].items()
    )
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return CARD.format(
        **{**config, **result},
        millions=result["parameters"] / 1e6,
        minutes=result["seconds"] / 60,
        epochs=result["tokens"] / result["tokens_per_epoch"],
        sources=sources,
        losses=losses,
        corpus_sha=corpus["sha256"],
        versions_line=versions,
    )


def loss_svg(log: list[dict[str, Any]], width: int = 640, height: int = 320) -> str:
    """Training loss (smoothed) and held-out losses over steps, as a stand-alone SVG text."""
    smooth, value = [], log[0]["loss"] if log else 0.0
    for entry in log:
        value += 0.05 * (entry["loss"] - value)
        smooth.append((entry["step"], value))
    lines = {"training": smooth}
    for entry in log:
        for kind, loss in entry.get("held_out", {}).items():
            lines.setdefault(f"held-out {kind}", []).append((entry["step"], loss))
    last = max((step for step, _ in smooth), default=1)
    top = max((loss for line in lines.values() for _, loss in line), default=1.0)
    left, bottom = 40, height - 30

    def place(step: int, loss: float) -> str:
        x = left + (width - left - 10) * step / last
        return f"{x:.1f},{bottom - (bottom - 10) * loss / top:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<path d="M{left} 10V{bottom}H{width - 10}" fill="none" stroke="#666"/>',
        f'<text x="{left}" y="{height - 10}">0</text>',
        f'<text x="{width - 10}" y="{height - 10}" text-anchor="end">step {last}</text>',
    ]
    for tick in range(1, int(top) + 1):
        y = place(0, tick).split(",")[1]
        parts.append(f'<text x="{left - 6}" y="{y}" text-anchor="end">{tick}</text>')
    for row, (name, line) in enumerate(lines.items()):
        colour = COLOURS[row % len(COLOURS)]
        points = " ".join(place(*point) for point in line)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        parts.append(f'<text x="{width - 150}" y="{24 + 16 * row}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _round(run: LmRun, before: dict[str, float]) -> bool:
    """Round the weights to bfloat16 if that costs nothing; says whether it did."""
    exact = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.model.to(torch.bfloat16).to(torch.float32)
    after = run.evaluate()
    if all(after[kind] - loss <= ROUNDING_TOLERANCE for kind, loss in before.items()):
        return True
    run.model.load_state_dict(exact)
    return False


def _declare_float32(path: Path) -> None:
    # Without this, transformers would run the model in the dtype of the file, which is slow on a
    # processor that has no bfloat16.
    config = json.loads(path.read_text("utf-8"))
    config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


COLOURS = ("#999999", "#0b6e4f", "#b3541e", "#3d4f9f", "#8a1c5c")
CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [demo, speculative-decoding]
---
# foretoken demo target

A {millions:.1f} M parameter Llama, trained from nothing on Python's standard library and on
grade-school maths, so that tests, examples and the demo of foretoken run offline on any
computer. It is a toy: it writes plausible short Python and worked sums, and is often wrong.

| | |
|---|---|
| architecture | LlamaForCausalLM, {layers} layers, hidden {hidden}, {heads} heads, {kv_heads} key-value heads, SwiGLU {ffn}, tied embeddings |
| vocabulary | {vocab} byte-level BPE tokens, digits one by one; every text survives encode and decode |
| context | {positions} tokens (trained on rows of {seq}, every {double_every}th step on rows twice as long) |
| training | {steps:,} steps of {batch:,} tokens = {tokens:,} tokens ({epochs:.2f} epochs), {minutes:.0f} minutes |
| optimiser | Muon on matrices, AdamW on embeddings and norms, peak rate {lr}, {warmup} warmup steps, linear decay over the last {decay:.0%} |
| weights | stored in {stored_dtype}, loaded as float32 |

## Recipe

```
{command}
```

Seed {seed}; {versions_line}. The same command in the same environment gives the same model.

## Loss

Nats per token on documents held out from training (whole modules with all their functions, and
whole problems), each read from its beginning, the first {seq} tokens of at most {held_out_rows}
documents of a kind.

| kind | held-out documents | trained weights | stored weights |
|---|---|---|---|
{losses}

![loss over steps](loss.svg)

Every step is in `training_log.json`.

## Data

| source | licence | bytes | documents | sha256 |
|---|---|---|---|---|
{sources}

Corpus sha256 (every document, in order, with its side): `{corpus_sha}`.
The standard library is copyright Python Software Foundation. Grade School Math (GSM8K) is
copyright OpenAI, MIT; only its training split is used. No benchmark prompt was trained on.

Format: `Question: ...\\nAnswer: ...` for maths (the chat template writes just this), and a function
with signature, docstring and body for code; both end with `<|endoftext|>`.
"""
