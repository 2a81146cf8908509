"""Products of few rows in bfloat16 by AMX's tiles, as fast as memory can be read.

A forward of few rows reads every weight once, and its time is that reading. oneDNN's products read
at two thirds of what memory gives; here the weight lies in the order in which it is multiplied, is
asked for some KB ahead, and 1 to 32 rows share one reading. Sums are float32, over the inputs in
their order whatever the other rows are: a row alone has the bits that it has among others, which
oneDNN's products do not promise.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import torch
from numba.core.registry import cpu_target
from torch import Tensor

from foretoken.target import team, vector
from foretoken.target.jit import inlined
from foretoken.target.machine import (
    cleared,
    fetched,
    floats,
    halves,
    loaded,
    multiplied,
    numbers,
    room,
    stored,
    tiles_done,
    tiles_shaped,
    wide,
)
from foretoken.target.weights import has_amx

Cell = int | str
IN, OUT = 32, 32  # inputs of a tile; outputs of a group: two tiles side by side
_BLOCK = IN * OUT * 2  # bytes of IN inputs of a group
_TILE = 1024  # bytes of 16 rows of IN inputs
_FEATURES = ("amx-tile", "amx-bf16", "avx512f", "avx512bf16")
_AHEAD = 16384  # bytes that are asked for in advance: the best of 2 to 32 KB

# Tiles 0 to 3 are sums, [rows 0-15, rows 16-31] x [outputs 0-15, outputs 16-31]; 4 and 5 are the
# rows, 6 and 7 the weights.
_clear_0, _clear_1, _clear_2, _clear_3 = cleared[:4]
_store_0, _store_1, _store_2, _store_3 = stored[:4]
_load_4, _load_5, _load_6, _load_7 = loaded[4:]
_sums_room, _shape_room = room(32 * OUT * 4), room(64)
_add_0, _add_1 = multiplied(0, 4, 6), multiplied(1, 4, 7)
_add_2, _add_3 = multiplied(2, 5, 6), multiplied(3, 5, 7)


class Tiles:
    """A weight [out, in] in bfloat16 as tiles, [out / 32, in / 32, 2, 16, 16, 2]: groups of
    outputs, blocks of inputs, halves of a group, pairs of inputs, outputs, the two of a pair. See
    `foretoken.target.weights.PackedWeight`."""

    name = "tiles"

    def __init__(self, weight: Tensor) -> None:
        if not suits(weight):  # an unknown instruction would end the process
            raise RuntimeError("no tiles for this weight, or on this processor")
        self.rows, self.columns = weight.shape
        self.laid = self._order(weight).contiguous()

    def _order(self, weight: Tensor) -> Tensor:
        groups = -(-self.rows // OUT)
        whole = torch.nn.functional.pad(weight.detach(), (0, 0, 0, groups * OUT - self.rows))
        shape = (groups, 2, OUT // 2, self.columns // IN, IN // 2, 2)
        return whole.reshape(shape).permute(0, 3, 1, 4, 2, 5)

    def fill(self, weight: Tensor) -> None:
        """See `PackedWeight`. Its address stays, which programs have."""
        self.laid.copy_(self._order(weight))

    @property
    def place(self) -> tuple[int, int]:
        """See `PackedWeight`."""
        return self.laid.data_ptr(), self.laid.nbytes

    def dense(self) -> Tensor:
        """See `PackedWeight`."""
        groups, blocks = self.laid.shape[:2]
        whole = self.laid.permute(0, 2, 4, 1, 3, 5).reshape(groups * OUT, blocks * IN)
        return whole[: self.rows].contiguous()

    def product(self, x: Tensor, bias: Tensor | None, dtype: torch.dtype | None = None) -> Tensor:
        """See `PackedWeight`. dtype: of the outputs, bfloat16 (None) or float32."""
        if x.dtype != torch.bfloat16 or x.device.type != "cpu":
            raise RuntimeError(f"expected rows in bfloat16 on the CPU, got {x.dtype} on {x.device}")
        if x.shape[-1] != self.columns:
            raise RuntimeError(f"expected rows of {self.columns} numbers, got {x.shape[-1]}")
        x = x.contiguous()
        out = torch.empty(*x.shape[:-1], self.rows, dtype=dtype or x.dtype)
        rows, start = out.numel() // self.rows, 0 if bias is None else bias.data_ptr()
        laid = torch.empty(laid_size(rows, self.columns) // 2, dtype=torch.bfloat16)
        lay = [_steps()[0], x.data_ptr(), laid.data_ptr(), rows, self.columns // IN]
        step = self.step(laid.data_ptr(), out.data_ptr(), rows, start)
        team.run(team.program(lay, [*step, out.element_size()]))
        return out

    def step(self, x: Cell, out: Cell, rows: Cell, bias: Cell) -> list[Any]:
        """The product as a step of a program: addresses of x, laid, and of out [rows, out], how
        many rows, and the address of the bias (0: none), or the names of what is filled in."""
        place, blocks = self.laid.data_ptr(), self.laid.shape[1]
        return [_steps()[1], place, x, out, bias, rows, blocks, self.rows]


def laid_size(rows: int, columns: int) -> int:
    """Bytes of rows [rows, columns] as tiles: [rows / 16, columns / 32, 16, 32]. A tile is read
    whole from neighbouring lines; rows that are a power of two apart would share a few lines of a
    cache."""
    return -(-rows // 16) * 16 * columns * 2


@cache
def available() -> bool:
    """Whether this processor has the tiles, this process may use them, numba compiles for them, and
    the threads are PyTorch's own."""
    if not sys.platform.startswith("linux") or not has_amx():
        return False
    if not torch.cpu._init_amx() or (team.openmp() is None and torch.get_num_threads() > 1):
        return False
    # numba may have been told of another processor: LLVM would end the process
    features = set(cpu_target.target_context.codegen().magic_tuple()[2].split(","))
    return {f"+{name}" for name in _FEATURES} <= features


