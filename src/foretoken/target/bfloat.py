"""Loops over bfloat16: norms, angles, gates, with PyTorch's roundings in PyTorch's places.

A bfloat16 is handed over as its 16 bits (uint16), since numpy has no such type. What PyTorch rounds
to bfloat16 between two operations is rounded here as well: results are its, but for the order in
which a norm adds up its squares. R rows of H channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from foretoken.target.jit import Array, Norm, compiled, inlined

_F, _I, _U = np.float32, np.int32, np.uint32


def _widened(_: Any, bits: Any) -> Any:
    def build(context: Any, builder: Any, _: Any, values: Any) -> Any:
        word, shift = context.get_value_type(types.uint32), context.get_constant(types.uint32, 16)
        word = builder.shl(builder.zext(values[0], word), shift)
        return builder.bitcast(word, context.get_value_type(types.float32))

    return (types.float32(types.uint16), build) if bits == types.uint16 else None


def _cast(kind: Any, given: Any) -> Any:
    """Of the same 32 bits."""

    def typed(_: Any, value: Any) -> Any:
        def build(context: Any, builder: Any, _: Any, values: Any) -> Any:
            return builder.bitcast(values[0], context.get_value_type(kind))

        return (kind(given), build) if value == given else None

    return intrinsic(typed)


# A bfloat16, given as its 16 bits, in float32. Nothing else is taken (numba: TypingError).
wide: Any = intrinsic(_widened)
as_float: Any = _cast(types.float32, types.uint32)
as_bits: Any = _cast(types.uint32, types.float32)


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


@compiled
def turn(
    rows: Array, norms: tuple[Norm, Norm], angles: tuple[Array, Array],
    planes: tuple[Array, Array], at: tuple[Array, Array], folded: Array,
) -> None:  # fmt: skip
    """Queries and keys are normed and turned; keys and values are stored.

    rows: [R, heads + 2 kv, D] queries, keys, values. norms: of queries, of keys. angles: cos, sin
    [R, D]. planes: keys and values of the layer [slots, kv, rows, D]. at: slot and row [R] of them
    that each is stored in. folded: [B, kv, heads / kv * n, D], the queries as
    `attention.folded_attention` reads them.
    """
    (cos, sin), (keys, values), (slots, to) = angles, planes, at
    kv = keys.shape[1]
    heads = rows.shape[1] - 2 * kv
    group = heads // kv
    n = folded.shape[2] // group
    for r in range(rows.shape[0]):
        for g in range(kv):
            key, value = rows[r, heads + g], rows[r, heads + kv + g]
            put = values[slots[r], g, to[r]]
            _scaled(key, norms[1], key)
            _turned(key, cos[r], sin[r], keys[slots[r], g, to[r]])
            for i in range(value.size):
                put[i] = value[i]
        for h in range(heads):
            query, place = rows[r, h], (h % group) * n + r % n
            _scaled(query, norms[0], query)
            _turned(query, cos[r], sin[r], folded[r // n, h // group, place])
