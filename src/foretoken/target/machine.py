"""Single instructions that numba has no word for: casts, addresses, calls, tiles.

A tile is a register of AMX: 16 rows of 64 bytes at most, by the shape that `tiles_shaped` sets for
this thread (Intel's instruction set reference, chapter AMX). Here alone may a loop use a function of
another file (see `foretoken.target.jit`): what one of these does is said by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

Args = types.CPointer(types.int64)
_BYTE, _INT, _WORD = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_PLACE = _BYTE.as_pointer()
_LINE = 64  # bytes that memory is read in


def _as_pointer(kind: Any) -> Any:
    def typed(_: Any, address: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), build

    return intrinsic(typed)


# What lies at an address (an integer), read and written by index.
numbers: Any = _as_pointer(types.int64)
halves: Any = _as_pointer(types.uint16)  # bfloat16 as its bits
words: Any = _as_pointer(types.uint32)  # also two bfloat16, the first in the low half
floats: Any = _as_pointer(types.float32)


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


def _called(returns: Any, takes: Sequence[Any]) -> Any:
    """A C function, by its address."""

    def build(context: Any, builder: Any, _: Any, values: Any) -> Any:
        kind = ir.FunctionType(returns, takes)
        given = [
            builder.trunc(value, _INT) if take == _INT else value
            for value, take in zip(values[1:], takes, strict=True)
        ]
        out = builder.call(builder.inttoptr(values[0], kind.as_pointer()), given)
        return context.get_dummy_value() if returns == ir.VoidType() else builder.sext(out, _WORD)

    return build


@intrinsic
def call(_: Any, address: Any) -> Any:  # noqa: ARG001
    """void f()"""
    return types.void(types.int64), _called(ir.VoidType(), ())


@intrinsic
def ask(_: Any, address: Any) -> Any:  # noqa: ARG001
    """int f()"""
    return types.int64(types.int64), _called(_INT, ())


@intrinsic
def call_step(_: Any, address: Any, args: Any, member: Any, members: Any) -> Any:  # noqa: ARG001
    """void f(int64 *, int64, int64)"""
    return types.void(*[types.int64] * 4), _called(ir.VoidType(), (_WORD, _WORD, _WORD))


@intrinsic
def call_parallel(_: Any, address: Any, f: Any, data: Any, members: Any) -> Any:  # noqa: ARG001
    """void GOMP_parallel(void (*f)(void *), void *data, unsigned members, unsigned flags)"""
    takes = (_WORD, _WORD, _INT, _INT)

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        flags = ir.Constant(_WORD, 0)
        return _called(ir.VoidType(), takes)(context, builder, signature, [*values, flags])

    return types.void(*[types.int64] * 4), build


def _room(size: int) -> Any:
    def typed(_: Any) -> Any:
        def build(_: Any, builder: Any, __: Any, ___: Any) -> Any:
            place = cgutils.alloca_once(builder, ir.ArrayType(_BYTE, size))
            place.align = _LINE
            return builder.ptrtoint(place, _WORD)

        return types.int64(), build

    return intrinsic(typed)


room: Any = _room(4096)  # the address of 4 KB of the function's own


def _instruction(name: str, tiles: Sequence[int], operands: int = 0) -> Any:
    """One on these tiles. operands: 0, 1 (an address) or 2 (an address, and bytes between rows)."""
    kinds = [_BYTE] * len(tiles) + [_PLACE, _WORD][:operands]

    def build(context: Any, builder: Any, _: Any, values: Any) -> Any:
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), kinds), f"llvm.x86.{name}"
        )
        given = [ir.Constant(_BYTE, tile) for tile in tiles]
        given += [builder.inttoptr(value, _PLACE) for value in values[:1]] + list(values[1:])
        builder.call(function, given)
        return context.get_dummy_value()

    def none(_: Any) -> Any:
        return types.void(), build

    def one(_: Any, address: Any) -> Any:  # noqa: ARG001
        return types.void(types.int64), build

    def two(_: Any, address: Any, stride: Any) -> Any:  # noqa: ARG001
        return types.void(types.int64, types.int64), build

    return intrinsic((none, one, two)[operands])


tiles_shaped: Any = _instruction("ldtilecfg", (), 1)
tiles_done: Any = _instruction("tilerelease", ())
_tiles = range(8)
cleared: Any = [_instruction("tilezero", (tile,)) for tile in _tiles]
loaded: Any = [_instruction("tileloadd64", (tile,), 2) for tile in _tiles]
stored: Any = [_instruction("tilestored64", (tile,), 2) for tile in _tiles]


def multiplied(into: int, rows: int, columns: int) -> Any:
    """into (float32) += rows x columns, tiles of bfloat16: that of columns holds pairs of its rows
    side by side."""
    return _instruction("tdpbf16ps", (into, rows, columns))


class _Bfloat(ir.Type):  # type: ignore[misc]
    """LLVM's type, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"


@intrinsic
def rounded_16(_: Any, source: Any, put: Any) -> Any:  # noqa: ARG001
    """16 float32 at one address become the bfloat16 next to them at another, even ones of two;
    what is smaller than the smallest normal number becomes zero. With AVX512-BF16."""
    floats_16, bfloats_16, bits_16 = (
        ir.VectorType(kind, 16) for kind in (ir.FloatType(), _Bfloat(), ir.IntType(16))
    )
    name = "llvm.x86.avx512bf16.cvtneps2bf16.512"

    def build(context: Any, builder: Any, _: Any, values: Any) -> Any:
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(bfloats_16, [floats_16]), name
        )
        given = builder.load(builder.inttoptr(values[0], floats_16.as_pointer()), align=4)
        bits = builder.bitcast(builder.call(function, [given]), bits_16)
        builder.store(bits, builder.inttoptr(values[1], bits_16.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), build


@intrinsic
def fetched(_: Any, address: Any) -> Any:  # noqa: ARG001
    """The line at an address is asked for, which may be anywhere."""

    def build(context: Any, builder: Any, _: Any, values: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_PLACE, _INT, _INT, _INT])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        to_read, near, data = (ir.Constant(_INT, number) for number in (0, 3, 1))
        builder.call(function, [builder.inttoptr(values[0], _PLACE), to_read, near, data])
        return context.get_dummy_value()

    return types.void(types.int64), build
