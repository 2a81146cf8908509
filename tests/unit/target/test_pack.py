"""Packing: ids, positions and masks against the definition, row by row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foretoken.target.pack import Packer, Rows
from foretoken.target.shapes import BITWISE_SHAPES, ROUNDED_SHAPES, Shapes
from foretoken.tree import EMPTY, DraftTree
from tests.unit.test_tree import trees

CPU = torch.device("cpu")


@st.composite
def parts(draw: st.DrawFn) -> Rows:
    """A session's part: fresh tokens and a tree, or the newest nodes of a draft that grows."""
    tree, base = draw(trees()), draw(st.integers(0, 9))
    if len(tree) and base and draw(st.booleans()):
        return Rows(base, [], tree, draw(st.integers(0, len(tree) - 1)))
    return Rows(base, list(range(50, 50 + draw(st.integers(1, 4)))), tree)


@given(
    rows=st.lists(parts(), min_size=1, max_size=3), window=st.sampled_from([None, 1, 3, 8]),
    fold=st.sampled_from([1, 2]), pad=st.integers(0, 3),
)  # fmt: skip
def test_every_row_sees_what_it_should(rows: list[Rows], window, fold: int, pad: int) -> None:
    n = max(map(len, rows)) + pad
    length = max(r.start for r in rows) + n
    packed = Packer([window], fold, torch.float32, CPU).pack(rows, n, length)
    mask = packed.masks[window].view(len(rows), fold, n, length)
    assert (mask == mask[:, :1]).all(), "every folded head sees alike"
    assert set(mask.unique().tolist()) <= {0.0, float("-inf")}
    for b, r in enumerate(rows):
        f = len(r.fresh)
        texts = [list(range(r.base + i + 1)) for i in range(f)]  # columns that row i stands after
        texts += [
            [*range(r.base + f), *(r.base + f + j for j in r.tree.path(i))]
            for i in range(r.scored, len(r.tree))
        ]
        assert r.start + len(r) == r.base + f + len(r.tree), "rows are written side by side"
        for i, columns in enumerate(texts):
            seen = columns if window is None else columns[-window:]
            assert (mask[b, 0, i] == 0).nonzero()[:, 0].tolist() == seen
            assert packed.positions[b, i] == len(columns) - 1
        assert packed.ids[b, : len(r)].tolist() == [*r.fresh, *r.tree.tokens[r.scored :]]
        assert (mask[b, 0, len(r) :] == 0).any(-1).all(), "padding looks at something, or is NaN"


def test_buffers_are_made_once() -> None:
    packer = Packer([None], 1, torch.float32, CPU)
    first = packer.pack([Rows(0, [1, 2], DraftTree.chain([3]))], 3, 3).masks[None]
    second = packer.pack([Rows(3, [1], EMPTY)], 1, 4).masks[None]
    assert first.data_ptr() == second.data_ptr()
    assert (second == 0).all()


@pytest.mark.parametrize(("n", "rows"), [(1, 4), (4, 4), (5, 16), (16, 16)])
def test_buckets(n: int, rows: int) -> None:
    assert Shapes(buckets=(4, 16)).rows(n) == rows


def test_free_and_rounded_shapes() -> None:
    assert (Shapes().rows(7), Shapes().length(7)) == (7, 7)
    assert Shapes(columns=8).length(9) == 16
    assert BITWISE_SHAPES.rows(3) == BITWISE_SHAPES.chunk
    assert ROUNDED_SHAPES.rows(512) == ROUNDED_SHAPES.chunk
    assert all(n <= ROUNDED_SHAPES.rows(n) <= max(n * 4 / 3 + 2, 8) for n in range(1, 513))
