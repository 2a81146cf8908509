"""Sampled text has the target's distribution: joint law of three tokens against enumeration.

Every test is a G-test against exact probabilities; cells that expect fewer than 5 are pooled. Over
the whole family of tests a false alarm has probability ALARM (Bonferroni); seeds are fixed, so that
a pass today is a pass tomorrow. Two planted faults must be rejected.

Rules, and what the drawing drafters draw, are proved by enumeration: here the parts meet, in every
pair that is allowed. Texts are written from tables of the models' rows, which is several times
cheaper; that the models themselves write the same texts is tested beside it.
"""

import itertools
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
from scipy.stats import power_divergence
from torch import Tensor

from foretoken import registry
from foretoken.draft.foreign import Foreign
from foretoken.draft.lm import LmDrafter
from foretoken.draft.lm_model import SmallModel
from foretoken.engine.build import Method, build
from foretoken.engine.engine import Engine
from foretoken.prompt.sampling import Warper
from foretoken.types import Sampling
from foretoken.verify.base import Verifier
from tests import tiny
from tests.exact.faulty import Walks
from tests.exact.table_target import table_of

V, LENGTH, ALARM = 6, 3, 1e-3
SAMPLES, FEWER = 1200, 400
PROMPT = [1, 2, 3, 1, 2]  # copying drafters find something at once
SETTINGS = {
    "temperature": {"temperature": 1.0},
    "everything": {"temperature": 0.8, "top_p": 0.9, "top_k": 5, "repetition_penalty": 1.3},
}
PAIRS = [
    (d, v)
    for d in registry.names("drafter")
    for v in registry.names("verifier")
    if "sampling" in registry.find("verifier", v).exact
    and registry.find("verifier", v).fits(registry.find("drafter", d))
]
OWN = [(d, registry.find("drafter", d).verifier) for d in registry.names("drafter")]
# more for each drafter's own rule, and there with all processors at once for whoever draws:
# drafter and target must apply them alike
CASES = [(d, v, "temperature", SAMPLES if (d, v) in OWN else FEWER) for d, v in PAIRS] + [
    (d, v, "everything", SAMPLES // 2)
    for d, v in OWN if d == "random" or registry.find("drafter", d).emits != "point"
]  # fmt: skip
TESTS = len(CASES)
KNOWN = (3, 1, 2)  # what the drafters that are told an answer draft


@cache
def law(setting: str) -> dict[tuple[int, ...], float]:
    """Exact probability of every continuation of three tokens, teacher-forced."""
    warper = Warper(Sampling(**SETTINGS[setting]), PROMPT, (), LENGTH, V)
    prefixes: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(LENGTH):
        longer = {}
        for prefix, p in prefixes.items():
            history = [*PROMPT, *prefix]
            row = warper.warp(tiny.plain_logits("six", history)[-1], history).softmax(-1)
            longer |= {(*prefix, t): p * float(row[t]) for t in range(V)}
        prefixes = longer
    return prefixes


def sample(
    method: Method, setting: str, samples: int, tables: bool = True
) -> list[tuple[int, ...]]:
    sampling, target = SETTINGS[setting], tiny.target("six")
    if tables and isinstance(method.drafter, LmDrafter):
        if method.drafter.model.target is tiny.small_model(V):  # and not one made of it
            method.drafter.model = SmallModel(table_of(tiny.small_model(V)))
    elif tables and isinstance(method.drafter, Foreign):
        method.drafter.model = SmallModel(table_of(tiny.foreign_model()))
    engine = Engine(table_of(target) if tables else target, method="plain", max_sessions=100)
    done = engine.run(
        (tiny.request(PROMPT, LENGTH, Sampling(**sampling, seed=seed)) for seed in range(samples)),
        method,
    )
    return [tuple(c.tokens) for c in done]


def p_value(found: list[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """Of a G-test; what is impossible but was found gives 0."""
    counts = Counter(found)
    if any(expected[cell] == 0.0 for cell in counts):
        return 0.0
    observed, wanted, pooled = [], [], [0.0, 0.0]
    for cell, p in expected.items():
        if p * len(found) >= 5:
            observed.append(counts[cell])
            wanted.append(p * len(found))
        else:
            pooled[0] += counts[cell]
            pooled[1] += p * len(found)
    if pooled[1] > 0:
        observed.append(pooled[0])
        wanted.append(pooled[1])
    scale = sum(observed) / sum(wanted)  # float32 probabilities sum to 1 up to rounding
    result = power_divergence(observed, [w * scale for w in wanted], lambda_="log-likelihood")
    return float(result.pvalue)


def method(drafter: str, verifier: str | Verifier) -> Method:
    target = tiny.target("six")
    made = tiny.drafter(drafter, KNOWN, "process" if drafter_learns(drafter) else "request", V)
    return build(target, made.context, made, "fixed", verifier, None, {"nodes": 6, "depth": 2})


def drafter_learns(name: str) -> bool:
    """Whether its memory can reach over requests: then it must not bias later ones."""
    return "scope" in registry.find("drafter", name).Options.model_fields


def test_the_law_is_a_law() -> None:
    for setting in SETTINGS:
        assert sum(law(setting).values()) == pytest.approx(1.0, abs=1e-5)
        assert len(law(setting)) == V**LENGTH
    assert min(law("everything").values()) == 0.0, "top-p and top-k cut something"


@pytest.mark.parametrize(("drafter", "verifier", "setting", "samples"), CASES)
def test_joint_law_of_three_tokens(drafter: str, verifier: str, setting: str, samples: int) -> None:
    found = sample(method(drafter, verifier), setting, samples)
    assert p_value(found, law(setting)) > ALARM / TESTS


@pytest.mark.parametrize(("drafter", "verifier"), OWN)
def test_the_tables_are_the_models(drafter: str, verifier: str) -> None:
    """The same seeds, the same texts: where a learner's memory starts is the same, too."""
    texts = [
        sample(method(drafter, verifier), "everything", 20, tables) for tables in (True, False)
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("fault", Walks.faults)
def test_planted_faults_are_rejected(fault: str) -> None:
    found = sample(method("random", Walks(fault)), "temperature", FEWER)
    assert p_value(found, law("temperature")) < ALARM / TESTS


def test_a_drafter_that_misstates_its_draws_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted fault: drawn from q, handed over as if from a flatter q (another temperature)."""
    drawing = next((d, v) for d, v in OWN if registry.find("drafter", d).emits == "sampled")
    planted = method(*drawing)
    honest = planted.drafter.propose_batch

    def flatter(asked: list) -> list:
        return [t if t.dist is None else replace(t, dist=flat(t.dist)) for t in honest(asked)]

    def flat(rows: Tensor) -> Tensor:
        return rows.sqrt() / rows.sqrt().sum(-1, keepdim=True)

    monkeypatch.setattr(planted.drafter, "propose_batch", flatter)
    assert p_value(sample(planted, "temperature", SAMPLES), law("temperature")) < ALARM / TESTS


def test_the_same_seed_writes_the_same_text_with_any_drafter_in_any_company() -> None:
    """Where the rule draws the target's own token, draws are tied to (seed, position) alone."""
    target, names = tiny.target("small"), registry.names("drafter")
    sampling = [
        Sampling(temperature=1.0, top_p=0.95, repetition_penalty=1.1, seed=s) for s in range(3)
    ]
    prompts = [tiny.prompt(s, n, 32) for s, n in enumerate((9, 1, 20))]
    requests = [tiny.request(p, 16, s) for p, s in zip(prompts, sampling, strict=True)]
    alone = [tiny.decode(target, r).tokens for r in requests]
    assert len({tuple(a) for a in alone}) == 3
    engine = Engine(target, method="plain", max_sessions=5)
    mixed = [
        (i, engine.add(r, tiny.method(target, name, alone[i])))
        for name, (i, r) in itertools.product(names, enumerate(requests))
    ]
    while engine.step():
        pass
    for i, session in mixed:
        assert session.output == alone[i], session.drafter.name


def test_other_seeds_write_other_text() -> None:
    target = tiny.target("small")
    requests = [tiny.request([3, 4], 8, Sampling(temperature=1.0, seed=s)) for s in range(20)]
    done = Engine(target, method="plain").run(requests)
    assert len({tuple(c.tokens) for c in done}) > 15
