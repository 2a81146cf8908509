"""A byte-level BPE tokenizer, trained on documents and kept as a Hugging Face folder."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from foretoken.errors import ConfigError

EOS = "<|endoftext|>"
PAD = "<|pad|>"
SMALLEST_VOCAB = 256 + 2  # every byte, and the two special tokens

# cl100k's split with one digit at a time: numbers are read and written digit by digit.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The prompt ends at "Answer:" whether or not a generation prompt is asked for: nothing follows.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}Question: {{ message['content'] }}\nAnswer:"
    "{% elif message['role'] == 'assistant' %} {{ message['content'] }}{{ eos_token }}"
    "{% else %}{{ message['content'] }}\n{% endif %}"
    "{% endfor %}"
)


def train_bpe(texts: Iterable[str], vocab: int, max_length: int) -> PreTrainedTokenizerFast:
    """Learn `vocab` tokens from `texts`; the same texts give the same tokenizer.

    Any text (without lone surrogates) comes back unchanged from encode and decode. Raises
    ConfigError if `vocab` cannot hold the 256 bytes and the special tokens.
    """
    if vocab < SMALLEST_VOCAB:
        raise ConfigError("vocab", vocab, f"at least {SMALLEST_VOCAB}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
        chat_template=CHAT_TEMPLATE,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, chat template included, to `folder`."""
    tokenizer.save_pretrained(folder, save_jinja_files=False)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Read what `save_tokenizer` wrote."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer
