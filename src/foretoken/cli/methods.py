"""foretoken methods: every registered drafter, policy and verifier, as the registry has them."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated, Any, get_args

import typer

from foretoken.errors import ConfigError, ForetokenError

COLUMNS = ("role", "name", "guarantee", "needs", "drafts", "summary", "source")
ROLES = {"drafter": "drafters", "policy": "policies", "verifier": "verifiers"}
OTHERS = 3  # rules named after a drafter's own; `--json` and the rules' own rows have all


def methods(
    name: Annotated[
        str | None, typer.Argument(help="Show this method's options.", show_default=False)
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also those for tests and cost studies.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="A table for documents.")] = False,
) -> None:
    """List every method: what it does, what it needs, and what it guarantees."""
    rows = table(everything or name is not None)
    if name is not None:
        known = [row["name"] for row in rows]
        rows = [row for row in rows if row["name"] == name]
        if not rows:
            raise ConfigError("name", name, f"one of {', '.join(known)}")
    if json:
        typer.echo(jsonlib.dumps({"methods": rows}, default=str))  # defaults may be paths
    elif markdown:
        typer.echo(as_markdown(rows))
    else:
        _show(rows, options=name is not None)


def table(everything: bool = False) -> list[dict[str, Any]]:
    """One row per method, built-ins first; what cannot be imported is listed with the reason."""
    from foretoken import registry

    rows = []
    for role in get_args(registry.Role):
        for name in registry.names(role):
            try:
                cls = registry.find(role, name)
            except ForetokenError as error:
                rows.append({**dict.fromkeys(COLUMNS, ""), "role": role, "name": name, "needs": [],
                             "summary": str(error), "verifier": "", "verifiers": {},
                             "options": {}})  # fmt: skip
                continue
            if everything or not getattr(cls, "testing", False):
                rows.append(describe(role, name, cls))
    return rows


def describe(role: str, name: str, cls: Any) -> dict[str, Any]:
    """What a method's class declares: needs is a list; drafts is the kind that a drafter emits, or
    the list of those that a rule accepts; verifier a drafter's own rule, verifiers all that may
    judge it, by claim; options name -> default and description."""
    fields = cls.Options.model_fields if hasattr(cls, "Options") else {}
    rules = _by_claim(cls) if role == "drafter" else {}
    return {
        "role": role,
        "name": name,
        "guarantee": guarantee(role, cls),
        "needs": sorted(getattr(cls, "needs", ())) or _curve(cls),
        "drafts": _kinds(role, cls),
        "summary": cls.summary,
        "source": cls.source,
        "verifier": cls.verifier if role == "drafter" else "",
        "verifiers": rules,
        "options": {
            key: {
                "default": field.get_default(call_default_factory=True),
                "description": field.description or "",
            }
            for key, field in fields.items()
        },
    }


def guarantee(role: str, cls: Any) -> str:
    """A verifier's own claim; a drafter's through its own rule and the others that may judge it
    whatever the vocabulary:
    "exact (traversal; or recursive, walk, +2); lossy: typical"."""
    if role == "verifier":
        return _claim(cls)
    if role == "policy":
        return "text unchanged"
    by_claim = _by_claim(cls)
    own = next((claim for claim, names in by_claim.items() if cls.verifier in names), None)
    if own is None:
        return ""
    rest = [
        f"{claim.split()[0]}: {_some(names)}" for claim, names in by_claim.items() if claim != own
    ]
    rules = _verifiers()
    others = [
        name for name in by_claim[own]
        if name != cls.verifier and getattr(rules[name], "max_vocab", None) is None
    ]  # fmt: skip
    also = f"; or {_some(others)}" if others else ""
    if cls.lossy_with:
        rest.append(f"lossy with {cls.lossy_with}")
    return "; ".join([f"{own} ({cls.verifier}{also})", *rest])


def _some(names: list[str]) -> str:
    more = [f"+{len(names) - OTHERS}"] if len(names) > OTHERS else []
    return ", ".join([*names[:OTHERS], *more])


def _by_claim(cls: Any) -> dict[str, list[str]]:
    """Claim -> the rules that accept this drafter's drafts and make it; those that accept little
    else come first, because they were made for such drafts."""
    found: dict[str, list[str]] = {}
    for name, verifier in sorted(_verifiers().items(), key=lambda item: len(item[1].accepts)):
        if verifier.fits(cls):
            found.setdefault(_claim(verifier), []).append(name)
    return found


def _kinds(role: str, cls: Any) -> str | list[str]:
    from foretoken.tree import KINDS

    if role == "verifier":
        accepted: list[str] = [kind for kind in KINDS if kind in cls.accepts]
        return "any" if len(accepted) == len(KINDS) else accepted
    return str(getattr(cls, "emits", ""))


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """A table in Markdown, one line per method."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for row in rows:
        cells = [_cell(row[column]).replace("|", "\\|") for column in COLUMNS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _claim(verifier: Any) -> str:
    exact = verifier.exact
    if exact == {"greedy", "sampling"}:
        return "exact"
    return f"lossy unless {', '.join(sorted(exact))}" if exact else "lossy"


def _curve(cls: Any) -> list[str]:
    return ["cost curve"] if getattr(cls, "needs_curve", False) else []


def _verifiers() -> dict[str, Any]:
    from foretoken import registry

    found = {}
    for name in registry.names("verifier"):
        try:
            found[name] = registry.find("verifier", name)
        except ForetokenError:
            continue  # `table` lists it with its reason
    return found


def _cell(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _show(rows: list[dict[str, Any]], options: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for role in dict.fromkeys(row["role"] for row in rows):
        mine = [row for row in rows if row["role"] == role]
        columns = [c for c in COLUMNS[1:] if any(row[c] for row in mine)]
        out = Table(title=ROLES[role], box=box.SIMPLE_HEAD, title_justify="left")
        for column in columns:
            out.add_column(column, overflow="fold", no_wrap=column == "name")
        for row in mine:
            out.add_row(*(_cell(row[column]) for column in columns))
        console.print(out)
    for row in rows if options else []:
        details = Table("option", "default", "meaning", box=box.SIMPLE_HEAD)
        for key, field in row["options"].items():
            details.add_row(key, str(field["default"]), field["description"])
        console.print(details)
