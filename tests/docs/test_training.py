"""docs/training.md: every command and option that it names exists, and every recipe is named."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from foretoken import registry
from foretoken.cli.main import COMMANDS, load
from foretoken.cli.train_draft import app
from foretoken.learn.recipes.losses import LOSSES

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.S)).replace("\\\n", " ")
LINES = [line for line in BLOCKS.splitlines() if line.startswith("foretoken ")]


def flags(command):
    return {name for p in command.params for name in (*p.opts, *p.secondary_opts)}


@pytest.mark.parametrize("line", LINES)
def test_commands_and_options_exist(line):
    words = shlex.split(line, comments=True)
    command = load(COMMANDS[words[1]][0])
    if words[1:3] == ["train", "draft"]:
        command = typer.main.get_command(app).commands[words[3]]
    unknown = {w for w in words if w.startswith("-") and w not in flags(command)}
    assert not unknown
    if "--method" in words:
        registry.find("drafter", words[words.index("--method") + 1])


def test_every_recipe_and_loss_is_named():
    for name in typer.main.get_command(app).commands:
        assert f"foretoken train draft {name} " in PAGE, name
    for name in LOSSES:
        assert name.removesuffix("-each") in PAGE, name
