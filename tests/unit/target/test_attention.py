"""Folded attention equals the plain formula, with our masks and with transformers' own."""

import pytest
import torch

from foretoken.target.attention import bitwise_attention, folded_attention

B, KV, G, N, L, D = 2, 2, 3, 4, 9, 8


def plain(q, k, v, mask, scale):
    k, v = k.repeat_interleave(G, 1), v.repeat_interleave(G, 1)
    scores = q @ k.transpose(-1, -2) * (D**-0.5 if scale is None else scale)
    return (scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("attend", [folded_attention, bitwise_attention])
@pytest.mark.parametrize("form", ["folded", "bool", "additive", "none"])
@pytest.mark.parametrize("scale", [None, 0.7])
def test_against_the_formula(attend, form: str, scale: float | None) -> None:
    q = torch.randn(B, KV * G, N, D)
    k, v = torch.randn(B, KV, L, D), torch.randn(B, KV, L, D)
    sees = torch.rand(B, 1, N, L) < 0.6
    sees[..., 0] = True
    if form == "none":
        sees = torch.ones(N, L, dtype=torch.bool).tril(L - N)[None, None].expand(B, 1, N, L)
    additive = torch.zeros(sees.shape).masked_fill(~sees, float("-inf"))
    given = {
        "folded": additive.repeat(1, 1, G, 1),
        "bool": sees,
        "additive": additive,
        "none": None,
    }
    out, weights = attend(torch.nn.Module(), q, k, v, given[form], scaling=scale)
    torch.testing.assert_close(out, plain(q, k, v, sees, scale), atol=1e-5, rtol=1e-4)
    assert weights is None


def test_bitwise_does_not_depend_on_the_order_of_rows() -> None:
    q, k, v = (torch.randn(1, 2, n, D).bfloat16() for n in (1, 33, 33))
    order = torch.randperm(33)
    mask = torch.zeros(1, 1, 1, 33)
    one, _ = bitwise_attention(torch.nn.Module(), q, k, v, mask)
    other, _ = bitwise_attention(torch.nn.Module(), q, k[:, :, order], v[:, :, order], mask)
    assert torch.equal(one, other)
