"""Tokenizers: identity, chats, empty prompts. The tokenizer is trained here, from a few lines."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from foretoken.errors import ConfigError
from foretoken.prompt.tokens import encode_prompt, load_tokenizer, render_chat, tokenizer_hash

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make(text: str = "hello world, hello tokens", **kwargs) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270, special_tokens=["<s>", "</s>", "<pad>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", **kwargs
    )


def test_hash_survives_saving_and_encoding(tmp_path) -> None:
    tokenizer = make()
    first = tokenizer_hash(tokenizer)
    assert len(first) == 64
    tokenizer(["hello", "hello world hello"], padding=True, truncation=True, max_length=2)
    assert tokenizer_hash(tokenizer) == first
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.encode("hello world") == tokenizer.encode("hello world")
    assert tokenizer_hash(again) == first


def test_hash_sees_vocabulary_merges_and_added_tokens() -> None:
    base = tokenizer_hash(make())
    assert tokenizer_hash(make()) == base
    assert tokenizer_hash(make("other text, other merges")) != base
    more = make()
    more.add_tokens(["<new>"])
    assert tokenizer_hash(more) != base


def test_hash_without_a_fast_backend_is_that_of_the_vocabulary() -> None:
    class Slow:
        def __init__(self, vocab) -> None:
            self.get_vocab = lambda: vocab

    assert tokenizer_hash(Slow({"a": 0, "b": 1})) == tokenizer_hash(Slow({"b": 1, "a": 0}))
    assert tokenizer_hash(Slow({"a": 0, "b": 1})) != tokenizer_hash(Slow({"a": 1, "b": 0}))


def test_load_names_a_folder_without_tokenizer(tmp_path) -> None:
    with pytest.raises(ConfigError, match="tokenizer"):
        load_tokenizer(tmp_path / "nothing")


def test_chat_goes_through_the_template() -> None:
    tokenizer = make(chat_template=TEMPLATE)
    ids = render_chat(tokenizer, [{"role": "user", "content": "hello"}])
    assert all(type(i) is int for i in ids)
    assert tokenizer.decode(ids) == "<user>hello<assistant>"


def test_chat_errors_are_configuration_errors() -> None:
    message = {"role": "user", "content": "hello"}
    with pytest.raises(ConfigError, match="no chat template"):
        render_chat(make(), [message])
    with pytest.raises(ConfigError, match="at least one message"):
        render_chat(make(chat_template=TEMPLATE), [])
    with pytest.raises(ConfigError, match="no tools"):
        render_chat(make(chat_template=TEMPLATE), [{"role": "tool", "content": "x"}])


def test_prompts_round_trip_and_empty_ones_need_bos() -> None:
    tokenizer = make()
    assert tokenizer.decode(encode_prompt(tokenizer, "hello é")) == "hello é"
    with pytest.raises(ConfigError, match="BOS"):
        encode_prompt(tokenizer, "")
    with_bos = make(bos_token="<s>")
    assert encode_prompt(with_bos, "") == [with_bos.bos_token_id]
