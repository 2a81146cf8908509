"""What numba compiles for us: how, and the few things that it lacks.

Compiled code is kept beside the source (or in the user's cache folder), so that later processes
load it, until the file of the loop changes. Nobody notices there when this file changes: whoever
edits it removes `__pycache__`. Importing numba takes half a second: a loop is imported late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

_F, _I, _U = np.float32, np.int32, np.uint32
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    # a division by zero is infinite: a check in a loop would keep it from taking vectors
    "error_model": "numpy",
    # sums in any order, a product and a sum in one; not-a-number stays what it is
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as machine code; other threads run meanwhile."""
    try:
        made: Callable[..., Any] = numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # nowhere to keep it: compiled in every process
        made = numba.njit(**_OPTIONS)(function)
    return made


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a part of whatever loop calls it."""
    made: Callable[..., Any] = numba.njit(inline="always", **_OPTIONS)(function)
    return made


def _cast(kind: Any) -> Any:
    def typed(_: Any, value: Any) -> Any:
        def build(context: Any, builder: Any, _: Any, values: Any) -> Any:
            return builder.bitcast(values[0], context.get_value_type(kind))

        return kind(value), build

    return intrinsic(typed)


as_float = _cast(types.float32)  # the float32 of these 32 bits
as_bits = _cast(types.uint32)


@inlined
def wide(bits: Any) -> Any:
    """A bfloat16, given as its 16 bits, in float32."""
    return as_float(_U(_U(bits) << _U(16)))


@inlined
def narrow(value: Any) -> Any:
    """The bits of the bfloat16 next to a float32, the even one of two."""
    bits = as_bits(value)
    near = np.uint16((bits + _U(0x7FFF) + ((bits >> _U(16)) & _U(1))) >> _U(16))
    return np.uint16(0x7FC0) if np.isnan(value) else near


@inlined
def exp(x: Any) -> Any:
    """e ** x in float32, 3e-7 off at most, in a form that takes vectors: x = k ln 2 + r, a
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
