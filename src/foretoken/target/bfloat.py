"""Loops over bfloat16: norms, angles, gates, with PyTorch's roundings in PyTorch's places.

A bfloat16 is handed over as its 16 bits (uint16), since numpy has no such type. What PyTorch rounds
to bfloat16 between two operations is rounded here as well: results are its, but for the order in
which a norm adds up its squares. R rows of H channels.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from foretoken.target import team, vector
from foretoken.target.jit import Array, Norm, compiled, inlined
from foretoken.target.machine import as_bits, as_float, halves, numbers, wide

_F, _I, _U = np.float32, np.int32, np.uint32


@inlined
def narrow(value: Any) -> Any:
    """The bits of the bfloat16 next to a float32, the even one of two."""
    bits = as_bits(value)
    near = np.uint16((bits + _U(0x7FFF) + ((bits >> _U(16)) & _U(1))) >> _U(16))
    return np.uint16(0x7FC0) if np.isnan(value) else near


@inlined
def exp(x: Any) -> Any:
    """e ** x in float32, 5e-6 off at most, in a form that takes vectors: x = k ln 2 + r, a
    polynomial in r (Cephes' expf), k into the exponent. x is bounded to where neither overflows."""
    x = min(max(x, _F(-87.0)), _F(88.0))
    k = np.floor(x * _F(1.4426950408889634) + _F(0.5))
    r = x - k * _F(0.693359375) - k * _F(-2.12194440e-4)
    p = _F(1.9875691500e-4)
    p = p * r + _F(1.3981999507e-3)
    p = p * r + _F(8.3334519073e-3)
    p = p * r + _F(4.1665795894e-2)
    p = p * r + _F(1.6666665459e-1)
    p = p * r + _F(5.0000001201e-1)
    p = p * r * r + r + _F(1.0)
    return p * as_float(_U((_I(k) + _I(127)) << _I(23)))


@compiled
def _scaled(row: Array, by: Norm, out: Array) -> None:
    """out [H] = the norm of row [H]; as it is where there is no norm."""
    weight, total = by.weight, _F(0.0)
    for i in range(weight.size):
        total += wide(row[i]) * wide(row[i])
    inverse = _F(1.0) / np.sqrt(total / _F(row.size) + _F(by.eps))
    for i in range(weight.size):
        out[i] = narrow(wide(weight[i]) * wide(narrow(wide(row[i]) * inverse)))


@compiled
def norm(x: Array, more: Array, by: Norm, out: Array) -> None:
    """x [R, H] grows by `more` ([R, H], or no rows); out [R, H] = its norm."""
    for r in range(x.shape[0]):
        row = x[r]
        if more.shape[0]:
            plus = more[r]
            for i in range(row.size):
                row[i] = narrow(wide(row[i]) + wide(plus[i]))
        _scaled(row, by, out[r])


@compiled
def gate(both: Array, out: Array) -> None:
    """out [R, I] = silu(gates) * ups of rows [gates, ups], both [R, 2 I]."""
    size = out.shape[1]
    for r in range(both.shape[0]):
        row, put = both[r], out[r]
        for i in range(size):
            a = wide(row[i])
            a = wide(narrow(a / (_F(1.0) + exp(-a))))
            put[i] = narrow(a * wide(row[size + i]))


@compiled
def _turned(head: Array, cos: Array, sin: Array, put: Array) -> None:
    """put [D] = head [D] at its position's angles [D]; the first half of sin is negative."""
    half = head.size // 2
    for i in range(half):
        a, b = wide(head[i]), wide(head[i + half])
        put[i] = narrow(wide(narrow(a * wide(cos[i]))) + wide(narrow(b * wide(sin[i]))))
    for i in range(half):
        a, b = wide(head[i]), wide(head[i + half])
        c, s = wide(cos[i + half]), wide(sin[i + half])
        put[i + half] = narrow(wide(narrow(b * c)) + wide(narrow(a * s)))


@inlined
def _group(
    rows: Array, norms: tuple[Norm, Norm], angles: tuple[Array, Array, Array],
    planes: tuple[Array, Array], at: tuple[Array, Array], folded: Array, one: int,
) -> None:  # fmt: skip
    """`turn` for one head of keys of one row, and the queries that read it."""
    r, g = one // planes[0].shape[1], one % planes[0].shape[1]
    (cos, sin, positions), (keys, values), (slots, to) = angles, planes, at
    kv = keys.shape[1]
    heads = rows.shape[1] - 2 * kv
    group = heads // kv
    n, position = folded.shape[2] // group, positions[r]
    key, value = rows[r, heads + g], rows[r, heads + kv + g]
    put = values[slots[r], g, to[r]]
    _scaled(key, norms[1], key)
    _turned(key, cos[position], sin[position], keys[slots[r], g, to[r]])
    for i in range(value.size):
        put[i] = value[i]
    for h in range(g * group, (g + 1) * group):
        query, place = rows[r, h], (h % group) * n + r % n
        _scaled(query, norms[0], query)
        _turned(query, cos[position], sin[position], folded[r // n, g, place])


@compiled
def turn(
    rows: Array, norms: tuple[Norm, Norm], angles: tuple[Array, Array, Array],
    planes: tuple[Array, Array], at: tuple[Array, Array], folded: Array,
) -> None:  # fmt: skip
    """Queries and keys are normed and turned; keys and values are stored.

    rows: [R, heads + 2 kv, D] queries, keys, values. norms: of queries, of keys. angles: cos, sin
    by position [more than any, D], positions [R]. planes: keys and values of the layer [slots, kv,
    rows, D]. at: slot and row [R] of them that each is stored in. folded: [B, kv, heads / kv * n,
    D], the queries as `attention.folded_attention` reads them.
    """
    for one in range(rows.shape[0] * planes[0].shape[1]):
        _group(rows, norms, angles, planes, at, folded, one)


# The same as steps of a team (`foretoken.target.team`), on addresses, where 16 numbers are taken at
# once: sizes are multiples of 32. An eps is given as its bits.


@inlined
def _in_tiles(row: int, at: int, size: int, tile: int) -> int:
    """Where byte `at` of a row of `size` bytes lies among tiles (`foretoken.target.tiles`)."""
    return (row // 16 * (size // 64) + at // 64) * tile + row % 16 * 64 + at % 64


def _norm_step(args: Any, member: int, members: int) -> None:
    """args: addresses of x, more (0: none), weight, out; eps, rows, H; bytes of 16 rows of 32 of
    out, if that is tiles, else 0."""
    x, more, weight, out, rows, size = args[0], args[1], args[2], args[3], args[5], args[6]
    tile = args[7]
    for r in range(rows * member // members, rows * (member + 1) // members):
        row = x + r * size * 2
        squares = vector.splat(_F(0.0))
        for at in range(0, size * 2, 32):
            values = vector.halves(row + at)
            if more:
                plus = vector.halves(more + r * size * 2 + at)
                values = vector.rounded(vector.plus(values, plus))
                vector.put_halves(values, row + at)
            squares = vector.times_plus(values, values, squares)
        mean = vector.lane_sum(squares) / _F(size) + as_float(_U(args[4]))
        inverse = vector.splat(_F(1.0) / np.sqrt(mean))
        for at in range(0, size * 2, 32):
            values = vector.rounded(vector.times(vector.halves(row + at), inverse))
            values = vector.times(vector.halves(weight + at), values)
            put = _in_tiles(r, at, size * 2, tile) if tile else r * size * 2 + at
            vector.put_halves(values, out + put)


def _gate_step(args: Any, member: int, members: int) -> None:
    """args: addresses of both, out; rows, I; bytes of a tile of out. Each member has some of the
    columns."""
    rows, size = args[2], args[3]
    blocks = size // 16
    first, last = blocks * member // members * 32, blocks * (member + 1) // members * 32
    one, zero = vector.splat(_F(1.0)), vector.splat(_F(0.0))
    for r in range(rows):
        gates, ups, put = args[0] + r * size * 4, args[0] + (2 * r + 1) * size * 2, args[1]
        for at in range(first, last, 32):
            a = vector.halves(gates + at)
            a = vector.divided(a, vector.plus(one, vector.exp(vector.minus(zero, a))))
            out = vector.times(vector.rounded(a), vector.halves(ups + at))
            vector.put_halves(out, put + _in_tiles(r, at, size * 2, args[4]))


def _turn_step(args: Any, member: int, members: int) -> None:
    """args: addresses of rows, weights of the norms of queries and of keys (0: none), cos, sin,
    positions, keys, values, slots, to, folded; the norms' eps; B, n, heads, kv, D, the planes'
    slots and rows."""
    b, n, heads, kv, d = args[13], args[14], args[15], args[16], args[17]
    plane = (args[18], kv, args[19], d)
    q = Norm(carray(halves(args[1]), (d if args[1] else 0,)), as_float(_U(args[11])))
    k = Norm(carray(halves(args[2]), (d if args[2] else 0,)), as_float(_U(args[12])))
    rows = carray(halves(args[0]), (b * n, heads + 2 * kv, d))
    table = (args[19], d)  # a position is below the rows of a plane
    positions = carray(numbers(args[5]), (b * n,))
    angles = (carray(halves(args[3]), table), carray(halves(args[4]), table), positions)
    planes = (carray(halves(args[6]), plane), carray(halves(args[7]), plane))
    at = (carray(numbers(args[8]), (b * n,)), carray(numbers(args[9]), (b * n,)))
    folded = carray(halves(args[10]), (b, kv, heads // kv * n, d))
    for i in range(b * n * kv * member // members, b * n * kv * (member + 1) // members):
        _group(rows, (q, k), angles, planes, at, folded, i)


@cache
def steps() -> tuple[int, int, int]:
    """Addresses of norm, gate and turn as steps."""
    return team.step(_norm_step), team.step(_gate_step), team.step(_turn_step)
