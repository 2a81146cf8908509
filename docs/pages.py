"""One page per method, from what its class declares: `python -m docs.pages` writes docs/methods/.

tests/docs compares the pages with what this prints, so that they cannot grow old.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from pathlib import Path
from typing import Any

from foretoken import registry
from foretoken.cli.methods import describe

HERE = Path(__file__).parent
FOLDER = HERE / "methods"
TITLES = {"drafter": "Drafters: what to propose", "policy": "Policies: how much to propose",
          "verifier": "Rules: which drafts stand"}  # fmt: skip


def pages() -> dict[str, str]:
    """File name -> text of every page, the index included."""
    found = {
        role: [
            (name, cls)
            for name in registry.names(role)
            if not getattr(cls := registry.find(role, name), "testing", False)
        ]
        for role in typing.get_args(registry.Role)
    }
    out = {"README.md": _index(found)}
    for role, classes in found.items():
        for name, cls in classes:
            out[f"{name}.md"] = _page(role, name, cls)
    return out


def _index(found: dict[Any, list[tuple[str, Any]]]) -> str:
    lines = ["# Every method", "", "Written by `python -m docs.pages` from the code."]
    for role, classes in found.items():
        lines += ["", f"## {TITLES[role]}", ""]
        lines += [f"- [{name}]({name}.md): {cls.summary}" for name, cls in classes]
    return "\n".join(lines) + "\n"


def _page(role: str, name: str, cls: Any) -> str:
    facts = describe(role, name, cls)
    lines = [f"# {name}", "", f"*{role}*: {cls.summary}.", ""]
    lines += [f"- **source**: {cls.source}", f"- **guarantee**: {facts['guarantee']}"]
    if role == "drafter":
        lines += [
            f"- **drafts**: kind `{cls.emits}`, judged by `{cls.verifier}` if no rule is asked for",
            f"- **needs**: {', '.join(sorted(cls.needs))}"
            + (", and a small model of its own" if cls.runs_model else ""),
            f"- **nodes**: up to {cls.nodes} a draft if no number is asked for",
        ]
    if role == "verifier":
        kinds = facts["drafts"]
        lines += [f"- **judges**: {kinds if isinstance(kinds, str) else ', '.join(kinds)} drafts"]
    lines += ["", "## How it works", "", _docstring(cls)]
    if facts["options"]:
        lines += ["", "## Options", ""]
        lines += ["| option | accepts | default | meaning |", "|---|---|---|---|"]
        for key, field in cls.Options.model_fields.items():
            default = field.get_default(call_default_factory=True)
            shown = "required" if field.is_required() else f"`{_plain(default)}`"
            lines.append(
                f"| `{key}` | {_type(field.annotation)} | {shown} | {field.description or ''} |"
            )
    lines += ["", "## Try it", "", "```sh", *_commands(role, name), "```"]
    if (HERE / "studies" / f"{name}.md").exists():
        lines += ["", f"Measurements and ablations: [study](../studies/{name}.md)."]
    return "\n".join(lines) + "\n"


def _docstring(cls: Any) -> str:
    """The module's, whose first line has the name in front; paragraphs as they are."""
    text = inspect.getdoc(sys.modules[cls.__module__]) or ""
    return text.replace("|", "\\|")


def _type(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join(_type(a) for a in typing.get_args(annotation) if a is not type(None))
    if typing.get_origin(annotation) is typing.Annotated:
        return _type(typing.get_args(annotation)[0])
    name = getattr(annotation, "__name__", str(annotation))
    arguments = [a for a in typing.get_args(annotation) if a is not Ellipsis]
    inside = ", ".join(_type(a) for a in arguments)
    return f"{name} of {inside}" if inside and name in ("tuple", "list") else name


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "()"
    return str(value)


def _commands(role: str, name: str) -> list[str]:
    if role == "drafter":
        return [f'foretoken generate --method {name} "def mean(values):"',
                f"foretoken bench --methods plain,{name}"]  # fmt: skip
    return [f'foretoken generate --{role} {name} "def mean(values):"']


def main() -> None:
    """Write the folder anew."""
    FOLDER.mkdir(exist_ok=True)
    texts = pages()
    for old in FOLDER.glob("*.md"):
        if old.name not in texts:
            old.unlink()
    for file, text in texts.items():
        (FOLDER / file).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{len(texts)} pages in docs/methods\n")


if __name__ == "__main__":
    main()
