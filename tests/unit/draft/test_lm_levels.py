"""What `lm` drafters tell a policy between their levels, against plain forwards of the text."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from tests import tiny

from foretoken import registry
from foretoken.draft.lm import LmDrafter
from foretoken.engine.build import build
from foretoken.engine.engine import Engine
from foretoken.target.hf import HFTarget
from foretoken.types import Budget, Level, Sampling

VOCAB = 32
FORMS = ["lm", "lm-sampled", "lm-iid-k", "lm-rsd-c", "lm-rsd-s", "lm-greedy-k", "lm-top-k"]
PROMPT = tiny.prompt(1, 9, VOCAB)


@pytest.fixture(scope="module")
def watched() -> HFTarget:
    """A small model of its own, because hidden states are watched for good."""
    return HFTarget(copy.deepcopy(tiny.small_model(VOCAB).model))


def levels(form: str, model: HFTarget, keep: int, sampling: Sampling) -> tuple[Any, list[Level]]:
    """(draft, the levels that were asked about), stopped after `keep` of them."""
    cls = registry.find("drafter", form)
    made: LmDrafter = cls(cls.Options(model=model, depth=5), tiny.context(VOCAB))
    made.provide(frozenset({"levels", "entropy", "hidden"}))
    target = tiny.target("small")
    engine = Engine(target, method="plain")
    session = engine.add(
        tiny.request(PROMPT, 30, sampling), build(target, made.context, made, "fixed")
    )
    seen: list[Level] = []

    def go_on(level: Level) -> bool:
        seen.append(level)
        return len(seen) < keep

    tree = made.propose(session, Budget(24, 5, go_on=go_on))
    made.end(session)
    engine.cancel(session)
    return tree, seen


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("form", FORMS)
def test_rows_belong_to_the_nodes_of_the_level_before(
    form: str, temperature: float, watched: HFTarget
) -> None:
    """Along every node's ancestors the q multiply to its joint probability."""
    _, seen = levels(form, watched, 99, Sampling(temperature=temperature, seed=3))
    assert [level.depth for level in seen] == list(range(1, len(seen) + 1))
    assert len(seen) > 1
    assert seen[0].rows == []
    for above, level in itertools.pairwise(seen):
        assert level.hidden is not None
        assert len(level.hidden) == len(level.entropy) == len(level.rows)
        for q, joint, row in zip(level.q, level.joint, level.parents, strict=True):
            if form not in ("lm-greedy-k", "lm-rsd-s"):  # there q of a draw is of what was left
                assert above.joint[level.rows[row]] * q == pytest.approx(joint, rel=1e-4)


def test_a_level_tells_its_time_but_for_the_first_which_read_the_text(
    watched: HFTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by a second whenever it is looked at, and by 10 in a forward."""
    clock = itertools.count(0.0)
    forward = watched.score

    def score(jobs: Any) -> Any:
        for _ in range(10):
            next(clock)
        return forward(jobs)

    monkeypatch.setattr(watched, "now", lambda: next(clock))
    monkeypatch.setattr(watched, "score", score)
    _, seen = levels("lm", watched, 99, Sampling())
    assert len(seen) > 2
    assert seen[0].seconds == 0.0
    assert {level.seconds for level in seen[1:]} == {12.0}, "its forward and its own growth"


@pytest.mark.parametrize("form", ["lm", "lm-sampled", "lm-top-k"])
def test_the_states_are_those_of_the_nodes_that_were_read(form: str, watched: HFTarget) -> None:
    """A chain's state at depth d is that behind its first d - 1 tokens, and never the one that the
    newest token was chosen from the state of."""
    tree, seen = levels(form, watched, 4, Sampling(temperature=1.0, seed=5))
    nodes = {tuple(tree.tokens[i] for i in tree.path(n)) for n in range(len(tree))} | {()}
    states = [_state([*PROMPT, *path], watched) for path in nodes]
    for level in seen:
        assert level.hidden is not None
        for row in range(len(level.hidden)):
            near = min(float((level.hidden[row] - state).abs().max()) for state in states)
            if tree.is_chain:
                text = [*PROMPT, *tree.tokens[: level.depth - 1]]
                near = float((level.hidden[row] - _state(text, watched)).abs().max())
                assert near < 1e-4
            assert near < 1e-4 or form == "lm-top-k", "some of a beam are no part of the draft"


@pytest.mark.parametrize("form", FORMS)
def test_a_stop_keeps_whole_levels(form: str, watched: HFTarget) -> None:
    full, seen = levels(form, watched, 99, Sampling(temperature=1.0, seed=3))
    cut, fewer = levels(form, watched, 1, Sampling(temperature=1.0, seed=3))
    assert len(fewer) == 1 < len(seen)
    assert cut.depth == 1
    if form != "lm-top-k":  # which keeps the best of all that grew
        whole = [t for t, d in zip(full.tokens, full.depths, strict=True) if d == 1]
        assert list(cut.tokens) == whole


def test_where_every_token_is_banned_the_draft_ends() -> None:
    """A small model that can write few tokens only, in a request that bans them."""
    model = copy.deepcopy(tiny.small_model(VOCAB).model)

    def two_tokens(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        return torch.cat([logits[..., :2], torch.full_like(logits[..., 2:], -math.inf)], dim=-1)

    model.get_output_embeddings().register_forward_hook(two_tokens)
    banned = Sampling(temperature=1.0, suppress_tokens=(0, 1))
    for form in FORMS:
        tree, _ = levels(form, HFTarget(model), 99, banned)
        assert len(tree) == 0, form


@torch.inference_mode()
def _state(text: list[int], target: HFTarget) -> torch.Tensor:
    """What the output layer reads behind a text."""
    model = target.model
    return model.model(torch.tensor([text]), use_cache=False).last_hidden_state[0, -1]
