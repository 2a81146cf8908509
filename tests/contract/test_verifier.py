"""The laws of `foretoken.verify.base`, over every registered verifier, without any model.

That a rule's law is the target's is proved by enumeration (tests/exact/test_enumeration.py). Here
the same rules meet real coins and real rows: three tokens, written in as many steps as it takes,
have the target's joint law (a G-test with a stated false-alarm rate).
"""

import random
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foretoken import registry
from foretoken.prompt.chance import Coins, PositionRandom
from foretoken.prompt.sampling import TargetRows, Warper
from foretoken.tree import KINDS, DraftTree, Kind
from foretoken.types import Sampling
from foretoken.verify.base import Verifier
from tests.exact.every_draft import SHAPES, Child, Context, Expand, by_shape, one
from tests.exact.faulty import Rejection, Walks
from tests.exact.test_distribution import ALARM, p_value
from tests.unit.test_tree import trees

V, SAMPLES = 3, 800
NAMES = registry.names("verifier")
PAIRS = [(n, k) for n in NAMES for k in KINDS if k in registry.find("verifier", n).accepts]
CLAIMS = [(n, k) for n, k in PAIRS if "sampling" in registry.find("verifier", n).exact]
PROMPT = [0, 1]


class LastTwo(dict[Context, Tensor]):
    """Random rows [V] that depend on the last two tokens, made when asked for."""

    def __init__(self, seed: int, vocab: int, dtype: torch.dtype = torch.float64) -> None:
        self.seed, self.vocab, self.dtype = seed, vocab, dtype

    def __missing__(self, context: Context) -> Tensor:
        key = context[-2:]
        if key == context:
            dice = torch.Generator().manual_seed(self.seed * 1000 + hash(key) % 997)
            logits = 1.5 * torch.randn(self.vocab, generator=dice, dtype=torch.float64)
            self[key] = logits.softmax(-1).to(self.dtype)
        return self[key]


def remembering(expand: Expand) -> Expand:
    """The same drafter, whose answers depend on the last two tokens and are worked out once."""
    known: dict[tuple[int, Context], list[tuple[list[Child], float]]] = {}

    def again(shape: list, context: Context) -> Iterator[tuple[list[Child], float]]:
        key = id(shape), context[-2:]
        if key not in known:
            known[key] = list(expand(shape, context))
        yield from known[key]

    return again


def make(name: str) -> Verifier:
    verifier: Verifier = registry.find("verifier", name)()
    return verifier


def coins(seed: int, root: int) -> Coins:
    return Coins(PositionRandom(seed), root)


def target_rows(p: LastTwo, tokens: Sequence[int], tree: DraftTree, warper: Warper) -> TargetRows:
    texts = [list(tokens)]
    texts += [[*tokens, *(tree.tokens[j] for j in tree.path(i))] for i in range(len(tree))]
    return TargetRows(torch.stack([p[tuple(t)].log() for t in texts]), tree, tokens, warper)


def written(
    verifier: Verifier,
    kind: Kind,
    samples: int,
    chance: type[Coins] = Coins,
    shape: str = "uneven",
) -> tuple[list[Context], float]:
    """(three tokens for every seed, accepted tokens per sample)."""
    p, q = LastTwo(3, V), LastTwo(4, V)
    warper = Warper(Sampling(temperature=1.0), PROMPT, (), 3, V)
    dice, found, accepted = random.Random(4), [], 0
    drafter = remembering(by_shape(q, kind))
    for seed in range(samples):
        tokens = list(PROMPT)
        while len(tokens) < len(PROMPT) + 3:
            tree = one(drafter, SHAPES[shape], kind, dice, tuple(tokens))
            rows = target_rows(p, tokens, tree, warper)
            verdict = verifier.judge(tree, rows, chance(PositionRandom(seed), len(tokens)))
            tokens += [*(tree.tokens[i] for i in verdict.path), verdict.bonus]
            accepted += len(verdict.path)
        found.append(tuple(tokens[2:5]))
    return found, accepted / samples


