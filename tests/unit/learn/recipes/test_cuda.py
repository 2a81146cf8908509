"""The recipes on a GPU: same data, same steps, weights near those of the CPU."""

import copy

import numpy as np
import pytest
import torch
from tests import tiny

from foretoken.learn.recipes.align import Align
from foretoken.learn.recipes.align_config import AlignConfig
from foretoken.learn.recipes.load import DrafterShape, new_drafter
from foretoken.learn.recipes.rows import Rows
from foretoken.learn.recipes.trainer import StoppedError

SHAPE = DrafterShape(layers=1, hidden=16, heads=2, kv_heads=1, ffn=32)
BASE = {"steps": 6, "batch": 4, "micro": 2, "seq": 24, "lr": 0.003, "warmup": 1, "held_out": 0.3}
EXAMPLES = [
    (np.random.default_rng(n).integers(1, tiny.VOCAB, 8 + n % 9).tolist(), 3) for n in range(40)
]

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def target():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return copy.deepcopy(tiny.model("llama")).requires_grad_(False)


def align(target, device, work=None, **values):
    config = AlignConfig.checked(**{**BASE, **values})
    rows = Rows.of(EXAMPLES, config.seq, config.seed, config.held_out)
    drafter = new_drafter(target.to("cpu"), SHAPE, seed=1).to(device)
    return Align(drafter, target.to(device), rows, config, work)


@pytest.mark.parametrize(
    "values",
    [
        {"loss": "forward-kl"},
        {"loss": "lk-hybrid", "optimiser": "adamw"},
        {"loss": "amft", "mu_every": 2},
        {"loss": "tvd++", "compile": True},
    ],
)
def test_a_gpu_learns_what_a_cpu_learns(target, values):
    here = align(target, "cpu", **{**values, "compile": False})
    here.trainer.train()
    there = align(target, "cuda", **values)
    there.trainer.train()
    for name in ("alpha", "kl"):  # bfloat16 against float32
        assert there.trainer.latest[name] == pytest.approx(here.trainer.latest[name], rel=0.05)


def test_it_resumes_on_a_gpu(target, tmp_path):
    values = {"on_policy": 0.5, "on_policy_every": 2, "on_policy_tokens": 6}
    whole = align(target, "cuda", tmp_path / "whole", **values)
    whole.trainer.train()
    parts = align(target, "cuda", tmp_path / "parts", **values)
    with pytest.raises(StoppedError):
        parts.trainer.train(stop=lambda: parts.trainer.step == 3)
    again = align(target, "cuda", tmp_path / "parts", **values)
    again.trainer.train()
    for a, b in zip(whole.drafter.parameters(), again.drafter.parameters(), strict=True):
        assert a.device.type == "cuda"
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
