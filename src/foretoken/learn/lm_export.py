"""Write a trained model as a Hugging Face folder with its card, figures and log."""

import json
import platform
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tokenizers
import torch
import transformers
from transformers import GenerationConfig

from foretoken.learn.bpe import save_tokenizer
from foretoken.learn.lm import LmRun
from foretoken.learn.loss_curve import loss_svg

# Rounding to bfloat16 halves the file. It is done only if no held-out loss moves by more.
ROUNDING_TOLERANCE = 0.002  # nats per token


def export(run: LmRun, out: Path, command: str) -> dict[str, Any]:
    """Write the model of `run` to `out` and return the summary that the card is made from.

    The folder gets config.json, generation_config.json, model.safetensors, tokenizer.json,
    tokenizer_config.json, training_log.json, loss.svg and README.md; other files in it stay.
    They are written beside it first, so that a full disk leaves an older model whole.
    config.json says float32 in any case: weights kept in bfloat16 are widened when loaded.
    """
    held_out = run.evaluate()
    rounded = _round(run, held_out)
    result = summary(run, held_out, run.evaluate(), "bfloat16" if rounded else "float32", command)
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as made:
        _write(run, Path(made), result, out.name)
        for path in Path(made).iterdir():
            path.chmod(0o644)  # safetensors makes its file private
            path.replace(out / path.name)
    return result


def _write(run: LmRun, folder: Path, result: dict[str, Any], name: str) -> None:
    model = run.model
    model.generation_config = GenerationConfig(
        eos_token_id=run.tokenizer.eos_token_id, pad_token_id=run.tokenizer.pad_token_id
    )
    model.to(getattr(torch, result["stored_dtype"])).save_pretrained(folder)
    model.to(torch.float32)
    _declare_float32(folder / "config.json")
    save_tokenizer(run.tokenizer, folder)
    log = {**result, "curve": run.log}
    (folder / "training_log.json").write_text(json.dumps(log, indent=1) + "\n", "utf-8")
    (folder / "loss.svg").write_text(loss_svg(run.log), "utf-8")
    (folder / "README.md").write_text(model_card(result, name), "utf-8")


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


def model_card(result: dict[str, Any], name: str) -> str:
    """The README.md of the model folder. result: what `summary` returns."""
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
    template = Path(__file__).with_name("model_card.md").read_text("utf-8")
    return template.format(
        **{**config, **result},
        millions=result["parameters"] / 1e6,
        minutes=result["seconds"] / 60,
        epochs=result["tokens"] / result["tokens_per_epoch"],
        sources=sources,
        losses=losses,
        corpus_sha=corpus["sha256"],
        versions_line=versions,
        name=name,
        source_names="; ".join(source["name"] for source in corpus["sources"]),
        tolerance=ROUNDING_TOLERANCE,
    )


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
