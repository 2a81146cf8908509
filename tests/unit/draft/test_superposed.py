"""`superposed`: methods/superposed-decoding.md, section 9, and what its own q and store promise."""

import copy
import itertools
import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny

from foretoken.draft.base import Context
from foretoken.draft.ngram_counts import TABLE_COUNT, NgramCounts, Smoothed, Smoother
from foretoken.draft.superposed import LAMBDAS, Superposed, superposed_row
from foretoken.draft.superposed_beam import Beam, Shape
from foretoken.draft.trigram_table import TrigramTable
from foretoken.engine.build import build, options
from foretoken.engine.engine import Engine
from foretoken.errors import ArtifactError, CapabilityError, ConfigError
from foretoken.learn.trigram import TrigramBuilder
from foretoken.prompt.samples import demo_model, demo_prompts
from foretoken.prompt.tokens import encode_prompt
from foretoken.target.base import Job
from foretoken.target.hf import HFTarget
from foretoken.target.load import load
from foretoken.tree import EMPTY, DraftTree
from foretoken.types import Budget, Sampling, Scores, Session

V = 32
WIDE = Budget(64, 64)


def superposed(model: Any = None, context: Context | None = None, **values: Any) -> Superposed:
    given = {"model": tiny.small_model(V) if model is None else model, **values}
    return Superposed(options(Superposed.Options, given, "superposed"), context or tiny.context(V))


def no_ngrams(_text: Any, tokens: Any) -> Smoothed:
    return Smoothed([0.0] * len(tokens), [0] * len(tokens), 0.0)


@pytest.fixture
def session() -> Iterator[Any]:
    """A session of the target "small" after its first step, drafted for by what the test makes."""
    engine = Engine(tiny.target("small"), method="plain")

    def add(drafter: Superposed, seed: int = 1, length: int = 9, **sampling: Any) -> Session:
        method = build(engine.target, engine.context, drafter, "fixed", None, None, {"nodes": 0})
        request = tiny.request(tiny.prompt(seed, length, V), 40, Sampling(**sampling))
        one = engine.add(request, method)
        engine.step()
        return one

    yield add
    for one in list(engine.sessions):
        engine.cancel(one)


def test_one_draft_without_ngrams_is_greedy_decoding_of_the_small_model(session: Any) -> None:
    """Check 1."""
    drafter = superposed(drafts=1, alpha=0.0, depth=12, ends_only=True)
    for seed in range(4):
        one = session(drafter, seed)
        tree = drafter.propose(one, WIDE)
        engine = Engine(tiny.small_model(V), method="plain", policy="fixed")
        alone = engine.run([tiny.request(one.tokens, 12)])[0]
        assert tree.is_chain
        assert list(tree.tokens) == alone.tokens
        assert list(tree.q) == pytest.approx([math.exp(p) for p in alone.logprobs], abs=1e-5)


