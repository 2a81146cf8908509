"""Replays write the recorded text, and accept what was accepted beside the model itself."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from foretoken import registry
from foretoken.draft.aded_store import Store
from foretoken.draft.prompt_lookup import PromptLookup
from foretoken.engine.build import build
from foretoken.engine.engine import Engine
from foretoken.errors import CapabilityError, ForetokenError
from foretoken.learn.recorder import Recorder
from foretoken.learn.redact import permuted
from foretoken.learn.trace import Trace, TracedRequest
from foretoken.target.cost import CostCurve
from foretoken.tune.replay import Replayed, replay, request_of
from foretoken.tune.stage import policies
from foretoken.types import Sampling
from tests import tiny

CURVE = CostCurve(
    rows=(1, 9, 33), contexts=(0, 100), seconds=((0.010, 0.012, 0.020), (0.011, 0.013, 0.022))
)
FLAT = CostCurve(rows=(1,), contexts=(0,), seconds=((1.0,),))
SETTINGS = {
    "greedy": Sampling(),
    "sampled": Sampling(temperature=0.8, seed=3, top_p=0.95, repetition_penalty=1.05),
}
NEW, NODES = 40, 10
# drafters that read nothing but the committed text and its rows: a replay shows them all they saw
ON_TEXT = {
    "prompt-lookup": {}, "aded": {"all_nodes": False}, "suffix": {}, "suffix-store": {},
    "predicted": {},
}  # fmt: skip
KNOWN = [name for name in ON_TEXT if name in registry.names("drafter")]
MODEL_FREE = [
    name for name in registry.names("drafter")
    for cls in [registry.find("drafter", name)]
    if not cls.runs_model and "continuation" not in cls.Options.model_fields
]  # fmt: skip


@cache
def requests(how):
    """Two tasks, each asked twice, with ends of their own; three tokens of what is predicted of
    each text are missing."""
    out = []
    for i, seed in enumerate((1, 2, 1, 2)):
        prompt, new = tiny.prompt(seed, 14), NEW + 5 * i
        request = tiny.request(prompt, new, SETTINGS[how], eos_token_ids=(i * 30,))
        text = tiny.decode(tiny.target("llama"), request).tokens
        guess = [*text[:9], *text[12:]]
        out.append(replace(request, id=f"r{i}", tenant="me", prediction=guess))
    return out


@cache
def live(name, how, batch=1, redact=None):
    """(trace, what every step accepted): a run with the model itself."""
    target = tiny.target("llama")
    chosen = ON_TEXT.get(name, {})
    method = build(target, tiny.context(), name, "fixed", None, chosen, {"nodes": NODES})
    recorder, seen = Recorder(target, curve=CURVE, redact=redact), []
    engine = Engine(target, method="plain", max_sessions=batch)

    def note(session, step):
        recorder(session, step)
        position = step.context - session.n_prompt
        seen.append(
            (int(session.request.id[1:]), position, len(step.tree), step.committed.accepted)
        )

    engine.run(requests(how), method, note)
    return recorder.trace(), seen


def shape(replayed: Replayed):
    return [(s.request, s.position, s.drafted, s.accepted) for s in replayed.steps]


@pytest.fixture(scope="module")
def trace():
    return live("plain", "sampled")[0]


# -------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("how", SETTINGS)
@pytest.mark.parametrize("name", KNOWN)
def test_a_replay_of_a_live_run_accepts_the_same_step_by_step(name, how, batch, tmp_path):
    recorded, seen = live(name, how, batch)
    recorded.save(tmp_path / "trace")
    replayed = replay(
        Trace.load(tmp_path / "trace"), name, "fixed",
        options=ON_TEXT[name], policy_options={"nodes": NODES}, batch=batch,
    )  # fmt: skip
    assert shape(replayed) == seen
    assert sum(accepted for *_, accepted in seen) > 0
    assert replayed.tokens == recorded.tokens == sum(len(r.output) for r in recorded.requests)


@pytest.mark.parametrize("name", KNOWN)
def test_what_one_drafter_wrote_judges_another(name, trace):
    """The counterfactual: a trace of plain decoding gives what the drafter really does live."""
    seen = live(name, "sampled")[1]
    options = {"options": ON_TEXT[name], "policy_options": {"nodes": NODES}}
    assert shape(replay(trace, name, "fixed", **options)) == seen


@pytest.mark.parametrize("policy", policies())
@pytest.mark.parametrize("name", MODEL_FREE)
def test_every_method_writes_the_text_and_twice_the_same(name, policy, trace):
    """`replay` itself compares the text; the virtual clock leaves nothing to chance."""
    short = replace(trace, requests=trace.requests[:2])
    one, two = (replay(short, name, policy, seconds_per_draft_node=1e-5) for _ in range(2))
    assert one == two
    assert one.tokens == short.tokens
    assert (one.method, one.policy, one.clock) == (name, policy, "virtual")


def test_a_request_has_the_room_and_the_settings_that_it_had(trace):
    """Drawing drafters look at temperature and seed, all of them at the room that is left."""
    for traced, asked in zip(trace.requests, requests("sampled"), strict=True):
        again = request_of(traced)
        assert again.sampling == asked.sampling
        assert again.limits.max_new_tokens == asked.limits.max_new_tokens
        assert again.limits.eos_token_ids == asked.limits.eos_token_ids
        assert (again.tenant, again.prediction, again.id) == ("me", asked.prediction, traced.name)
    assert any(len(r.output) < r.limits["max_new_tokens"] for r in trace.requests)


def test_rows_that_nobody_knows_teach_nothing(trace, monkeypatch):
    learn, seen = Store.learn, []

    def spy(store, key, new, share):
        seen.append(len(new[0]))
        learn(store, key, new, share)

    monkeypatch.setattr(Store, "learn", spy)
    replay(trace, "aded", "fixed")
    assert min(seen) > 0


def test_text_without_rows_is_replayed_too():
    texts = Trace.from_texts([([1, 2], [3, 1, 2, 3, 1, 2]), ([4], [4] * 9)], 10, curve=CURVE)
    assert replay(texts, "prompt-lookup", "fixed").tokens == 15
    assert replay(texts, "prompt-lookup", "fixed").tokens_per_step > 1.5


def test_a_permuted_trace_gives_the_same_figures(trace):
    """Copying looks at what repeats, and that is all the same."""
    hidden, _ = live("plain", "sampled", redact=permuted(b"key", tiny.VOCAB))
    assert hidden.requests[0].output != trace.requests[0].output
    one, two = (replay(t, "prompt-lookup", "fixed") for t in (trace, hidden))
    assert one == two


def test_a_text_that_came_out_otherwise_is_an_error():
    """An end-of-text token inside, where the request says that it ends a text."""
    inside = TracedRequest("x", [1], [2, 0, 3], limits={"ignore_eos": False})
    trace = Trace([inside], 10, eos=(0,), curve=CURVE)
    with pytest.raises(ForetokenError, match=r"x: the replay wrote 2 tokens"):
        replay(trace, "plain", "fixed")


def test_a_drafter_that_needs_more_than_rows_is_refused(trace, monkeypatch):
    cls = registry.find("drafter", "prompt-lookup")
    monkeypatch.setattr(cls, "needs", frozenset({"hidden:final"}))
    with pytest.raises(CapabilityError, match="prompt-lookup"):
        replay(trace, "prompt-lookup", "fixed")


# ------------------------------------------------------------------------------------------ clock


def test_plain_costs_what_plain_costs(trace):
    plain = replay(trace, "plain", "fixed")
    expected = [
        CURVE(1, len(r.prompt) + i - 1) for r in trace.requests for i in range(len(r.output))
    ]
    assert plain.seconds == pytest.approx(sum(expected))
    assert plain.prompt_seconds == pytest.approx(
        sum(CURVE(n, 0) - CURVE(1, n - 1) for r in trace.requests for n in [len(r.prompt)])
    )
    assert plain.ratio == pytest.approx(1.0)
    assert plain.tokens_per_step == 1.0
    assert plain.predicted == 0.0


@pytest.mark.parametrize("batch", [1, 3])
def test_every_methods_plain_seconds_are_those_of_plain(trace, batch):
    plain = replay(trace, "plain", "fixed", batch=1)
    drafted = replay(trace, "aded", "fixed", batch=batch)
    if batch == 1:
        assert drafted.plain_seconds == pytest.approx(plain.seconds)
        assert drafted.prompt_seconds < plain.prompt_seconds * 2
    assert drafted.ratio == pytest.approx(drafted.plain_seconds / drafted.seconds)
    for step in drafted.steps:
        held = len(trace.requests[step.request].prompt) + step.position - 1
        expected = sum(CURVE(step.batch, held + i) for i in range(step.tokens)) / step.batch
        assert step.plain == pytest.approx(expected)


def test_drafted_steps_cost_their_rows(trace):
    replayed = replay(trace, "prompt-lookup", "fixed", policy_options={"nodes": 4})
    for step in replayed.steps:
        held = len(trace.requests[step.request].prompt) + step.position - 1
        assert step.time == pytest.approx(CURVE(1 + step.drafted, held))
        assert step.seconds["draft"] == step.seconds["verify"] == 0
    assert replayed.parts["target"] == pytest.approx(replayed.seconds)


def test_proposed_nodes_may_have_a_price(trace):
    dear = replay(trace, "prompt-lookup", "fixed", seconds_per_draft_node=0.5)
    free = replay(trace, "prompt-lookup", "fixed")
    assert shape(dear) == shape(free)
    for step in dear.steps:  # "fixed" cuts nothing: what is proposed is scored
        assert step.seconds["draft"] == pytest.approx(0.5 * step.drafted)
    assert dear.seconds - free.seconds == pytest.approx(0.5 * dear.drafted)


def test_a_drafter_that_was_made_goes_on_learning_and_is_given_back(trace):
    drafter = tiny.drafter("aded", scope="process")
    first = replay(trace, drafter, "fixed", seconds_per_draft_node=1.0)
    again = replay(trace, drafter, "fixed")
    assert again.accepted > first.accepted
    assert again.parts["draft"] == 0.0
    assert "propose_batch" not in vars(drafter)  # the price went with the replay


def test_drafting_counts_when_the_wall_counts(trace):
    walled = replay(trace, "aded", "fixed", clock="wall+virtual")
    assert walled.parts["draft"] > 0
    assert walled.parts["verify"] > 0
    assert walled.ratio < replay(trace, "aded", "fixed").ratio


def test_scripts_may_change_the_curve(trace):
    """From the third request on, every forward takes a second."""

    def script(target, index):
        if index >= 2:
            target.curve = FLAT

    replayed = replay(trace, "prompt-lookup", "fixed", on_request=script)
    late = [step for step in replayed.steps if step.request >= 2]
    assert late
    assert all(step.time == pytest.approx(1.0) for step in late)
    assert all(step.plain == pytest.approx(step.tokens) for step in late)
    assert all(step.time < 0.1 for step in replayed.steps if step.request < 2)


def test_every_step_is_shown_as_it_comes(trace):
    seen = []
    replayed = replay(trace, "aded", on_step=lambda target, step: seen.append((target.now(), step)))
    assert [step for _, step in seen] == replayed.steps
    assert [now for now, _ in seen] == sorted(now for now, _ in seen)


# ---------------------------------------------------------------------------------------- records


def test_predicted_is_the_drafts_own_sum(trace):
    replayed = replay(trace, "aded", "fixed")
    assert replayed.predicted > 0
    assert replayed.predicted == pytest.approx(sum(step.predicted for step in replayed.steps))


class Silent(PromptLookup):
    """Says nothing of its chances."""

    def propose(self, session, budget):
        return replace(super().propose(session, budget), q=())


def test_a_drafter_may_predict_nothing(trace):
    silent = replay(trace, Silent(Silent.Options(), tiny.context()), "fixed")
    assert {step.predicted for step in silent.steps if step.drafted} == {None}
    assert {step.predicted for step in silent.steps if not step.drafted} == {0.0}
    assert silent.predicted == 0.0


def test_sums_are_those_of_the_steps(trace):
    replayed = replay(trace, "aded", "marginal")
    assert replayed.accepted == sum(step.accepted for step in replayed.steps)
    assert replayed.tokens == replayed.accepted + len(replayed.steps)
    assert replayed.tokens_per_second == pytest.approx(replayed.tokens / replayed.seconds)
    for index, request in enumerate(trace.requests):
        mine = [step for step in replayed.steps if step.request == index]
        assert [s.position for s in mine] == [
            sum(s.tokens for s in mine[:i]) for i in range(len(mine))
        ]
        assert sum(step.tokens for step in mine) == len(request.output)
