"""HFTarget: families refused by name, end-of-text tokens, windows, features."""

import pytest
import torch
import transformers as tf

from foretoken.errors import CapabilityError, ConfigError
from foretoken.target import hf
from foretoken.target.base import Job
from foretoken.target.hf import HFTarget, attention_windows
from foretoken.target.load import set_attention
from foretoken.tree import DraftTree
from tests import tiny

SIZES = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip
REFUSED = {
    "bloom": lambda: tf.BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4),
    "mpt": lambda: tf.MptConfig(vocab_size=97, d_model=32, n_layers=2, n_heads=4),
    "falcon": lambda: tf.FalconConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True
    ),
    "mamba": lambda: tf.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2),
    "jamba": lambda: tf.JambaConfig(**SIZES, num_experts=2),
    "lfm2": lambda: tf.Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]),
    "t5": lambda: tf.T5Config(
        vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=0
    ),
}  # fmt: skip
WHY = {"t5": "encoder-decoder", "bloom": "ALiBi", "mpt": "ALiBi", "falcon": "ALiBi"}


@pytest.mark.parametrize("family", REFUSED)
def test_refused_by_name(family: str) -> None:
    config = REFUSED[family]()
    cls = tf.AutoModelForSeq2SeqLM if family == "t5" else tf.AutoModelForCausalLM
    model = cls.from_config(config)
    with pytest.raises(
        CapabilityError, match=f"'{family}'.*{WHY.get(family, 'cannot be rolled back')}"
    ):
        HFTarget(model)


def test_a_model_that_makes_its_own_causal_mask_is_refused() -> None:
    """GPT-Neo hides rows by their index in the cache, so that a tree would be scored wrongly."""
    config = tf.GPTNeoConfig(
        vocab_size=97, hidden_size=32, num_layers=2, attention_types=[[["global", "local"], 1]],
        num_heads=4, window_size=8, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with pytest.raises(CapabilityError, match="gpt_neo"):
        HFTarget(tf.AutoModelForCausalLM.from_config(config, attn_implementation="eager"))


@pytest.mark.parametrize(
    ("own", "config", "expected"),
    [(7, 5, (7,)), ([7, 8], 5, (7, 8)), (None, 5, (5,)), (None, None, ())],
)
def test_end_of_text_tokens(own: object, config: object, expected: tuple[int, ...]) -> None:
    model = tiny.make(tf.LlamaConfig(**SIZES))
    model.generation_config.eos_token_id = own
    model.config.eos_token_id = config
    assert HFTarget(model).eos == expected


@pytest.mark.parametrize(
    ("family", "windows"),
    [
        ("llama", {"full_attention": None}), ("mistral", {"sliding_attention": 8}),
        ("gemma3", {"sliding_attention": 8, "full_attention": None}),
        ("phi3", {"sliding_attention": 9}),
    ],
)  # fmt: skip
def test_windows(family: str, windows: dict[str, int | None]) -> None:
    assert attention_windows(tiny.model(family)) == windows


def test_an_attention_that_ignores_masks_is_refused() -> None:
    model = tiny.make(tf.LlamaConfig(**SIZES))
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ConfigError, match="attn_implementation: 'flash_attention_2'"):
        HFTarget(model)


def test_what_it_says_of_itself() -> None:
    target = tiny.fresh_target("llama")
    assert target.features >= {"tokens", "logits"}
    assert target.max_context == 256
    assert target.how.startswith("foretoken")
    assert target.dtype == torch.float32


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_transformers_own_attention_works_too(implementation: str) -> None:
    model = tiny.make(tf.LlamaConfig(**SIZES))
    model.set_attn_implementation(implementation)
    target = HFTarget(model)
    tree = DraftTree([3, 5, 7], [-1, -1, 0])
    (scores,) = target.score([Job(target.new_cache(20), [1, 2, 3], tree)])
    with torch.inference_mode():
        plain = model(torch.tensor([[1, 2, 3, 3, 7]]), use_cache=False).logits[0]
    torch.testing.assert_close(scores.logits[[0, 1, 3]], plain[2:], atol=2e-5, rtol=1e-4)


def test_the_model_still_works_without_the_engine() -> None:
    """A user's own call after we changed the attention: padding and all."""
    twin = tiny.make(tiny.FAMILIES["llama"]())
    set_attention(twin)
    ids = torch.randint(0, 97, (2, 7))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    with torch.inference_mode():
        ours = twin(ids, attention_mask=mask).logits
        plain = tiny.model("llama")(ids, attention_mask=mask).logits
    torch.testing.assert_close(ours[mask.bool()], plain[mask.bool()], atol=2e-5, rtol=1e-4)


def test_a_family_that_is_not_known_is_tried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that obeys the mask passes; one that ignores it is refused before any work."""
    monkeypatch.setattr(hf, "TESTED", frozenset())
    tiny.fresh_target("llama")
    deaf = tiny.make(tiny.FAMILIES["llama"]())
    monkeypatch.setattr(
        type(deaf.model), "forward", _without_mask(type(deaf.model).forward), raising=True
    )
    with pytest.raises(CapabilityError, match=r"'llama': its attention does not obey a tree mask"):
        HFTarget(deaf)


def _without_mask(forward):
    def call(self, *args, attention_mask=None, **kwargs):
        return forward(self, *args, attention_mask=torch.zeros_like(attention_mask), **kwargs)

    return call


def test_positions_that_depend_on_the_forward_are_refused_or_bounded() -> None:
    """Dynamic scaling looks at the longest position of a forward; long rope does beyond a length."""
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = tf.AutoModelForCausalLM.from_config(tf.LlamaConfig(**SIZES, rope_parameters=dynamic))
    with pytest.raises(CapabilityError, match=r"'llama' with rope_type 'dynamic'"):
        HFTarget(model)
    scaled = {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4, "original_max_position_embeddings": 64,
    }  # fmt: skip
    config = tf.Phi3Config(
        **SIZES, rope_parameters=scaled, max_position_embeddings=256,
        original_max_position_embeddings=64,
    )  # fmt: skip
    model = tf.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    assert HFTarget(model).max_context == 64
