import numpy as np
import pytest
import torch
from tests import tiny

from foretoken.errors import ConfigError
from foretoken.learn.bpe import train_bpe
from foretoken.learn.recipes.align import Align
from foretoken.learn.recipes.align_config import AlignConfig
from foretoken.learn.recipes.load import DrafterShape, new_drafter
from foretoken.learn.recipes.losses import forward_kl
from foretoken.learn.recipes.mixing import Stage
from foretoken.learn.recipes.on_policy import sample
from foretoken.learn.recipes.pretrain import Pretrain, PretrainConfig, default_stages, text_rows
from foretoken.learn.recipes.rows import Rows
from foretoken.learn.recipes.trainer import StoppedError

SHAPE = DrafterShape(layers=1, hidden=16, heads=2, kv_heads=1, ffn=32)
SEQ = 24
BASE = {"batch": 4, "micro": 4, "seq": SEQ, "lr": 0.02, "warmup": 2, "eval_every": 50}


def bigrams(seed, std=0.5):
    """A target that is a table of bigrams over 32 tokens; token 0 ends a text."""
    config = tiny.FAMILIES["llama"]()
    config.vocab_size, config.eos_token_id = 32, 0
    model = tiny.make(config, seed=seed, std=std)
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.zeros_(weight)
    model.generation_config.eos_token_id = 0
    return model.requires_grad_(False)


def written(model, count, seed, first, tokens=16):
    """(prompt + answer, tokens of the prompt) with prompts that begin with one of `first`."""
    rng = np.random.default_rng(seed)
    prompts = [[int(rng.choice(first))] for _ in range(count)]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        answers = sample(model, prompts, tokens, 1.0)
    return [([*p, *a], 1) for p, a in zip(prompts, answers, strict=True)]


def documents(examples):
    return [np.array(ids, np.int32) for ids, _ in examples]


def pretrained(sources, stages, drafter, **values):
    run = Pretrain(drafter, sources, stages, PretrainConfig.checked(**{**BASE, **values}))
    run.trainer.train()
    return run


def aligned(drafter, target, rows, steps):
    config = AlignConfig.checked(**{**BASE, "steps": steps, "loss": "ce-text", "held_out": 0.0})
    run = Align(drafter, target, rows, config)
    run.trainer.train()


def acceptance(drafter, target, examples):
    """Exact alpha on all of them."""
    rows = Rows.of(examples, SEQ)
    config = AlignConfig.checked(**{**BASE, "steps": 1, "held_out": 0.0, "loss": "lk"})
    run = Align(drafter, target, rows, config)
    run.held = rows.batch(0, len(rows.stream._packed))
    return run.evaluate()["alpha"]


def test_every_stage_raises_the_acceptance_and_alignment_alone_is_worse():
    """FastDraft's claim: the target speaks much like the text of PT, and not quite."""
    language, target = bigrams(0), bigrams(0)
    with torch.no_grad():
        for weight in target.parameters():
            weight.add_(
                0.25
                * torch.randn(weight.shape, generator=torch.Generator().manual_seed(5))
                * weight.std()
            )
    text = Rows.of_documents(documents(written(language, 400, 1, range(1, 32))), [], SEQ)
    answers = Rows.of(written(target, 60, 2, range(1, 32)), SEQ)
    held = written(target, 80, 3, range(1, 32))

    drafter = new_drafter(target, SHAPE, seed=3)
    alphas = [acceptance(drafter, target, held)]
    pretrained({"text": text}, [Stage(120, {"text": 1})], drafter)
    alphas.append(acceptance(drafter, target, held))
    aligned(drafter, target, answers, 40)
    alphas.append(acceptance(drafter, target, held))
    alone = new_drafter(target, SHAPE, seed=3)
    aligned(alone, target, answers, 40)
    assert alphas[0] + 0.05 < alphas[1] < alphas[2], alphas
    assert acceptance(alone, target, held) < alphas[2] - 0.02


def test_without_code_in_the_second_stage_code_suffers_and_text_does_not():
    """Two domains over disjoint tokens: what one teaches says nothing of the other."""
    table = torch.full((32, 32), -8.0)  # tokens 1..15 follow each other, and so do 16..31
    table[1:16, 1:16] = table[16:, 16:] = 0
    table += 1.5 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    table[:, 0] = -2.0
    target = table_model(table)
    side = {"text": range(1, 16), "code": range(16, 32)}
    sources = {
        name: Rows.of_documents(documents(written(target, 300, n, first)), [], SEQ)
        for n, (name, first) in enumerate(side.items())
    }
    alphas = {}
    for name, mix in (("mixed", {"text": 1, "code": 1}), ("text only", {"text": 1})):
        drafter = new_drafter(target, SHAPE, seed=1)
        stages = [Stage(60, {"text": 1}), Stage(90, mix)]
        pretrained(sources, stages, drafter)
        alphas[name] = {
            domain: acceptance(drafter, target, written(target, 60, 9, first))
            for domain, first in side.items()
        }
    assert alphas["mixed"]["code"] > alphas["text only"]["code"] + 0.1
    assert abs(alphas["mixed"]["text"] - alphas["text only"]["text"]) < 0.08


