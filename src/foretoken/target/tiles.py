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

import numpy as np
import torch
from torch import Tensor

from foretoken.target import team, vector
from foretoken.target.jit import inlined
from foretoken.target.machine import (
    cleared,
    fetched,
    halves,
    loaded,
    multiplied,
    numbers,
    room,
    stored,
    tiles_done,
    tiles_shaped,
)

Cell = int | str
IN, OUT = 32, 32  # inputs of a tile; outputs of a group: two tiles side by side
_BLOCK = IN * OUT * 2  # bytes of IN inputs of a group
_AHEAD = 16384  # bytes that are asked for in advance: the best of 2 to 32 KB

# Tiles 0 to 3 are sums, [rows 0-15, rows 16-31] x [outputs 0-15, outputs 16-31]; 4 and 5 are the
# rows, 6 and 7 the weights.
_clear_0, _clear_1, _clear_2, _clear_3 = cleared[:4]
_store_0, _store_1, _store_2, _store_3 = stored[:4]
_load_4, _load_5, _load_6, _load_7 = loaded[4:]
_add_0, _add_1 = multiplied(0, 4, 6), multiplied(1, 4, 7)
_add_2, _add_3 = multiplied(2, 5, 6), multiplied(3, 5, 7)


class Tiles:
    """A weight [out, in] in bfloat16 as tiles, [out / 32, in / 32, 2, 16, 16, 2]: groups of
    outputs, blocks of inputs, halves of a group, pairs of inputs, outputs, the two of a pair. See
    `foretoken.target.linear.Packed`."""

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
        """See `Packed`. Its address stays, which programs have."""
        self.laid.copy_(self._order(weight))

    @property
    def place(self) -> tuple[int, int]:
        """See `Packed`."""
        return self.laid.data_ptr(), self.laid.nbytes

    def dense(self) -> Tensor:
        """See `Packed`."""
        groups, blocks = self.laid.shape[:2]
        whole = self.laid.permute(0, 2, 4, 1, 3, 5).reshape(groups * OUT, blocks * IN)
        return whole[: self.rows].contiguous()

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """See `Packed`."""
        if x.dtype != torch.bfloat16:
            raise RuntimeError(f"expected rows in bfloat16, got {x.dtype}")
        x = x.contiguous()
        out = torch.empty(*x.shape[:-1], self.rows, dtype=torch.bfloat16)
        start = 0 if bias is None else bias.data_ptr()
        step = self.step(x.data_ptr(), out.data_ptr(), x.numel() // self.columns, start)
        team.run(np.array([step + [0] * (team.WIDTH - len(step))]))
        return out

    def step(self, x: Cell, out: Cell, rows: Cell, bias: Cell) -> list[Cell]:
        """The product as a step of a program: addresses of x [rows, in], of out [rows, out], how
        many rows, and the address of the bias (0: none), or the names of what is filled in."""
        return [_step(), self.laid.data_ptr(), x, out, bias, rows, self.laid.shape[1], self.rows]


@cache
def available() -> bool:
    """Whether this processor has the tiles and this process may use them."""
    if not sys.platform.startswith("linux") or not torch.cpu._is_amx_tile_supported():
        return False
    return bool(torch.cpu._init_amx())


def suits(weight: Tensor) -> bool:
    """Whether a weight [out, in] can be laid as tiles here."""
    fits = weight.dtype == torch.bfloat16 and weight.shape[1] % IN == 0
    return fits and weight.device.type == "cpu" and available()


@inlined
def _shape(place: int, rows: int) -> None:
    """Tiles of 1 to 32 rows; `place` is room for 64 bytes."""
    parts, bits = numbers(place), halves(place)
    for i in range(8):
        parts[i] = 0
    parts[0] = 1  # the one palette there is
    first, second = min(rows, 16), max(rows - 16, 1)
    for i in range(8):
        bits[8 + i] = 64  # bytes of a row
    # counts of rows, one byte each
    parts[6] = (
        first | first << 8 | second << 16 | second << 24 | first << 32 | second << 40
        | 16 << 48 | 16 << 56
    )  # fmt: skip
    tiles_shaped(place)


@inlined
def _sum(weight: int, x: int, rows: int, blocks: int, ahead: int, sums: int) -> None:
    """sums [rows, OUT] float32 = x W^T of one group and up to 32 rows."""
    stride = blocks * IN * 2
    below = x + 16 * stride
    _clear_0()
    _clear_1()
    if rows <= 16:
        for _ in range(blocks):
            for line in range(0, _BLOCK, 64):
                fetched(weight + ahead + line)
            _load_4(x, stride)
            _load_6(weight, 64)
            _add_0()
            _load_7(weight + _BLOCK // 2, 64)
            _add_1()
            weight += _BLOCK
            x += IN * 2
    else:
        _clear_2()
        _clear_3()
        for _ in range(blocks):
            if ahead:
                for line in range(0, _BLOCK, 64):
                    fetched(weight + ahead + line)
            _load_4(x, stride)
            _load_5(below, stride)
            _load_6(weight, 64)
            _add_0()
            _add_2()
            _load_7(weight + _BLOCK // 2, 64)
            _add_1()
            _add_3()
            weight += _BLOCK
            x += IN * 2
            below += IN * 2
        _store_2(sums + 16 * OUT * 4, OUT * 4)
        _store_3(sums + 16 * OUT * 4 + OUT * 2, OUT * 4)
    _store_0(sums, OUT * 4)
    _store_1(sums + OUT * 2, OUT * 4)


def _product(args, member: int, members: int) -> None:  # type: ignore[no-untyped-def]
    """args: addresses of the weight, rows, outputs, bias (0: none); rows, blocks, outputs."""
    weight, x, out, bias, rows, blocks, outputs = (
        args[0], args[1], args[2], args[3], args[4], args[5], args[6],
    )  # fmt: skip
    groups = (outputs + OUT - 1) // OUT
    sums, shape = room(), room()
    shaped = 0
    for group in range(groups * member // members, groups * (member + 1) // members):
        first = group * OUT
        width = min(OUT, outputs - first)
        for row in range(0, rows, 32):
            many = min(32, rows - row)
            if many != shaped:
                _shape(shape, many)
                shaped = many
            place = weight + group * blocks * _BLOCK
            _sum(place, x + row * blocks * IN * 2, many, blocks, 0 if row else _AHEAD, sums)
            for r in range(many):
                put, got = out + ((row + r) * outputs + first) * 2, sums + r * OUT * 4
                for part in range(0, width, 16):
                    values = vector.load(got + part * 4)
                    if bias:
                        values = vector.plus(values, vector.halves(bias + (first + part) * 2))
                    if part + 16 <= width:
                        vector.put_halves(values, put + part * 2)
                    else:
                        vector.put_halves(values, got)
                        for i in range(part, width):
                            halves(put)[i] = halves(got)[i - part]
    if shaped:
        tiles_done()


@cache
def _step() -> int:
    return team.step(_product)
