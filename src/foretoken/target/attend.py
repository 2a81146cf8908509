"""Attention over our cache in bfloat16 by AMX's tiles, as steps of a team.

Queries of a group, folded (`foretoken.target.attention`), 16 at a time: scores as keys x queries,
so that keys are read as they lie; the softmax over whole columns in float32; weights, rounded to
bfloat16, x values. Sums are float32 over the channels and over the columns in their order, as in
PyTorch's own kernels: a hidden column weighs nothing.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from foretoken.target import team, vector
from foretoken.target.jit import inlined
from foretoken.target.machine import (
    as_float,
    cleared,
    floats,
    halves,
    loaded,
    multiplied,
    numbers,
    room,
    stored,
    tiles_done,
    tiles_shaped,
)

QUERIES, COLUMNS = 16, 32  # of a block
_room = room(2048)
_F, _U = np.float32, np.uint32

# Tiles 0 and 1 are sums; 2 and 3 are rows of the left side, or the one of the right side; 4 and 5
# the other's.
_clear_0, _clear_1 = cleared[:2]
_store_0, _store_1 = stored[:2]
_load_2, _load_3, _load_4, _load_5 = loaded[2:6]
_scores_0, _scores_1 = multiplied(0, 2, 4), multiplied(1, 3, 4)
_sums_0, _sums_1 = multiplied(0, 2, 4), multiplied(1, 2, 5)


def blocks(many: int, size: int) -> int:
    """How many blocks of `size` hold so many."""
    return -(-many // size)


def scratch(queries: int, columns: int, channels: int) -> int:
    """Bytes that a member of the team needs for `_attend`."""
    wide_columns = blocks(columns, COLUMNS) * COLUMNS
    wide_queries = blocks(queries, QUERIES) * QUERIES
    # queries, scores, weights, values, the last keys
    return (
        wide_queries * channels * 2 + wide_columns * (64 + 32 + channels * 2)
        + COLUMNS * channels * 2
    )  # fmt: skip


@inlined
def _shape(place: int) -> None:
    """All tiles have 16 rows of 64 bytes; `place` is room for 64 bytes."""
    parts, bits = numbers(place), halves(place)
    for i in range(8):
        parts[i] = 0
    for i in range(8):
        bits[8 + i] = 64
    parts[0], parts[6] = 1, 0x1010101010101010
    tiles_shaped(place)


@inlined
def _pair_values(values: int, columns: int, channels: int, put: int) -> None:
    """put [channels / 32, blocks of columns, 2, 16, 16] pairs of columns = values [columns,
    channels]. What is beyond `columns` is made zero: what weighs nothing must be finite."""
    many = (columns + COLUMNS - 1) // COLUMNS
    zeros = _room()
    for i in range(32):
        halves(zeros)[i] = np.uint16(0)
    for block in range(many):
        for index in range(COLUMNS // 2):
            column = block * COLUMNS + 2 * index
            first = values + column * channels * 2
            for part in range(0, channels, 16):
                tile = ((part // 32) * many + block) * 2 + (part // 16) % 2
                a = first + part * 2 if column < columns else zeros
                b = first + (channels + part) * 2 if column + 1 < columns else zeros
                vector.pair(a, b, put + tile * 1024 + index * 64)


@inlined
def _score(keys: int, last: int, queries: int, columns: int, channels: int, put: int) -> None:
    """put [columns, padded, 16] float32 = keys x queries. last: the keys of the last block, if that
    is not whole."""
    for column in range(0, columns, COLUMNS):
        place = keys + column * channels * 2 if column + COLUMNS <= columns else last
        _clear_0()
        _clear_1()
        for part in range(channels // 32):
            _load_4(queries + part * 1024, 64)
            _load_2(place + part * 64, channels * 2)
            _load_3(place + part * 64 + 16 * channels * 2, channels * 2)
            _scores_0()
            _scores_1()
        _store_0(put + column * 64, 64)
        _store_1(put + column * 64 + 1024, 64)


@inlined
def _weigh(scores: int, mask: int, columns: int, scale: Any, weights: int, sums: int) -> None:
    """weights [blocks of columns, 16 queries, 16] pairs of columns = the softmax of scores
    [columns, 16], times sums [16]; scores are overwritten. mask: [columns / 2, 16] pairs, added to
    scores; columns: whole blocks."""
    by = vector.splat(scale)
    most, total = vector.splat(_F(-3.0e38)), vector.splat(_F(0.0))
    for column in range(0, columns, 2):
        at, more = scores + column * 64, mask + column * 32
        first = vector.times_plus(vector.load(at), by, vector.lows(more))
        second = vector.times_plus(vector.load(at + 64), by, vector.highs(more))
        vector.put(first, at)
        vector.put(second, at + 64)
        most = vector.larger(most, vector.larger(first, second))
    for column in range(0, columns, 2):
        at = scores + column * 64
        first = vector.exp(vector.minus(vector.load(at), most))
        second = vector.exp(vector.minus(vector.load(at + 64), most))
        total = vector.plus(total, vector.plus(first, second))
        vector.put_pairs(first, second, scores + column * 32)
    vector.put(total, sums)
    for block in range(columns // COLUMNS):
        vector.transpose(scores + block * 1024, 64, weights + block * 1024)


@inlined
def _mix(weights: int, values: int, many: int, put: int) -> None:
    """put [16, 32] float32 = weights x values, 32 channels of it, over `many` blocks of columns."""
    _clear_0()
    _clear_1()
    for block in range(many):
        _load_2(weights + block * 1024, 64)
        _load_4(values + block * 2048, 64)
        _sums_0()
        _load_5(values + block * 2048 + 1024, 64)
        _sums_1()
    _store_0(put, 128)
    _store_1(put + 64, 128)


def _attend(args: Any, member: int, members: int) -> None:
    """args: addresses of queries [B, kv, M, D] (and 15 rows more, of anything), keys, values, mask
    (as `_lay_mask` lays it), out [B, n, kv * M / n * D] as tiles, scratch; bytes between slots and
    between heads of keys and values, bytes of scratch for a member; B, kv, M, n, L, D; the scale's
    bits. Every query sees a column at least."""
    b, kv, m, n, length, d = args[9], args[10], args[11], args[12], args[13], args[14]
    scale = as_float(_U(args[15]))
    many, query_blocks = (length + COLUMNS - 1) // COLUMNS, (m + QUERIES - 1) // QUERIES
    padded, heads = many * COLUMNS, kv * (m // n)
    queries = args[5] + member * args[8]
    scores = queries + query_blocks * QUERIES * d * 2
    weights = scores + padded * 64
    values = weights + padded * 32
    last = values + padded * d * 2
    own, sums, shape = _room(), _room(), _room()
    _shape(shape)
    # heads, and where there are fewer than members, parts of their queries
    shares = min((members + b * kv - 1) // (b * kv), query_blocks)
    units = b * kv * shares
    for unit in range(units * member // members, units * (member + 1) // members):
        one, share = unit // shares, unit % shares
        slot, head = one // kv, one % kv
        place = slot * args[6] + head * args[7]
        keys = args[1] + place
        begin, end = query_blocks * share // shares, query_blocks * (share + 1) // shares
        for block in range(begin, end):
            rows, put = args[0] + (one * m + block * QUERIES) * d * 2, queries + block * d * 32
            for part in range(d // 32):
                vector.transpose(rows + part * 64, d * 2, put + part * 1024)
        _pair_values(args[2] + place, length, d, values)
        if length % COLUMNS:
            rest, from_ = halves(last), halves(keys + (many - 1) * COLUMNS * d * 2)
            count = (length % COLUMNS) * d
            for i in range(COLUMNS * d):
                rest[i] = from_[i] if i < count else np.uint16(0)
        for block in range(begin, end):
            mask = args[3] + (slot * query_blocks + block) * padded * 32
            _score(keys, last, queries + block * d * 32, length, d, scores)
            _weigh(scores, mask, padded, scale, weights, sums)
            for part in range(0, d, 32):
                _mix(weights, values + (part // 32) * many * 2048, many, own)
                for row in range(block * QUERIES, min(m, (block + 1) * QUERIES)):
                    got = own + (row % QUERIES) * 128
                    by = vector.splat(_F(1.0) / floats(sums)[row % QUERIES])
                    to, channel = slot * n + row % n, (head * (m // n) + row // n) * d + part
                    tile = to // 16 * (heads * d // 32) + channel // 32
                    put = args[4] + tile * 1024 + to % 16 * 64
                    vector.put_halves(vector.times(vector.load(got), by), put)
                    vector.put_halves(vector.times(vector.load(got + 64), by), put + 32)
    tiles_done()


def _lay_mask(args: Any, member: int, members: int) -> None:
    """args: addresses of a mask [B, M, L] and of where it is laid [B, blocks of queries, columns
    padded / 2, 16 queries] as pairs of columns; B, M, L. Columns beyond L are hidden."""
    b, m, length = args[2], args[3], args[4]
    many = (length + COLUMNS - 1) // COLUMNS
    query_blocks = (m + QUERIES - 1) // QUERIES
    units = b * query_blocks * many
    part = _room()
    for unit in range(units * member // members, units * (member + 1) // members):
        block, column = unit // many, unit % many * COLUMNS
        slot, row = block // query_blocks, block % query_blocks * QUERIES
        source = args[0] + ((slot * m + row) * length + column) * 2
        put = args[1] + unit * 1024
        if row + QUERIES <= m and column + COLUMNS <= length:
            vector.transpose(source, length * 2, put)
        else:
            for i in range(QUERIES):
                to, given = halves(part + i * 64), halves(source + i * length * 2)
                for j in range(COLUMNS):
                    to[j] = np.uint16(0xFF80 if column + j >= length else 0)
                if row + i < m:
                    for j in range(min(COLUMNS, length - column)):
                        to[j] = given[j]
            vector.transpose(part, 64, put)


@cache
def steps() -> tuple[int, int]:
    """Addresses of the mask's laying and of the attention as steps."""
    return team.step(_lay_mask), team.step(_attend)
