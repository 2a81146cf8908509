"""Engine: many sessions on one target, each with its own method, joining and leaving freely."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, takewhile
from pathlib import Path
from time import perf_counter
from typing import Any

from foretoken.commit.stop import StopRule
from foretoken.commit.text import TextStream
from foretoken.draft.base import Context, Drafter
from foretoken.engine.build import Method, build, check_request
from foretoken.engine.loop import step
from foretoken.engine.unseen import begin
from foretoken.errors import ConfigError, ForetokenError
from foretoken.learn.memory import Memory
from foretoken.policy.base import Policy
from foretoken.prompt.sampling import Warper
from foretoken.prompt.tokens import tokenizer_hash
from foretoken.registry import DEFAULT_METHOD, DEFAULT_POLICY
from foretoken.target.base import KVCache, NoCache, Target
from foretoken.types import Completion, Request, Session, Step
from foretoken.verify.base import Verifier

DRAFT_ROWS = 64  # rows of memory that a session keeps free for drafts


class Engine:
    """Decodes requests together, one target forward a step for all of them.

    target: what to speed up. tokenizer: needed for text and stop strings only. method: default of
    the requests (a name of `foretoken methods` or a Drafter). verifier: the acceptance rule, None
    for each method's own. max_sessions: how many ride together; further ones wait. assets: the
    model's folder, where a method may find its own files.
    """

    def __init__(  # noqa: PLR0913
        self,
        target: Target,
        tokenizer: Any = None,
        *,
        method: str | Drafter = DEFAULT_METHOD,
        policy: str | Policy = DEFAULT_POLICY,
        verifier: str | Verifier | None = None,
        options: Mapping[str, Any] | None = None,
        policy_options: Mapping[str, Any] | None = None,
        max_sessions: int = 8,
        assets: Path | None = None,
    ) -> None:
        if max_sessions < 1:
            raise ConfigError("max_sessions", max_sessions, "a whole number from 1")
        self.target, self.tokenizer, self.max_sessions = target, tokenizer, max_sessions
        self.context = Context(
            target.vocab,
            target.eos,
            tokenizer_hash(tokenizer) if tokenizer else "",
            assets,
            tokenizer,
        )
        self.memory = Memory(self.context, target)
        self._defaults = (method, policy, verifier, options, policy_options)
        self._methods: dict[str, Method] = {}
        self.method = self.use(method, policy, verifier, options, policy_options)
        self.sessions: list[Session] = []
        self._waiting: list[Session] = []
        self._indices = count()
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
        key = repr(asked := (method, policy, verifier, options, policy_options))
        if key not in self._methods:
            made = build(self.target, self.context, *asked)
            self.memory.take_up(made)
            self._methods[key] = made
        return self._methods[key]

    def recall(self, path: Path) -> None:
        """Take up what was saved, for later `use`, too. Raises ArtifactError, and does nothing."""
        with self._lock:
            self.memory.recall(path, self._methods.values())

    def remember(self, path: Path) -> None:
        """Save what the methods of `use` learned: statistics of texts; see `learn.memory`."""
        with self._lock:
            self.memory.remember(path, self._methods.values())

    def add(
        self, request: Request, method: Method | None = None, resume: Session | None = None
    ) -> Session:
        """Take a request in; it joins at the next step. Raises ConfigError for a bad request.

        resume: a finished session of a request with `keep_cache`. Its KV rows pass to the new
        session, which reads only what its prompt does not share with that session's tokens.
        """
        check_request(self.target, request)
        chosen = method or self.method
        limits, sampling = request.limits, request.sampling
        eos = limits.eos_token_ids if limits.eos_token_ids is not None else self.target.eos
        room = min(limits.max_new_tokens, self.target.max_context - len(request.prompt))
        limits = limits.model_copy(update={"max_new_tokens": room})  # the context ends text, too
        capacity = len(request.prompt) + room + DRAFT_ROWS
        stop = StopRule(limits, eos, self._decode if self.tokenizer else None)
        session = Session(
            request=request,
            tokens=list(request.prompt),
            cache=NoCache(capacity),
            drafter=chosen.drafter,
            policy=chosen.policy,
            verifier=chosen.verifier,
            warper=Warper(
                sampling, request.prompt, stop.eos, limits.max_new_tokens, self.target.vocab
            ),
            stop=stop,
            index=next(self._indices),  # atomic: streams are opened from many threads
        )
        session.memo["guarantee"] = chosen.guarantee
        if resume is not None:
            session.cache = self._take(resume, request.prompt, capacity)
        self._waiting.append(session)
        return session

    def _take(self, old: Session, prompt: Sequence[int], capacity: int) -> KVCache:
        """The old session's cache, cut to what it shares with the prompt. The prompt's last token
        is always read anew: its row of logits is where the new text begins."""
        cache = old.cache
        kept = old.request.keep_cache and not isinstance(cache, NoCache)
        if old.finish_reason is None or not kept:
            raise ConfigError("resume", old.index, "a finished session whose cache was kept")
        held = zip(old.tokens[: cache.length], prompt[:-1], strict=False)
        with self._lock:  # another thread may be in a step, and this may move the pool's rows
            old.cache = NoCache(0)
            cache.truncate(sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], held)))
            cache.reserve(capacity)
        return cache

    def release(self, session: Session) -> None:
        """Give back the memory that a finished session kept. Calling it twice is harmless."""
        if session.finish_reason is not None:
            with self._lock:
                cache, session.cache = session.cache, NoCache(0)
                cache.release()

    def _join(self, session: Session) -> None:
        try:
            if isinstance(session.cache, NoCache):
                session.cache = self.target.new_cache(session.cache.capacity)
            if not session.policy.leaves(session.drafter, len(self.sessions)):
                begin(session)
        except BaseException:
            session.finish_reason = "error"
            session.cache.release()
            raise
        self.sessions.append(session)

    def step(self) -> list[tuple[Session, Step]]:
        """One forward for every session that is in; finished ones leave. [] when nothing is left.

        An exception (a raising user criterion, an interrupt) ends the sessions' memory, not the
        engine: the sessions are cancelled with what they had written, then it is raised again.
        """
        with self._lock:
            return self._step()

    def _step(self) -> list[tuple[Session, Step]]:
        while self._waiting and len(self.sessions) < self.max_sessions:
            self._join(self._waiting.pop(0))
        if not self.sessions:
            return []
        riders = list(self.sessions)
        began = perf_counter()
        try:
            steps = step(self.target, riders)
        except BaseException as cause:
            reason = "error" if isinstance(cause, Exception) else "cancelled"
            for session in riders:
                self._leave(session, session.finish_reason or reason)
            raise
        spent = perf_counter() - began - sum(sum(done.seconds.values()) for done in steps)
        for session in riders:  # all leave before any callback, which may raise or cancel
            session.stats.seconds["other"] += spent / len(riders)
            if session.finish_reason is not None:
                self._leave(session, session.finish_reason)
        for session, done in zip(riders, steps, strict=True):
            if session.request.on_tokens is not None:
                session.request.on_tokens(session, done.committed.tokens)
        return list(zip(riders, steps, strict=True))

    def cancel(self, session: Session) -> None:
        """End a session now; what it has written stays readable. Harmless if it already ended."""
        with self._lock:
            if session in self._waiting:
                self._waiting.remove(session)
                session.finish_reason = "cancelled"
                if not session.request.keep_cache:
                    self.release(session)
            elif session in self.sessions:
                self._leave(session, session.finish_reason or "cancelled")

    def _leave(self, session: Session, reason: str) -> None:
        session.finish_reason = reason
        self.sessions.remove(session)
        try:
            if session.begun:
                session.drafter.end(session)
        finally:
            if not session.request.keep_cache:
                session.cache.release()

    def run(
        self,
        requests: Iterable[Request],
        method: Method | None = None,
        on_step: Callable[[Session, Step], None] | None = None,
    ) -> list[Completion]:
        """Decode all requests; completions in their order. Ctrl-C cancels what is left."""
        sessions: list[Session] = []
        try:
            for request in requests:  # in the try: a bad one must not leave others waiting
                sessions.append(self.add(request, method))
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
            ended = False
            while not ended:
                with self._lock:  # another stream's step may write, or end, this session as well
                    if session.finish_reason is None and len(session.output) == given:
                        self.step()
                    output, ended = session.output, session.finish_reason is not None
                if piece := text.push(output[given:]):
                    yield piece
                given = len(output)
            if session.finish_reason == "error":  # raised to whoever made the step
                raise ForetokenError("the text broke off: another request of its batch failed")
            if rest := text.finish(session.text_end):
                yield rest
        finally:
            self.cancel(session)

    async def astream(self, request: Request, method: Method | None = None) -> AsyncIterator[str]:
        """`stream` for asyncio: steps run in a thread, so that the event loop stays free."""
        pieces = self.stream(request, method)
        try:
            while True:
                call = asyncio.create_task(asyncio.to_thread(next, pieces, None))
                try:
                    piece = await asyncio.shield(call)
                except asyncio.CancelledError:
                    await asyncio.wait({call})  # a generator in its step cannot be closed
                    raise
                if piece is None:
                    return
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
