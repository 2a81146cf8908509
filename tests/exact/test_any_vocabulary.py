"""Drafters with another tokenizer: the text stays the target's, whatever the two tokenizers are.

Greedy and drawn texts of real kinds of tokenizers, and the formulas for the chance to accept
(Timor et al. 2502.05202; our notes on omnidraft, appendix A) against enumeration.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

from foretoken import registry
from foretoken.draft.base import Context
from foretoken.draft.foreign import Foreign
from foretoken.draft.lm_model import SmallModel
from foretoken.draft.lm_slrs import Spellings
from foretoken.draft.spelling import Spelling
from foretoken.draft.vocabularies import Vocabularies
from foretoken.engine.build import Method, build
from foretoken.engine.engine import Engine
from foretoken.prompt.sampling import Warper
from foretoken.target.hf import HFTarget
from foretoken.tree import DraftTree
from foretoken.types import Limits, Request, Sampling
from foretoken.verify.token import Token
from foretoken.verify.walk import Walk
from tests import tiny
from tests.exact.echo import Echo
from tests.exact.enumeration import distance, law, model
from tests.exact.table_target import table_of
from tests.exact.test_distribution import p_value
from tests.tokenizers_of_kinds import KINDS, TEXT, characters

PAIRS = [
    ("byte-level BPE", "bytes"), ("byte-level BPE", "unigram"), ("bytes", "byte fallback"),
    ("unigram", "byte-level BPE"), ("byte fallback", "unigram"),
]  # fmt: skip
DRAFTERS = {
    "lm-tli": {}, "lm-slem": {}, "omnidraft": {}, "omnidraft as published": {"rule": "paper"},
}  # fmt: skip
FALSE_ALARM = 1e-3


@cache
def target(kind: str) -> HFTarget:
    """Of a tokenizer's vocabulary and three rows of padding; it prefers tokens that write text."""
    tokenizer = KINDS[kind]()
    sizes = {"vocab_size": len(tokenizer) + 3, "eos_token_id": tokenizer.eos_token_id}
    made = tiny.make(tf.LlamaConfig(**{**tiny.ONE_LAYER, **sizes}), seed=len(tokenizer), std=0.5)
    made.generation_config.eos_token_id = tokenizer.eos_token_id
    return HFTarget(made, name=kind)


def drafter(name: str, one: str, other: str, small: Any = None, **values: Any) -> Foreign:
    """With an echo of the target for its model, if none is given."""
    tokenizer, own = KINDS[one](), KINDS[other]()
    context = Context(target(one).vocab, target(one).eos, one, tokenizer=tokenizer)
    values = {**DRAFTERS.get(name, {}), **values}
    cls = registry.find("drafter", name.split(maxsplit=1)[0])
    made: Foreign = cls(cls.Options(model=small or target(other), tokenizer=own, **values), context)
    if small is None:
        made.model = SmallModel(Echo(target(one), made.pair))
    return made


def method(made: Foreign, one: str, verifier: str | None = None) -> Method:
    return build(target(one), made.context, made, "fixed", verifier, None, {"nodes": 5})


def requests(kind: str, new: int = 14, **sampling: Any) -> list[Request]:
    """Texts that end in the middle of words and characters."""
    tokenizer = KINDS[kind]()
    ids = [[i for i in tokenizer.encode(text) if i != tokenizer.unk_token_id] for text in TEXT]
    cuts = (5, 17, 24, 31)
    return [
        Request(tokens[:cut], Sampling(seed=cut, **sampling), Limits(max_new_tokens=new))
        for tokens, cut in zip(ids, cuts, strict=True)
    ]


@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_greedy_text_is_the_targets(one: str, other: str, name: str) -> None:
    """With a small model that guesses well, and with one that knows nothing; in company."""
    asked = requests(one)
    engine = Engine(target(one), method="plain", policy="fixed")
    plain = [c.tokens for c in engine.run(asked)]
    accepted = 0
    for small in (None, target(other)):
        done = engine.run(asked, method(drafter(name, one, other, small), one))
        assert [c.tokens for c in done] == plain
        assert sum(c.stats.drafted for c in done) > 10
        accepted = accepted or sum(c.stats.accepted for c in done)
    assert accepted, "the echo is followed"


@pytest.mark.parametrize("name", list(DRAFTERS)[:3])
@pytest.mark.parametrize(("one", "other"), PAIRS[1:4])
def test_drawn_text_is_the_very_text_under_walk(one: str, other: str, name: str) -> None:
    # the tokenizers are trained anew by every process, and differ: enough text for any of them
    asked = requests(one, 40, temperature=0.7, top_p=0.9, repetition_penalty=1.1)
    engine = Engine(target(one), method="plain", policy="fixed")
    done = engine.run(asked, method(drafter(name, one, other), one, "walk"))
    assert [c.tokens for c in done] == [c.tokens for c in engine.run(asked)]
    assert sum(c.stats.accepted for c in done) > 0


