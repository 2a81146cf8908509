"""foretoken train draft vocab-trim: let a drafter score the target's frequent tokens alone."""

from __future__ import annotations

import json as jsonlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foretoken.cli.options import grouped
from foretoken.cli.train_draft_options import target_name
from foretoken.cli.training import quiet, shown
from foretoken.errors import ConfigError

if TYPE_CHECKING:
    from foretoken.draft.trim import Trim
    from foretoken.learn.recipes.rows import Batch
    from foretoken.learn.recipes.vocab_trim import Size

SIZES = "512,1024,2048,4096,8192,16384,32768,65536"  # those that can be are tried
_WHO, _HOW = "Models and data", "Sizes"


@dataclass(frozen=True)
class PairOptions:
    """Whose tokens are counted, and for which drafter."""

    drafter: Annotated[
        Path, typer.Option("--drafter", help="Folder of the drafter; the file is written there.",
                           rich_help_panel=_WHO),
    ]  # fmt: skip
    data: Annotated[
        Path,
        typer.Option("--data", help="Folder that `train draft data` wrote.", rich_help_panel=_WHO),
    ]
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The target, folder or hub name.",
                     show_default="the bundled demo model", rich_help_panel=_WHO),
    ] = None  # fmt: skip
    held_out: Annotated[
        float,
        typer.Option("--held-out", min=0.0, max=1.0, help="Share of the prompts whose answers are "
                     "not counted: sizes are judged on them.", rich_help_panel=_WHO),
    ] = 0.05  # fmt: skip
    rows: Annotated[
        int, typer.Option("--rows", min=1, help="Rows that are judged on, at most.",
                          rich_help_panel=_WHO),
    ] = 64  # fmt: skip
    seq: Annotated[
        int, typer.Option("--seq", min=2, help="Tokens of a row.", rich_help_panel=_WHO)
    ] = 512
    dtype: Annotated[
        str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.",
                          rich_help_panel=_WHO),
    ] = "auto"  # fmt: skip
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu, cuda ...", rich_help_panel=_WHO)
    ] = "auto"


@dataclass(frozen=True)
class SizeOptions:
    """What is tried."""

    sizes: Annotated[
        str, typer.Option("--sizes", help="Numbers of tokens to try.", rich_help_panel=_HOW)
    ] = SIZES
    length: Annotated[
        int, typer.Option("--length", min=1, help="Tokens of a draft.", rich_help_panel=_HOW)
    ] = 5
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", min=0.0, help="At which answers are drawn.",
                            rich_help_panel=_HOW),
    ] = 1.0  # fmt: skip
    always: Annotated[
        str,
        typer.Option("--always", help="Tokens to keep whatever was counted, beside ends of text: "
                     "digits, punctuation, bytes.", show_default="none", rich_help_panel=_HOW),
    ] = ""  # fmt: skip

    def numbers(self) -> list[int]:
        """Raises ConfigError for what is no list of sizes."""
        try:
            found = sorted({int(word) for word in self.sizes.split(",")})
        except ValueError:
            found = []
        if not found or found[0] < 1:
            raise ConfigError("sizes", self.sizes, "numbers of tokens, such as 1024,4096")
        return found


@grouped
def vocab_trim(
    who: PairOptions,
    how: SizeOptions,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Try how many of its tokens a drafter should score, and write the best choice beside it."""
    console, wanted = Console(stderr=True), how.numbers()
    if not (who.drafter / "config.json").is_file():
        raise ConfigError("drafter", str(who.drafter), "a folder of a drafter")
    with console.status("Counting and trying ..."):
        quiet()
        chosen, sizes, trims = _tried(who, how, wanted)
    trim = next((trim for trim in trims if trim.k == chosen.k), None)
    written = None if trim is None else trim.write(who.drafter)
    _show(console, sizes, chosen)
    if written is None:
        text = "All tokens are best: nothing is written."
    else:
        text = f"{chosen.k} tokens -> {shown(written)}"
    console.print(text, soft_wrap=True, markup=False, highlight=False)
    if json:
        document = {
            "target": shown(target_name(who.model)),
            "drafter": shown(who.drafter),
            "data": shown(who.data),
            "length": how.length,
            "temperature": how.temperature,
            "sizes": [size.rounded() for size in sizes],
            "best": chosen.k,
            "written": None if written is None else shown(written),
            "key": None if trim is None else trim.key,
        }
        typer.echo(jsonlib.dumps(document))


def _tried(
    who: PairOptions, how: SizeOptions, wanted: list[int]
) -> tuple[Size, list[Size], list[Trim]]:
    """(the best size, all sizes with the whole vocabulary last, the trims of the others)."""
    from foretoken.draft.trim import Trim
    from foretoken.learn.recipes.align import packable
    from foretoken.learn.recipes.answers import read_examples
    from foretoken.learn.recipes.load import load_model, vocabulary
    from foretoken.learn.recipes.rows import Rows
    from foretoken.learn.recipes.vocab_trim import always_kept, best, count_tokens, sweep
    from foretoken.prompt.tokens import tokenizer_hash
    from foretoken.target.hf import eos_ids
    from foretoken.target.narrow import unpadded

    target, tokenizer = load_model(target_name(who.model), dtype=who.dtype, device=who.device)
    drafter, own = load_model(who.drafter, dtype=who.dtype, device=who.device)
    drafter = unpadded(drafter, who.drafter)
    vocab, identity = vocabulary(target), tokenizer_hash(tokenizer)
    if vocabulary(drafter) != vocab or tokenizer_hash(own) != identity:
        accepted = f"a drafter in the tokens of {shown(target_name(who.model))}"
        raise ConfigError("drafter", str(who.drafter), accepted)
    examples = read_examples(who.data, identity, vocab)
    counts = count_tokens((e for e in examples if not e.held(who.held_out)), vocab)
    rows = Rows.of(examples, who.seq, 0, who.held_out, packable(target, drafter))
    held = _held(rows.held_out(who.rows), who)
    kinds: Any = [word for word in how.always.split(",") if word]
    always = always_kept(tokenizer, eos_ids(target), counts, kinds)
    few = [k for k in wanted if len(always) <= k < vocab]
    if not few:
        raise ConfigError("sizes", how.sizes, f"one from {max(len(always), 1)} to {vocab - 1}")
    trims = [Trim.of(counts, k, always, identity) for k in few]
    keeps = [*(trim.keep for trim in trims), range(vocab)]
    sizes = sweep(target, drafter, held, keeps, how.length, how.temperature)
    return best(sizes), sizes, trims


def _held(rows: Batch, who: PairOptions) -> Batch:
    if not len(rows) or not rows.mask[:, 1:].any():
        raise ConfigError("held-out", who.held_out, f"a share of {shown(who.data)} with answers")
    return rows


def _show(console: Console, sizes: list[Size], chosen: Size) -> None:
    from foretoken.cli.bench_show import columns, number

    table = columns("tokens", "coverage", "P(kept)", "alpha", "tokens/step", "c", "MBSU", "")
    for size in sizes:
        table.add_row(
            f"{size.k:,}", number(size.coverage, ".4f"), number(size.mass, ".4f"),
            number(size.alpha, ".4f"), number(size.tau), number(size.cost, ".4f"),
            number(size.mbsu, ".3f"), "best" if size is chosen else "",
        )  # fmt: skip
    console.print(table)