def suits(weight: Tensor) -> bool:
    """Whether a weight [out, in] can be laid as tiles here."""
    fits = weight.dtype == torch.bfloat16 and weight.shape[1] % IN == 0
    return fits and weight.device.type == "cpu" and available()


@inlined
def _shape(place: int, rows: int) -> None:
    """Tiles for 1 to 32 rows, those of weights of 16; `place` is room for 64 bytes."""
    parts, bits = numbers(place), halves(place)
    for i in range(8):
        parts[i] = 0
    parts[0] = 1  # the one palette there is
    for i in range(8):
        bits[8 + i] = 64  # bytes of a row
    first, second = min(rows, 16), max(rows - 16, 1)
    # rows of each, a byte: twice the sums of the first rows, of the second, both rows, the weights
    parts[6] = first * 0x0000000100000101 | second * 0x0000010001010000 | 0x1010000000000000
    tiles_shaped(place)


@inlined
def _sum(weight: int, x: int, below: int, blocks: int, ahead: int, sums: int) -> None:
    """sums [32, OUT] float32 = x W^T of one group. x, below: strips of 16 rows, the second 0 where
    there are no more; ahead: bytes in advance that weights are asked for, 0: they are near."""
    _clear_0()
    _clear_1()
    if below:
        _clear_2()
        _clear_3()
        for _ in range(blocks):
            if ahead:
                for line in range(0, _BLOCK, 64):
                    fetched(weight + ahead + line)
            _load_4(x, 64)
            _load_5(below, 64)
            _load_6(weight, 64)
            _add_0()
            _add_2()
            _load_7(weight + _BLOCK // 2, 64)
            _add_1()
            _add_3()
            weight += _BLOCK
            x += _TILE
            below += _TILE
        _store_2(sums + 16 * OUT * 4, OUT * 4)
        _store_3(sums + 16 * OUT * 4 + OUT * 2, OUT * 4)
    else:
        for _ in range(blocks):
            if ahead:
                for line in range(0, _BLOCK, 64):
                    fetched(weight + ahead + line)
            _load_4(x, 64)
            _load_6(weight, 64)
            _add_0()
            _load_7(weight + _BLOCK // 2, 64)
            _add_1()
            weight += _BLOCK
            x += _TILE
    _store_0(sums, OUT * 4)
    _store_1(sums + OUT * 2, OUT * 4)


@inlined
def _round(sums: int, rows: int, bias: int, put: int, stride: int, width: int) -> None:
    """`width` outputs of each row are written, with their bias (0: none)."""
    for r in range(rows):
        to, got = put + r * stride, sums + r * OUT * 4
        for part in range(0, width, 16):
            if part + 16 <= width:
                values = vector.load(got + part * 4)
                if bias:
                    values = vector.plus(values, vector.halves(bias + part * 2))
                vector.put_halves(values, to + part * 2)
            else:  # no further than they reach
                for i in range(part, width if bias else 0):
                    floats(got)[i] += wide(halves(bias)[i])
                vector.put_halves(vector.load(got + part * 4), got)
                for i in range(part, width):
                    halves(to)[i] = halves(got)[i - part]


@inlined
def _copy(sums: int, rows: int, bias: int, put: int, stride: int, width: int) -> None:
    """As `_round`, in float32."""
    for r in range(rows):
        to, got = floats(put + r * stride), floats(sums + r * OUT * 4)
        for i in range(width):
            to[i] = got[i] + wide(halves(bias)[i]) if bias else got[i]


def _lay(args: Any, member: int, members: int) -> None:
    """args: addresses of rows, of where they are laid; rows, blocks."""
    rows, blocks = args[2], args[3]
    for r in range(rows * member // members, rows * (member + 1) // members):
        source, put = args[0] + r * blocks * 64, args[1] + r // 16 * blocks * _TILE + r % 16 * 64
        for block in range(blocks):
            a, b = numbers(source + block * 64), numbers(put + block * _TILE)
            for i in range(8):
                b[i] = a[i]


def _product(args: Any, member: int, members: int) -> None:
    """args: addresses of the weight, rows (laid), outputs, bias (0: none); rows, blocks, outputs;
    bytes of an output, 4 for float32. Each member has some of the groups, and reads them once."""
    weight, x, out, bias, rows, blocks, outputs = (
        args[0], args[1], args[2], args[3], args[4], args[5], args[6],
    )  # fmt: skip
    groups, sums, shape = (outputs + OUT - 1) // OUT, _sums_room(), _shape_room()
    shaped = 0
    for group in range(groups * member // members, groups * (member + 1) // members):
        first, place = group * OUT, weight + group * blocks * _BLOCK
        for row in range(0, rows, 32):
            many = min(32, rows - row)
            if many != shaped:
                _shape(shape, many)
                shaped = many
            strip = x + row // 16 * blocks * _TILE
            below = strip + blocks * _TILE if many > 16 else 0
            _sum(place, strip, below, blocks, 0 if row else _AHEAD, sums)
            more, width = bias + first * 2 if bias else 0, min(OUT, outputs - first)
            if args[7] == 4:
                _copy(sums, many, more, out + (row * outputs + first) * 4, outputs * 4, width)
            else:
                _round(sums, many, more, out + (row * outputs + first) * 2, outputs * 2, width)
    if shaped:
        tiles_done()


@cache
def _steps() -> tuple[int, int]:
    return team.step(_lay), team.step(_product)
