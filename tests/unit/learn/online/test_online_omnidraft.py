"""omnidraft's learning: which places teach what, the two losses, and the order of the paper.

The task: a target that writes phrases of a small grammar in merged tokens; a small model of
characters that knows the words and not the grammar.
"""

from __future__ import annotations

import copy
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
import torch
from tests import tiny
from tests.exact.table_target import TableTarget
from tests.tokenizers_of_kinds import MERGES, characters
from torch import Tensor

from foretoken.draft.base import Context
from foretoken.draft.omnidraft import OmniDraft
from foretoken.draft.spelling import Spelling
from foretoken.draft.vocabularies import Vocabularies
from foretoken.engine.build import build
from foretoken.engine.engine import Engine
from foretoken.errors import ConfigError
from foretoken.learn.online.omnidraft import Distiller, Lesson
from foretoken.types import Completion, Limits, Request, Sampling

REQUESTS = 10  # that teach
LETTERS = "thein arcdsowlm.g"
TARGET, DRAFTER = characters(LETTERS, MERGES), characters(LETTERS)
NAMES = ("thin", "silent", "other"), ("man", "hen", "rat"), ("ran", "hid", "sat"), ("rain", "inn")


def phrases(seed: int, n: int) -> str:
    dice = random.Random(seed)
    words = [[dice.choice(names) for names in NAMES] for _ in range(n)]
    return "".join(f"the {a} {b} {c} in the {d}. " for a, b, c, d in words)


class Habit(TableTarget):
    """Goes on as its text most often does after the last tokens."""

    def __init__(self, text: str, order: int = 5) -> None:
        super().__init__(tiny.target("small"))
        self.vocab, self.eos, self.order = len(TARGET), (TARGET.eos_token_id,), order
        self.seen: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        ids = TARGET.encode(text)
        for i, token in enumerate(ids):
            for n in range(min(order, i) + 1):
                self.seen[tuple(ids[i - n : i])][token] += 1

    def _row(self, text: tuple[int, ...]) -> Tensor:
        for n in range(min(self.order, len(text)), -1, -1):
            if counts := self.seen.get(tuple(text[len(text) - n :])):
                row = torch.full((self.vocab,), 1e-3)
                row[list(counts)] += torch.tensor(list(counts.values()), dtype=torch.float32)
                return row.log()
        raise AssertionError


@cache
def habit() -> Habit:
    return Habit(phrases(7, 300))


