"""The floor: which bytes a forward must read."""

import torch

from foretoken.bench import floor
from tests import tiny


def test_every_weight_is_read_but_the_rows_of_the_table():
    model = tiny.model("llama")
    tied = model.config.tie_word_embeddings
    total = sum(p.numel() for p in model.parameters())
    table = model.get_input_embeddings().weight.numel()
    expected = total if tied else total - table
    assert floor.weight_bytes(model, torch.float32) == 4 * expected
    assert floor.weight_bytes(model, torch.bfloat16) == 2 * expected


def test_packed_weights_count_as_what_they_are():
    target = tiny.target("llama")
    assert floor.weight_bytes(target.model, target.dtype) == floor.weight_bytes(
        tiny.model("llama"), target.dtype
    )


def test_the_document_has_forwards_beside_the_floor(monkeypatch):
    monkeypatch.setattr(floor, "BUFFER", 8 * floor.MB)
    found = floor.floor(tiny.target("llama"), rows=(1, 5))
    assert found is not None
    assert found.seconds == found.weight_mb * floor.MB / (found.read_gb_per_s * 1e9)
    assert list(found.forwards) == [1, 5]
