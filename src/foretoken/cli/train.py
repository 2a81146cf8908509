"""foretoken train: tables and models from text. Each sub-command has a module of its own."""

from __future__ import annotations

import typer

from foretoken.cli.train_aded import aded
from foretoken.cli.train_draft import app as draft
from foretoken.cli.train_lm import lm
from foretoken.cli.train_rest import rest
from foretoken.cli.train_stand import stand_tree

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command("lm")(lm)
app.command("aded")(aded)
app.command("rest")(rest)
app.command("stand-tree")(stand_tree)
app.add_typer(draft, name="draft")


@app.callback()
def _train() -> None:
    """Train tables and models from text."""
