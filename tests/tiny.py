"""Tiny random models of many families, the plain decoding that is their truth, and requests."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf
from torch import Tensor

from foretoken import registry
from foretoken.draft.base import Context, Drafter
from foretoken.engine.build import Method, build, options
from foretoken.engine.engine import Engine
from foretoken.learn.recipes.specdec_head import SpecdecHead
from foretoken.learn.rest import build_store
from foretoken.policy.base import Policy
from foretoken.target.hf import HFTarget
from foretoken.target.load import set_attention
from foretoken.types import Completion, Limits, Request, Sampling
from tests.tokenizers_of_kinds import characters

VOCAB = 97
WINDOW = 8  # sliding windows are shorter than the contexts of the tests

_NONE = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
_OLD = {**_NONE, "vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
_LEAN = {
    **_NONE, "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256,
}  # fmt: skip
_GQA = {**_LEAN, "num_key_value_heads": 2}
_HEAD8 = {**_GQA, "head_dim": 8}

FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: tf.LlamaConfig(**_GQA),
    "qwen2": lambda: tf.Qwen2Config(**_GQA),
    "qwen3": lambda: tf.Qwen3Config(**_HEAD8),
    "mistral": lambda: tf.MistralConfig(**_GQA, sliding_window=WINDOW),
    "gemma2": lambda: tf.Gemma2Config(**_HEAD8, sliding_window=WINDOW),
    "gemma3": lambda: tf.Gemma3TextConfig(
        **{**_HEAD8, "num_hidden_layers": 6}, sliding_window=WINDOW
    ),
    "phi3": lambda: tf.Phi3Config(**_GQA, sliding_window=WINDOW + 1),
    "gpt2": lambda: tf.GPT2Config(**_OLD),
    "gpt-neox": lambda: tf.GPTNeoXConfig(**_LEAN),
    "gpt-j": lambda: tf.GPTJConfig(**_OLD, rotary_dim=4),
    "opt": lambda: tf.OPTConfig(
        **_NONE, vocab_size=VOCAB, hidden_size=32, ffn_dim=48, num_hidden_layers=2,
        num_attention_heads=4, word_embed_proj_dim=32, max_position_embeddings=256,
    ),
    "falcon": lambda: tf.FalconConfig(
        **_NONE, vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4
    ),
    "mixtral": lambda: tf.MixtralConfig(**_GQA, num_local_experts=4),
    "stablelm": lambda: tf.StableLmConfig(**_GQA),
    "gpt-oss": lambda: tf.GptOssConfig(**_HEAD8, num_local_experts=4, sliding_window=WINDOW),
}  # fmt: skip
ONE_LAYER = {**_GQA, "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16}
SPECIAL: dict[str, Callable[[], Any]] = {
    "six": lambda: tf.LlamaConfig(**{**ONE_LAYER, "vocab_size": 6}),
    "small": lambda: tf.LlamaConfig(**{**ONE_LAYER, "vocab_size": 32}),
    "tight": lambda: tf.LlamaConfig(
        **{**ONE_LAYER, "vocab_size": 32, "max_position_embeddings": 24}
    ),
    "short": lambda: tf.LlamaConfig(**{**_GQA, "max_position_embeddings": 24}),
    "short-gpt2": lambda: tf.GPT2Config(**{**_OLD, "n_positions": 24}),
}


def make(config: Any, seed: int = 0, std: float = 0.2) -> Any:
    """A random model whose distributions are neither flat nor sharp; eager attention, no eos. Its
    config is its own: a test may cut it."""
    config = copy.deepcopy(config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = tf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=std)
    model.generation_config = tf.GenerationConfig(pad_token_id=0, eos_token_id=None)
    return model


@cache
def model(name: str) -> Any:
    """The reference: transformers' own eager attention and cache, never touched by foretoken."""
    return make({**FAMILIES, **SPECIAL}[name]())


def fresh_target(name: str, exact: str = "default") -> HFTarget:
    """A target on an independent copy of the reference."""
    twin = copy.deepcopy(model(name))
    set_attention(twin, exact)
    return HFTarget(twin, name=name, exact=exact)


@cache
def target(name: str) -> HFTarget:
    """One target a name for the whole run: sessions come and go, as in a server."""
    return fresh_target(name)


@torch.inference_mode()
def plain_logits(name: str, tokens: Sequence[int]) -> Tensor:
    """[len(tokens), V]: a plain forward of the reference, without cache or mask."""
    return model(name)(torch.tensor([list(tokens)]), use_cache=False).logits[0]


def generate(name: str, prompts: Sequence[Sequence[int]], new: int) -> list[list[int]]:
    """What `transformers` generate writes, greedily; prompts of equal length go as one batch."""
    out: dict[tuple[int, ...], list[int]] = {}
    for length in {len(p) for p in prompts}:
        group = [tuple(p) for p in prompts if len(p) == length]
        ids = torch.tensor(group)
        done = model(name).generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new
        )
        out |= {p: row[length:].tolist() for p, row in zip(group, done, strict=True)}
    return [out[tuple(p)] for p in prompts]


def prompt(seed: int, length: int, vocab: int = VOCAB) -> list[int]:
    """Random tokens whose end repeats their start, so that copying drafters find something."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, vocab, (length,), generator=generator).tolist()
    half = length // 2
    return [*tokens[:half], *tokens[: length - half]]


def context(vocab: int = VOCAB) -> Context:
    """What drafters are told of a target without files or eos; its tokenizer is made up."""
    return Context(vocab, (), "", tokenizer=tokenizer(vocab))


def scoped(cls: type[Drafter], scope: str) -> dict[str, str]:
    """The option that sets how far a drafter's memory reaches, for those that have one."""
    return {"scope": scope} if "scope" in cls.Options.model_fields else {}


