"""foretoken train draft vocab-trim: let a drafter score the target's frequent tokens alone."""

from __future__ import annotations

import json as jsonlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foretoken.cli.options import grouped
from foretoken.cli.train_draft_pair import PairOptions, load_pair
from foretoken.cli.training import quiet, shown
from foretoken.errors import ConfigError

if TYPE_CHECKING:
    from foretoken.draft.trim import Trim
    from foretoken.learn.recipes.rows import Batch
    from foretoken.learn.recipes.vocab_trim import Size

SIZES = "512,1024,2048,4096,8192,16384,32768,65536"  # those that can be are tried
_HOW, _JUDGED = "Sizes", "Answers that sizes are judged on"


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

    held_out: Annotated[
        float,
        typer.Option("--held-out", min=0.0, max=1.0, help="Share of the prompts; their answers are "
                     "not counted.", rich_help_panel=_JUDGED),
    ] = 0.05  # fmt: skip
    rows: Annotated[
        int, typer.Option("--rows", min=1, help="Rows at most.", rich_help_panel=_JUDGED)
    ] = 64
    seq: Annotated[
        int, typer.Option("--seq", min=2, help="Tokens of a row.", rich_help_panel=_JUDGED)
    ] = 512

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
    who.check()
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
            "target": shown(who.target),
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
    from foretoken.learn.recipes.rows import Rows
    from foretoken.learn.recipes.vocab_trim import always_kept, best, count_tokens, sweep
    from foretoken.target.hf import eos_ids

    pair = load_pair(who, who.device)
    vocab, identity = pair.vocab, pair.tokenizer_hash
    examples = read_examples(who.data, identity, vocab)
    counts = count_tokens((e for e in examples if not e.held(how.held_out)), vocab)
    rows = Rows.of(examples, how.seq, 0, how.held_out, packable(pair.target, pair.drafter))
    held = _held(rows.held_out(how.rows), who, how)
    kinds: Any = [word for word in how.always.split(",") if word]
    always = always_kept(pair.tokenizer, eos_ids(pair.target), counts, kinds)
    few = [k for k in wanted if len(always) <= k < vocab]
    if not few:
        raise ConfigError("sizes", how.sizes, f"one from {max(len(always), 1)} to {vocab - 1}")
    trims = [Trim.of(counts, k, always, identity) for k in few]
    keeps = [*(trim.keep for trim in trims), range(vocab)]
    sizes = sweep(pair.target, pair.drafter, held, keeps, how.length, how.temperature)
    return best(sizes), sizes, trims


def _held(rows: Batch, who: PairOptions, how: SizeOptions) -> Batch:
    if not len(rows) or not rows.mask[:, 1:].any():
        raise ConfigError("held-out", how.held_out, f"a share of {shown(who.data)} with answers")
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
