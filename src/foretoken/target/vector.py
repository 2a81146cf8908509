"""16 numbers at once: a vector type for numba, with the few operations that attention needs.

numba leaves it to LLVM to find vectors in a loop, which it does not where several addresses might
overlap. As in `foretoken.target.machine`, each of these is what its name says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import PrimitiveModel
from numba.extending import intrinsic, register_model

LANES = 16
_FLOAT, _INT, _WORD = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS, _HALVES = (ir.VectorType(kind, LANES) for kind in (_FLOAT, _INT, ir.IntType(16)))


class Floats(types.Type):  # type: ignore[misc]
    """16 float32."""

    def __init__(self) -> None:
        super().__init__("Floats")


FLOATS = Floats()


@register_model(Floats)
class _Model(PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


Build = Callable[[Any, Sequence[Any]], Any]  # (LLVM's builder, values) -> a value, None


def _operation(build: Build, returns: Any, *takes: Any) -> Any:
    """An operation on these types."""

    def typed(*given: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
            out = build(builder, values)
            return context.get_dummy_value() if returns is types.void else out

        return (returns(*takes), generate) if given == takes else None

    by_count: dict[int, Any] = {  # numba wants them named
        1: lambda _, a: typed(a),
        2: lambda _, a, b: typed(a, b),
        3: lambda _, a, b, c: typed(a, b, c),
    }
    return intrinsic(by_count[len(takes)])


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _load(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(_at(builder, address, kind), align=1)


def _put(builder: Any, values: Sequence[Any]) -> None:
    builder.store(values[0], _at(builder, values[1], _FLOATS), align=1)


def _splat(builder: Any, value: Any) -> Any:
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, first, ir.Constant(_INTS, [0] * LANES))


def _constant(value: float) -> Any:
    return ir.Constant(_FLOATS, [value] * LANES)


def _whole(value: int) -> Any:
    return ir.Constant(_INTS, [value] * LANES)


def _intrinsic(builder: Any, name: str, *values: Any) -> Any:
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * len(values))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v16f32")
    return builder.call(function, values)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _intrinsic(builder, "fma", a, b, c)


_EXP = (
    1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
    5.0000001201e-1,
)  # fmt: skip


def _exp(builder: Any, values: Sequence[Any]) -> Any:
    (x,) = values
    least = _constant(-87.0)
    near = _intrinsic(builder, "maxnum", x, least)
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
        place = builder.add(source, builder.mul(stride, ir.Constant(_WORD, i)))
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
        place = builder.add(put, ir.Constant(_WORD, i * LANES * 4))
        builder.store(row, _at(builder, place, _INTS), align=1)


def _low(builder: Any, values: Sequence[Any]) -> Any:
    return builder.bitcast(
        builder.shl(_load(builder, values[0], _INTS), _whole(16)), _FLOATS
    )


def _high(builder: Any, values: Sequence[Any]) -> Any:
    kept = builder.and_(_load(builder, values[0], _INTS), _whole(-65536))
    return builder.bitcast(kept, _FLOATS)


_A, _V = types.int64, FLOATS  # an address, a vector
splat: Any = _operation(lambda b, v: _splat(b, v[0]), _V, types.float32)
load: Any = _operation(lambda b, v: _load(b, v[0], _FLOATS), _V, _A)
put: Any = _operation(_put, types.void, _V, _A)  # where
plus: Any = _operation(lambda b, v: b.fadd(*v), _V, _V, _V)
minus: Any = _operation(lambda b, v: b.fsub(*v), _V, _V, _V)
times: Any = _operation(lambda b, v: b.fmul(*v), _V, _V, _V)
times_plus: Any = _operation(lambda b, v: _fma(b, *v), _V, _V, _V, _V)
larger: Any = _operation(lambda b, v: _intrinsic(b, "maxnum", *v), _V, _V, _V)
# e ** x for x <= 0, 5e-6 off at most; zero where that is below the smallest normal number
exp: Any = _operation(_exp, _V, _V)
# Pairs of bfloat16, the first in the low halves of 16 words.
lows: Any = _operation(_low, _V, _A)
highs: Any = _operation(_high, _V, _A)
put_pairs: Any = _operation(_put_pair, types.void, _V, _V, _A)  # of numbers, rounded to even
pair: Any = _operation(_interleave, types.void, _A, _A, _A)  # 16 bfloat16 each -> where
# 16 x 16 words -> where, transposed; the second: bytes between rows
transpose: Any = _operation(_transpose, types.void, _A, _A, _A)
