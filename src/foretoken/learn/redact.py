"""redact: what of a recorded request may be kept. A redaction maps a finished request to another
one, or to None, which drops it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from foretoken.errors import ConfigError

if TYPE_CHECKING:
    from foretoken.learn.trace import TracedRequest

Redact = Callable[["TracedRequest"], "TracedRequest | None"]
_SINGLE = ("forced_bos_token_id", "forced_eos_token_id")
_LISTS = ("suppress_tokens", "begin_suppress_tokens", "eos_token_ids")


def drop_text(request: TracedRequest) -> None:  # noqa: ARG001
    """Keep nothing; the recorder counts what it dropped."""
    return


class Permuted:
    """Token ids through a secret permutation of the vocabulary, names and tenants as keyed digests.

    What repeats still repeats, and rows, eos, prediction and banned tokens go along, so that in a
    replay, drafters that start empty fare as with the text itself (ties by token id apart). The
    same secret maps alike in every trace. It hides text from readers, not from someone who counts:
    how often tokens occur stays, and common ones can be guessed from it.
    """

    def __init__(self, secret: bytes, vocab: int) -> None:
        if not secret:
            raise ConfigError("secret", "", "at least one byte, from a good source of chance")
        self._key = hashlib.blake2b(secret).digest()
        self.vocab = vocab

    @cached_property
    def _map(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """[vocab]: the ids in the order of their keyed digests, which nobody can invert without
        the key; a seeded generator could be searched."""
        digests = [self._digest(str(i)) for i in range(self.vocab)]
        return np.array(sorted(range(self.vocab), key=digests.__getitem__), np.int32)

    def _digest(self, text: str) -> str:
        return hashlib.blake2b(text.encode(), key=self._key, digest_size=16).hexdigest()

    def ids(self, tokens: Iterable[int]) -> list[int]:
        """Each token's stand-in."""
        out: list[int] = self._map[np.fromiter(tokens, np.int64)].tolist()
        return out

    def mark(self, tokenizer_hash: str) -> str:
        """In place of the tokenizer's hash: tables made for that tokenizer do not fit any more."""
        return f"permuted {self._digest(f'tokenizer {tokenizer_hash}')}"

    def __call__(self, request: TracedRequest) -> TracedRequest:
        """The same request in other tokens."""
        wanted = request.prediction
        return replace(
            request,
            name=self._digest(f"name {request.name}")[:8],
            tenant=self._digest(f"tenant {request.tenant}") if request.tenant else "",
            prompt=self.ids(request.prompt),
            output=self.ids(request.output),
            prediction=None if wanted is None else self.ids(wanted),
            top_tokens=self._map[request.top_tokens],
            sampling=self._settings(request.sampling),
            limits=self._settings(request.limits),
        )

    def _settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Settings that name tokens, through the same permutation."""
        out = dict(values)
        for name in _SINGLE:
            if out.get(name) is not None:
                out[name] = self.ids([out[name]])[0]
        for name in _LISTS:
            if out.get(name) is not None:
                out[name] = self.ids(out[name])
        if "bad_words_ids" in out:
            out["bad_words_ids"] = [self.ids(word) for word in out["bad_words_ids"]]
        if "logit_bias" in out:
            bias = out["logit_bias"]
            ids = self.ids(int(token) for token in bias)
            out["logit_bias"] = dict(zip(map(str, ids), bias.values(), strict=True))
        return out


def permuted(secret: bytes, vocab: int) -> Permuted:
    """A redaction that hides the text and keeps its repetitions; see `Permuted`."""
    return Permuted(secret, vocab)
