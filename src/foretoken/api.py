"""`foretoken.generate`: text for some prompts, in one call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foretoken.draft.base import Drafter
from foretoken.engine.build import options as checked
from foretoken.engine.engine import Engine
from foretoken.errors import ConfigError
from foretoken.policy.base import Policy
from foretoken.prompt.prediction import predictions
from foretoken.prompt.tokens import encode_prompt, load_tokenizer, render_chat
from foretoken.registry import DEFAULT_METHOD, DEFAULT_POLICY
from foretoken.target.base import Target
from foretoken.types import Completion, Limits, Request, Sampling
from foretoken.verify.base import Verifier

ONE_PROMPT = "a text, a list of token ids, a list of chat messages, or a list of these"


def generate(  # noqa: PLR0913
    model: Any,
    tokenizer: Any = None,
    prompts: Any = None,
    method: str | Drafter = DEFAULT_METHOD,
    *,
    options: Mapping[str, Any] | None = None,
    policy: str | Policy = DEFAULT_POLICY,
    policy_options: Mapping[str, Any] | None = None,
    verifier: str | Verifier | None = None,
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    batch_size: int = 8,
    tenant: str = "",
    prediction: Any = None,
    keep_logits: bool = False,
    dtype: str = "auto",
    device: str = "auto",
    memory: str | Path | None = None,
    **fields: Any,
) -> Completion | list[Completion]:
    """What the model writes after each prompt: a Completion for one prompt, a list for a list.

    model: a folder or hub name (loaded for this call; `dtype` and `device` are for this case), what
    `foretoken.load` returned, a Target, or a transformers model, which is used as it is and left
    unchanged. For an object, calls that follow each other share the drafters' stores and the KV
    memory, for as long as the object lives; `tenant` separates what requests may learn from.
    tokenizer: an object, or the name of a folder; not needed where the model brings its own, nor
    for token ids (`text` is then ""). prompts: a text, a list of token ids, a chat (list of
    messages, through the tokenizer's template), or a list of these.
    method, options, policy, policy_options: see `foretoken methods`. verifier: the acceptance rule,
    None for the method's own; a lossy one shows in `Completion.guarantee`. sampling, limits: or
    their fields by name (`temperature=`, `max_new_tokens=`, `stop=`, ...). Prompt i draws with
    seed + i. batch_size: how many prompts ride in one forward; the text does not depend on it.
    prediction: what the output will probably be (the document before an edit, the last answer): a
    text or token ids, for a list of prompts a list of these, None among them. It is drafted, and
    may be wrong anywhere; the text does not depend on it. `auto`, `mix` and `predicted` use it.
    memory: a file where what was learned is kept from call to call and from run to run: statistics
    of the texts, readable by whoever reads the file. None: nothing is kept.

    A Completion carries tokens, text, finish_reason, logprobs and stats (drafted, accepted,
    tokens_per_step, counts by depth, seconds by part). Raises ConfigError that names the field,
    CapabilityError for a model that cannot be sped up.
    """
    chosen, limit = _settings(sampling, limits, fields)
    file = None if memory is None else Path(memory).absolute()
    with _engine(model, tokenizer, dtype, device, file) as engine:
        one, all_ids = _encode(engine.tokenizer, prompts)
        use = engine.use(method, policy, verifier, options, policy_options)
        expected = predictions(engine.tokenizer, prediction, len(all_ids), one, use.drafter)
        requests = [
            Request(
                prompt=ids,
                sampling=chosen.model_copy(update={"seed": chosen.seed + i}),
                limits=limit,
                tenant=tenant,
                prediction=expected[i],
                id=str(i),
                keep_logits=keep_logits,
            )
            for i, ids in enumerate(all_ids)
        ]
        if batch_size < 1:
            raise ConfigError("batch_size", batch_size, "a whole number from 1")
        engine.max_sessions = batch_size
        completions = engine.run(requests, use)
    return completions[0] if one else completions


def _settings(
    sampling: Sampling | None, limits: Limits | None, fields: Mapping[str, Any]
) -> tuple[Sampling, Limits]:
    """Whole objects, or their fields by name; not both for the same thing."""
    ours = {k: v for k, v in fields.items() if k in Sampling.model_fields}
    ends = {k: v for k, v in fields.items() if k in Limits.model_fields}
    known = [*Sampling.model_fields, *Limits.model_fields]
    for name, value in fields.items():
        if name not in known:
            raise ConfigError(name, value, f"known fields: {', '.join(known)}")
        if (sampling is not None and name in ours) or (limits is not None and name in ends):
            whole = "sampling" if name in ours else "limits"
            raise ConfigError(name, value, f"a field of {whole}=, which is given as well")
    if isinstance(ends.get("stop"), str):
        ends["stop"] = (ends["stop"],)
    return (
        sampling if sampling is not None else checked(Sampling, ours),
        limits if limits is not None else checked(Limits, ends),
    )


@contextmanager
def _engine(
    model: Any, tokenizer: Any, dtype: str, device: str, memory: Path | None
) -> Iterator[Engine]:
    from foretoken.engine.shared import shared_engine
    from foretoken.learn.memory import check, remembering
    from foretoken.target.load import Loaded, load

    if memory is not None:
        check(memory)
    if isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(tokenizer)
    if isinstance(model, str | Path):
        model = load(str(model), dtype=dtype, device=device)
    else:
        for name, value in (("dtype", dtype), ("device", device)):
            if value != "auto":
                raise ConfigError(name, value, "nothing where the model is given as an object")
    if isinstance(model, Loaded):
        tokenizer = tokenizer if tokenizer is not None else model.tokenizer
        source, assets = model.target, model.folder
    elif isinstance(model, Target) or hasattr(model, "generation_config"):
        source, assets = model, model_folder(model)
    else:
        accepted = "a folder, a hub name, a transformers model, or what foretoken.load returned"
        raise ConfigError("model", type(model).__name__, accepted)
    with (
        shared_engine(source, tokenizer, assets, memory) as engine,
        remembering(engine, memory),
    ):
        yield engine


def model_folder(model: Any) -> Path | None:
    """The local folder that a model object was loaded from, where its tables may lie."""
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    return Path(name) if name and Path(name).is_dir() else None


def _encode(tokenizer: Any, prompts: Any) -> tuple[bool, list[list[int]]]:
    """Whether it is one prompt, and the token ids of each."""
    if hasattr(prompts, "tolist"):
        prompts = prompts.tolist()
    if not isinstance(prompts, str | Sequence):
        raise ConfigError("prompts", prompts, ONE_PROMPT)
    one = isinstance(prompts, str) or (
        len(prompts) > 0 and all(isinstance(item, int | Mapping) for item in prompts)
    )
    return one, [_ids(tokenizer, prompt) for prompt in ([prompts] if one else prompts)]


def _ids(tokenizer: Any, prompt: Any) -> list[int]:
    if hasattr(prompt, "tolist"):
        prompt = prompt.tolist()
    if isinstance(prompt, Sequence) and not isinstance(prompt, str):
        if all(isinstance(item, int) for item in prompt):
            return [int(item) for item in prompt]
        if not all(isinstance(item, Mapping) for item in prompt):
            raise ConfigError("prompts", prompt, ONE_PROMPT)
    elif not isinstance(prompt, str):
        raise ConfigError("prompts", prompt, ONE_PROMPT)
    if tokenizer is None:
        raise ConfigError("tokenizer", None, "a tokenizer, when prompts are not token ids")
    return (
        encode_prompt(tokenizer, prompt)
        if isinstance(prompt, str)
        else render_chat(tokenizer, prompt)
    )