def truth() -> dict[Context, float]:
    p = LastTwo(3, V)
    return {
        (a, b, c): float(p[0, 1][a] * p[1, a][b] * p[a, b][c])
        for a in range(V) for b in range(V) for c in range(V)
    }  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), CLAIMS)
def test_sampling_claim(name: str, kind: Kind) -> None:
    found, accepted = written(make(name), kind, SAMPLES)
    assert accepted > 0.5, "a rule that accepts nothing is not tested by this"
    assert p_value(found, truth()) > ALARM / len(CLAIMS)


class Shared(Coins):
    """Planted fault: the number of an acceptance test is also that of the token after it."""

    def accept(self, chance: float) -> bool:
        return self._random.uniform(self._root) < chance


def test_a_planted_fault_of_the_coins_is_found() -> None:
    found, _ = written(Rejection(), "sampled", 2000, Shared, "chain3")
    assert p_value(found, truth()) < ALARM


def test_a_planted_fault_of_a_rule_is_found() -> None:
    assert p_value(written(Walks("best leaf"), "point", SAMPLES)[0], truth()) < ALARM


@pytest.mark.parametrize(
    "name", [n for n in NAMES if "greedy" in registry.find("verifier", n).exact]
)
@settings(max_examples=60)
@given(tree=trees(with_q=True), seed=st.integers(0, 99))
def test_greedy_claim_is_the_argmax_walk(name: str, tree: DraftTree, seed: int) -> None:
    """Slow and obvious: follow the argmax as long as it was drafted."""
    torch.manual_seed(seed)
    rows = TargetRows(
        torch.randn(len(tree) + 1, 6), tree, [0, 1], Warper(Sampling(), [0, 1], (), 9, 6)
    )
    verdict = make(name).judge(tree, rows, coins(0, 2))
    at, path = -1, []
    while True:
        best = int(rows.logits[at + 1].argmax())
        below = [i for i in range(len(tree)) if tree.parents[i] == at and tree.tokens[i] == best]
        if not below:
            break
        at = below[0]
        path.append(at)
    assert (list(verdict.path), verdict.bonus) == (path, best)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@settings(max_examples=25)
@given(shape=st.sampled_from([*SHAPES.values()]), seed=st.integers(0, 99))
def test_pure_and_on_a_path(
    name: str, kind: Kind, temperature: float, shape: list, seed: int
) -> None:
    """The path starts at the root and has no gap; nothing changes; rows off the path cost nothing,
    except for rules that look ahead: those ask for drafted rows alone."""
    q = LastTwo(seed, 6, torch.float32)
    tree = one(by_shape(q, kind), shape, kind, random.Random(seed), (0, 1))
    torch.manual_seed(seed)
    logits = torch.randn(len(tree) + 1, 6)
    before = logits.clone(), None if tree.dist is None else tree.dist.clone()
    sampling = Sampling(temperature=temperature, seed=seed)
    verdicts = []
    for verifier in (make(name), make(name)):
        rows = TargetRows(logits, tree, [0, 1], Warper(sampling, [0, 1], (), 9, 6))
        verdicts += [verifier.judge(tree, rows, coins(seed, 2)) for _ in range(2)]
        path = list(verdicts[-1].path)
        assert path == (tree.path(path[-1]) if path else [])
        ahead = verifier.looks_ahead and temperature > 0
        near = range(-1, len(tree)) if ahead else (-1, *path)
        assert set(rows._probs) | set(rows._warped) <= set(near)
    assert len(set(verdicts)) == 1
    assert 0 <= verdicts[0].bonus < 6
    assert torch.equal(logits, before[0])
    assert before[1] is None or torch.equal(tree.dist, before[1])


@pytest.mark.parametrize("name", NAMES)
def test_the_empty_tree_is_plain_decoding(name: str) -> None:
    torch.manual_seed(1)
    for seed in range(50):
        rows = TargetRows(
            torch.randn(1, 6), DraftTree(), [0], Warper(Sampling(temperature=1.0), [0], (), 9, 6)
        )
        verdict = make(name).judge(DraftTree(), rows, coins(seed, 1))
        assert verdict.path == ()
        assert verdict.bonus == rows.token(-1, coins(seed, 1))
