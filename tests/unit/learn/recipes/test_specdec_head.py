"""SpecDec++'s head: both forms, its probability with the weight undone, and its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foretoken.errors import ArtifactError, ConfigError
from foretoken.learn.recipes.specdec_head import (
    FILE,
    HeadFacts,
    SpecdecHead,
    corrected,
    folder_hash,
    load_head,
    save_head,
)

H = 12
STATES = torch.randn(7, H, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("depth", range(5))
def test_parameters(depth: int) -> None:
    untied = sum(p.numel() for p in SpecdecHead(H, depth).parameters())
    assert untied == depth * (H**2 + H) + 2 * H + 2
    tied = sum(p.numel() for p in SpecdecHead(H, depth, tied=True).parameters())
    assert tied == (H**2 + 3 * H + 2 if depth else 2 * H + 2)


@pytest.mark.parametrize("tied", [False, True])
def test_the_function_is_the_papers(tied: bool) -> None:
    head = SpecdecHead(H, 3, tied)
    x = STATES
    for d in range(3):
        block = head.blocks[0 if tied else d]
        x = x + nn.functional.silu(x @ block.weight.T + block.bias)
    torch.testing.assert_close(head(STATES), x @ head.out.weight.T + head.out.bias)
    low = head(STATES.bfloat16())
    assert low.dtype == torch.float32, "the head is float32 whatever the drafter is"


def test_the_weight_is_undone() -> None:
    """Odds of acceptance times w."""
    f = torch.tensor([0.1, 0.5, 0.9])
    back = corrected(f, 6.0)
    torch.testing.assert_close(back / (1 - back), 6.0 * f / (1 - f))
    torch.testing.assert_close(corrected(f, 1.0), f)
    head = SpecdecHead(H, 1, weight=6.0)
    plain, undone = head.accepted(STATES), head.accepted(STATES, undo=True)
    expected = corrected(torch.tensor(plain), 6.0).tolist()
    assert undone == pytest.approx(expected, rel=1e-4)


def test_predictions_are_never_sure() -> None:
    head = SpecdecHead(H, 0)
    with torch.no_grad():
        head.out.bias.copy_(torch.tensor([0.0, 99.0]))
    assert head.accepted(STATES) == pytest.approx([0.999] * 7)
    with torch.no_grad():
        head.out.bias.neg_()
    assert head.accepted(STATES) == pytest.approx([0.01] * 7)


@pytest.mark.parametrize("tied", [False, True])
def test_the_file_goes_round(tmp_path: Path, tied: bool) -> None:
    head, facts = SpecdecHead(H, 2, tied, 3.0), HeadFacts(hidden=H, depth=2, tied=tied, weight=3.0)
    path = save_head(tmp_path, head, facts)
    assert [p.name for p in tmp_path.iterdir()] == [FILE]
    for place in (tmp_path, path):
        again, told = load_head(place)
        assert told == facts
        assert (again.depth, again.tied, again.weight) == (2, tied, 3.0)
        assert torch.equal(again(STATES), head(STATES))


def test_the_papers_checkpoints_are_read(tmp_path: Path) -> None:
    """One block under the name of each; safetensors keep only one of the names."""
    head = SpecdecHead(H, 3, tied=True)
    block = {f"linear.{part}": value for part, value in head.blocks[0].state_dict().items()}
    out = {f"model.3.{part}": value for part, value in head.out.state_dict().items()}
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": H, "num_layers": 3}))
    everyone = {f"model.{d}.{part}": value for d in range(3) for part, value in block.items()}
    torch.save({**everyone, **out}, tmp_path / "pytorch_model.bin")
    first, facts = load_head(tmp_path)
    assert facts == HeadFacts(hidden=H, depth=3, tied=True, weight=6.0)
    assert torch.equal(first(STATES), head(STATES))
    one = {f"model.1.{part}": value for part, value in block.items()}
    save_file({**one, **out}, tmp_path / "model.safetensors")
    second, _ = load_head(tmp_path)
    assert torch.equal(second(STATES), head(STATES))
    assert not torch.equal(SpecdecHead(H, 3)(STATES), head(STATES))


def test_what_is_no_head(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing", tmp_path / FILE):
        with pytest.raises(ConfigError, match=r"^head: .*specdec-head"):
            load_head(place)
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": H}))
    with pytest.raises(ConfigError, match=r"^head: .*specdec-head"):
        load_head(tmp_path)


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = save_head(tmp_path, SpecdecHead(H), HeadFacts(hidden=H))
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(ArtifactError, match="train it anew") as error:
        load_head(tmp_path)
    assert "\n" not in str(error.value)
    for facts in (HeadFacts(hidden=H, depth=2), HeadFacts(hidden=H + 1)):
        save_head(tmp_path, SpecdecHead(H), facts)
        with pytest.raises(ArtifactError, match="train it anew") as error:
            load_head(tmp_path)
        assert "\n" not in str(error.value)
    path.write_bytes(whole.replace(b"version", b"versiom"))
    with pytest.raises(ArtifactError, match="not readable"):
        load_head(tmp_path)


def test_a_head_knows_its_drafter_by_its_weights(tmp_path: Path) -> None:
    assert folder_hash(tmp_path) == ""
    weights = {"w": torch.arange(100_000.0)}
    save_file(weights, tmp_path / "model.safetensors")
    first = folder_hash(tmp_path)
    save_head(tmp_path, SpecdecHead(H), HeadFacts(hidden=H))
    assert folder_hash(tmp_path) == first, "files beside the weights do not count"
    save_file({"w": weights["w"] * 1.001}, tmp_path / "model.safetensors")
    assert folder_hash(tmp_path) != first
