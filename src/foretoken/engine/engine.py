"""Engine: many sessions on one target, each with its own method, joining and leaving at any step."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from foretoken.commit.stop import StopRule
from foretoken.commit.text import TextStream
from foretoken.draft.base import Context, Drafter
from foretoken.engine.build import Method, build
from foretoken.engine.loop import step
from foretoken.errors import ConfigError
from foretoken.policy.base import Policy
from foretoken.prompt.sampling import Warper
from foretoken.prompt.tokens import tokenizer_hash
from foretoken.target.base import NoCache, Target
from foretoken.types import Completion, Request, Session, Step
from foretoken.verify.base import Verifier

DRAFT_ROWS = 64  # rows of memory that a session keeps free for drafts


class Engine:
    """Decodes requests together, one target forward a step for all of them.

    target: what to speed up. tokenizer: needed for text and stop strings only. method: default of
    the requests (a name of `foretoken methods` or a Drafter). max_sessions: how many ride together;
    further ones wait. assets: the model's folder, where a method may find its own files.
    """

    def __init__(  # noqa: PLR0913
        self,
        target: Target,
        tokenizer: Any = None,
        *,
        method: str | Drafter = "aded",
        policy: str | Policy = "fixed",
        verifier: str | Verifier = "walk",
        options: Mapping[str, Any] | None = None,
        policy_options: Mapping[str, Any] | None = None,
        max_sessions: int = 8,
        assets: Path | None = None,
    ) -> None:
        if max_sessions < 1:
            raise ConfigError("max_sessions", max_sessions, "a whole number from 1")
        self.target, self.tokenizer, self.max_sessions = target, tokenizer, max_sessions
        self.context = Context(
            target.vocab, target.eos, tokenizer_hash(tokenizer) if tokenizer else "", assets
        )
        self._defaults = (method, policy, verifier, options, policy_options)
        self._methods: dict[str, Method] = {}
        self.method = self.use(method, policy, verifier, options, policy_options)
        self.sessions: list[Session] = []
        self._waiting: list[Session] = []
        self._count = 0
        self._lock = threading.RLock()

    def use(
        self,
        method: str | Drafter,
        policy: str | Policy | None = None,
        verifier: str | Verifier | None = None,
        options: Mapping[str, Any] | None = None,
        policy_options: Mapping[str, Any] | None = None,
    ) -> Method:
        """A method for requests of this engine; equal arguments share one drafter and its store."""
        policy = policy if policy is not None else self._defaults[1]
        verifier = verifier if verifier is not None else self._defaults[2]
        key = repr((method, policy, verifier, options, policy_options))
        if key not in self._methods:
            self._methods[key] = build(
                self.target, self.context, method, policy, verifier, options, policy_options
            )
        return self._methods[key]

    def add(self, request: Request, method: Method | None = None) -> Session:
        """Take a request in; it joins at the next step. Raises ConfigError for a bad request."""
        self._check(request)
        chosen = method or self.method
        limits, sampling = request.limits, request.sampling
        eos = limits.eos_token_ids if limits.eos_token_ids is not None else self.target.eos
        room = min(limits.max_new_tokens, self.target.max_context - len(request.prompt))
        session = Session(
            request=request,
            tokens=list(request.prompt),
            cache=NoCache(len(request.prompt) + room + DRAFT_ROWS),
            drafter=chosen.drafter,
            policy=chosen.policy,
            verifier=chosen.verifier,
            warper=Warper(sampling, request.prompt, eos, limits.max_new_tokens, self.target.vocab),
            stop=StopRule(limits, eos, self._decode if self.tokenizer else None),
            index=self._count,
        )
        session.memo["guarantee"] = chosen.guarantee
        self._count += 1
        self._waiting.append(session)
        return session

    def _join(self, session: Session) -> None:
        session.cache = self.target.new_cache(session.cache.capacity)
        session.drafter.begin(session)
        self.sessions.append(session)

    def _check(self, request: Request) -> None:
        n, most = len(request.prompt), self.target.max_context
        if n == 0:
            raise ConfigError("prompt", "", "at least one token")
        if n >= most:
            raise ConfigError("prompt", f"{n} tokens", f"fewer than the model's context of {most}")
        bad = next((t for t in request.prompt if not 0 <= t < self.target.vocab), None)
        if bad is not None:
            raise ConfigError("prompt", bad, f"token ids from 0 to {self.target.vocab - 1}")

    def step(self) -> list[tuple[Session, Step]]:
        """One forward for every session that is in; finished ones leave. [] when nothing is left.

        An exception (a raising user criterion, an interrupt) ends the sessions' memory, not the
        engine: the sessions are cancelled with what they had written, then it is raised again.
        """
        while self._waiting and len(self.sessions) < self.max_sessions:
            self._join(self._waiting.pop(0))
        if not self.sessions:
            return []
        riders = list(self.sessions)
        try:
            steps = step(self.target, riders)
        except BaseException:
            for session in riders:
                self._leave(session, session.finish_reason or "error")
            raise
        for session, done in zip(riders, steps, strict=True):
            if session.finish_reason is not None:
                self._leave(session, session.finish_reason)
            if session.request.on_tokens is not None:
                session.request.on_tokens(session, done.committed.tokens)
        return list(zip(riders, steps, strict=True))

    def cancel(self, session: Session) -> None:
        """End a session now; what it has written stays readable. Harmless if it already ended."""
        with self._lock:
            if session in self._waiting:
                self._waiting.remove(session)
                session.finish_reason = "cancelled"
            elif session in self.sessions:
                self._leave(session, session.finish_reason or "cancelled")

    def _leave(self, session: Session, reason: str) -> None:
        session.finish_reason = reason
        self.sessions.remove(session)
        session.drafter.end(session)
        session.cache.release()

    def run(
        self,
        requests: Iterable[Request],
        method: Method | None = None,
        on_step: Callable[[Session, Step], None] | None = None,
    ) -> list[Completion]:
        """Decode all requests; completions in their order. Ctrl-C cancels what is left."""
        sessions = [self.add(request, method) for request in requests]
        try:
            while any(s.finish_reason is None for s in sessions):
                for session, done in self.step():
                    if on_step is not None:
                        on_step(session, done)
        finally:
            for session in sessions:
                self.cancel(session)
        return [self.completion(session) for session in sessions]

    def stream(self, request: Request, method: Method | None = None) -> Iterator[str]:
        """Text as it is written; what might become part of a stop string is held back.

        Streams may be read from several threads at once: whoever comes first makes the step for
        all sessions, the others find their tokens written.
        """
        session = self.add(request, method)
        text = TextStream(self._decode, request.limits.stop)
        given = 0
        try:
            while session.finish_reason is None:
                with self._lock:
                    if session.finish_reason is None and len(session.output) == given:
                        self.step()
                new, given = session.output[given:], len(session.output)
                if piece := text.push(new):
                    yield piece
            if rest := text.finish(session.text_end):
                yield rest
        finally:
            self.cancel(session)

    async def astream(self, request: Request, method: Method | None = None) -> AsyncIterator[str]:
        """`stream` for asyncio: steps run in a thread, so that the event loop stays free."""
        pieces = self.stream(request, method)
        try:
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece
        finally:
            pieces.close()  # type: ignore[attr-defined]

    def completion(self, session: Session) -> Completion:
        """The answer so far."""
        text = self._decode(session.output) if self.tokenizer else ""
        return Completion(
            id=session.request.id,
            prompt=list(session.request.prompt),
            tokens=session.output,
            text=text if session.text_end is None else text[: session.text_end],
            finish_reason=session.finish_reason or "running",
            stats=session.stats,
            logprobs=session.logprobs,
            origin=session.origin,
            logits=session.logits,
            guarantee=session.memo["guarantee"],
        )

    def _decode(self, tokens: Sequence[int]) -> str:
        if self.tokenizer is None:
            raise ConfigError("tokenizer", None, "a tokenizer, when text is wanted")
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text
