"""The laws of `foretoken.verify.base`, over every registered verifier, without any model.

The sampling claim: over all seeds, three tokens written through random trees have the joint law of
the target's rows. A G-test with a stated false-alarm rate (see tests/exact/test_distribution.py).
"""

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretoken import registry
from foretoken.prompt.sampling import PositionRandom, TargetRows, Warper
from foretoken.tree import KINDS, DraftTree, Kind
from foretoken.types import Sampling
from foretoken.verify.base import Verifier
from tests.exact.test_distribution import ALARM, p_value
from tests.unit.test_tree import trees

V, SAMPLES = 5, 4000
NAMES = registry.names("verifier")
CLAIMS = [
    (name, kind) for name in NAMES for kind in KINDS
    if "sampling" in registry.find("verifier", name).exact
    and kind in registry.find("verifier", name).accepts
]  # fmt: skip
TABLE = torch.distributions.Dirichlet(torch.full((V,), 0.6)).sample  # rows of p and of q


class World:
    """A target whose next-token law depends on the last two tokens, and a drafter's q for each."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.p, self.q = TABLE((V, V)).clamp_min(1e-3).log(), TABLE((V, V)).clamp_min(1e-3)
        self.q = self.q / self.q.sum(-1, keepdim=True)

    def rows(self, tokens: Sequence[int], tree: DraftTree, warper: Warper) -> TargetRows:
        texts = [list(tokens)]
        texts += [[*tokens, *(tree.tokens[j] for j in tree.path(i))] for i in range(len(tree))]
        return TargetRows(torch.stack([self.p[t[-2], t[-1]] for t in texts]), tree, tokens, warper)

    def tree(self, tokens: Sequence[int], kind: Kind, dice: random.Random) -> DraftTree:
        """Two children at the root, two below the first: fixed, or drawn from q as `kind` says."""
        drawn: list[int] = []
        dist = []
        for parent, siblings in ((-1, []), (-1, [0]), (0, []), (0, [2])):
            before = [*tokens, drawn[0]] if parent == 0 else list(tokens)
            q = self.q[before[-2], before[-1]].clone()
            if kind == "without_replacement":
                for sibling in siblings:
                    q[drawn[sibling]] = 0.0
            if kind == "point":
                best = q.argsort(descending=True)
                drawn.append(int(best[len(siblings)]))
            else:
                drawn.append(dice.choices(range(V), q.tolist())[0])
            dist.append(self.q[before[-2], before[-1]])
        q_of = [float(row[t]) for row, t in zip(dist, drawn, strict=True)]
        return DraftTree(drawn, [-1, -1, 0, 0], q_of, kind, torch.stack(dist), range(4))


def make(name: str) -> Verifier:
    verifier: Verifier = registry.find("verifier", name)()
    return verifier


@pytest.mark.parametrize(("name", "kind"), CLAIMS)
def test_sampling_claim(name: str, kind: Kind) -> None:
    verifier, world = make(name), World(3)
    prompt = [0, 1]
    warper = Warper(Sampling(temperature=1.0), prompt, (), 3, V)
    dice, found, accepted = random.Random(4), [], 0
    for seed in range(SAMPLES):
        tokens = list(prompt)
        while len(tokens) < len(prompt) + 3:
            tree = world.tree(tokens, kind, dice)
            rows = world.rows(tokens, tree, warper)
            verdict = verifier.judge(tree, rows, PositionRandom(seed))
            tokens += [*(tree.tokens[i] for i in verdict.path), verdict.bonus]
            accepted += len(verdict.path)
        found.append(tuple(tokens[2:5]))
    p = world.p.softmax(-1)
    law = {
        (a, b, c): float(p[0, 1, a] * p[1, a, b] * p[a, b, c])
        for a in range(V) for b in range(V) for c in range(V)
    }  # fmt: skip
    assert accepted > SAMPLES / 2, "a rule that accepts nothing is not tested by this"
    assert p_value(found, law) > ALARM / len(CLAIMS)


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
    verdict = make(name).judge(tree, rows, PositionRandom(0))
    at, path = -1, []
    while True:
        best = int(rows.logits[at + 1].argmax())
        below = [i for i in range(len(tree)) if tree.parents[i] == at and tree.tokens[i] == best]
        if not below:
            break
        at = below[0]
        path.append(at)
    assert (list(verdict.path), verdict.bonus) == (path, best)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@settings(max_examples=40)
@given(tree=trees(with_q=True), seed=st.integers(0, 99))
def test_pure_and_on_a_path(name: str, temperature: float, tree: DraftTree, seed: int) -> None:
    """The path starts at the root and has no gap; nothing changes; rows off the path cost nothing."""
    torch.manual_seed(seed)
    logits = torch.randn(len(tree) + 1, 6)
    before = logits.clone()
    sampling = Sampling(temperature=temperature, seed=seed)
    verdicts = []
    for verifier in (make(name), make(name)):
        rows = TargetRows(logits, tree, [0, 1], Warper(sampling, [0, 1], (), 9, 6))
        verdicts += [verifier.judge(tree, rows, PositionRandom(seed)) for _ in range(2)]
        path = list(verdicts[-1].path)
        assert path == (tree.path(path[-1]) if path else [])
        near = {-1, *path} | {c for i in (-1, *path) for c in tree.children[i + 1]}
        assert set(rows._probs) | set(rows._warped) <= near
    assert len(set(verdicts)) == 1
    assert 0 <= verdicts[0].bonus < 6
    assert torch.equal(logits, before)


@pytest.mark.parametrize("name", NAMES)
def test_the_empty_tree_is_plain_decoding(name: str) -> None:
    torch.manual_seed(1)
    for seed in range(50):
        rows = TargetRows(
            torch.randn(1, 6), DraftTree(), [0], Warper(Sampling(temperature=1.0), [0], (), 9, 6)
        )
        verdict = make(name).judge(DraftTree(), rows, PositionRandom(seed))
        assert verdict.path == ()
        assert verdict.bonus == rows.token(-1, PositionRandom(seed))
