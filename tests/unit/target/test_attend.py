"""Attention by tiles against the formula in float64, beside PyTorch's own in bfloat16."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foretoken.target import attend, team

# sessions, heads of keys, queries' heads for each, rows, columns, channels
SHAPES = (
    (1, 2, 2, 1, 70, 64), (1, 2, 2, 17, 64, 64), (3, 2, 4, 5, 77, 128), (2, 1, 1, 1, 1, 32),
    (2, 3, 1, 40, 33, 96), (1, 1, 3, 6, 500, 32),
)  # fmt: skip
CAPACITY = 512
pytestmark = [
    pytest.mark.usefixtures("with_tiles", "threads"),
    pytest.mark.parametrize("threads", [1, 3, 7], indirect=True),  # also more than heads
]


def run(q: Tensor, planes: tuple[Tensor, Tensor], mask: Tensor, n: int, scale: float) -> Tensor:
    """q [B, kv, M, D], planes [B, kv, CAPACITY, D], mask [B, 1, M, L] -> [B, n, heads, D]."""
    (b, kv, m, d), length, (keys, values) = q.shape, mask.shape[-1], planes
    padded = torch.full((b * kv * m + 15, d), float("nan")).bfloat16()
    padded[: b * kv * m] = q.view(-1, d)
    blocks = kv * m // n * d // 32
    out = torch.empty(-(-b * n // 16), blocks, 16, 32).bfloat16()
    many = attend.blocks(m, attend.QUERIES) * attend.blocks(length, attend.COLUMNS)
    laid = torch.empty(b * many * 512).bfloat16()
    share = -(-attend.scratch(m, length, d) // 64) * 64
    memory = torch.empty(share * torch.get_num_threads() + 64, dtype=torch.uint8)
    lay, attention = attend.steps()
    rows = [
        [lay, mask.data_ptr(), laid.data_ptr(), b, m, length],
        [
            attention, padded.data_ptr(), keys.data_ptr(), values.data_ptr(), laid.data_ptr(),
            out.data_ptr(), -(-memory.data_ptr() // 64) * 64, keys.stride(0) * 2,
            keys.stride(1) * 2, share, b, kv, m, n, length, d,
            int(np.float32(scale).view(np.uint32)),
        ],
    ]  # fmt: skip
    team.run(team.program(*rows))
    return out.transpose(1, 2).reshape(-1, blocks * 32)[: b * n].view(b, n, -1, d)


def case(shape: tuple[int, ...]) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """What is beyond the columns is not a number, and must not be read."""
    b, kv, group, n, length, d = shape
    planes = torch.full((2, b, kv, CAPACITY, d), float("nan")).bfloat16()
    planes[:, :, :, :length] = torch.randn(2, b, kv, length, d).bfloat16()
    hidden = torch.rand(b, 1, 1, n, length) < 0.3
    hidden[..., 0] = False
    mask = torch.zeros(b, 1, group, n, length).masked_fill(hidden, float("-inf"))
    q = torch.randn(b, kv, group * n, d).bfloat16()
    return q, (planes[0], planes[1]), mask.view(b, 1, group * n, length).bfloat16()


def formula(q: Tensor, planes: tuple[Tensor, Tensor], mask: Tensor, scale: float) -> Tensor:
    keys, values = (plane[:, :, : mask.shape[-1]].double() for plane in planes)
    scores = q.double() @ keys.transpose(-1, -2) * scale + mask.double()
    return scores.softmax(-1) @ values


def unfolded(out: Tensor, n: int) -> Tensor:
    b, kv, m, d = out.shape
    return out.reshape(b, kv * m // n, n, d).transpose(1, 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_no_further_off_than_pytorchs(shape: tuple[int, ...]) -> None:
    n, length = shape[3:5]
    q, planes, mask = case(shape)
    out = run(q, planes, mask, n, 0.3)
    want = unfolded(formula(q, planes, mask, 0.3), n)
    keys, values = (plane[:, :, :length] for plane in planes)
    theirs = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=0.3)
    off, off_by = ((each - want).abs().mean() for each in (out, unfolded(theirs, n)))
    assert off <= 1.2 * off_by + 1e-6
    torch.testing.assert_close(out.double(), want, rtol=0.02, atol=0.02)


def test_a_row_has_its_bits_whatever_the_others_are() -> None:
    q, planes, mask = case((2, 2, 1, 19, 50, 64))
    out = run(q, planes, mask, 19, 0.125)
    for i in range(19):
        alone = run(
            q[:, :, i : i + 1].contiguous(), planes, mask[:, :, i : i + 1].contiguous(), 1, 0.125
        )
        assert torch.equal(alone[:, 0], out[:, i])


def test_what_is_hidden_weighs_nothing() -> None:
    """However large it is."""
    q, planes, mask = case((1, 1, 1, 3, 40, 32))
    mask.zero_()
    mask[..., 20:] = float("-inf")
    out = run(q, planes, mask, 3, 0.2)
    planes[0][..., 20:40, :], planes[1][..., 20:40, :] = 1e3, 1e30
    assert torch.equal(run(q, planes, mask, 3, 0.2), out)


def test_large_scores() -> None:
    """The softmax does not overflow, and one column takes all."""
    q, planes, mask = case((1, 1, 1, 2, 35, 32))
    mask.zero_()
    out = run(q * 100, planes, mask, 2, 10.0)
    best = (q.double() @ planes[0][:, :, :35].double().transpose(-1, -2)).argmax(-1)
    assert torch.equal(out[0, :, 0], planes[1][0, 0, best[0, 0]])
