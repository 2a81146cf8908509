"""Two processes cut and sketch what one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.unit.learn.recipes import test_cut, test_sketch

from foretoken.learn.recipes.cut import CutRun
from foretoken.learn.recipes.sketch import SketchRun, find_codes

ROOT = Path(__file__).parents[4]
SCRIPT = """
import sys
from pathlib import Path

import torch

from foretoken.learn import lm
from foretoken.learn.recipes.processes import Processes
from tests.unit.learn.recipes.test_cut_processes import cut_weights, tables

torch.set_num_threads(1)
lm.has_fast_bfloat16 = lambda _: False  # as in conftest.py, whose fixture does not reach here
work = Path(sys.argv[1])
found = {"cut": cut_weights(work / "cut"), "tables": tables(work / "sketch")}
processes = Processes()
torch.save(found, work / f"rank{processes.rank}.pt")
processes.wait()
"""


def cut_weights(work: Path | None) -> dict[str, torch.Tensor]:
    model = test_cut.target()
    settings = test_cut.config(model, widths="adaptive", micro=2)
    run = CutRun(model, test_cut.rows(model, 60), settings, work)
    run.train()
    return run._cutter.model.state_dict()


def tables(work: Path | None) -> dict[str, torch.Tensor]:
    model = test_sketch.target()
    data, drafter, settings = (
        test_sketch.rows(model, 60), test_sketch.drafter_of(model), test_sketch.config(micro=2)
    )  # fmt: skip
    run = SketchRun(model, drafter, find_codes(drafter, data, settings, work), data, settings, work)
    run.train()
    return run.sketch.tables


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("two")
    (work / "script.py").write_text(SCRIPT)
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    environment = {**os.environ, **own, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run(
        [*command, str(work / "script.py"), str(work)],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return work


@pytest.mark.parametrize(("what", "alone"), [("cut", cut_weights), ("tables", tables)])
def test_two_processes_end_where_one_does(launched: Path, what: str, alone) -> None:
    both = [torch.load(launched / f"rank{rank}.pt")[what] for rank in range(2)]
    for name, want in alone(None).items():
        assert torch.equal(both[0][name], both[1][name])
        torch.testing.assert_close(both[0][name], want, atol=2e-3, rtol=1e-2)


def test_one_of_them_writes_the_stages(launched: Path) -> None:
    assert sorted(p.name for p in (launched / "cut").glob("*.pt")) == [
        "stage-1.pt", "stage-2.pt", "stage-3.pt",
    ]  # fmt: skip
