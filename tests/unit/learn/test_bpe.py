import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from foretoken.errors import ConfigError
from foretoken.learn.bpe import (
    EOS,
    PAD,
    SMALLEST_VOCAB,
    load_tokenizer,
    save_tokenizer,
    train_bpe,
)
from foretoken.learn.lm_config import LmConfig

TEXTS = ["def add(a, b):\n    return a + b\n", "Question: 12 and 34?\nAnswer: <<12+34=46>>46."] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TEXTS, 300, 64)


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("  two  spaces \t\r\n\n and 1,234.5 !  ")
@example("a ,b 's n't ")  # what cleaning up spaces would break
@example("naïve 日本語 🙂 \x00\x7f" + EOS + PAD)
def test_every_text_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_are_single_tokens(tokenizer):
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("12+34=46")["input_ids"])
    assert all(len(piece) == 1 for piece in pieces if piece.isdigit())
    assert sum(piece.isdigit() for piece in pieces) == 6


def test_training_is_repeatable_and_merges_something(tokenizer):
    again = train_bpe(TEXTS, 300, 64)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert len(tokenizer(TEXTS[0])["input_ids"]) < len(TEXTS[0])
    assert len(tokenizer) <= 300


def test_special_tokens_and_template_survive_saving(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["tokenizer.json", "tokenizer_config.json"]
    assert (loaded.eos_token, loaded.pad_token, loaded.bos_token) == (EOS, PAD, None)
    assert loaded("hello 12")["input_ids"] == tokenizer("hello 12")["input_ids"]
    turns = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2+2?"},
    ]
    text = loaded.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == f"Question: 1+1?\nAnswer: 2{EOS}Question: 2+2?\nAnswer:"


def test_a_vocabulary_must_hold_all_bytes():
    with pytest.raises(ConfigError, match="vocab: 257"):
        train_bpe(TEXTS, SMALLEST_VOCAB - 1, 64)
    assert LmConfig.checked(vocab=SMALLEST_VOCAB).vocab == SMALLEST_VOCAB
    with pytest.raises(ConfigError, match="vocab: 257"):
        LmConfig.checked(vocab=SMALLEST_VOCAB - 1)