@cache
def small() -> Any:
    """A model of characters, trained on the words in any order."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": len(DRAFTER)}
    model = tiny.make(tiny.tf.LlamaConfig(**{**tiny.ONE_LAYER, **sizes}), std=0.05)
    dice = random.Random(3)
    words = phrases(3, 120).split(" ")
    dice.shuffle(words)
    ids = torch.tensor(DRAFTER.encode(" ".join(words)))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        starts = [dice.randrange(len(ids) - 33) for _ in range(16)]
        batch = torch.stack([ids[at : at + 33] for at in starts])
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def omnidraft(**values: Any) -> OmniDraft:
    context = Context(len(TARGET), (TARGET.eos_token_id,), "t", tokenizer=TARGET)
    given = {"model": small(), "tokenizer": DRAFTER, "scope": "process", **values}
    return OmniDraft(OmniDraft.Options(**given), context)


def run(
    made: OmniDraft, seeds: Iterable[int], new: int = 40, temperature: float = 1.0
) -> list[Completion]:
    chosen = build(habit(), made.context, made, "fixed", None, None, {"nodes": 5})
    engine = Engine(habit(), TARGET, method="plain", policy="fixed", max_sessions=1)
    sampling = Sampling(temperature=temperature)
    return engine.run(
        [
            Request(
                TARGET.encode("the "), sampling.model_copy(update={"seed": seed}),
                Limits(max_new_tokens=new),
            )
            for seed in seeds
        ],
        chosen,
    )  # fmt: skip


def rate(made: OmniDraft, seeds: Iterable[int] = range(1000, 1007)) -> float:
    """Tokens per step on texts that nobody has learned from."""
    done = run(made, seeds)
    return sum(c.stats.tokens for c in done) / sum(c.stats.steps for c in done)


@cache
def lessons() -> tuple[Lesson, ...]:
    """Of the texts of some requests and what was refused in them."""
    made = omnidraft(every=10**6, held=10**6)
    run(made, range(REQUESTS))
    return tuple(made.distiller._lessons)


def distiller(weight: float = 0.2, rate: float = 2e-3, most: int = 4096) -> Distiller:
    one, other = Spelling(TARGET), Spelling(DRAFTER)
    sizes, ends = (len(TARGET), len(DRAFTER)), ((one.eos,), (other.eos,))
    found = Vocabularies(one, other, sizes, ends, ("one", "other"))
    return Distiller(small(), found, rate, weight, 512, most)


# --- what is recorded ----------------------------------------------------------------------------


def test_places_speak_of_the_next_token() -> None:
    """A shared place is before a shared token, with the target's own row there; a spelled one is
    before a part of an n-gram: against the text, encoded again."""
    made = omnidraft(every=10**6)
    (done,) = run(made, [3])
    text = [*done.prompt, *done.tokens]
    spelled = "".join(TARGET.convert_ids_to_tokens(text))
    lesson = made.distiller._lessons[0]
    assert DRAFTER.convert_tokens_to_ids(list(spelled)) == lesson.ids
    shared = made.pair.index(torch.device("cpu"))[1].tolist()
    at, places, parts = 0, [], []
    for i, token in enumerate(text):
        name = TARGET.convert_ids_to_tokens(token)
        if i >= len(done.prompt):
            if len(name) == 1:
                row = habit()._row(tuple(text[:i])).log_softmax(-1)[shared]
                found = lesson.log_p[len(places)].float()
                torch.testing.assert_close(found, row, atol=0.02, rtol=0.01)
                places.append(at - 1)
            else:
                parts += range(at - 1, at - 1 + len(name))
        at += len(name)
    assert lesson.shared == places
    assert lesson.spelled == parts
    assert len(lesson) == len(done.tokens)


def test_refused_tokens_teach_too() -> None:
    """Places in what the drafter alone wrote: after the first refused token."""
    tails = [lesson for lesson in lessons() if not lesson.spelled and lesson.grams == 0]
    assert len(tails) > 10
    for tail in tails:
        assert tail.shared
        assert max(tail.shared) < len(tail.ids)
        assert tail.log_p.shape == (len(tail.shared), distiller().pair.shared)


def test_the_buffer_is_bounded() -> None:
    made = omnidraft(every=10**6, held=60)
    run(made, range(4))
    assert 0 < len(made.distiller) <= 60
    newest = made.distiller._lessons[-1]
    assert any(newest.ids == lesson.ids for lesson in made.distiller._lessons)


# --- the losses ----------------------------------------------------------------------------------


def test_the_losses_by_hand() -> None:
    taught, lesson = distiller(), lessons()[0]
    kl, nll = taught.losses(lesson)
    logits = small()(input_ids=torch.tensor([lesson.ids]), use_cache=False).logits[0].detach()
    pair = taught.pair
    for i, place in enumerate(lesson.shared):
        row = pair.lift(logits[place][None]).softmax(-1)[0]
        log_p = torch.full((pair.n_target,), -math.inf)
        log_p[pair.index(row.device)[1]] = lesson.log_p[i].float()
        slow = sum(
            float(q) * (math.log(q) - float(p)) for q, p in zip(row, log_p, strict=True) if q > 0
        )
        assert float(kl[i]) == pytest.approx(slow, abs=2e-3)
    for i, place in enumerate(lesson.spelled):
        slow = -float(logits[place].log_softmax(-1)[lesson.ids[place + 1]])
        assert float(nll[i]) == pytest.approx(slow, abs=1e-3)
    assert len(nll) == len(lesson.spelled) > 10
    assert bool((kl > -1e-2).all())


def test_kl_is_zero_for_the_targets_own_law() -> None:
    """If the drafter's law over the shared tokens is p, there is nothing to learn."""
    taught, lesson = distiller(), copy.copy(lessons()[0])
    logits = small()(input_ids=torch.tensor([lesson.ids]), use_cache=False).logits[0].detach()
    ours = taught.pair.index(logits.device)[0]
    lesson.log_p = logits[lesson.shared][:, ours].log_softmax(-1)
    assert float(taught.losses(lesson)[0].abs().max()) < 1e-3


