"""Record a short trace: what the target writes, or the reference texts it is made to follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from foretoken.bench.prompts import Prompt
from foretoken.engine.engine import Engine
from foretoken.errors import ConfigError
from foretoken.learn.recorder import Recorder
from foretoken.learn.trace import Trace
from foretoken.prompt.tokens import tokenizer_hash
from foretoken.registry import NULL_METHOD, NULL_POLICY
from foretoken.target.cost import CostCurve
from foretoken.types import Limits, Request, Sampling, Session, Step
from foretoken.verify.forced import Forced

if TYPE_CHECKING:
    from foretoken.target.load import Loaded


def record(
    loaded: Loaded,
    prompts: Sequence[Prompt],
    curve: CostCurve,
    max_new_tokens: int,
    sampling: Sampling,
    forced: bool = False,
    on_tokens: Callable[[int], None] = lambda _: None,
) -> tuple[Trace, bool]:
    """(trace, whether it was interrupted): the texts of plain decoding, one after the other.

    forced: the target runs every forward, the prompts' references are what is written. Ctrl-C keeps
    what was recorded. Raises ConfigError if there is nothing to record.
    """
    if forced:
        prompts = [prompt for prompt in prompts if prompt.reference]
    if not prompts:
        raise ConfigError("forced", "no reference text", "prompts with a reference text")
    target = loaded.target
    engine = Engine(
        target, loaded.tokenizer, method=NULL_METHOD, policy=NULL_POLICY, max_sessions=1
    )
    recorder = Recorder(target, tokenizer_hash(loaded.tokenizer), curve=curve)

    def on_step(session: Session, step: Step) -> None:
        recorder(session, step)
        on_tokens(len(step.committed.tokens))

    interrupted = False
    try:
        for i, prompt in enumerate(prompts):
            method = engine.method
            limits = Limits(max_new_tokens=max_new_tokens)
            if forced:
                following = (prompt.reference or [])[:max_new_tokens]
                limits = Limits(max_new_tokens=len(following), ignore_eos=True)
                method = replace(method, verifier=Forced([*prompt.tokens, *following]))
            drawn = sampling.model_copy(update={"seed": sampling.seed + i})
            request = Request(
                prompt.tokens, drawn, limits, prediction=prompt.prediction, id=prompt.name
            )
            engine.run([request], method, on_step)
    except KeyboardInterrupt:
        interrupted = True
    trace = recorder.trace()
    if not trace.requests:
        raise KeyboardInterrupt  # nothing to go on with
    return trace, interrupted