@cache
def small_model(vocab: int = VOCAB) -> HFTarget:
    """The model of `lm` drafters: it knows nothing of the targets, and is as sure of its guesses."""
    sizes = {**_GQA, "num_hidden_layers": 1, "vocab_size": vocab}
    made = make(tf.LlamaConfig(**sizes), seed=7, std=0.25)
    set_attention(made)
    return HFTarget(made, name=f"small model of {vocab}")


@cache
def nested_model(vocab: int = VOCAB) -> HFTarget:
    """The model of drafters with exits: three layers."""
    made = make(tf.LlamaConfig(**{**_GQA, "num_hidden_layers": 3, "vocab_size": vocab}), 9, 0.25)
    set_attention(made)
    return HFTarget(made, name=f"nested model of {vocab}")


@cache
def tokenizer(vocab: int) -> Any:
    """A target's, for drafters that read text: letters, then words of two letters."""
    letters = "abcdefghijkl"[: next(n for n in count(1) if n + n * n >= vocab)]
    pairs = list(product(letters, repeat=2))[: vocab - len(letters)]
    return characters(letters, pairs, eos=False)


@cache
def foreign_model() -> HFTarget:
    """The model of drafters with another vocabulary: `foreign_tokenizer`'s tokens and two rows of
    padding."""
    made = make(tf.LlamaConfig(**{**ONE_LAYER, "vocab_size": 11}), seed=3, std=0.25)
    set_attention(made)
    return HFTarget(made, name="small model of another vocabulary")


@cache
def foreign_tokenizer() -> Any:
    """Letters and two words, some of which a target's tokenizer has not."""
    return characters("abcdefz", [("b", "a"), ("c", "c")], eos=False)


class AnyWidth(SpecdecHead):
    """A head of random weights for hidden states of any width: it reads two of their numbers."""

    def forward(self, states: Tensor) -> Tensor:
        return super().forward(3.0 * states[..., :2])


@cache
def specdec_head() -> SpecdecHead:
    """It expects acceptance of some states and rejection of others, whatever they are."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return AnyWidth(2, depth=2)


def policy_options(cls: type[Policy]) -> dict[str, Any]:
    """Options for any policy: its defaults, a head for those that read one."""
    return {"head": specdec_head()} if "head" in cls.Options.model_fields else {}


def drafter_options(cls: type[Drafter], known: Sequence[int], vocab: int = VOCAB) -> dict[str, Any]:
    """Options for any drafter: its defaults, the answer for those that ask for one, a small model
    for those that run one, a datastore for those that read one."""
    given: dict[str, Any] = {}
    if "continuation" in cls.Options.model_fields:
        given["continuation"] = tuple(known)
    if "tokenizer" in cls.Options.model_fields:
        given |= {"model": foreign_model(), "tokenizer": foreign_tokenizer()}
    elif "model" in cls.Options.model_fields:
        given["model"] = small_model(vocab)
    elif "store" in cls.Options.model_fields:
        given["store"] = datastore(vocab)
    if "exits" in cls.Options.model_fields:  # some tokens are sure at once, some need all layers
        given |= {"model": nested_model(vocab), "exits": (1, 2, 3), "thresholds": (0.3, 0.35, 0)}
    if "interval" in cls.Options.model_fields:  # few updates, but such that change the drafts
        given |= {"interval": 80, "lr": 0.01, "tolerance": 1.0}
    if "recalibrate" in cls.Options.model_fields:  # two thirds of the tokens, chosen anew very soon
        given["keep"] = tuple(token for token in range(vocab) if token % 3)
        given |= {"recalibrate": 0.8, "recent": 5}
    return given


@cache
def datastore(vocab: int) -> Path:
    """A corpus of prompts that other tests use, so that retrieval finds something."""
    file = Path(tempfile.mkdtemp()) / "rest.store"
    build_store(file, [np.array(prompt(seed, 40, vocab)) for seed in range(8)], vocab, "")
    return file


def drafter(
    name: str, known: Sequence[int] = (), scope: str = "request", vocab: int = VOCAB
) -> Drafter:
    """A fresh drafter of a registered name."""
    cls = registry.find("drafter", name)
    values = {**drafter_options(cls, known, vocab), **scoped(cls, scope)}
    made: Drafter = cls(options(cls.Options, values, name), context(vocab))
    return made


def method(
    target: HFTarget,
    name: str,
    known: Sequence[int] = (),
    verifier: str = "walk",
    nodes: int = 12,
    scope: str = "request",
) -> Method:
    """A method of a registered drafter under the fixed policy."""
    made = drafter(name, known, scope, target.vocab)
    return build(target, made.context, made, "fixed", verifier, None, {"nodes": nodes})


def request(
    tokens: Sequence[int], new: int = 16, sampling: Sampling | None = None, **limits: Any
) -> Request:
    """A request; `prediction` is a wrong guess, for drafters that want one."""
    return Request(
        list(tokens), sampling or Sampling(), Limits(max_new_tokens=new, **limits),
        prediction=list(tokens),
    )  # fmt: skip


def decode(
    target: HFTarget, req: Request, name: str = "plain", known: Sequence[int] = ()
) -> Completion:
    """One request alone in an engine of its own."""
    engine = Engine(target, method="plain")
    return engine.run([req], method(target, name, known))[0]
