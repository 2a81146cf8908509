"""16 numbers at once: each operation against numpy and PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foretoken.target import team, vector

pytestmark = pytest.mark.usefixtures("with_tiles")


def _all(args: Any, member: int, members: int) -> None:
    """args: addresses of 16 a, b, c; out [9, 16]."""
    a, b, c, out = vector.load(args[0]), vector.load(args[1]), vector.load(args[2]), args[3]
    vector.put(vector.plus(a, b), out)
    vector.put(vector.minus(a, b), out + 64)
    vector.put(vector.times(a, b), out + 128)
    vector.put(vector.divided(a, b), out + 192)
    vector.put(vector.times_plus(a, b, c), out + 256)
    vector.put(vector.larger(a, b), out + 320)
    vector.put(vector.exp(a), out + 384)
    vector.put(vector.rounded(a), out + 448)
    vector.put(vector.splat(vector.lane_sum(a)), out + 512)


def _bits(args: Any, member: int, members: int) -> None:
    """args: addresses of 16 a, b; bfloat16 [2, 16], pairs [16, 2]; 16 x 16 words, out [4, 16, 16]
    of which the last has all the rest."""
    a, b, out = vector.load(args[0]), vector.load(args[1]), args[5]
    vector.transpose(args[4], 64, out)
    vector.pair(args[2], args[2] + 32, out + 1024)
    vector.put_pairs(a, b, out + 1088)
    vector.put(vector.lows(args[3]), out + 1152)
    vector.put(vector.highs(args[3]), out + 1216)
    vector.put(vector.halves(args[2]), out + 1280)


def _round(args: Any, member: int, members: int) -> None:
    """args: addresses of a, out; how many."""
    for i in range(0, args[2], 16):
        vector.put_halves(vector.load(args[0] + i * 4), args[1] + i * 2)


def _exps(args: Any, member: int, members: int) -> None:
    """args: addresses of x, out; how many."""
    for i in range(0, args[2] * 4, 64):
        vector.put(vector.exp(vector.load(args[0] + i)), args[1] + i)


def run(function: Any, *args: int) -> None:
    team.run(team.program([team.step(function), *args]))


def test_numbers() -> None:
    a, b, c = torch.randn(3, 16)
    a[0], a[1], a[2] = -100.0, 90.0, 0.0
    out = torch.empty(9, 16)
    run(_all, a.data_ptr(), b.data_ptr(), c.data_ptr(), out.data_ptr())
    exp = a.clamp(max=88).exp()
    exp[0] = 0
    want = [a + b, a - b, a * b, a / b, a * b + c, a.maximum(b), exp, a.bfloat16().float()]
    want.append(a.sum().expand(16))
    for mine, theirs in zip(out, want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert torch.equal(out[7], want[7])


def test_exp_over_its_range() -> None:
    x = torch.cat([torch.linspace(-86.99, 88.0, 15986), torch.tensor([-87.5, -1e30, -torch.inf])])
    x = torch.cat([x, torch.tensor([89.0, 1e30, torch.inf, -0.0, 0.0, 1.0])])
    x = torch.nn.functional.pad(x, (0, -x.numel() % 16))
    out = torch.empty_like(x)
    run(_exps, x.data_ptr(), out.data_ptr(), x.numel())
    want = x.double().clamp(max=88.0).exp()
    want[x < -87.0] = 0.0
    torch.testing.assert_close(out.double(), want, rtol=6e-6, atol=0)


def test_pairs_and_words() -> None:
    a, b = torch.randn(2, 16)
    halves, words = torch.randn(2, 16).bfloat16(), torch.arange(256, dtype=torch.int32).view(16, 16)
    pairs = halves.T.contiguous()
    out = torch.zeros(2, 16, 16, dtype=torch.int32)
    given = (a, b, halves, pairs, words, out)
    run(_bits, *(each.data_ptr() for each in given))
    assert torch.equal(out[0], words.T)
    rest = out[1]
    assert torch.equal(rest[0].view(torch.bfloat16).view(16, 2), pairs)
    assert torch.equal(rest[1].view(torch.bfloat16).view(16, 2), torch.stack((a, b), 1).bfloat16())
    assert torch.equal(rest[2].view(torch.float32), pairs[:, 0].float())
    assert torch.equal(rest[3].view(torch.float32), pairs[:, 1].float())
    assert torch.equal(rest[4].view(torch.float32), halves[0].float())


def test_every_bfloat16_and_what_lies_between_is_rounded_as_pytorch_does() -> None:
    bits = torch.arange(2**16, dtype=torch.int32)
    numbers = torch.cat([(bits << 16) + more for more in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    given = numbers.view(torch.float32)
    out = torch.empty(given.shape, dtype=torch.bfloat16)
    run(_round, given.data_ptr(), out.data_ptr(), given.numel())
    want = given.bfloat16()
    normal = given.abs() >= torch.finfo(torch.float32).tiny
    assert torch.equal(out[normal], want[normal])
    assert out[given.isnan()].isnan().all()
    assert (out[given.abs() < torch.finfo(torch.float32).tiny] == 0).all()
