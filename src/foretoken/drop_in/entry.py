"""`foretoken.hf`: the decoding method behind `model.generate(..., custom_generate=foretoken.hf)`.

transformers prepares the call (GenerationConfig, processors, criteria, padding, streamer's prompt)
and hands it over; the rows are decoded as sessions of one engine, and what comes back is what
transformers itself would give back: greedy text token for token, sampled text in distribution.

What differs, on purpose:
- A row that has ended holds pad tokens; its `scores` and `logits` from there on are a point mass
  on the pad token (transformers gives rows of no meaning there). `past_key_values` is None.
- Sampling draws from numbers derived from one draw of torch's global generator: calls repeat
  after `torch.manual_seed`, but the same seed gives another text than transformers' own loop.
- The user's processors and criteria see one row at a time, [1, L], padding included.
- Without an end-of-text token, a row that a criterion ended is padded (transformers writes on).
- The model decodes in eval mode, with a KV cache of our own whatever `use_cache` says.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.generation.stopping_criteria import StoppingCriteriaList, StopStringCriteria

from foretoken.api import model_folder
from foretoken.drop_in.check import check_config, check_inputs, starts, undelivered
from foretoken.drop_in.output import Stream, as_output
from foretoken.drop_in.rows import Batch, request_of
from foretoken.engine.build import Method
from foretoken.engine.engine import Engine
from foretoken.engine.shared import shared_engine
from foretoken.errors import ConfigError
from foretoken.prompt.prediction import predictions
from foretoken.prompt.tokens import load_tokenizer
from foretoken.registry import DEFAULT_METHOD, DEFAULT_POLICY
from foretoken.target.suited import refuse_unsuited
from foretoken.types import Request, Session

MOST_ROWS = 64  # rows that ride together; further ones follow as rows end
NEVER = "foretoken.hf itself; foretoken.hf.generate takes the place of model.generate"


class DropIn:
    """See the module. Drafting is chosen per call: `model.generate(..., custom_generate=
    foretoken.hf, method="prompt-lookup", method_options={"length": 8})`.

    method, method_options, policy, policy_options, verifier: as in `foretoken.generate`. tenant:
    what may be learnt from one call for the next. prediction: what will probably be written, a list
    with the token ids for each prompt or None. Calls on the same model object share the drafters'
    stores. With return_dict_in_generate the output has `.stats`, one foretoken Stats per row.
    Raises ConfigError that names the field for what cannot be done (beam search, ...).
    """

    def __call__(  # noqa: PLR0913
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Sequence[Any],
        stopping_criteria: StoppingCriteriaList,
        generation_config: Any,
        synced_gpus: bool | None = None,
        streamer: Any = None,
        *,
        method: Any = DEFAULT_METHOD,
        method_options: Mapping[str, Any] | None = None,
        policy: Any = DEFAULT_POLICY,
        policy_options: Mapping[str, Any] | None = None,
        verifier: Any = None,
        tenant: str = "",
        prediction: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """Decode a prepared call. input_ids: [B, L]. Returns [B, L + n] or a ModelOutput."""
        call = {"streamer": streamer, "synced_gpus": synced_gpus}
        call.update({k: v for k, v in undelivered(model).items() if v is not None})
        _check(model, input_ids, generation_config, call, model_kwargs)
        batch = _batch(input_ids, logits_processor, stopping_criteria, generation_config, tenant,
                       starts(input_ids, model_kwargs.get("attention_mask")))  # fmt: skip
        pad = _pad_token(generation_config, batch)
        folder = model_folder(model)
        tokenizer = _tokenizer(folder) if folder is not None else None
        with shared_engine(model, tokenizer, folder) as engine:
            use = engine.use(method, policy, verifier, method_options, policy_options)
            prompts = len(input_ids) // batch.samples
            likely = predictions(tokenizer, prediction, prompts, False, use.drafter)
            batch = replace(batch, predictions=likely)
            pairs = [request_of(batch, row) for row in range(len(input_ids))]
            stream = Stream(call["streamer"], pad)
            engine.max_sessions = min(len(pairs), MOST_ROWS)
            done = _decode(engine, [request for request, _ in pairs], use, stream)
        return as_output(generation_config, batch, done, [rules for _, rules in pairs], pad)

    def generate(self, model: Any, *inputs: Any, tokenizer: Any = None, **kwargs: Any) -> Any:
        """`model.generate(*inputs, custom_generate=foretoken.hf, **kwargs)`, `stop_strings` too.

        transformers 5.23 does not let a custom decoding method have a tokenizer, and refuses
        `stop_strings` without one; here they become the StopStringCriteria that it would make.
        """
        config = kwargs.get("generation_config")
        if config is not None and hasattr(config, "_pad_token_tensor"):
            raise ConfigError("custom_generate", "foretoken.hf.generate", NEVER)
        config = copy.deepcopy(config if config is not None else model.generation_config)
        strings = kwargs.pop("stop_strings", None) or config.stop_strings
        if strings:
            if tokenizer is None:
                raise ConfigError("tokenizer", None, "a tokenizer, when stop_strings is given")
            config.stop_strings = None
            kwargs["generation_config"] = config
            own = StopStringCriteria(tokenizer=tokenizer, stop_strings=strings)
            given = kwargs.get("stopping_criteria") or []
            kwargs["stopping_criteria"] = StoppingCriteriaList([own, *given])
        return model.generate(*inputs, custom_generate=self, **kwargs)


hf = DropIn()


def _decode(
    engine: Engine, requests: Sequence[Request], method: Method, stream: Stream
) -> list[Session]:
    sessions: list[Session] = []
    try:
        for request in requests:
            sessions.append(engine.add(request, method))
        while any(s.finish_reason is None for s in sessions):
            engine.step()
            stream.push(sessions)
    finally:
        for session in sessions:
            engine.cancel(session)
    stream.end()
    return sessions


def _check(
    model: Any, input_ids: Tensor, config: Any, call: Mapping[str, Any], kwargs: Mapping[str, Any]
) -> None:
    refuse_unsuited(model)
    check_config(config)
    for name, accepted in (("assistant_model", "None: foretoken drafts with `method`"),
                           ("synced_gpus", "False: one process, one model")):  # fmt: skip
        if call.get(name):
            raise ConfigError(name, type(call[name]).__name__, accepted)
    check_inputs(input_ids, kwargs)


def _batch(
    input_ids: Tensor, processors: Sequence[Any], criteria: Any, config: Any, tenant: str,
    first: list[int],
) -> Batch:  # fmt: skip
    wanted = bool(config.return_dict_in_generate)
    # one draw a call, whatever is drafted: what follows in the user's program repeats as well
    seed = int(torch.randint(2**62, (1,))) if config.do_sample else 0
    return Batch(
        input_ids=input_ids,
        starts=first,
        processors=processors,
        criteria=criteria,
        sampling=bool(config.do_sample),
        seed=seed,
        samples=config.num_return_sequences or 1,
        keep_scores=bool(wanted and config.output_scores),
        keep_logits=bool(wanted and config.output_logits),
        tenant=tenant,
    )


def _pad_token(config: Any, batch: Batch) -> int:
    pad = getattr(config, "_pad_token_tensor", None)
    if pad is not None:
        return int(pad)
    if len(batch.input_ids) > 1 and batch.own_criteria:
        raise ConfigError("pad_token_id", None, "a token id, when rows may end at different places")
    return 0  # never written: all rows end together


@cache
def _tokenizer(folder: Path) -> Any:
    """Of the model's own folder: drafters may have tables there, keyed by the tokenizer."""
    try:
        return load_tokenizer(folder)
    except ConfigError:
        return None
