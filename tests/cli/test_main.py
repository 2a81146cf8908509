"""Sub-commands are lazy; errors are one line and an exit code, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from foretoken.cli import main as main_module
from foretoken.cli.main import COMMANDS, load, main
from foretoken.cli.options import TextOptions, pairs
from foretoken.errors import ConfigError, ForetokenError


def one_line(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def test_help_lists_every_command_and_imports_nothing_heavy():
    code = (
        "import sys; from foretoken.cli.main import main; rc = main(['--help']);"
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules);"
        "assert not heavy, heavy; sys.exit(rc)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(Path(main_module.__file__).parents[2]), "COLUMNS": "120"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, (_, text) in COMMANDS.items():
        assert name in done.stdout
        assert text in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_shows_its_own_help(cli, name):
    ran = cli(name, "--help")
    assert ran.code == 0, ran.err
    assert f"foretoken {name}" in ran.out
    assert load(COMMANDS[name][0]) is not None


def test_no_argument_shows_help(cli):
    ran = cli()
    assert ran.code == 0
    assert "generate" in ran.out


def test_version(cli):
    assert cli("--version").code == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["genrate"], "generate"),
        (["generate", "x", "--temprature", "1"], "--temperature"),
        (["generate", "x", "--max-new-tokens", "many"], "--max-new-tokens"),
        (["generate", "x", "--temperature", "-1"], "temperature: -1.0"),
        (["generate", "x", "--top-p", "0"], "top_p: 0.0"),
        (["generate", "x", "--max-new-tokens", "0"], "max_new_tokens: 0"),
        (["generate", "x", "--set", "eta"], "key=value"),
        (["generate", "x", "--widen", "0"], "widen: 0"),
        (["generate", "x", "--exact", "almost"], "default or bitwise"),
        (["generate", "x", "--method", "nothing"], "prompt-lookup"),
        (["generate", "x", "--file", "y"], "not both"),
        (["generate", "--file", "/no/such/file"], "readable file"),
        (["demo", "--prompts", "0"], "prompts: 0"),
        (["demo", "--method", "nothing"], "prompt-lookup"),
        (["demo", "--method", "plain"], "one method"),
        (["methods", "nothing"], "one of"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(cli, arguments, named):
    ran = cli(*arguments)
    assert ran.code == 2
    assert named in one_line(ran.err)
    assert ran.out == ""


@pytest.mark.parametrize(
    ("raised", "code", "shown"),
    [
        (ForetokenError("broken"), 1, "broken"),
        (ConfigError("field", 3, "4"), 2, "field: 3 is not accepted; 4"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (MemoryError(), 1, "MemoryError"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exceptions_become_exit_codes(cli, monkeypatch, raised, code, shown):
    def raising(*_, **__):
        raise raised

    monkeypatch.setattr("foretoken.cli.methods.table", raising)
    ran = cli("methods")
    assert ran.code == code
    assert shown in ran.err
    assert "Traceback" not in ran.err


def test_a_bug_is_not_hidden(monkeypatch):
    def raising(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("foretoken.cli.methods.table", raising)
    with pytest.raises(ZeroDivisionError):
        main(["methods"])


def test_a_reader_that_goes_away_is_no_error_message(process):
    with process("--help") as ran:
        ran.stdout.close()
        err = ran.stderr.read()
        assert ran.wait(60) == 1
    assert err == b""


def test_every_scalar_of_sampling_and_limits_is_an_option():
    from dataclasses import fields

    from foretoken.types import Limits, Sampling

    known = {f.name for f in fields(TextOptions)}
    scalars = {
        name
        for model in (Sampling, Limits)
        for name, field in model.model_fields.items()
        if field.annotation in (int, float, bool)
    }
    assert known == scalars | {"stop"}


def test_pairs_read_json_and_else_text():
    assert pairs("set", ["eta=0.5", "all-nodes=false", "mode=reference", "table=a=b"]) == {
        "eta": 0.5, "all_nodes": False, "mode": "reference", "table": "a=b",
    }  # fmt: skip
