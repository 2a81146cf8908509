import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from foretoken.cli.main import main
from foretoken.cli.train_lm import SourceOptions, recipe
from foretoken.errors import ConfigError
from foretoken.learn.bpe import EOS, train_bpe
from foretoken.learn.checkpoint import load_checkpoint
from foretoken.learn.lm import LmRun
from foretoken.learn.lm_config import LmConfig
from foretoken.learn.lm_export import export
from foretoken.learn.optim import Muon, build_optimisers, orthogonal, schedule
from foretoken.learn.packing import IGNORED, RowStream, encode, held_out_rows
from foretoken.learn.recipes.trainer import StoppedError, Trainer, TrainingError
from foretoken.prompt.tokens import load_tokenizer, tokenizer_hash

END = 0


@pytest.fixture(scope="module")
def trained(tiny, corpus, tmp_path_factory):
    run = LmRun(tiny.model_copy(update={"steps": 40}), corpus, tmp_path_factory.mktemp("trained"))
    run.train()
    return run


def documents(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [np.append(rng.integers(1, 50, n - 1), END).astype(np.int32) for n in lengths]


def test_every_document_ends_with_the_end_of_text_token(corpus):
    tokenizer = train_bpe([d.text for d in corpus.train], 300, 64)
    encoded = encode(tokenizer, corpus.train)
    assert len(encoded) == len(corpus.train)
    for ids, document in zip(encoded, corpus.train, strict=True):
        assert tokenizer.decode(ids) == document.text + EOS
        assert (ids == tokenizer.eos_token_id).sum() == 1


def test_rows_keep_short_documents_whole_and_lose_almost_nothing():
    ids = documents([5, 9, 14, 3, 7, 16, 11, 6, 60, 45])
    stream = RowStream(ids, seq=16, seed=3)
    rows = stream.rows(0, len(stream._packed)).numpy()
    assert rows.shape[1] == 17
    assert sum(len(d) for d in ids) - rows.size < 17
    text = [" " + " ".join(map(str, row)) + " " for row in rows]
    for short in ids[:8]:
        assert any(" " + " ".join(map(str, short)) + " " in row for row in text)


def test_rows_depend_on_their_number_only():
    ids = documents([5, 9, 14, 3, 7, 40])
    count = len(RowStream(ids, 16, 0)._packed)
    far = RowStream(ids, 16, 0).rows(5 * count - 2, 4)
    stream = RowStream(ids, 16, 0)
    one_by_one = torch.cat([stream.rows(n, 1) for n in range(5 * count + 2)])
    assert torch.equal(far, one_by_one[5 * count - 2 :])
    assert torch.equal(stream.rows(0, 3), one_by_one[:3])  # and back again
    assert not torch.equal(RowStream(ids, 16, 1).rows(0, 4), one_by_one[:4])


def test_held_out_rows_are_padded_without_loss():
    inputs, targets = held_out_rows(documents([4, 30]), seq=8, limit=5)
    assert inputs.shape == targets.shape == (2, 8)
    assert targets[0, 2] == END
    assert (targets[0, 3:] == IGNORED).all()
    assert torch.equal(inputs[1, 1:], targets[1, :-1])


def test_schedule_warms_up_stays_and_decays_to_nearly_zero():
    config = LmConfig.checked(steps=100, warmup=10, decay=0.25)
    rates = [schedule(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:75] == [1.0] * 66
    assert all(a > b for a, b in pairwise(rates[75:]))
    assert 0 < rates[-1] < 0.05
    longer = LmConfig.checked(steps=200, warmup=10, decay=0.25)
    assert [schedule(step, longer) for step in range(75)] == rates[:75]


def test_muon_updates_are_nearly_orthogonal():
    matrices = torch.randn(3, 12, 20)
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert values.min() > 0.5
    assert values.max() < 1.3
    torch.testing.assert_close(orthogonal(matrices.mT), orthogonal(matrices).mT)


def test_muon_gets_the_matrices_and_adam_the_rest(trained):
    muon, adam = build_optimisers(trained.model, 0.01, 0.1)
    assert isinstance(muon, Muon)
    shapes = [[tuple(p.shape) for p in o.param_groups[0]["params"]] for o in (muon, adam)]
    assert len(shapes[0]) == 7  # q k v o gate up down
    assert (300, 16) not in shapes[0]
    assert (300, 16) in shapes[1]


def test_training_learns_and_reports(trained, corpus, tiny):
    assert trained.log[0]["loss"] == pytest.approx(math.log(300), rel=0.05)
    assert trained.log[-1]["loss"] < trained.log[0]["loss"] - 1.5
    first, last = (trained.log[i]["held_out"] for i in (3, -1))
    assert set(last) == {"function", "module", "qa"}
    assert all(last[kind] < first[kind] for kind in last)


def test_some_steps_have_rows_twice_as_long(trained):
    trainer, shapes = trained.trainer, []
    made = trainer.step
    for trainer.step in range(4):
        shapes.append([tuple(span.inputs.shape) for span, _ in trainer._batches()])
    trainer.step = made
    assert shapes == [[(2, 32)] * 2] * 3 + [[(1, 64)] * 2]


def test_nan_stops_and_keeps_the_last_good_checkpoint(tiny, corpus, tmp_path):
    run = LmRun(tiny, corpus, tmp_path)

    def poison(now):
        if now.step == 4:
            with torch.no_grad():
                next(run.model.parameters()).fill_(float("nan"))

    with pytest.raises(TrainingError, match=r"loss nan .* step 5.*checkpoint"):
        run.train(poison)
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert saved["step"] == 3
    assert all(torch.isfinite(value).all() for value in saved["weights"].values())


def test_the_exported_folder_is_a_model_of_transformers(trained, tmp_path):
    out = tmp_path / "made"
    out.mkdir()
    (out / "aded.table").write_text("stays")
    result = export(trained, out, "foretoken train lm --out made")
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert type(model) is LlamaForCausalLM
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    ids = tokenizer("Question: 1?\nAnswer:", return_tensors="pt").input_ids
    trained.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, trained.model(ids).logits)
    trained.model.train()
    for kind, loss in result["held_out_loss"].items():
        assert abs(result["held_out_loss_stored"][kind] - loss) <= 0.002
    card = (out / "README.md").read_text()
    for stated in (result["corpus"]["sha256"], "Somebody", result["command"], "maths_train.jsonl"):
        assert stated in card
    assert "{" not in card
    log = json.loads((out / "training_log.json").read_text())
    assert [entry["step"] for entry in log["curve"]] == list(range(1, 41))
    assert (out / "loss.svg").read_text().startswith("<svg ")
    assert (out / "aded.table").read_text() == "stays"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heads": 3}, "heads: 3"),
        ({"kv_heads": 3}, "kv_heads: 3"),
        ({"batch": 1000}, "batch: 1000"),
        ({"seq": 1024}, "seq: 1024"),
        ({"decay": 0}, "decay: 0"),
        ({"lr": -1.0}, "lr: -1.0"),
        ({"bogus": 1}, "bogus: 1"),
    ],
)
def test_bad_options_are_named(values, message):
    with pytest.raises(ConfigError, match=f"^{message} is not accepted"):
        LmConfig.checked(**values)


