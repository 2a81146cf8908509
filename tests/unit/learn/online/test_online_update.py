"""Gradient steps on what was observed: right rows, right losses, nothing else touched."""

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from tests import tiny
from tests.unit.learn.online import toys
from tests.unit.learn.online.toys import V, options, same, table, text, texts
from tests.unit.learn.online.toys import llama as drafter

from foretoken.draft.lm_model import SmallModel
from foretoken.learn.online.buffer import Sample
from foretoken.learn.online.loss import AMFT, ONLINE, accepted, coarse, names
from foretoken.learn.online.options import OnlineOptions
from foretoken.learn.online.update import RAMP, Trainee
from foretoken.learn.recipes.losses import LOSSES, forward_kl, reverse_kl
from foretoken.target.hf import HFTarget
from foretoken.target.linear import pack_linears

A = table(1)


def watched(out: torch.Tensor, seen: list) -> None:
    """Its gradient can be read later."""
    out.retain_grad()
    seen.append(out)


def trainee(**values: Any) -> Trainee:
    return toys.trainee(drafter(), **{"lr": 0.01, **values})


class TestLosses:
    P = torch.randn(5, 7, generator=torch.Generator().manual_seed(1)) * 2
    Q = torch.randn(5, 7, generator=torch.Generator().manual_seed(2)) * 2

    def pair(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = self.P.topk(k).indices
        return coarse(self.P, ids), coarse(self.Q, ids)

    def test_the_rest_is_what_the_others_have(self) -> None:
        ids = self.P.topk(3).indices
        q = self.Q.softmax(-1)
        found = coarse(self.Q, ids).exp()
        torch.testing.assert_close(found[:, :3], q.gather(-1, ids))
        torch.testing.assert_close(found[:, 3], 1 - q.gather(-1, ids).sum(-1))
        far = coarse(torch.tensor([[300.0, 0.0, 0.0, 1.0]]), torch.tensor([[0, 3]]))
        assert far.isfinite().all()

    @pytest.mark.parametrize("name", ["forward-kl", "reverse-kl", "jsd", "tv", "lk", "osd-mix"])
    def test_coarse_rows_bound_the_whole_ones_from_below(self, name: str) -> None:
        whole = ONLINE[name](self.P.log_softmax(-1), self.Q.log_softmax(-1))
        for k in (1, 3, 5):
            assert (ONLINE[name](*self.pair(k)) <= whole + 1e-6).all()
        torch.testing.assert_close(ONLINE[name](*self.pair(6)), whole)

    def test_acceptance_is_never_flattered(self) -> None:
        whole = torch.minimum(self.P.softmax(-1), self.Q.softmax(-1)).sum(-1)
        for k in (1, 3, 6):
            assert (accepted(*self.pair(k)) <= whole + 1e-6).all()

    def test_what_the_published_code_calls_jsd_has_its_own_name(self) -> None:
        pair = self.pair(4)
        mixed = 0.9 * forward_kl(*pair) + 0.1 * reverse_kl(*pair)
        torch.testing.assert_close(ONLINE["osd-mix"](*pair), mixed)
        assert not torch.allclose(ONLINE["jsd"](*pair), mixed, rtol=0.05)
        assert {*names()} == {*LOSSES, "osd-mix", AMFT}

    def test_an_unknown_loss_is_refused(self) -> None:
        with pytest.raises(ValueError, match="must be one of forward-kl"):
            OnlineOptions(loss="kl")


@pytest.mark.parametrize("loss", names())
def test_steps_make_acceptance_grow(loss: str) -> None:
    """Greedy cross-entropy is judged by what it is for: the target's likeliest token."""
    one, samples = trainee(loss=loss), texts(A, range(12))

    def right() -> float:
        if loss != "ce":
            return one.acceptance(samples)
        found = [one.logits(s).argmax(-1).numpy() == s.ids[:, 0] for s in samples]
        return float(np.mean(found))

    before = right()
    done = one.learn([samples[i % 12 :][:4] for i in range(0, 60, 4)], held_out=samples[:3])
    assert (done.steps, done.finite, done.late) == (15, True, False)
    assert right() > before + 0.03


def test_only_recorded_rows_are_learned_from() -> None:
    """The gradient in the logits is zero everywhere but at the positions of the sample."""
    one = trainee()
    one._cuts = False  # all rows are worked out, so that all can be looked at
    outputs = []
    one.model.lm_head.register_forward_hook(lambda _m, _i, out: watched(out, outputs))
    sample = text(A, 1)
    wrong = sample.only(np.flatnonzero(sample.wrong))
    one.learn([[wrong]])
    (rows,) = outputs
    moved = rows.grad[0].abs().sum(-1).nonzero().flatten()
    assert moved.tolist() == wrong.positions.tolist()
    assert rows.shape[1] == wrong.positions[-1] + 1, "nothing after the last of them is read"


def test_the_gradient_is_q_minus_p_at_the_row_that_was_wrong() -> None:
    """The row before the corrected token, not the corrected token's own."""
    one = trainee()
    one._cuts = False
    outputs = []
    one.model.lm_head.register_forward_hook(lambda _m, _i, out: watched(out, outputs))
    sample = text(A, 4, top=V - 1)
    j = 6
    one.learn([[sample.only([j])]])
    p = A[int(sample.tokens[j])].softmax(-1)
    (rows,) = outputs
    torch.testing.assert_close(rows.grad[0, j], rows[0, j].softmax(-1) - p, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_rows_are_those_of_the_model(name: str) -> None:
    """Every family gives the chosen rows alone; the temperature is taken."""
    model = tiny.model(name)
    one = Trainee(model, options())
    tokens = tiny.prompt(3, 15)
    places = np.array([2, 7, 14])
    sample = Sample(np.array(tokens), places, places > 9, np.zeros((3, 2), dtype=np.int64),
                    np.zeros((3, 3), dtype=np.float32), 0.5, True)  # fmt: skip
    with torch.no_grad():
        found = one.logits(sample)
    torch.testing.assert_close(
        found, tiny.plain_logits(name, tokens)[places] / 0.5, atol=1e-4, rtol=1e-3
    )


def test_a_batch_is_the_mean_over_its_rows() -> None:
    """Whoever stands beside it: two texts together move as the rows' weights say."""
    samples = [text(A, 1), text(A, 2, length=7)]
    n = sum(map(len, samples))
    grads = []
    for batch, share in (([samples[0]], 20 / n), ([samples[1]], 7 / n), (samples, 1.0)):
        one = trainee()
        with torch.enable_grad(), one._trainable():
            one._gradient(batch, ONLINE["forward-kl"], math.inf)
            grads.append([weight.grad * share for weight in one.weights])
    for a, b, both in zip(*grads, strict=True):
        torch.testing.assert_close(a + b, both, atol=1e-6, rtol=1e-4)


def test_the_first_steps_are_small() -> None:
    """AdamW's first step moves every weight by the rate, whatever the gradient."""
    one, moved = trainee(), []
    for _ in range(RAMP):
        before = [weight.clone() for weight in one.weights]
        one.learn([texts(A, range(4))])
        moved.append(
            max(float((a - b).abs().max()) for a, b in zip(before, one.weights, strict=True))
        )
    assert moved[0] == pytest.approx(0.01 / RAMP, rel=0.01)
    assert moved[-1] > 3 * moved[0]


def test_the_same_texts_give_the_same_weights() -> None:
    made = [trainee(), trainee()]
    for one in made:
        one.learn([texts(A, range(4)), texts(A, range(2, 5))])
    assert same(made[0].weights, made[1].weights)
    assert not same(made[0].weights, list(drafter().parameters()))


class TestNothingElse:
    def test_the_given_model_is_not_written_to(self) -> None:
        before = [weight.clone() for weight in drafter().parameters()]
        trainee(lr=0.3).learn([texts(A, range(4))] * 3)
        assert same(before, list(drafter().parameters()))
        assert not any(weight.requires_grad and weight.grad is not None
                       for weight in drafter().parameters())  # fmt: skip

    def test_restore_is_bit_for_bit(self) -> None:
        one = trainee(lr=0.3)
        one.learn([texts(A, range(4))])
        one.keep()
        kept = [weight.clone() for weight in one.weights]
        one.learn([texts(A, range(4, 8))] * 2)
        assert not same(kept, one.weights)
        one.restore()
        assert same(kept, one.weights)
        moments = [state["exp_avg"] for state in one._optimiser.state.values()]
        assert moments
        assert not any(bool(moment.any()) for moment in moments)

    @pytest.mark.parametrize("fault", ["p", "weights"])
    def test_what_is_no_number_changes_nothing(self, fault: str) -> None:
        one, sample = trainee(), text(A, 1)
        if fault == "p":
            sample.log_p[3] = math.nan
        else:
            with torch.no_grad():
                one.model.lm_head.weight[2] = math.inf
        before = [weight.clone() for weight in one.weights]
        done = one.learn([[text(A, 2), sample], [text(A, 3)]])
        assert (done.steps, done.finite) == (0, False)
        assert same(before, one.weights)
        assert all(weight.grad is None for weight in one.weights)

    @pytest.mark.parametrize("seconds", [-1.0, 0.0])
    def test_time_is_up(self, seconds: float) -> None:
        one = trainee()
        done = one.learn([texts(A, range(3))], seconds)
        assert (done.steps, done.late, done.finite) == (0, True, True)
        assert same(one.weights, list(drafter().parameters()))

    def test_the_callers_modes_do_not_matter(self) -> None:
        one = trainee()
        with torch.inference_mode():
            other = trainee()
            other.learn([texts(A, range(3))])
            other.keep()
            other.restore()
        one.learn([texts(A, range(3))])
        assert same(one.weights, other.weights)


def test_weights_that_are_laid_out_for_few_rows_are_learned_from() -> None:
    """A model that we loaded has no plain weights any more; tied ones stay tied."""
    config = tf.LlamaConfig(
        vocab_size=1024, hidden_size=512, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
        bos_token_id=None, eos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    plain = tiny.make(config)
    packed = copy.deepcopy(plain)
    assert pack_linears(packed) == 1
    small = SmallModel(HFTarget(packed))
    made = [Trainee(model, options()) for model in (plain, small.target.model)]
    sample = text(table(5, 1024), 1)
    for one in made:
        assert one.model.lm_head.weight is one.model.get_input_embeddings().weight
        one.learn([[sample]])
    for a, b in zip(made[0].weights, made[1].weights, strict=True):
        assert torch.equal(a, b)


class TestBalance:
    def test_mu_moves_within_its_bounds(self) -> None:
        one, samples = trainee(loss=AMFT), texts(A, range(12))
        assert one.balance is not None
        seen = [one.balance.mu]
        for _ in range(40):
            one.learn([samples[:4], samples[4:8]], held_out=samples[8:])
            seen.append(one.balance.mu)
        assert seen[0] == 1.0
        assert len(set(seen)) > 2
        assert all(0.0 <= mu <= 1.0 for mu in seen)
        assert max(abs(a - b) for a, b in itertools.pairwise(seen)) <= 0.05 + 1e-6

    def test_with_imitation_alone_it_is_forward_kl(self) -> None:
        one, other = trainee(loss=AMFT), trainee()
        for each in (one, other):
            each.learn([texts(A, range(4))])
        for a, b in zip(one.weights, other.weights, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)

    def test_a_value_that_is_no_number_leaves_mu(self) -> None:
        one, sample = trainee(loss=AMFT), text(A, 1)
        sample.log_p[0] = math.nan
        one.learn([texts(A, range(2, 4))], held_out=[sample])
        assert one.balance is not None
        assert one.balance.mu == 1.0
