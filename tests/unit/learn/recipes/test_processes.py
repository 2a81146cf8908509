"""Two processes started by `accelerate launch` train what one process trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.unit.learn.recipes.test_trainer import trainer
from transformers import LlamaConfig

from foretoken.errors import ConfigError
from foretoken.learn.bpe import save_tokenizer, train_bpe
from foretoken.learn.checkpoint import load_checkpoint
from foretoken.learn.recipes.processes import Processes

ROOT = Path(__file__).parents[4]
SCRIPT = """
import sys
from pathlib import Path

import torch

from tests.unit.learn.recipes.test_trainer import StoppedError, trainer, weights

work = Path(sys.argv[1])
run = trainer(work / "stopped", {"micro": 2})
rank = run.processes.rank
assert run.processes.world == 2
try:
    run.train(stop=lambda: rank == 1 and run.step == 5)  # any process may be asked
except StoppedError:
    pass
assert run.step == 5, run.step
run.processes.wait()
run = trainer(work / "stopped", {"micro": 2})
assert run.step == 5
seen = []
run.train(seen.append)
assert bool(seen) == (rank == 0)
torch.save(weights(run), work / f"rank{rank}.pt")

from foretoken.cli.main import main

words = ["train", "draft", "pretrain", "--model", str(work / "target"), "--no-stdlib", "--json"]
words += ["--text", str(work / "text.txt"), "--out", str(work / "made"), "--steps", "2"]
words += ["--batch", "2", "--micro", "1", "--seq", "16", "--layers", "1", "--hidden", "16"]
assert main(words) == 0
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    work = tmp_path_factory.mktemp("two")
    script = work / "script.py"
    script.write_text(SCRIPT)
    text = "To be, or not to be, that is the question. " * 30
    (work / "text.txt").write_text(text)
    save_tokenizer(train_bpe([text], 300, 64), work / "target")
    LlamaConfig(vocab_size=300, eos_token_id=0).save_pretrained(work / "target")
    # with --cpu the launcher would want MPI; what it calls --multi_gpu is torchrun, on any device
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    environment = {**os.environ, **own, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no"]
    done = subprocess.run(
        [*command, "--main_process_port", "0", str(script), str(work)],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (work / "out.txt").write_text(done.stdout)
    return work


def test_two_processes_make_the_steps_of_one(launched):
    alone = trainer(values={"micro": 2})
    alone.train()
    both = [torch.load(launched / f"rank{rank}.pt") for rank in range(2)]
    for name, want in alone.model.state_dict().items():
        torch.testing.assert_close(both[0][name], want, atol=1e-6, rtol=1e-5)
        assert torch.equal(both[0][name], both[1][name])


def test_they_log_what_one_logs(launched):
    alone = trainer(values={"micro": 2})
    alone.train()
    log = load_checkpoint(launched / "stopped" / "checkpoint.pt")["log"]
    assert [entry["step"] for entry in log] == [entry["step"] for entry in alone.log]
    for got, want in zip(log, alone.log, strict=True):
        assert got["loss"] == pytest.approx(want["loss"], abs=2e-5)


def test_a_command_of_two_processes_writes_one_folder_and_tells_once(launched):
    lines = [line for line in (launched / "out.txt").read_text().splitlines() if line[:1] == "{"]
    assert [json.loads(line)["processes"] for line in lines] == [2]
    assert (launched / "made" / "model.safetensors").exists()
    assert not list(launched.glob(".made*"))


def test_one_process_needs_no_messages():
    one = Processes()
    assert (one.rank, one.world, one.main) == (0, 1, True)
    tensor = torch.ones(2)
    assert one.mean(tensor) is tensor
    assert one.any(False, tensor.device) is False


def test_only_several_processes_need_accelerate(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert Processes("cpu").world == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"^processes: '2'.*foretoken\[train\]"):
        Processes()
