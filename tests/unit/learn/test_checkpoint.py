import errno

import pytest
import torch

from foretoken.errors import ArtifactError, ConfigError
from foretoken.learn.checkpoint import load_checkpoint, save_checkpoint
from foretoken.learn.lm import LmRun
from foretoken.learn.recipes.trainer import StoppedError


def weights(run):
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "new" / "checkpoint.pt"
    assert load_checkpoint(path) is None
    save_checkpoint(path, {"step": 3, "model": {"w": torch.arange(4.0)}})
    state = load_checkpoint(path)
    assert state["step"] == 3
    assert torch.equal(state["model"]["w"], torch.arange(4.0))
    assert [entry.name for entry in path.parent.iterdir()] == ["checkpoint.pt"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1})

    def full(_state, file):
        file.write(b"half a checkpoint")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("keep", [0, 7, 0.5])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"model": torch.zeros(1000)})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if keep < 1 else keep])
    with pytest.raises(ArtifactError, match="checkpoint"):
        load_checkpoint(path)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"step": pytest.raises}, path)
    with pytest.raises(ArtifactError, match="not a readable checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_interrupted_and_resumed_equals_uninterrupted(tiny, corpus, tmp_path, stop_after):
    whole = LmRun(tiny, corpus, tmp_path / "whole")
    whole.train()

    first = LmRun(tiny, corpus, tmp_path / "parts")
    with pytest.raises(StoppedError, match=f"after step {stop_after} of 8") as caught:
        first.train(stop=lambda: first.step == stop_after)
    assert caught.value.exit_code == 130
    torch.manual_seed(99)  # another process has another state
    second = LmRun(tiny, corpus, tmp_path / "parts")
    assert second.step == stop_after
    second.train()

    assert same(weights(second), weights(whole))
    losses = [[(e["step"], e["loss"], e.get("held_out")) for e in r.log] for r in (second, whole)]
    assert losses[0] == losses[1]


def test_a_killed_run_goes_on_from_its_last_checkpoint(tiny, corpus, tmp_path):
    whole = LmRun(tiny, corpus, tmp_path / "whole")
    whole.train()
    killed = LmRun(tiny, corpus, tmp_path / "killed")

    def kill(now):
        if now.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed.train(kill)
    resumed = LmRun(tiny, corpus, tmp_path / "killed")
    assert resumed.step == 3
    resumed.train()
    assert same(weights(resumed), weights(whole))


def test_more_steps_continue_as_if_planned_from_the_start(tiny, corpus, tmp_path):
    longer = tiny.model_copy(update={"steps": 12})
    whole = LmRun(longer, corpus, tmp_path / "whole")
    whole.train()
    begun = LmRun(tiny, corpus, tmp_path / "grown")
    with pytest.raises(StoppedError):
        begun.train(stop=lambda: begun.step == 5)  # before the decay of either
    grown = LmRun(longer, corpus, tmp_path / "grown")
    grown.train()
    assert same(weights(grown), weights(whole))


@pytest.mark.parametrize(
    ("field", "value"), [("hidden", 32), ("seed", 1), ("lr", 0.02), ("steps", 2)]
)
def test_another_configuration_is_refused_by_field(tiny, corpus, tmp_path, field, value):
    run = LmRun(tiny, corpus, tmp_path)
    with pytest.raises(StoppedError):
        run.train(stop=lambda: run.step == 3)
    other = tiny.model_copy(update={field: value})
    with pytest.raises(ConfigError, match=f"^{field}: {value}"):
        LmRun(other, corpus, tmp_path)
    if field != "steps":
        assert LmRun(other, corpus, tmp_path, resume=False).step == 0


def test_another_corpus_is_refused(tiny, corpus, tmp_path):
    LmRun(tiny, corpus, tmp_path).train()
    other = type(corpus)(corpus.train[1:], corpus.held_out, corpus.sources)
    with pytest.raises(ConfigError, match=r"^data: "):
        LmRun(tiny, other, tmp_path)
