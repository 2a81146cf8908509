"""foretoken train draft: drafters for a target. Each sub-command has a module of its own."""

from __future__ import annotations

import typer

from foretoken.cli.train_draft_align import align
from foretoken.cli.train_draft_cut import cut
from foretoken.cli.train_draft_data import data
from foretoken.cli.train_draft_online import online
from foretoken.cli.train_draft_pretrain import pretrain
from foretoken.cli.train_draft_s2d import s2d
from foretoken.cli.train_draft_simulate import simulate
from foretoken.cli.train_draft_sketch import sketch
from foretoken.cli.train_draft_specdec import specdec_head
from foretoken.cli.train_draft_vocab_trim import vocab_trim

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command("data")(data)
app.command("pretrain")(pretrain)
app.command("align")(align)
app.command("s2d")(s2d)
app.command("simulate")(simulate)
app.command("vocab-trim")(vocab_trim)
app.command("specdec-head")(specdec_head)
app.command("cut")(cut)
app.command("sketch")(sketch)
app.command("online")(online)


@app.callback()
def _draft() -> None:
    """From a model and prompts to a drafter for it: data, training, cuts, checks."""
