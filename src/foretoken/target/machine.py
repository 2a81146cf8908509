"""Single instructions that numba has no word for: casts, addresses, calls, tiles.

A tile is a register of AMX: 16 rows of 64 bytes at most, by the shape that `tiles_shaped` sets for
this thread (Intel's instruction set reference, chapter AMX). A loop may use these though they stand
in another file (see `foretoken.target.jit`): what one of them does is said by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

BYTE, HALF, INT, WORD = (ir.IntType(bits) for bits in (8, 16, 32, 64))
FLOAT, VOID = ir.FloatType(), ir.VoidType()
_PLACE = BYTE.as_pointer()
_LINE = 64  # bytes that memory is read in
ADDRESS = types.int64
Numbers: Any = types.CPointer(types.int64)  # type: ignore[no-untyped-call]

Build = Callable[[Any, Sequence[Any]], Any]  # (LLVM's builder, values) -> a value, None


def operation(build: Build, returns: Any, *takes: Any) -> Any:
    """An operation on values of these types alone (numba: TypingError)."""

    def typed(*given: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
            out = build(builder, values)
            return context.get_dummy_value() if returns is types.void else out

        return (returns(*takes), generate) if given == takes else None

    by_count: dict[int, Any] = {  # numba wants them named
        0: lambda _: typed(),
        1: lambda _, a: typed(a),
        2: lambda _, a, b: typed(a, b),
        3: lambda _, a, b, c: typed(a, b, c),
        4: lambda _, a, b, c, d: typed(a, b, c, d),
    }
    return intrinsic(by_count[len(takes)])


def instruction(builder: Any, name: str, returns: Any, *values: Any) -> Any:
    """LLVM's intrinsic of this name."""
    kind = ir.FunctionType(returns, [value.type for value in values])
    found: Any = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
    return builder.call(found, values)


def _pointer(kind: Any, llvm: Any) -> Any:
    returns: Any = types.CPointer(kind)  # type: ignore[no-untyped-call]
    return operation(lambda b, v: b.inttoptr(v[0], llvm.as_pointer()), returns, ADDRESS)


# What lies at an address (an integer), read and written by index.
numbers: Any = _pointer(types.int64, WORD)
halves: Any = _pointer(types.uint16, HALF)  # bfloat16 as its bits
floats: Any = _pointer(types.float32, FLOAT)


def _widened(builder: Any, values: Sequence[Any]) -> Any:
    return builder.bitcast(builder.shl(builder.zext(values[0], INT), ir.Constant(INT, 16)), FLOAT)


# A bfloat16, given as its 16 bits, in float32; a float32 and its bits.
wide: Any = operation(_widened, types.float32, types.uint16)
as_float: Any = operation(lambda b, v: b.bitcast(v[0], FLOAT), types.float32, types.uint32)
as_bits: Any = operation(lambda b, v: b.bitcast(v[0], INT), types.uint32, types.float32)


def _call(returns: Any, *takes: Any) -> Build:
    """A C function, by its address."""

    def build(builder: Any, values: Sequence[Any]) -> Any:
        kind = ir.FunctionType(returns, takes)
        given = [
            builder.trunc(value, INT) if take == INT else value
            for value, take in zip(values[1:], takes, strict=True)
        ]
        out = builder.call(builder.inttoptr(values[0], kind.as_pointer()), given)
        return None if returns == VOID else builder.sext(out, WORD)

    return build


def _parallel(builder: Any, values: Sequence[Any]) -> None:
    _call(VOID, WORD, WORD, INT, INT)(builder, [*values, ir.Constant(WORD, 0)])


call: Any = operation(_call(VOID), types.void, ADDRESS)  # void f()
ask: Any = operation(_call(INT), types.int64, ADDRESS)  # int f()
# void f(int64 *, int64, int64)
call_step: Any = operation(_call(VOID, WORD, WORD, WORD), types.void, *[types.int64] * 4)
# void GOMP_parallel(void (*f)(void *), void *data, unsigned members, unsigned flags), flags 0
call_parallel: Any = operation(_parallel, types.void, *[types.int64] * 4)


def room(size: int) -> Any:
    """The address of so many bytes of the function's own, of any content."""

    def build(builder: Any, _: Sequence[Any]) -> Any:
        kind = ir.ArrayType(BYTE, size)
        with builder.goto_entry_block():  # once a call, also where it stands in a loop
            place = builder.alloca(kind)
        place.align = _LINE
        return builder.ptrtoint(place, WORD)

    return operation(build, ADDRESS)


def _tile(name: str, *tiles: int, takes: int = 0) -> Any:
    """An instruction on these tiles and `takes` operands: an address, bytes between rows."""

    def build(builder: Any, values: Sequence[Any]) -> None:
        given = [ir.Constant(BYTE, tile) for tile in tiles]
        given += [builder.inttoptr(value, _PLACE) for value in values[:1]]
        instruction(builder, f"llvm.x86.{name}", VOID, *given, *values[1:])

    return operation(build, types.void, *[types.int64] * takes)


tiles_shaped: Any = _tile("ldtilecfg", takes=1)
tiles_done: Any = _tile("tilerelease")
cleared: Any = [_tile("tilezero", tile) for tile in range(8)]
loaded: Any = [_tile("tileloadd64", tile, takes=2) for tile in range(8)]
stored: Any = [_tile("tilestored64", tile, takes=2) for tile in range(8)]


def multiplied(into: int, rows: int, columns: int) -> Any:
    """into (float32) += rows x columns, tiles of bfloat16: that of columns holds pairs of its rows
    side by side."""
    return _tile("tdpbf16ps", into, rows, columns)


def _fetch(builder: Any, values: Sequence[Any]) -> None:
    to_read, near, data = (ir.Constant(INT, number) for number in (0, 3, 1))
    place = builder.inttoptr(values[0], _PLACE)
    instruction(builder, "llvm.prefetch.p0", VOID, place, to_read, near, data)


fetched: Any = operation(_fetch, types.void, ADDRESS)  # the line there is asked for; anywhere
