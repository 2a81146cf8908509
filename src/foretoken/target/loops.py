"""A layer of a small Llama-like model as plain loops, compiled once by numba.

A layer is about forty operations of PyTorch; where its weights fit into a core's cache, a few rows
take far less time than calling them does. Here a layer is one call, of one core. Sums are taken in
the order that is fastest, as PyTorch's are: float32, equal up to rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from foretoken.target.jit import Array, Norm, compiled


class Weights(NamedTuple):
    """Of one layer, float32; [out, in] as nn.Linear has them. A bias that the family does not have
    is empty, [1, 0]."""

    q: Array
    k: Array
    v: Array
    o: Array
    gate: Array
    up: Array
    down: Array
    q_bias: Array
    k_bias: Array
    v_bias: Array
    q_norm: Norm
    k_norm: Norm
    before: Norm  # attention
    after: Norm  # it, before the feed-forward part


class Place(NamedTuple):
    """Where the R rows of a forward stand, n for each of B sessions."""

    keys: Array  # [slots, heads, rows, D] of this layer
    values: Array
    slots: Array  # [R]
    rows: Array  # [R]: where in the slot each is stored
    base: Array  # [B]: so many of a slot's rows are seen by all of the session
    sees: Array  # [B, n, C] bool: which of the C rows from `base` on, its own among them


@compiled
def rms(x: Array, norm: Norm, out: Array) -> None:
    """RMS norm of rows x [n, H] into out [n, H]; nothing if there is no norm."""
    weight, eps = norm.weight, np.float32(norm.eps)
    for r in range(x.shape[0] if weight.size else 0):
        total = np.float32(0.0)
        for i in range(weight.size):
            total += x[r, i] * x[r, i]
        inverse = np.float32(1.0) / np.sqrt(total / np.float32(weight.size) + eps)
        for i in range(weight.size):
            out[r, i] = weight[i] * (x[r, i] * inverse)


@compiled
def _product(x: Array, weight: Array, out: Array) -> None:
    """out [n, out] = x [n, in] times weight [out, in]: a row of weights is read once for all."""
    for o in range(weight.shape[0]):
        row = weight[o]
        for r in range(x.shape[0]):
            read = x[r]
            total = np.float32(0.0)
            for i in range(row.shape[0]):
                total += row[i] * read[i]
            out[r, o] = total


@compiled
def _add(x: Array, more: Array) -> None:
    """Rows x [n, H] grow by `more` [n, H], or by a bias [1, H]; by nothing if that is empty."""
    for r in range(x.shape[0] if more.size else 0):
        read = more[r % more.shape[0]]
        for i in range(x.shape[1]):
            x[r, i] += read[i]


@compiled
def _turn(x: Array, cos: Array, sin: Array) -> None:
    """Rotary positions: x [n, heads, D] by angles [n, D]; the first half of sin is negative."""
    half = x.shape[2] // 2
    for r in range(x.shape[0]):
        for h in range(x.shape[1]):
            for i in range(half):
                a, b = x[r, h, i], x[r, h, i + half]
                x[r, h, i] = a * cos[r, i] + b * sin[r, i]
                x[r, h, i + half] = b * cos[r, i + half] + a * sin[r, i + half]


@compiled
def _heads(x: Array, weight: Array, bias: Array, d: int) -> Array:
    """[n, heads, D] queries, keys or values of rows x [n, H]."""
    out = np.empty((x.shape[0], weight.shape[0]), np.float32)
    _product(x, weight, out)
    _add(out, bias)
    return out.reshape(x.shape[0], -1, d)


@compiled
def _columns(place: Place, b: int, j: int, out: Array) -> Any:
    """Columns that row j of session b sees, into `out`; how many."""
    base = place.base[b]
    for c in range(base):
        out[c] = c
    count = base
    for c in range(place.sees.shape[2]):
        if place.sees[b, j, c]:
            out[count] = base + c
            count += 1
    return count


@compiled
def _look(query: Array, keys: Array, values: Array, columns: Array, p: Array, out: Array) -> None:
    """out [D] = softmax(query [D] . keys [rows, D]) of these columns times values; p: scratch."""
    top = np.float32(-3e38)
    for j in range(columns.size):
        key, total = keys[columns[j]], np.float32(0.0)
        for i in range(query.size):
            total += query[i] * key[i]
        p[j] = total
        top = max(top, total)
    total = np.float32(0.0)
    for j in range(columns.size):
        p[j] = np.exp(p[j] - top)
        total += p[j]
    out[:] = 0.0
    for j in range(columns.size):
        value, share = values[columns[j]], p[j] / total
        for i in range(out.size):
            out[i] += share * value[i]


@compiled
def _attend(q: Array, k: Array, v: Array, place: Place, scale: float, out: Array) -> None:
    """Store keys and values [R, kv, D]; out [R, heads, D] of queries q [R, heads, D]."""
    n, kv, heads = place.sees.shape[1], k.shape[1], q.shape[1]
    for r in range(q.shape[0]):
        slot, at = place.slots[r], place.rows[r]
        for g in range(kv):
            place.keys[slot, g, at] = k[r, g]
            place.values[slot, g, at] = v[r, g]
    most = place.base.max() + place.sees.shape[2]
    columns, p = np.empty(most, np.int64), np.empty(most, np.float32)
    query = np.empty(q.shape[2], np.float32)
    for r in range(q.shape[0]):
        slot, seen = place.slots[r], columns[: _columns(place, r // n, r % n, columns)]
        for h in range(heads):
            g = h // (heads // kv)
            for i in range(query.size):
                query[i] = q[r, h, i] * np.float32(scale)
            _look(query, place.keys[slot, g], place.values[slot, g], seen, p, out[r, h])


@compiled
def _feed(x: Array, w: Weights, out: Array) -> None:
    """out [R, H]: the feed-forward part of rows x [R, H]."""
    gate = np.empty((x.shape[0], w.gate.shape[0]), np.float32)
    up = np.empty_like(gate)
    _product(x, w.gate, gate)
    _product(x, w.up, up)
    for r in range(gate.shape[0]):
        for i in range(gate.shape[1]):
            a = gate[r, i]
            gate[r, i] = a / (np.float32(1.0) + np.exp(-a)) * up[r, i]
    _product(gate, w.down, out)


@compiled
def layer(x: Array, cos: Array, sin: Array, place: Place, w: Weights, scale: float) -> None:
    """Rows x [R, H] go through one layer, in place; its keys and values are stored.

    cos, sin [R, D]: angles of the rows' positions. scale: of q . k.
    """
    d = place.keys.shape[3]
    h = np.empty_like(x)
    rms(x, w.before, h)
    q, k, v = _heads(h, w.q, w.q_bias, d), _heads(h, w.k, w.k_bias, d), _heads(h, w.v, w.v_bias, d)
    for some, norm in ((q, w.q_norm), (k, w.k_norm)):
        rows = some.reshape(-1, d)
        rms(rows, norm, rows)
        _turn(some, cos, sin)
    seen = np.empty_like(q)
    _attend(q, k, v, place, scale, seen)
    _product(seen.reshape(x.shape[0], -1), w.o, h)
    _add(x, h)
    rms(x, w.after, h)
    _feed(h, w, h)
    _add(x, h)
