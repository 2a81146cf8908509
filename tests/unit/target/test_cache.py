"""KVPool and SlotCache: rows move, slots stay dense, memory grows and keeps what it holds."""

import pytest
import torch

from foretoken.target.cache import ROWS_STEP, KVPool, ShapeProbe, SlotCache

SHAPES = {0: ((2, 4), (2, 4)), 1: ((2, 4), (2, 3))}  # layer -> (heads, dim) of keys, of values


def pool() -> KVPool:
    return KVPool(SHAPES, torch.float32, torch.device("cpu"))


def write(cache: SlotCache, values: list[int], fresh: int) -> None:
    """One forward: rows with these values after what is held, the first `fresh` committed."""
    p = cache.pool
    p.ensure(cache.length + len(values))
    rows = torch.tensor(values, dtype=torch.float32)[None, None, :, None]
    p._lo, p._hi, p._at, p._length = (
        cache.slot,
        cache.slot + 1,
        cache.length,
        cache.length + len(values),
    )
    for layer, ((kh, kd), (vh, vd)) in SHAPES.items():
        k, v = p.update(rows.expand(1, kh, -1, kd), -rows.expand(1, vh, -1, vd), layer)
        assert k.shape == (1, kh, cache.length + len(values), kd)
        assert v.shape == (1, vh, cache.length + len(values), vd)
    cache.fresh, cache.used = fresh, cache.length + len(values)


def held(cache: SlotCache) -> list[float]:
    """What the committed rows hold; all layers, heads and channels agree."""
    out = None
    for layer, pair in SHAPES.items():
        for side in range(len(pair)):
            group, member = cache.pool._where[layer, side]
            rows = cache.pool.store[group][member][cache.slot, :, : cache.length]
            assert (rows == rows[:1, :, :1]).all()
            values = (rows[0, :, 0] * (-1) ** side).tolist()
            assert out in (None, values)
            out = values
    return out or []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ([], [1, 2]),
        ([0], [1, 2, 10]),
        ([1, 3], [1, 2, 11, 13]),
        ([0, 2, 3], [1, 2, 10, 12, 13]),
        ([3], [1, 2, 13]),
    ],
)
def test_keep_moves_the_paths_rows_together(path: list[int], expected: list[float]) -> None:
    cache = pool().acquire(8)
    write(cache, [1, 2, 10, 11, 12, 13], fresh=2)
    cache.keep(path)
    assert held(cache) == expected


def test_release_keeps_live_slots_dense_and_intact() -> None:
    p = pool()
    caches = [p.acquire(8) for _ in range(3)]
    for i, cache in enumerate(caches):
        write(cache, [i, i], fresh=2)
        cache.keep([])
    caches[0].release()
    caches[0].release()  # harmless
    assert sorted(c.slot for c in caches[1:]) == [0, 1]
    assert [held(c) for c in caches[1:]] == [[1, 1], [2, 2]]
    again = p.acquire(8)
    assert (again.slot, again.length) == (2, 0)


def test_growth_keeps_committed_fresh_and_draft_rows() -> None:
    p = pool()
    a, b = p.acquire(8), p.acquire(8)
    write(a, [1, 2, 10, 11], fresh=2)
    with torch.inference_mode():
        p.ensure(3 * ROWS_STEP)
    p.swap(0, 1)
    a.keep([1])
    assert held(a) == [1, 2, 11]
    assert (a.slot, b.slot) == (1, 0)
    assert p.rows == 3 * ROWS_STEP
    before = p.nbytes
    p.ensure(5)
    b.reserve(7)
    assert p.nbytes == before, "memory never shrinks while it is used"


def test_nothing_uninitialised_is_read() -> None:
    p = pool()
    p.acquire(8)
    p.ensure(100)
    assert all((t == 0).all() for t in p.store)


def test_probe_notes_shapes() -> None:
    probe = ShapeProbe()
    k, v = probe.update(torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1, 3), 1)
    assert probe.shapes == {1: ((2, 4), (2, 3))}
    assert (k.shape, v.shape) == ((1, 2, 1, 4), (1, 2, 1, 3))
    assert probe.get_seq_length() == 0