def table_model(table):
    """A Llama whose next-token logits are a row of `table` [32, 32]."""
    model = bigrams(0)
    model.lm_head.weight = torch.nn.Parameter(table.T.clone(), requires_grad=False)
    with torch.no_grad():
        # rows of the embedding have length sqrt(32), which the final norm leaves
        model.model.embed_tokens.weight.copy_(torch.eye(32) * 32**0.5)
        model.lm_head.weight.div_(32**0.5)
    return model


def test_the_table_is_the_model():
    table = torch.randn(32, 32)
    logits = table_model(table)(torch.arange(32)[:, None]).logits[:, 0]
    torch.testing.assert_close(logits, table, atol=1e-4, rtol=1e-4)


def test_text_of_the_target_teaches_what_its_logits_teach():
    """Sequence-level distillation has the minimiser of forward KL, given enough samples."""
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(8, 12, generator=generator).log_softmax(-1)
    counts = torch.stack([
        torch.bincount(torch.multinomial(row.exp(), 40_000, True, generator=generator), minlength=12)
        for row in p
    ])  # fmt: skip

    def fitted(loss):
        logits = torch.zeros_like(p, requires_grad=True)
        optimiser = torch.optim.Adam([logits], lr=0.1)
        for step in range(300):
            optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
            optimiser.zero_grad()
            loss(logits.log_softmax(-1)).backward()
            optimiser.step()
        return logits.softmax(-1).detach()

    share = counts / counts.sum(-1, keepdim=True)
    by_text = fitted(lambda log_q: -(share * log_q).sum(-1).mean())
    by_logits = fitted(lambda log_q: forward_kl(p, log_q).mean())
    assert ((by_text - by_logits).abs().sum(-1) / 2).max() < 0.02


def test_stages_follow_each_other_and_a_run_resumes(tmp_path):
    target = bigrams(0)
    sources = {
        name: Rows.of_documents(
            docs := documents(written(target, 60, n, range(1, 32))), docs[:9], SEQ
        )
        for n, name in enumerate(("text", "code"))
    }
    stages = [Stage(4, {"text": 1}), Stage(4, {"text": 1, "code": 2})]
    config = PretrainConfig.checked(**{**BASE, "eval_every": 4, "checkpoint_every": 3})

    def run(work):
        return Pretrain(new_drafter(target, SHAPE), sources, stages, config, work)

    whole = run(tmp_path / "whole")
    whole.trainer.train()
    assert whole.trainer.step == 8
    assert set(whole.trainer.latest) == {"text", "code"}
    parts = run(tmp_path / "parts")
    with pytest.raises(StoppedError):
        parts.trainer.train(stop=lambda: parts.trainer.step == 5)
    again = run(tmp_path / "parts")
    again.trainer.train()
    for a, b in zip(whole.drafter.parameters(), again.drafter.parameters(), strict=True):
        assert torch.equal(a, b)
    other = [Stage(3, {"text": 1}), Stage(5, {"text": 1, "code": 2})]
    with pytest.raises(ConfigError, match="^data: "):
        Pretrain(new_drafter(target, SHAPE), sources, other, config, tmp_path / "parts")


def test_default_stages_are_text_then_all():
    assert default_stages(10, ["text", "code"]) == [
        Stage(6, {"text": 1.0}),
        Stage(4, {"text": 1.0, "code": 1.0}),
    ]
    assert default_stages(10, ["code"]) == [Stage(10, {"code": 1.0})]


def test_rows_of_a_corpus_are_in_the_targets_tokens(corpus):
    tokenizer = train_bpe([d.text for d in corpus.train], 300, 64)
    rows = text_rows(corpus, tokenizer, 32, 0)
    text = tokenizer.decode(rows.batch(0, 30).ids.flatten().tolist())
    assert "Return the sum" in text
    assert len(rows.held_out()) > 0
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="^tokenizer: .*end-of-text"):
        text_rows(corpus, tokenizer, 32, 0)
