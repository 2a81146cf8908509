"""Small tokenizers of different kinds, trained here and now on a few sentences."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXT = (
    "The quick brown fox jumps over the lazy dog; the dog sleeps, the fox does not.",
    "Each of the 12 boxes holds 3 apples, so there are 36 apples in all: 12 * 3 = 36.",
    "def double(x):\n    return x * 2\n\n\ndef half(x):\n    return x / 2\n",
    "Un café naïve à la Straße, 東京とモスクワ: Москва. 😀🚀 hello, hello world! 👩‍🚀",
)
MERGES = (("t", "h"), ("th", "e"), ("i", "n"), ("a", "n"), ("e", "r"))


def _fast(inner: Tokenizer, **names: str) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


@cache
def byte_bpe() -> Any:
    """GPT-2's kind: bytes as letters, merges, the space inside a word's first token."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>", "<|user|>"], show_progress=False,
    )  # fmt: skip
    inner.train_from_iterator(TEXT, trainer)
    return _fast(inner, eos_token="<|end|>")


@cache
def bytes_only() -> Any:
    """A byte each."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate([*letters, "<eos>"])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<eos>"])
    return _fast(inner, eos_token="<eos>")


@cache
def unigram() -> Any:
    """SentencePiece's kind: U+2581 for spaces, no byte tokens, unknown characters."""
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=170, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>",
        show_progress=False,
    )  # fmt: skip
    inner.train_from_iterator(TEXT, trainer)
    return _fast(inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def fallback() -> Any:
    """Llama's kind: merges over characters, U+2581, and <0x..> for what has no token; a BOS."""
    letters = sorted({*"".join(TEXT[:3]), "▁"} - {" ", "\n"})
    names = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *letters]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "a"), ("l", "l"), ("o", "x")]
    names += ["".join(pair) for pair in merges]
    inner = Tokenizer(
        models.BPE(
            vocab={name: i for i, name in enumerate(names)}, merges=merges, byte_fallback=True,
            unk_token="<unk>", fuse_unk=True,
        )
    )  # fmt: skip
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1),
        ]
    )
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    from tokenizers.processors import TemplateProcessing

    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _fast(inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def characters(letters: str, merges: Sequence[tuple[str, str]] = (), eos: bool = True) -> Any:
    """One token a letter, and what is merged from them, in this order; the last one ends texts."""
    names = [*letters, *("".join(pair) for pair in merges)]
    inner = Tokenizer(
        models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=list(merges))
    )
    inner.decoder = decoders.Fuse()
    if not eos:
        return _fast(inner)
    inner.add_special_tokens(["<eos>"])
    return _fast(inner, eos_token="<eos>")


KINDS = {
    "byte-level BPE": byte_bpe,
    "bytes": bytes_only,
    "unigram": unigram,
    "byte fallback": fallback,
}
