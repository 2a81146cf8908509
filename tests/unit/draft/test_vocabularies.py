"""The map: equal bytes, one to one, special tokens by role, padding tolerated and reported."""

from __future__ import annotations

import gc
import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.tokenizers_of_kinds import KINDS, byte_bpe, bytes_only, characters, fallback, unigram

from foretoken.draft.base import Context
from foretoken.draft.vocabularies import Vocabularies, _known, vocabularies
from foretoken.errors import CapabilityError


def pair(target: Any, drafter: Any, padding: tuple[int, int] = (0, 0)) -> Vocabularies:
    """Of models with so many rows beyond their tokenizers'."""
    context = Context(len(target) + padding[0], (target.eos_token_id,), "", tokenizer=target)
    return vocabularies(context, drafter, len(drafter) + padding[1], (drafter.eos_token_id,), "x")


PAIRS = [(a, b) for a, b in itertools.permutations(KINDS, 2)]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_shared_tokens_write_the_same_one_to_one(one: str, other: str) -> None:
    found = pair(KINDS[one](), KINDS[other](), (3, 2))
    mapped = [(ours, theirs) for ours, theirs in enumerate(found.to_target) if theirs >= 0]
    assert len(mapped) == found.shared > 40
    assert len({theirs for _, theirs in mapped}) == len(mapped)
    assert all(found.to_drafter[theirs] == ours for ours, theirs in mapped)
    assert sum(ours >= 0 for ours in found.to_drafter) == len(mapped)
    for ours, theirs in mapped:
        if ours not in found.drafter.specials:
            assert found.drafter.piece(ours) == found.target.piece(theirs) is not None
    assert found.to_target[KINDS[other]().eos_token_id] == KINDS[one]().eos_token_id
    assert found.to_target[-2:] == [-1, -1]
    assert found.to_drafter[-3:] == [-1] * 3
    assert "rows without a token: 2 and 3" in found.report
    assert f"{found.shared} of the drafter's {len(found.to_target)}" in found.report


def test_whatever_both_can_write_is_shared() -> None:
    """The oracle: all pairs of tokens compared."""
    found = pair(byte_bpe(), fallback())
    both = set(found.target.pieces) & set(found.drafter.pieces) - {None}
    assert {found.drafter.piece(i) for i, t in enumerate(found.to_target) if t >= 0} - {
        None
    } == both
    assert b" the" in both
    assert b"\xf0" in both, "a part of a character"


def test_a_letter_stands_for_its_byte_and_not_the_other_way() -> None:
    """ "x" and <0x78> write the same: the one that text is encoded with is shared."""
    found = pair(bytes_only(), fallback())
    letter = fallback().convert_tokens_to_ids("x")
    assert found.to_target[letter] >= 0
    assert found.to_target[fallback().convert_tokens_to_ids("<0x78>")] == -1


def test_special_tokens_by_name_and_by_role() -> None:
    found = pair(unigram(), fallback())
    for name in ("<s>", "</s>", "<unk>"):
        ours, theirs = (t.convert_tokens_to_ids(name) for t in (fallback(), unigram()))
        assert found.to_target[ours] == theirs
    other = pair(byte_bpe(), fallback())
    assert other.to_target[1] == -1, "no start of text there"
    assert other.to_target[0] == -1, "an unknown token is no token of another one"
    user = byte_bpe().convert_tokens_to_ids("<|user|>")
    assert other.to_drafter[user] == -1


def test_the_ends_that_the_models_name() -> None:
    """Not the tokenizer's: of several the first, where it is not taken."""
    target, drafter = byte_bpe(), characters("ab")
    context = Context(len(target), (1,), "", tokenizer=target)  # "<|user|>" ends its texts
    found = vocabularies(context, drafter, 3, (2,), "x")
    assert found.to_target[2] == target.eos_token_id, "the tokenizers' own ends first"
    drafter.eos_token = None
    try:
        assert vocabularies(context, drafter, 3, (1,), "x").to_target[1] != 1, "a letter stays one"
    finally:
        drafter.eos_token = "<eos>"


@pytest.mark.parametrize("padding", [(0, 0), (5, 0), (0, 5), (2, 7)])
def test_the_same_tokenizer_is_the_identity(padding: tuple[int, int]) -> None:
    found = pair(byte_bpe(), byte_bpe(), padding)
    shared = 400 + min(padding)
    assert found.same
    assert found.to_target[:shared] == found.to_drafter[:shared] == list(range(shared))
    assert set(found.to_target[shared:]) <= {-1}
    assert "one tokenizer" in found.report
    rows = torch.randn(3, found.n_drafter)
    if padding == (0, 0):
        assert torch.equal(found.lift(rows), rows)
        assert torch.equal(found.lower(rows), rows)


def test_rows_are_lifted_and_lowered() -> None:
    found = pair(byte_bpe(), unigram(), (1, 0))
    rows = torch.randn(2, found.n_drafter)
    lifted = found.lift(rows)
    assert lifted.shape == (2, found.n_target)
    for ours, theirs in enumerate(found.to_target):
        if theirs >= 0:
            assert torch.equal(lifted[:, theirs], rows[:, ours])
    assert int(lifted.isfinite().sum()) == 2 * found.shared
    again = found.lower(lifted)
    shared = torch.tensor([t >= 0 for t in found.to_target])
    assert torch.equal(again[:, shared], rows[:, shared])
    assert bool((again[:, ~shared] == -torch.inf).all())
    assert float(found.lift(rows, 0.0).min()) > -torch.inf
    law = rows.masked_fill(~shared, -torch.inf).softmax(-1)
    torch.testing.assert_close(found.lift(law, 0.0).sum(-1), torch.ones(2))


def test_one_table_a_pair_while_it_is_used() -> None:
    gc.collect()
    before = len(_known)
    one, two = pair(byte_bpe(), unigram()), pair(byte_bpe(), unigram())
    assert one is two
    assert pair(byte_bpe(), unigram(), (1, 0)) is not one
    assert pair(unigram(), byte_bpe()) is not one
    del one, two
    gc.collect()
    assert len(_known) == before


def test_a_missing_tokenizer_is_named() -> None:
    context = Context(400, (), "", tokenizer=byte_bpe())
    with pytest.raises(CapabilityError, match=r"'lm-x'.*small model comes without"):
        vocabularies(context, None, 9, (), "lm-x")
    with pytest.raises(CapabilityError, match=r"'lm-x'.*target comes without") as error:
        vocabularies(replace(context, tokenizer=None), byte_bpe(), 9, (), "lm-x")
    assert "\n" not in str(error.value)
