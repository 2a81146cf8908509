"""What peers are given is the model that is measured, widened or not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from foretoken.bench.peers.export import exported


@pytest.mark.parametrize("widen", [1, 2])
def test_the_folder_has_the_models_outputs(
    widen: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an epsilon that matters: a widened model's norms average over zeros, too."""
    monkeypatch.setenv("FORETOKEN_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, rms_norm_eps=0.1, initializer_range=0.2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "model")
    made = exported(tmp_path / "model", widen)
    assert exported(tmp_path / "model", widen) == made
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        found = AutoModelForCausalLM.from_pretrained(made).eval()(ids).logits
        torch.testing.assert_close(found, model(ids).logits, atol=1e-4, rtol=1e-4)