TOP_5 = Sampling(temperature=1.0, top_k=5)


def next_law(kind: str, prompt: list[int], text: tuple[int, ...] = ()) -> Tensor:
    """[V]: of the token after prompt and text."""
    history = [*prompt, *text]
    warper = Warper(TOP_5, prompt, (), 2, target(kind).vocab)
    row = table_of(target(kind))._row(tuple(history))
    return warper.warp(row, history).softmax(-1)


@cache
def two_tokens(one: str, other: str) -> tuple[list[int], dict[tuple[int, ...], float]]:
    """A prompt that goes on with tokens that both have, and the exact law of the two after it."""
    shared = torch.tensor(drafter("lm-tli", one, other).pair.to_drafter) >= 0
    prompts = [list(request.prompt) for request in requests(one)]
    prompts += [tokens[: len(tokens) // n] for tokens in prompts for n in (2, 3)]
    prompt = max(prompts, key=lambda tokens: float(next_law(one, tokens)[shared].sum()))
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(2):
        found = {
            (*text, t): p * float(row[t])
            for text, p in found.items()
            for row in [next_law(one, prompt, text)]
            for t in row.nonzero()[:, 0].tolist()
        }
    return prompt, found


LAWS = [(d, v) for d, rules in (("lm-tli", ("block", "token", "traversal")),
                                ("lm-slem", ("walk", "token")), ("omnidraft", ("walk", "block")))
        for v in rules]  # fmt: skip


@pytest.mark.parametrize(("name", "rule"), LAWS)
@pytest.mark.parametrize(("one", "other"), PAIRS[1:4])
def test_drawn_text_has_the_targets_law(one: str, other: str, name: str, rule: str) -> None:
    prompt, expected = two_tokens(one, other)
    made, samples = method(drafter(name, one, other), one, rule), 300
    engine = Engine(table_of(target(one)), method="plain", policy="fixed", max_sessions=100)
    limits = Limits(max_new_tokens=2, ignore_eos=True)
    done = engine.run(
        (
            Request(prompt, TOP_5.model_copy(update={"seed": s}), limits, tenant=str(s))
            for s in range(samples)
        ),
        made,
    )
    found = [tuple(c.tokens) for c in done]
    assert p_value(found, {cell: expected.get(cell, 0.0) for cell in {*expected, *found}}) > (
        FALSE_ALARM / (len(LAWS) * 3)
    )
    assert sum(c.stats.accepted for c in done) > samples / 20


# --- the chance to accept, by enumeration: vocabularies up to 6 ----------------------------------

LETTERS, WORDS = "abc", [("a", "b"), ("ab", "a"), ("c", "c")]
TOYS = {
    "characters, two merges": (characters("ab", WORDS[:1], eos=False), characters("abc", eos=False)),
    "two alphabets": (characters("abc", WORDS, eos=False), characters("abz", [("b", "a")], eos=False)),
    "an end of text": (characters("ab", WORDS[:2]), characters("ab")),
}  # fmt: skip


def toy(name: str) -> Vocabularies:
    one, other = TOYS[name]
    ends = tuple((t.eos_token_id,) if t.eos_token else () for t in (one, other))
    return Vocabularies(Spelling(one), Spelling(other), (len(one), len(other)), ends, (name, ""))


def union(p: Tensor, q: Tensor, found: Vocabularies) -> float:
    """sum of min(p, q) over the shared tokens, q as it is: the naive union."""
    return float(torch.minimum(p, found.lift(q[None], 0.0)[0]).sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", TOYS)
def test_shared_tokens(name: str, seed: int) -> None:
    """TLI: sum of min(p, q'), at least the union's, and the law is p."""
    found = toy(name)
    p = model(found.n_target, 1, seed)
    q = model(found.n_drafter, 0, seed + 50)[()]
    shared = found.lower(found.lift(q.log()[None])).softmax(-1)  # as the drafter does it
    lifted = found.lift(shared, 0.0)[0]
    mass = sum(float(q[i]) for i, t in enumerate(found.to_target) if t >= 0)
    for ours, theirs in enumerate(found.to_target):
        if theirs >= 0:
            assert float(lifted[theirs]) == pytest.approx(float(q[ours]) / mass, abs=1e-12)
    drafts = [(drawn(t, lifted), float(w)) for t, w in enumerate(lifted) if w > 0]
    text, accepted = law(Token(), p, drafts, 1)
    assert distance(p, text, 2) < 1e-12
    assert accepted == pytest.approx(float(torch.minimum(p[()], lifted).sum()), abs=1e-9)
    assert accepted >= union(p[()], q, found) - 1e-12


def drawn(token: int, row: Tensor) -> DraftTree:
    return DraftTree([token], [-1], [float(row[token])], "sampled", row[None], [0])


def spelled_law(found: Vocabularies, q: dict[tuple[int, ...], Tensor]) -> Tensor:
    """psi, the slow way: every string of drafter tokens of the needed length, encoded whole."""
    psi = torch.zeros(found.n_target, dtype=torch.float64)
    length = max(len(piece) for piece in found.target.pieces if piece)
    stack: list[tuple[tuple[int, ...], bytes, float]] = [((), b"", 1.0)]
    while stack:
        tokens, text, chance = stack.pop()
        ended = bool(tokens) and tokens[-1] == found.drafter.eos
        if len(text) < length and not ended:
            for token, p in enumerate(q[tokens].tolist()):
                stack.append(
                    ((*tokens, token), text + (found.drafter.piece(token) or b""), chance * p)
                )
            continue
        ids = found.target.encode(text) if text else [found.target.eos]
        first = ids[0] if ids else None
        if first is not None and (not text or text.startswith(found.target.piece(first))):
            psi[first] += chance
    return psi / psi.sum()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", TOYS)
def test_spellings(name: str, seed: int) -> None:
    """SLRS: sum of min(p, psi); SLEM of drawn text: sum of p psi, which is less; both laws are p."""
    found = toy(name)
    p, q = model(found.n_target, 1, seed), model(found.n_drafter, 3, seed + 50)
    spellings = Spellings(found)

    def rows(tokens: Any, parents: Any, known: int) -> Tensor:
        tree = DraftTree(tokens, parents)
        nodes = range(known, len(tokens)) if tokens else [-1]
        paths = [tuple(tokens[i] for i in tree.path(node)) for node in nodes]
        return torch.stack([q[path] for path in paths]).log()

    psi, slow = spellings.law(b"", rows), spelled_law(found, q)
    assert torch.allclose(psi, slow, atol=1e-12)
    assert float(psi.sum()) == pytest.approx(1.0)
    likely = [t for t, chance in enumerate(psi.tolist()) if chance > 0]
    sampled = [(drawn(t, psi), float(psi[t])) for t in likely]
    text, slrs = law(Token(), p, sampled, 1)
    assert distance(p, text, 2) < 1e-12
    fixed = [(DraftTree.chain([t]), float(psi[t])) for t in likely]
    text, slem = law(Walk(), p, fixed, 1)
    assert distance(p, text, 2) < 1e-12
    assert slrs == pytest.approx(float(torch.minimum(p[()], psi).sum()), abs=1e-9)
    assert slem == pytest.approx(float((p[()] * psi).sum()), abs=1e-9)
    assert slrs >= slem


def test_one_vocabulary_in_another_order_is_plain_speculative_decoding() -> None:
    """D = T: union, shared tokens and spellings accept alike, sum of min(p, q)."""
    one, other = characters("abcd", eos=False), characters("dbca", eos=False)
    found = Vocabularies(Spelling(one), Spelling(other), (4, 4), ((), ()), ("one", "other"))
    assert found.to_target == [3, 1, 2, 0]
    for seed in range(5):
        p, q = model(4, 0, seed)[()], model(4, 1, seed + 9)
        same = q[()][torch.tensor(found.to_drafter)]
        plain = float(torch.minimum(p, same).sum())
        lifted = found.lift(found.lower(found.lift(q[()].log()[None])).softmax(-1), 0.0)[0]
        psi = Spellings(found).law(b"", lambda *_, q=q: q[()].log()[None])
        assert torch.allclose(lifted, same, atol=1e-12)
        assert torch.allclose(psi, same, atol=1e-12)
        for chance in (union(p, q[()], found), torch.minimum(p, psi).sum()):
            assert float(chance) == pytest.approx(plain, abs=1e-9)


def test_the_count_of_spellings() -> None:
    found = toy("two alphabets")
    length, letters = 3, [found.drafter.piece(i) for i in range(found.n_drafter)]
    slow = sum(
        1
        for n in range(1, length + 1) for word in itertools.product(letters, repeat=n)
        if len(b"".join(word)) >= length > len(b"".join(word[:-1]))
    )  # fmt: skip
    assert Spellings(found).length == length
    assert Spellings(found).count == slow
