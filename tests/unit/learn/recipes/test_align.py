import numpy as np
import pytest
import torch
from tests import tiny

from foretoken.errors import ConfigError
from foretoken.learn.recipes import align_config
from foretoken.learn.recipes.align import Align, packable
from foretoken.learn.recipes.align_config import AlignConfig
from foretoken.learn.recipes.load import DrafterShape, new_drafter
from foretoken.learn.recipes.losses import LOSSES
from foretoken.learn.recipes.on_policy import sample
from foretoken.learn.recipes.rows import Rows
from foretoken.learn.recipes.trainer import StoppedError

SHAPE = DrafterShape(layers=1, hidden=16, heads=2, kv_heads=1, ffn=32)
BASE = {"steps": 12, "batch": 4, "micro": 2, "seq": 24, "lr": 0.01, "warmup": 2, "held_out": 0.3}
BASE |= {"eval_every": 6, "checkpoint_every": 4}


@pytest.fixture(scope="module")
def target():
    """A table of bigrams, so that a few steps learn something of it; frozen."""
    config = tiny.FAMILIES["llama"]()
    config.vocab_size, config.eos_token_id = 32, 0
    model = tiny.make(config, std=0.5)
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.zeros_(weight)
    model.generation_config.eos_token_id = 0
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def examples(target):
    """(prompt + answer, tokens of the prompt): what the target wrote."""
    prompts = [np.random.default_rng(n).integers(1, 32, 2 + n % 4).tolist() for n in range(60)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        answers = sample(target, prompts, 10, 1.0)
    return [([*p, *a], len(p)) for p, a in zip(prompts, answers, strict=True)]


def align(target, examples, work=None, given=None, **values):
    config = AlignConfig.checked(**{**BASE, **values})
    rows = Rows.of(examples, config.seq, config.seed, config.held_out)
    drafter = given or new_drafter(target, SHAPE, seed=1)
    return Align(drafter, target, rows, config, work)


def weights(run):
    return {name: value.clone() for name, value in run.drafter.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("loss", [*LOSSES, "length", "amft", "ce-text"])
def test_every_loss_raises_the_acceptance(target, examples, loss):
    run = align(target, examples, loss=loss, steps=25, mu_every=5, lr=0.03)
    before = run.evaluate()
    run.trainer.train()
    after = run.trainer.latest
    assert after["alpha"] > before["alpha"] + 0.05
    if loss == "ce":  # the likeliest token only: q gets sharper than p
        assert after["greedy"] > before["greedy"] + 0.1
    else:
        assert after["kl"] < before["kl"]
    assert ("alpha" in run.trainer.log[-1]) == (loss != "ce-text")
    if loss == "amft":
        mus = [entry["mu"] for entry in run.trainer.log]
        assert mus[:5] == [1.0] * 5
        assert len(set(mus)) > 3


def test_alpha_is_the_exact_mean_over_answers(target, examples):
    """Against one forward for every example alone."""
    run = align(target, examples, loss="lk", temperature=1.5)
    total, count = 0.0, 0
    for ids, n in examples:
        row = torch.tensor([ids])
        with torch.no_grad():
            p, q = ((m(row).logits[0, n - 1 : -1] / 1.5).softmax(-1) for m in (target, run.drafter))
        total += torch.minimum(p, q).sum().item()
        count += len(p)
    every = Rows.of(examples, 24)
    batch = every.batch(0, len(every.stream._packed))
    with torch.no_grad():
        _, metrics = run.loss(batch)
    assert metrics["alpha"].item() == pytest.approx(total / count, abs=1e-5)


def test_a_drafter_that_is_the_target_has_nothing_to_learn(target, examples):
    import copy

    twin = copy.deepcopy(target).requires_grad_(True)
    for loss in ("forward-kl", "tv", "lk", "tvd++", "lk-hybrid", "jsd", "reverse-kl"):
        run = align(target, examples, given=twin, loss=loss)
        assert run.evaluate()["alpha"] == pytest.approx(1.0, abs=1e-5)
        assert run.evaluate()["greedy"] == 1.0


@pytest.mark.parametrize(
    "values", [{"on_policy": 0.5, "on_policy_every": 3}, {"loss": "amft", "mu_every": 2}]
)
def test_interrupted_and_resumed_equals_uninterrupted(target, examples, tmp_path, values):
    whole = align(target, examples, tmp_path / "whole", **values)
    whole.trainer.train()
    first = align(target, examples, tmp_path / "parts", **values)
    with pytest.raises(StoppedError):
        first.trainer.train(stop=lambda: first.trainer.step == 5)
    torch.manual_seed(77)
    second = align(target, examples, tmp_path / "parts", **values)
    assert second.trainer.step == 5
    second.trainer.train()
    assert same(weights(second), weights(whole))


def test_the_drafters_own_answers_take_their_share(target, examples):
    run = align(target, examples, on_policy=0.375, on_policy_every=4, on_policy_tokens=6)
    replaced = []
    for step in range(8):
        batch = run.rows.batch(step, 4)
        got = run.on_policy(step, batch)
        assert got.ids.shape == batch.ids.shape
        changed = [not torch.equal(a, b) for a, b in zip(got.ids, batch.ids, strict=True)]
        replaced.append(sum(changed))
        assert changed == sorted(changed, reverse=True)  # the first rows
    assert replaced == [1, 2, 1, 2, 1, 2, 1, 2]
    prompts = {tuple(ids[:n]) for ids, n in examples}
    pool = run.on_policy.pool
    for ids, mask, positions in zip(pool.ids, pool.mask, pool.positions, strict=True):
        starts = [i for i, p in enumerate(positions.tolist()) if p == 0]
        for start in starts:
            learned = mask[start:].nonzero()
            if len(learned) and ids[start] != 0:
                end = start + int(learned[0])
                assert tuple(ids[start:end].tolist()) in prompts


def test_the_drafter_writes_what_it_is_likely_to_write(target):
    """First tokens over many draws against the model's own distribution."""
    prompt = [3, 5]
    with torch.no_grad():
        want = (target(torch.tensor([prompt])).logits[0, -1] / 0.7).softmax(-1)
    torch.manual_seed(0)
    first = [a[0] for a in sample(target, [prompt, [4, 9, 1]] * 3000, 1, 0.7)[::2]]
    got = torch.bincount(torch.tensor(first), minlength=32) / len(first)
    assert (got - want).abs().sum() / 2 < 0.05


def test_answers_end_with_the_end_of_text(target):
    torch.manual_seed(1)
    answers = sample(target, [[n, 2] for n in range(1, 30)], 40, 1.0)
    ended = [a for a in answers if 0 in a]
    assert ended
    assert all(a.index(0) == len(a) - 1 for a in ended)


def test_text_alone_needs_no_target(target, examples):
    config = AlignConfig.checked(**{**BASE, "loss": "ce-text", "steps": 40})
    rows = Rows.of(examples, config.seq, config.seed, config.held_out)
    run = Align(new_drafter(target, SHAPE), None, rows, config)
    before = run.evaluate()["loss"]
    run.trainer.train()
    assert run.evaluate()["loss"] < before - 0.1
    for loss in ("lk", "amft"):
        with pytest.raises(ConfigError, match="^loss: .*ce-text"):
            Align(new_drafter(target, SHAPE), None, rows, config.model_copy(update={"loss": loss}))


def test_what_does_not_fit_is_refused_by_name(target, examples, tmp_path):
    with pytest.raises(ConfigError, match="^drafter: '97 tokens'.*32"):
        align(target, examples, given=tiny.model("llama"))
    for values, field in (
        ({"loss": "kld"}, "loss: 'kld'"),
        ({"loss": "amft", "held_out": 0.0}, "held_out: 0.0"),
        ({"loss": "ce-text", "on_policy": 0.5}, "on_policy: 0.5"),
        ({"mu_min": 0.9, "mu_max": 0.5}, "mu_min: 0.9"),
        ({"temperature": 0.0}, "temperature: 0.0"),
    ):
        with pytest.raises(ConfigError, match=f"^{field}"):
            align(target, examples, **values)
    run = align(target, examples, tmp_path)
    with pytest.raises(StoppedError):
        run.trainer.train(stop=lambda: run.trainer.step == 2)
    other = tiny.make(target.config, seed=9).requires_grad_(False)
    with pytest.raises(ConfigError, match="^target: "):
        align(other, examples, tmp_path)
    with pytest.raises(ConfigError, match="^drafter: "):
        align(target, examples, tmp_path, given=new_drafter(target, SHAPE, seed=2))
    with pytest.raises(ConfigError, match="^temperature: 0.5"):
        align(target, examples, tmp_path, temperature=0.5)


def test_the_options_know_every_loss():
    assert set(align_config.LOSSES) == set(LOSSES)


def test_models_that_cannot_share_a_row_are_known():
    assert packable(tiny.model("llama"), tiny.model("qwen3"), None)
    assert not packable(tiny.model("llama"), tiny.model("opt"))


@pytest.mark.slow
def test_the_compiled_loss_is_the_same(target, examples):
    plain, compiled = (
        align(target, examples, loss="lk-hybrid", steps=2, compile=on) for on in (False, True)
    )
    plain.trainer.train()
    compiled.trainer.train()
    for a, b in zip(weights(plain).values(), weights(compiled).values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