def test_the_ngram_loss_is_weighed() -> None:
    losses = []
    for weight in (0.0, 0.2, 1.0):
        taught = distiller(weight)
        taught._lessons.extend(lessons()[:2])
        taught.learn()
        losses.append(taught.loss)
    assert losses[2] - losses[0] == pytest.approx(5 * (losses[1] - losses[0]), rel=1e-3)
    assert losses[1] > losses[0]


# --- updates -------------------------------------------------------------------------------------


def test_off_by_default_and_for_one_process_only() -> None:
    assert omnidraft().distiller is None
    with pytest.raises(ConfigError, match=r"^omnidraft.every: 3 .*'process'") as error:
        omnidraft(every=3, scope="tenant")
    assert "\n" not in str(error.value)


def test_the_given_model_stays_as_it_is_and_the_text_too() -> None:
    """With updates after every request at a rate that spoils the drafter."""
    before = [weight.clone() for weight in small().parameters()]
    made = omnidraft(every=1, lr=0.05, steps=2)
    plain = Engine(habit(), TARGET, method="plain", policy="fixed")
    request = Request(TARGET.encode("the "), limits=Limits(max_new_tokens=40))
    expected = plain.run([request])[0].tokens
    for seed in range(3):
        assert run(made, [seed], temperature=0.0)[0].tokens == expected
    assert made.distiller.updates == 3
    assert all(torch.equal(a, b) for a, b in zip(before, small().parameters(), strict=True))
    served = list(made.model.target.model.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(before, served, strict=True))
    assert not any(weight.requires_grad for weight in served)


def test_the_same_requests_teach_the_same() -> None:
    weights = []
    for _ in range(2):
        made = omnidraft(every=2, lr=1e-3)
        run(made, range(4), new=16)
        weights.append([w.clone() for w in made.model.target.model.parameters()])
    assert made.distiller.updates == 2
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_an_update_that_is_no_number_is_taken_back() -> None:
    taught = distiller()
    before = [weight.clone() for weight in taught.serving.parameters()]
    broken = copy.copy(lessons()[0])
    broken.log_p = torch.full_like(broken.log_p, math.nan)
    taught._lessons.append(broken)
    taught.learn()
    assert (taught.updates, len(taught)) == (0, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, taught.serving.parameters(), strict=True))
    assert all(bool(w.isfinite().all()) for w in taught._weights)


def test_every_part_helps_in_the_papers_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """direct map < n-grams < + distillation < + the n-grams' loss (our notes on omnidraft, 7 and
    9.6), in tokens per step on texts that were not learned from."""
    with monkeypatch.context() as patch:
        patch.setattr(OmniDraft, "learn", lambda *_, **__: None)
        direct = rate(omnidraft())
    learned = omnidraft()
    run(learned, range(2))
    rates, state = [direct, rate(learned)], learned.state()
    texts = [lesson for lesson in lessons() if lesson.grams]
    for weight in (0.0, 0.2):
        made = omnidraft(every=10**6, ngram_weight=weight, lr=1e-3)
        made.load(state)
        for update in range(200):
            made.distiller._lessons.append(texts[update % len(texts)])
            made.distiller.learn()
        rates.append(rate(made))
    assert rates == sorted(rates)
    assert len(set(rates)) == 4
