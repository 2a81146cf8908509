"""16 numbers at once: a vector type for numba, with the few operations that a forward needs.

numba leaves it to LLVM to find vectors in a loop, which it does not where several addresses might
overlap. As in `foretoken.target.machine`, each of these is what its name says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import PrimitiveModel  # type: ignore[attr-defined]
from numba.extending import register_model

from foretoken.target.machine import ADDRESS, FLOAT, HALF, INT, WORD, instruction, operation

LANES = 16
_FLOATS, _INTS, _HALVES = (ir.VectorType(kind, LANES) for kind in (FLOAT, INT, HALF))


class _Bfloat(ir.Type):  # type: ignore[misc]
    """LLVM's type, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"


_BFLOATS = ir.VectorType(_Bfloat(), LANES)


class Floats(types.Type):
    """16 float32."""

    def __init__(self) -> None:
        super().__init__("Floats")


FLOATS: Any = Floats()


@register_model(Floats)
class _Model(PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)  # type: ignore[no-untyped-call]


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _load(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(_at(builder, address, kind), align=1)


def _put(builder: Any, values: Sequence[Any]) -> None:
    builder.store(values[0], _at(builder, values[1], _FLOATS), align=1)


def _splat(builder: Any, value: Any) -> Any:
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(INT, 0))
    return builder.shuffle_vector(first, first, ir.Constant(_INTS, [0] * LANES))


def _constant(value: float) -> Any:
    return ir.Constant(_FLOATS, [value] * LANES)


def _whole(value: int) -> Any:
    return ir.Constant(_INTS, [value] * LANES)


def _intrinsic(builder: Any, name: str, *values: Any) -> Any:
    return instruction(builder, f"llvm.{name}.v16f32", _FLOATS, *values)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _intrinsic(builder, "fma", a, b, c)


_EXP = (
    1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
    5.0000001201e-1,
)  # fmt: skip


def _exp(builder: Any, values: Sequence[Any]) -> Any:
    (x,) = values
    least = _constant(-87.0)
    near = _intrinsic(builder, "minnum", _intrinsic(builder, "maxnum", x, least), _constant(88.0))
    k = _intrinsic(
        builder, "floor", _fma(builder, near, _constant(1 / math.log(2)), _constant(0.5))
    )
    r = _fma(builder, k, _constant(-0.693359375), near)
    r = _fma(builder, k, _constant(2.12194440e-4), r)
    p = _constant(_EXP[0])
    for factor in _EXP[1:]:
        p = _fma(builder, p, r, _constant(factor))
    p = _fma(builder, builder.fmul(p, r), r, builder.fadd(r, _constant(1.0)))
    power = builder.shl(builder.add(builder.fptosi(k, _INTS), _whole(127)), _whole(23))
    e = builder.fmul(p, builder.bitcast(power, _FLOATS))
    return builder.select(builder.fcmp_ordered(">", x, least), e, _constant(0.0))


def _rounded(builder: Any, value: Any) -> Any:
    bits = builder.bitcast(value, _INTS)
    odd = builder.and_(builder.lshr(bits, _whole(16)), _whole(1))
    return builder.lshr(builder.add(builder.add(bits, _whole(0x7FFF)), odd), _whole(16))


def _halves(builder: Any, values: Sequence[Any]) -> Any:
    wide = builder.zext(_load(builder, values[0], _HALVES), _INTS)
    return builder.bitcast(builder.shl(wide, _whole(16)), _FLOATS)


def _put_halves(builder: Any, values: Sequence[Any]) -> None:
    name = "llvm.x86.avx512bf16.cvtneps2bf16.512"
    bits = builder.bitcast(instruction(builder, name, _BFLOATS, values[0]), _HALVES)
    builder.store(bits, _at(builder, values[1], _HALVES), align=1)


def _near(builder: Any, values: Sequence[Any]) -> Any:
    return builder.bitcast(builder.shl(_rounded(builder, values[0]), _whole(16)), _FLOATS)


