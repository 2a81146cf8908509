"""A tiny random model with a tiny tokenizer, saved like any other; and a way to call the CLI."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SOURCE = Path(__file__).parents[2] / "src"
TEXTS = [
    "def add(a, b):\n    return a + b\n",
    "Question: How many eggs are 3 eggs and 4 eggs?\nAnswer: 3 + 4 = 7",
    "for i in range(10):\n    print(i)\n",
]


class Ran(NamedTuple):
    """What a call of the command line did."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _quiet_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORETOKEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random Llama: 300 tokens, 1024 positions, byte-level BPE, a chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from foretoken.learn.bpe import save_tokenizer, train_bpe

    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_bpe(TEXTS, 300, 1024)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
        initializer_range=0.2,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return str(folder)


@pytest.fixture(scope="session")
def mamba(tmp_path_factory: pytest.TempPathFactory, model: str) -> str:
    """Folder of a random Mamba, whose state cannot be rolled back."""
    from transformers import MambaConfig, MambaForCausalLM

    from foretoken.prompt.tokens import load_tokenizer

    folder = tmp_path_factory.mktemp("mamba")
    config = MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, state_size=4)
    MambaForCausalLM(config).save_pretrained(folder)
    load_tokenizer(model).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def answers(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `train draft data` made of 12 prompts, sampled at temperature 1."""
    from foretoken.cli.main import main

    folder = tmp_path_factory.mktemp("data")
    prompts = folder / "prompts.jsonl"
    rows = [{"question": f"What is {n} + {n}?"} for n in range(12)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["train", "draft", "data", "--model", model, "--prompts", str(prompts), "-t", "1",
             "--out", str(folder / "answers"), "-n", "16", "--dtype", "float32", "--loops", "keep"]  # fmt: skip
    assert main(words) == 0
    return folder / "answers"


@pytest.fixture
def drafter(model: str, tmp_path: Path) -> Path:
    """Folder of a smaller random model in the tokens of `model`, of which it knows nothing."""
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    shutil.copytree(model, tmp_path / "drafter")
    torch.manual_seed(8)
    config = AutoConfig.from_pretrained(model)
    config.num_hidden_layers = 1
    LlamaForCausalLM(config).save_pretrained(tmp_path / "drafter")
    return tmp_path / "drafter"


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Call `main` in this process."""
    from foretoken.cli.main import main

    def call(*arguments: Any) -> Ran:
        capfd.readouterr()
        code = main([str(a) for a in arguments])
        return Ran(code, *capfd.readouterr())

    return call


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def process() -> Callable[..., subprocess.Popen[bytes]]:
    """Start the command line as a process of its own."""

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "foretoken", *map(str, arguments)],
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SOURCE), **options.pop("env", {})},
            # a test run in the background of a shell ignores Ctrl-C, and so would its children
            preexec_fn=_heed_interrupts,  # noqa: PLW1509  it only resets a signal
            **options,
        )

    return start
