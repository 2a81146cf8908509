"""The compiled path gives the plain path's logits and keeps the cache right."""

import copy

import pytest
import torch

from foretoken.errors import ConfigError
from foretoken.target import compiled
from foretoken.target.base import Job
from foretoken.target.compiled import CompiledTarget
from foretoken.target.hf import HFTarget
from foretoken.target.load import load
from foretoken.tree import EMPTY, DraftTree
from tests import tiny

TREE = DraftTree([3, 5, 7, 9], [-1, -1, 0, 2])


def logits_of_two_steps(target):
    """Prompt, then a tree, then on from a kept path that had to be moved."""
    cache = target.new_cache(64)
    target.score([Job(cache, [1, 2, 3], EMPTY)])
    cache.keep([])
    first = target.score([Job(cache, [4], TREE)])[0].logits
    cache.keep([0, 2])
    second = target.score([Job(cache, [6], TREE)])[0].logits
    cache.release()
    return torch.cat([first, second])


@pytest.fixture
def one_bucket(monkeypatch):
    monkeypatch.setattr(compiled, "BUCKETS", (5,))
    shapes = compiled.Shapes(buckets=(5, 512), columns=64)
    monkeypatch.setattr(compiled, "COMPILED_SHAPES", shapes)


@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler warns about its own insides
def test_compiled_equals_plain(one_bucket):
    model = tiny.model("llama")
    plain = HFTarget(copy.deepcopy(model))
    fast = CompiledTarget(model)
    torch.testing.assert_close(logits_of_two_steps(fast), logits_of_two_steps(plain))


def test_compiled_bitwise_is_refused(tmp_path):
    tiny.model("llama").save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"exact: 'bitwise' .* compile"):
        load(str(tmp_path), exact="bitwise", compiled=True, dtype="float32")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graphs_equal_plain():
    model = tiny.model("llama").cuda()
    plain = HFTarget(copy.deepcopy(model))
    graphs = CompiledTarget(model, graphs=True)
    torch.testing.assert_close(logits_of_two_steps(graphs), logits_of_two_steps(plain))
    assert graphs._replays