def _total(builder: Any, values: Sequence[Any]) -> Any:
    (lanes,) = values
    for s in (8, 4, 2, 1):
        moved = ir.Constant(_INTS, [(i + s) % LANES for i in range(LANES)])
        lanes = builder.fadd(lanes, builder.shuffle_vector(lanes, lanes, moved))
    return builder.extract_element(lanes, ir.Constant(INT, 0))


def _put_pair(builder: Any, values: Sequence[Any]) -> None:
    low, high = (_rounded(builder, value) for value in values[:2])
    both = builder.or_(low, builder.shl(high, _whole(16)))
    builder.store(both, _at(builder, values[2], _INTS), align=1)


def _interleave(builder: Any, values: Sequence[Any]) -> None:
    low, high = (builder.zext(_load(builder, at, _HALVES), _INTS) for at in values[:2])
    both = builder.or_(low, builder.shl(high, _whole(16)))
    builder.store(both, _at(builder, values[2], _INTS), align=1)


def _transpose(builder: Any, values: Sequence[Any]) -> None:
    """In four steps, the s-th of which exchanges bit s of row and column."""
    source, stride, put = values
    rows = []
    for i in range(LANES):
        place = builder.add(source, builder.mul(stride, ir.Constant(WORD, i)))
        rows.append(_load(builder, place, _INTS))
    for s in (1, 2, 4, 8):
        low = [j if not j & s else LANES + j - s for j in range(LANES)]
        high = [j + s if not j & s else LANES + j for j in range(LANES)]
        for i in range(LANES):
            if not i & s:
                a, b = rows[i], rows[i + s]
                rows[i] = builder.shuffle_vector(a, b, ir.Constant(_INTS, low))
                rows[i + s] = builder.shuffle_vector(a, b, ir.Constant(_INTS, high))
    for i, row in enumerate(rows):
        place = builder.add(put, ir.Constant(WORD, i * LANES * 4))
        builder.store(row, _at(builder, place, _INTS), align=1)


def _low(builder: Any, values: Sequence[Any]) -> Any:
    return builder.bitcast(builder.shl(_load(builder, values[0], _INTS), _whole(16)), _FLOATS)


def _high(builder: Any, values: Sequence[Any]) -> Any:
    kept = builder.and_(_load(builder, values[0], _INTS), _whole(-65536))
    return builder.bitcast(kept, _FLOATS)


_A, _V = ADDRESS, FLOATS
splat: Any = operation(lambda b, v: _splat(b, v[0]), _V, types.float32)
load: Any = operation(lambda b, v: _load(b, v[0], _FLOATS), _V, _A)
put: Any = operation(_put, types.void, _V, _A)  # where
plus: Any = operation(lambda b, v: b.fadd(*v), _V, _V, _V)
minus: Any = operation(lambda b, v: b.fsub(*v), _V, _V, _V)
times: Any = operation(lambda b, v: b.fmul(*v), _V, _V, _V)
divided: Any = operation(lambda b, v: b.fdiv(*v), _V, _V, _V)
lane_sum: Any = operation(_total, types.float32, _V)  # of the 16
times_plus: Any = operation(lambda b, v: _fma(b, *v), _V, _V, _V, _V)
larger: Any = operation(lambda b, v: _intrinsic(b, "maxnum", *v), _V, _V, _V)
# e ** x for x <= 88 (that of 88 above), 5e-6 off at most; zero where it is below normal numbers
exp: Any = operation(_exp, _V, _V)
# 16 bfloat16 from an address, to one, or as such in float32: rounded to even. In `put_halves` what
# is below the smallest normal number becomes zero; it needs AVX512-BF16.
halves: Any = operation(_halves, _V, _A)
put_halves: Any = operation(_put_halves, types.void, _V, _A)
rounded: Any = operation(_near, _V, _V)
# Pairs of bfloat16, the first in the low halves of 16 words.
lows: Any = operation(_low, _V, _A)
highs: Any = operation(_high, _V, _A)
put_pairs: Any = operation(_put_pair, types.void, _V, _V, _A)  # of numbers, rounded to even
pair: Any = operation(_interleave, types.void, _A, _A, _A)  # 16 bfloat16 each -> where
# 16 x 16 words -> where, transposed; the second: bytes between rows
transpose: Any = operation(_transpose, types.void, _A, _A, _A)
