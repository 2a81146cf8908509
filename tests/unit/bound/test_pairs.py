"""Pairs from two tiny models are the models' own laws; files of laws are checked."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from foretoken.bound.pairs import Source, check_same_shape, read_laws, rows_after, spread
from foretoken.errors import ConfigError
from foretoken.types import Sampling
from tests import tiny


def plain_laws(name: str, tokens: list[int], temperature: float) -> np.ndarray:
    return torch.softmax(tiny.plain_logits(name, tokens).double() / temperature, dim=-1).numpy()


def test_pairs_are_the_laws_of_a_plain_forward():
    """Llama writes, Qwen2 of the same vocabulary drafts; both read the same text."""
    prompt, temperature, new = tiny.prompt(1, 9), 0.7, 11
    source = Source(tiny.target("llama"), tiny.target("qwen2"), new, seed=3)
    pairs = list(source.pairs(prompt, temperature, 100))
    assert len(pairs) == new
    request = tiny.request(prompt, new, Sampling(temperature=temperature, seed=3))
    text = tiny.decode(tiny.target("llama"), request).tokens
    for side, name in enumerate(("llama", "qwen2")):
        expected = plain_laws(name, [*prompt, *text], temperature)[len(prompt) - 1 : -1]
        found = np.stack([pair[side] for pair in pairs])
        assert found == pytest.approx(expected, abs=1e-5)
    some = list(source.pairs(prompt, temperature, 3))
    for pair, at in zip(some, spread(new, 3), strict=True):
        assert pair[1] == pytest.approx(pairs[at][1], abs=1e-7)


def test_long_texts_are_read_in_pieces(monkeypatch):
    prompt, text = tiny.prompt(2, 5), tiny.prompt(3, 23)
    target = tiny.fresh_target("llama")
    whole = rows_after(target, prompt, text)
    monkeypatch.setattr(target, "max_draft", 4)
    pieces = rows_after(target, prompt, text)
    expected = tiny.plain_logits("llama", [*prompt, *text])[len(prompt) - 1 :]
    assert whole.shape == pieces.shape == expected.shape
    assert torch.allclose(whole, expected, atol=1e-4)
    assert torch.allclose(pieces, expected, atol=1e-4)
    assert rows_after(target, prompt, []).shape == (1, tiny.VOCAB)


def test_a_drafter_of_short_context_reads_what_fits():
    prompt = tiny.prompt(4, 20)
    source = Source(tiny.target("llama"), tiny.target("short"), 16, seed=0)
    assert len(list(source.pairs(prompt, 1.0, 100))) == 4  # 24 positions, 20 of them the prompt's
    assert list(source.pairs(tiny.prompt(4, 30), 1.0, 100)) == []


def test_positions_are_spread_evenly():
    assert spread(10, 3) == [1, 5, 8]
    assert spread(3, 10) == [0, 1, 2]
    assert spread(7, 1) == [3]
    assert spread(0, 4) == []


def test_laws_from_files(tmp_path):
    law = [0.25, 0.75]
    np.save(tmp_path / "p.npy", np.array([law, law]))
    (tmp_path / "q.json").write_text(json.dumps(law))
    p, q = read_laws("p", tmp_path / "p.npy"), read_laws("q", tmp_path / "q.json")
    assert p.shape == (2, 2)
    assert q.tolist() == [law]
    with pytest.raises(ConfigError, match="q: '1 laws' .* as many laws as p has: 2"):
        check_same_shape(p, q)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[0.5, 0.4]", "sums to 0.9"),
        ("[1.5, -0.5]", "finite numbers from 0"),
        ("[NaN, 1]", "finite numbers from 0"),
        ("[[0.5, 0.5], [1]]", "lists of equal length"),
        ("{}", "numbers"),
        ("nothing", "numbers"),
        ("[]", "one law or a list"),
        ("[[[1.0]]]", "one law or a list"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as error:
        read_laws("p", path)
    assert str(error.value).startswith("p: ")


def test_files_of_other_kinds_and_missing_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"\.npy or \.json"):
        read_laws("p", tmp_path / "p.txt")
    with pytest.raises(ConfigError, match="readable file"):
        read_laws("q", tmp_path / "q.npy")
    (tmp_path / "q.npy").write_bytes(b"")
    with pytest.raises(ConfigError, match="numbers"):
        read_laws("q", tmp_path / "q.npy")