class Linear:
    """A toy target: logits = W x mean of the embeddings read. Its cache is the list of them."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.embed, self.w = torch.nn.Embedding(V, 8), torch.randn(V, 8)
        self.model = SimpleNamespace(get_input_embeddings=lambda: self.embed)

    @torch.inference_mode()
    def score(self, jobs: list[Job]) -> list[Scores]:
        (job,) = jobs
        new = torch.tensor([[*job.fresh, *job.tree.tokens[job.scored :]]])
        job.cache.rows.extend(self.embed(new)[0])
        return [Scores((self.w @ torch.stack(job.cache.rows).mean(0))[None])]


def test_a_linear_models_row_is_the_weighted_mean_of_the_drafts_rows() -> None:
    """Check 2."""
    toy, weights = Linear(), {3: 0.5, 7: 0.3, 11: 0.2}

    def after(mixture: dict[int, float]) -> torch.Tensor:
        cache: Any = SimpleNamespace(rows=[])
        toy.score([Job(cache, [1, 2], EMPTY)])
        return superposed_row(toy, cache, 0, mixture)

    mean = sum(weight * after({token: 1.0}) for token, weight in weights.items())
    assert torch.allclose(after(weights), mean, atol=1e-6)
    assert not torch.allclose(after({3: 1.0}), mean, atol=1e-2)
    assert not toy.embed._forward_hooks, "the model reads tokens again"


@pytest.mark.parametrize(
    ("family", "exact"),
    [(f, "default") for f in ("llama", "gemma2", "gemma3", "gpt2", "opt")] + [("llama", "bitwise")],
)
def test_a_mixture_of_one_token_is_that_token(family: str, exact: str) -> None:
    """Whatever a family does to its embeddings, and however its rows are padded."""
    target = tiny.fresh_target(family, exact)
    cache = target.new_cache(16)
    target.score([Job(cache, [5, 9, 2], EMPTY)])
    cache.keep(())
    rows = [superposed_row(target, cache, i, {t: 1.0}) for i, t in enumerate((8, 30))]
    plain = tiny.plain_logits(family, [5, 9, 2, 8, 30])
    assert torch.allclose(torch.stack(rows), plain[-2:], atol=1e-4)


def test_shares_sum_to_one_equal_tokens_add_up_and_a_level_is_one_row(session: Any) -> None:
    """Check 3."""
    beam = Beam(Shape(drafts=3, alpha=0.0, tau=1.0, keep=9), no_ngrams, [1])
    beam.grow(torch.tensor([0.0, 1.0, 0.5, -9.0]))
    assert math.fsum(beam.shares) == pytest.approx(1.0)
    beam.grow(torch.tensor([0.0, -9.0, -9.0, 9.0]))  # all go on with token 3
    assert [d.path[-1] for d in beam.alive] == [3, 3, 3]
    assert beam.mixture() == {3: pytest.approx(1.0)}

    def rows(drafts: int) -> list[tuple[int, int]]:
        twin = HFTarget(copy.deepcopy(tiny.small_model(V).model))
        drafter = superposed(twin, drafts=drafts, depth=5)
        one, seen, score = session(drafter), [], twin.score

        def spy(jobs: list[Job]) -> list[Scores]:
            out = score(jobs)
            seen.append((len(out[0].logits), jobs[0].cache.used - len(one.tokens)))  # type: ignore[attr-defined]
            return out

        twin.score = spy  # type: ignore[method-assign]
        assert drafter.propose(one, WIDE).depth == 5
        assert one.memo["superposed"].cache.length == len(one.tokens), "superposed rows are gone"
        return seen

    assert rows(1) == rows(2) == rows(7) == [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]


@pytest.mark.parametrize("alpha", [0.0, 0.54])
def test_the_first_level_is_the_top_k_and_drafts_differ(alpha: float) -> None:
    """Check 4."""
    dice = torch.Generator().manual_seed(1)
    counts = NgramCounts(5, 10_000)
    counts.add(random.Random(1).choices(range(8), k=400), 1)
    beam = Beam(Shape(drafts=4, alpha=alpha, tau=0.5, keep=12), Smoother(counts, LAMBDAS), [1, 2])
    logits = torch.randn(V, generator=dice)
    beam.grow(logits)
    assert [d.path for d in beam.alive] == [(t,) for t in logits.topk(4).indices.tolist()]
    for _ in range(6):
        beam.grow(torch.randn(V, generator=dice) * 3)
        assert len({d.path for d in beam.alive}) == len(beam.alive) == 4


def naive(text: list[int], context: tuple[int, ...]) -> dict[int, float]:
    n = len(context)
    found = Counter(text[i + n] for i in range(len(text) - n) if tuple(text[i : i + n]) == context)
    return {token: count / found.total() for token, count in found.items()}


def test_ngrams_equal_brute_force() -> None:
    """Check 5, first half."""
    text = random.Random(2).choices(range(6), k=300)
    counts = NgramCounts(5, 100_000)
    for start in range(0, 300, 7):  # counted as it grows, piece by piece
        counts.add(text[: start + 7], start)
    for seed in range(30):
        tail = random.Random(seed).choices(range(6), k=5)
        said = Smoother(counts, LAMBDAS)(tail, list(range(6)))
        rows = [naive(text, tuple(tail[-n:])) for n in range(1, 6)]
        for x in range(6):
            expected = sum(
                share * row.get(x, 0.0) for share, row in zip(LAMBDAS, rows, strict=True)
            )
            assert said.mass[x] == pytest.approx(expected)
            assert said.known[x] == max((n for n, r in enumerate(rows, 1) if x in r), default=0)
        assert said.weight == pytest.approx(sum(s for s, r in zip(LAMBDAS, rows, strict=True) if r))
        assert sum(said.mass) == pytest.approx(said.weight)


def test_a_table_stands_in_for_counts(tmp_path: Path) -> None:
    builder = TrigramBuilder(tmp_path / "work", V)
    builder.add(np.array([1, 2, 3] * 50))
    builder.finish(tmp_path / "aded.table", "")
    table = TrigramTable.open(tmp_path / "aded.table", "", verify=True)
    counts = NgramCounts(5, 1000)
    said = Smoother(counts, LAMBDAS, table)([9, 1, 2], [3, 4])
    assert said.mass == pytest.approx([LAMBDAS[0] + LAMBDAS[1], 0.0], rel=0.02)
    counts.add([1, 2, 4], 2)  # seen here once: the table weighs TABLE_COUNT occurrences
    said = Smoother(counts, LAMBDAS, table)([1, 2], [3, 4])
    assert said.mass[1] == pytest.approx((LAMBDAS[0] + LAMBDAS[1]) / (1 + TABLE_COUNT), rel=0.02)
    # taken up beside the target, and refused for another tokenizer
    assert superposed(context=Context(V, (), "", tmp_path)).table is not None
    with pytest.raises(ArtifactError, match=r"aded\.table"):
        superposed(context=Context(V, (), "other", tmp_path))
    with pytest.raises(ArtifactError, match="32 tokens, the model has 6"):
        superposed(tiny.small_model(6), Context(6, (), "", tmp_path))


def test_no_support_costs_delta_exactly() -> None:
    """Check 5, second half: of two drafts the second has followers of its own, the first none."""
    shape = Shape(drafts=2, alpha=0.5, tau=1.0, keep=4, delta=7.0)

    def smooth(text: Any, tokens: Any) -> Smoothed:
        known = text[-1] == 1  # the draft that ends in token 1
        return Smoothed([0.25 * known] * len(tokens), [1 * known] * len(tokens), 0.5 * known)

    beam = Beam(shape, smooth, [9])
    row = torch.tensor([1.0, 0.9, -5.0, -6.0])
    beam.grow(row)
    before = {d.path: d.score for d in beam.alive}
    log = torch.log_softmax(row, -1).tolist()
    gains = [beam._gains(beam._said(d, [0, 1, 2, 3]), log, first=False) for d in beam.alive]
    assert gains[0] == pytest.approx([0.5 * value - 7.0 for value in log])
    assert gains[1] == pytest.approx([0.5 * value + 0.5 * math.log(0.25) for value in log])
    beam.grow(row)
    assert [d.path for d in beam.alive] == [(1, 0), (1, 1)], "the unsupported draft is out"
    assert beam.alive[0].score == pytest.approx(before[1,] + gains[1][0])


def test_text_is_the_targets_and_more_drafts_are_not_worse() -> None:
    """Check 6, with the models of the package: drafts of a model that guesses well."""
    loaded = load(str(demo_model()))
    engine = Engine(
        loaded.target, loaded.tokenizer, method="plain", policy="fixed", assets=loaded.folder
    )
    texts = [text for kind in ("code", "maths") for text in demo_prompts(kind, 2)]
    requests = [tiny.request(encode_prompt(loaded.tokenizer, text), 40) for text in texts]
    expected, rates = [c.tokens for c in engine.run(requests)], {}
    for drafts in (1, 3):
        method = engine.use("superposed", "fixed", None, {"drafts": drafts}, {"nodes": 12})
        assert method.drafter.table is not None, "the demo model has a table beside it"  # type: ignore[attr-defined]
        done = engine.run(requests, method)
        assert [c.tokens for c in done] == expected
        rates[drafts] = sum(c.stats.tokens for c in done) / sum(c.stats.steps for c in done)
    assert rates[3] >= rates[1] > 2.0


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_q_are_probabilities_and_siblings_sum_to_at_most_one(
    session: Any, temperature: float
) -> None:
    drafter = superposed(drafts=5, tau=1.0, depth=6)
    for seed in range(5):
        one = session(drafter, seed, temperature=temperature)
        tree = drafter.propose(one, WIDE)
        sums: dict[int, float] = defaultdict(float)
        for parent, q in zip(tree.parents, tree.q, strict=True):
            assert 0.0 < q <= 1.0
            sums[parent] += q
        assert max(sums.values()) <= 1.0 + 1e-6
        assert sorted(tree.joint, reverse=True) == tree.joint, "likeliest first"
        assert all(0 <= kind <= 7 for kind in tree.evidence)
        # the first level's q is the small model's own row
        logits = tiny.small_model(V).model(torch.tensor([one.tokens])).logits[0, -1].detach()
        own = torch.softmax(logits / (temperature or 1.0), -1)
        for node in tree.children[0]:
            assert tree.q[node] == pytest.approx(float(own[tree.tokens[node]]), abs=1e-5)


def test_q_is_dealt_out_as_the_ngrams_say() -> None:
    """Two drafts share a row evenly; each has seen one of its two tokens."""

    def smooth(text: Any, tokens: Any) -> Smoothed:
        return Smoothed([0.5 * (t == text[-1] + 2) for t in tokens], [1] * len(tokens), 0.5)

    beam = Beam(Shape(drafts=2, tau=1.0, keep=4), smooth, [9])
    beam.grow(torch.tensor([5.0, 5.0, -5.0, -5.0]))
    beam.grow(torch.tensor([-9.0, -9.0, 4.0, 4.0]))
    q = {path: beam.nodes[path][0] for path in beam.nodes if len(path) == 2}
    # N = 0.5 for its own token, and half of P = 0.5 for both: 0.75 against 0.25
    assert q[0, 2] == pytest.approx(0.75, abs=1e-3)
    assert q[1, 3] == pytest.approx(0.75, abs=1e-3)


def test_budget_cuts_the_least_likely_and_nothing_hangs_below_eos(session: Any) -> None:
    drafter = superposed(drafts=4, tau=1.0, depth=5)
    one = session(drafter)
    full = drafter.propose(one, WIDE)
    for nodes, least in itertools.product((1, 3, 7), (0.0, 0.1)):
        tree = drafter.propose(one, Budget(nodes, 5, least))
        assert len(tree) <= nodes
        paths = {tuple(full.tokens[i] for i in full.path(n)) for n in range(len(full))}
        assert {tuple(tree.tokens[i] for i in tree.path(n)) for n in range(len(tree))} <= paths
    ends = full.tokens[full.children[0][0]]
    ending = superposed(context=Context(V, (ends,), ""), drafts=4, tau=1.0, depth=5)
    tree = ending.propose(session(ending), WIDE)
    (at,) = [node for node in tree.children[0] if tree.tokens[node] == ends]
    assert not tree.children[at + 1]
    assert len(tree.children[0]) == 5, "an ended draft leaves its place to another"


def test_what_fell_out_of_the_beam_is_drafted_unless_only_ends_are_asked(session: Any) -> None:
    values = {"drafts": 3, "tau": 1.0, "depth": 6}
    ends, everything = (superposed(**values, ends_only=only) for only in (True, False))
    few, more = ends.propose(session(ends), WIDE), everything.propose(session(everything), WIDE)
    assert sum(not children for children in few.children[1:]) <= 3

    def paths(tree: DraftTree) -> set[tuple[int, ...]]:
        return {tuple(tree.tokens[i] for i in tree.path(n)) for n in range(len(tree))}

    assert paths(few) < paths(more)


def test_a_text_as_long_as_the_models_context() -> None:
    """The small model knows 24 positions, the target 256: past them there is no draft."""
    drafter = superposed(tiny.target("tight"), drafts=1)
    target, depths = tiny.target("small"), []
    method = build(target, tiny.context(V), drafter, "fixed")
    prompt = tiny.prompt(4, 16, V)
    done = Engine(target, method="plain").run(
        [tiny.request(prompt, 20)], method,
        lambda _, step: depths.append((step.context, step.tree.depth)),
    )[0]  # fmt: skip
    assert [done.tokens] == tiny.generate("small", [prompt], 20)
    assert all(depth == max(0, min(6, 25 - held)) for held, depth in depths[:-6])
    assert depths[-1][1] == 0


def test_impossible_models_are_refused() -> None:
    compiled: Any = HFTarget(copy.deepcopy(tiny.model("small")))
    compiled.warm_up = lambda _: 0.0  # what a CompiledTarget has; that one takes seconds to import
    with pytest.raises(ConfigError, match=r"^superposed.model: None"):
        Superposed(Superposed.Options(), tiny.context(V))
    with pytest.raises(CapabilityError, match="'superposed' .* compiled"):
        superposed(compiled)
    with pytest.raises(ConfigError, match=r"^superposed.lambdas: .* sum to more than 1"):
        superposed(lambdas=(0.9, 0.2))


class TestStore:
    def test_the_longest_unwritten_goes(self) -> None:
        counts = NgramCounts(2, 6)
        counts.add([1, 2, 3, 1, 2], 1)
        assert len(counts) == 6
        for token in range(50):
            counts.add([token, token + 1, token + 2], 1)
            assert len(counts) <= 6
        assert counts.row((1,)).counts == {}
        assert counts.row((49, 50)).counts == {51: 1.0}

    def test_state_is_json_and_counts_add_up(self) -> None:
        counts, twin = NgramCounts(3, 1000), NgramCounts(3, 1000)
        counts.add(random.Random(1).choices(range(5), k=200), 1)
        state = json.loads(json.dumps(counts.state()))
        twin.load(state)
        assert twin.state() == counts.state()
        assert len(twin) == len(counts)
        twin.load(state)
        assert twin.row((1,)).total == 2 * counts.row((1,)).total

    def test_tenants_share_counts_only_if_asked(self) -> None:
        held = {}
        for scope in ("request", "tenant", "process"):
            drafter = superposed(scope=scope)
            engine = Engine(tiny.target("small"), method="plain")
            method = build(tiny.target("small"), tiny.context(V), drafter, "fixed")
            for tenant in "ab":
                request = tiny.request(tiny.prompt(1, 8, V), 10)
                object.__setattr__(request, "tenant", tenant)
                engine.run([request], method)
            held[scope] = [key for key, _ in drafter._stores]
        assert held == {"request": [], "tenant": ["a", "b"], "process": [""]}
        assert superposed().state() == {}