def test_the_recipe_repeats_the_run_without_private_paths():
    config = LmConfig.checked(steps=7, compile=False)
    sources = SourceOptions([Path("data/a.jsonl")], True)
    command = recipe(config, Path("/home/me/demo"), sources)
    assert command == ("foretoken train lm --out demo --data data/a.jsonl --steps 7 --no-compile")
    shared = SourceOptions([], False, Path("/home/me/models/target"))
    command = recipe(LmConfig.checked(vocab=300), Path("drafter"), shared)
    assert command == "foretoken train lm --out drafter --no-stdlib --tokenizer target"


@pytest.fixture(scope="module")
def target_folder(trained, tmp_path_factory):
    """A model as a user has it, whose tokenizer a drafter must share."""
    folder = tmp_path_factory.mktemp("target")
    export(trained, folder, "foretoken train lm --out target")
    return folder


def test_a_drafter_takes_its_targets_tokenizer(tiny, corpus, target_folder, tmp_path):
    """Another corpus would give another tokenizer: the target's is taken, whatever `vocab` says."""
    other = replace(corpus, train=corpus.train[: len(corpus.train) // 3])
    config = tiny.model_copy(update={"vocab": 290, "steps": 2})
    run = LmRun(config, other, tmp_path / "work", tokenizer=target_folder)
    assert run.config.vocab == 300
    assert run.model.get_input_embeddings().weight.shape[0] == 300
    assert not (tmp_path / "work" / "tokenizer").exists()  # nothing was trained
    run.train()
    export(run, tmp_path / "drafter", "foretoken train lm --out drafter")
    hashes = {tokenizer_hash(load_tokenizer(f)) for f in (target_folder, tmp_path / "drafter")}
    assert len(hashes) == 1
    own = LmRun(config, other, tmp_path / "own")
    assert tokenizer_hash(own.tokenizer) not in hashes


def test_a_drafters_run_goes_on_with_the_same_tokenizer(tiny, corpus, target_folder, tmp_path):
    whole = LmRun(tiny, corpus, tmp_path / "whole", tokenizer=target_folder)
    whole.train()
    begun = LmRun(tiny, corpus, tmp_path / "halves", tokenizer=target_folder)
    with pytest.raises(StoppedError):
        begun.train(stop=lambda: begun.step == 3)
    again = LmRun(tiny, corpus, tmp_path / "halves", tokenizer=target_folder)
    assert again.step == 3
    again.train()
    for ours, theirs in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_folder_without_a_tokenizer_is_refused(tiny, corpus, tmp_path):
    with pytest.raises(ConfigError, match=r"^tokenizer: .*tokenizer\.json"):
        LmRun(tiny, corpus, tmp_path / "work", tokenizer=tmp_path)


def arguments(tiny, rows, out):
    words = ["train", "lm", "--out", str(out), "--data", str(rows), "--no-stdlib", "--no-compile"]
    for name, value in tiny.model_dump(exclude={"compile"}).items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return words


def test_the_command_trains_resumes_and_refuses(tiny, sources, tmp_path, capfd):
    words = arguments(tiny, sources[1], tmp_path / "out")
    assert main([*words, "--json"]) == 0
    printed = capfd.readouterr()
    result = json.loads(printed.out.splitlines()[-1])
    assert result["steps"] == 8
    assert str(tmp_path) not in result["command"]
    assert (tmp_path / "out.ckpt" / "checkpoint.pt").exists()

    assert main([*words, "--steps", "10", "--json"]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["steps"] == 10

    assert main([*words, "--hidden", "32"]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("foretoken: hidden: 32 is not")
    assert main([*words, "--data", "missing.jsonl"]) == 2
    assert "missing.jsonl" in capfd.readouterr().err


def test_the_command_shares_a_tokenizer(tiny, sources, target_folder, tmp_path, capfd):
    words = [*arguments(tiny, sources[1], tmp_path / "drafter"), "--steps", "2", "--json"]
    assert main([*words, "--tokenizer", str(target_folder)]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert f"--tokenizer {target_folder.name}" in result["command"]
    assert "--vocab" not in result["command"]  # it follows from the tokenizer
    hashes = {tokenizer_hash(load_tokenizer(f)) for f in (target_folder, tmp_path / "drafter")}
    assert len(hashes) == 1
    assert main([*words, "--tokenizer", str(tmp_path)]) == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "tokenizer" in last
    assert "tokenizer.json" in last


def test_ctrl_c_writes_a_checkpoint_and_exits_130(tiny, sources, tmp_path, capfd, monkeypatch):
    step = Trainer._train_step

    def interrupted(run):
        import signal

        if run.step == 4:
            signal.raise_signal(signal.SIGINT)
        return step(run)

    monkeypatch.setattr(Trainer, "_train_step", interrupted)
    assert main(arguments(tiny, sources[1], tmp_path / "out")) == 130
    assert "step 5 of 8; the same command goes on" in " ".join(capfd.readouterr().err.split())
    assert load_checkpoint(tmp_path / "out.ckpt" / "checkpoint.pt")["step"] == 5
