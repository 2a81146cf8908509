"""s2d: drafts are those of the exits that the thresholds choose; text stays the target's."""

import json

import pytest
import torch
from tests import tiny

from foretoken.draft.s2d import S2d
from foretoken.engine.build import build, options
from foretoken.engine.engine import Engine
from foretoken.errors import ArtifactError, ConfigError
from foretoken.target.hf import HFTarget
from foretoken.target.narrow import keep_layers
from foretoken.tree import DraftTree
from foretoken.types import Sampling


def drafter(**values: object) -> S2d:
    given = {"model": tiny.nested_model(), "exits": (1, 2, 3), "thresholds": (0.3, 0.35, 0.0)}
    return S2d(options(S2d.Options, {**given, **values}, "s2d"), tiny.context())


def drafts(made: object, family: str = "llama", temperature: float = 0.0) -> list[tuple[int, ...]]:
    target, seen = tiny.target(family), []
    method = build(target, tiny.context(), made, "fixed", None, None, {"nodes": 5})
    requests = [
        tiny.request(tiny.prompt(s, 8), 12, Sampling(temperature=temperature, seed=s))
        for s in range(2)
    ]
    done = Engine(target, method="plain").run(
        requests, method, lambda _, step: seen.append(tuple(step.tree.tokens))
    )
    if temperature == 0.0:
        plain = tiny.generate(family, [r.prompt for r in requests], 12)
        assert [c.tokens for c in done] == plain
    return seen


def chain_of(depth: int, temperature: float = 0.0) -> list[tuple[int, ...]]:
    """What the first `depth` layers alone draft, as an ordinary small model."""
    import copy

    from foretoken.draft.lm_sampled import LmSampled

    model = copy.deepcopy(tiny.nested_model().model)
    keep_layers(model, range(depth))
    values = {"model": HFTarget(model)}
    made = LmSampled(options(LmSampled.Options, values, "lm-sampled"), tiny.context())
    return drafts(made, temperature=temperature)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("thresholds", "depth"),
    [((9.0, 9.0, 0.0), 3), ((0.0, 0.0, 0.0), 1), ((9.0, 0.0, 0.0), 2)],
)
def test_thresholds_that_leave_one_exit_are_that_model(
    thresholds: tuple[float, ...], depth: int, temperature: float
) -> None:
    made = drafter(thresholds=thresholds)
    assert drafts(made, temperature=temperature) == chain_of(depth, temperature)
    assert set(made.nested.answered) == {depth}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_one_drafter_serves_several_targets(family: str) -> None:
    """Greedy text is each target's own (asserted in `drafts`)."""
    assert any(drafts(drafter(), family))


def test_exits_come_from_the_folder(tmp_path) -> None:
    model = tiny.nested_model().model
    model.save_pretrained(tmp_path)
    values = {"model": str(tmp_path)}
    plain = S2d(options(S2d.Options, values, "s2d"), tiny.context())
    assert plain.nested.exits == (1, 2, 3)
    assert plain.nested.thresholds == (0.5, 0.5, 0.0)
    (tmp_path / "exits.json").write_text(json.dumps({"exits": [2, 3]}))
    assert S2d(options(S2d.Options, values, "s2d"), tiny.context()).nested.exits == (2, 3)
    (tmp_path / "exits.json").write_text("{")
    with pytest.raises(ArtifactError, match="exits.json"):
        S2d(options(S2d.Options, values, "s2d"), tiny.context())


def test_wrong_exits_name_the_option() -> None:
    with pytest.raises(ConfigError, match=r"s2d\.exits"):
        drafter(exits=(1, 2), thresholds=None)
    with pytest.raises(ConfigError, match=r"s2d\.thresholds"):
        drafter(thresholds=(0.5,))


def test_a_drawn_token_is_judged_by_the_exit_that_drew_it() -> None:
    """q and row of every node are those of the depth that answered: a draft made twice is equal,
    and its rows are normalised distributions that hold its tokens."""
    made, seen = drafter(), list[DraftTree]()
    target = tiny.target("llama")
    method = build(target, tiny.context(), made, "fixed", None, None, {"nodes": 5})
    request = tiny.request(tiny.prompt(5, 8), 16, Sampling(temperature=1.0))
    Engine(target, method="plain").run([request], method, lambda _, s: seen.append(s.tree))
    for tree in seen:
        if tree.dist is None:
            continue
        assert torch.allclose(tree.dist.sum(-1), torch.ones(len(tree.dist)), atol=1e-5)
        for token, q, row in zip(tree.tokens, tree.q, tree.dist_row, strict=True):
            assert float(tree.dist[row, token]) == pytest.approx(q)
    assert len(made.nested.answered) > 1
