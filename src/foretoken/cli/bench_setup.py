"""foretoken bench setup: the environments that other engines run in."""

from __future__ import annotations

import json as jsonlib
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foretoken.errors import ConfigError

if TYPE_CHECKING:
    from foretoken.bench.peers.catalog import Kind
    from foretoken.bench.peers.setup import Environment


def setup(
    peers: Annotated[
        list[str] | None, typer.Argument(help="Names of peers, or all.", show_default=False)
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Make anew what is there.")] = False,
    show: Annotated[bool, typer.Option("--list", help="What there is; makes nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Make a virtual environment for each peer, with pinned versions; exit code 1 if one failed."""
    from foretoken.bench.peers import setup as environments
    from foretoken.bench.peers.catalog import KINDS, TRANSFORMERS, kind_of

    console = Console(stderr=True)
    kinds = [kind for kind in KINDS if kind.name != TRANSFORMERS]
    if show:
        _listed(console, [*KINDS], json)
        return
    if not peers:
        raise ConfigError("peer", "", f"all, or some of {', '.join(kind.name for kind in kinds)}")
    wanted = kinds if peers == ["all"] else [kind_of(name) for name in peers]
    made: list[Environment] = []
    for kind in [kind for kind in wanted if kind.name != TRANSFORMERS]:
        have = environments.known(kind)
        if have is not None and not have.error and not again:
            console.print(f"{kind.name}: there already ({have.mb:,.0f} MB)")
        else:
            console.print(f"{kind.name}: {kind.what}, {', '.join(kind.packages)}; about "
                          f"{kind.mb:,} MB, {kind.minutes:g} minutes on two cores")  # fmt: skip
            with console.status(kind.name) as status:
                have = environments.make(kind, lambda line, s=status: s.update(line))  # type: ignore[misc]
            done = f"{have.mb:,.0f} MB in {have.seconds / 60:.1f} minutes"
            console.print(f"{kind.name}: {have.error or done}")
        made.append(have)
    if json:
        typer.echo(jsonlib.dumps([each.model_dump(mode="json") for each in made]))
    if any(each.error for each in made):
        raise typer.Exit(1)


def _listed(console: Console, kinds: list[Kind], json: bool) -> None:
    from foretoken.bench.peers.catalog import TRANSFORMERS
    from foretoken.bench.peers.setup import known

    rows: list[dict[str, Any]] = []
    for kind in kinds:
        have = known(kind)
        here = "always" if kind.name == TRANSFORMERS else "no"
        if have is not None:
            here = f"failed: {have.error}" if have.error else f"yes, {have.mb:,.0f} MB"
        modes = dict(zip(kind.labels, kind.modes.values(), strict=True))
        rows.append({"peer": kind.name, "what": kind.what, "modes": modes, "here": here,
                     "packages": list(kind.packages)})  # fmt: skip
    if json:
        typer.echo(jsonlib.dumps(rows))
        return
    for row in rows:
        console.print(f"[bold]{row['peer']}[/bold]  {row['what']}; {row['here']}")
        for label, what in row["modes"].items():
            console.print(f"  {label:24} {what}")
