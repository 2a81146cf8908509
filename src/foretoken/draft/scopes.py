"""Who shares what is learned: one store per scope, opened and closed with the sessions.

What one tenant wrote must not shape another's drafts: the time that a draft saves would tell the
other what was written. So a store never crosses its scope, and the default of every drafter is the
narrowest in which it still does its work. Requests that name no tenant are one tenant: a server
must name them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Generic, Literal, Protocol, TypeVar

from foretoken.errors import ArtifactError
from foretoken.types import Session

# "request": one request being decoded. "session": the same here, kept for the reader's sake where
# a session is a conversation. "tenant": all requests of one tenant. "process": everything.
Scope = Literal["request", "session", "tenant", "process"]
Key = int | str


class Store(Protocol):
    """What scopes ask of a store."""

    def __len__(self) -> int:
        """What it holds, in the unit of the limit (rows, tokens ...)."""

    def state(self) -> Any:
        """What it learned, JSON-ready."""

    def load(self, state: Any, /) -> None:
        """Take up what `state` gave."""


S = TypeVar("S", bound=Store)


class Scopes(Generic[S]):
    """Stores by scope. make: a new empty store. limit: what idle stores may hold together; the one
    opened longest ago goes first, the one that was just closed last."""

    def __init__(self, scope: Scope, make: Callable[[], S], limit: int) -> None:
        self.scope, self.limit = scope, limit
        self._make = make
        self._stores: OrderedDict[Key, S] = OrderedDict()  # the last one opened comes last
        self._users: dict[Key, int] = {}  # open sessions by store

    def __iter__(self) -> Iterator[tuple[Key, S]]:
        """Keys and stores, the one opened longest ago first."""
        return iter(self._stores.items())

    @property
    def lasting(self) -> bool:
        """Whether stores outlive their sessions, so that they may be saved."""
        return self.scope in ("tenant", "process")

    def key(self, session: Session) -> Key:
        """Whose store this session reads and writes."""
        if self.scope == "tenant":
            return session.request.tenant
        return "" if self.scope == "process" else session.index

    def get(self, key: Key) -> S:
        """The store of a key, made if it is new."""
        if key not in self._stores:
            self._stores[key] = self._make()
        self._stores.move_to_end(key)
        return self._stores[key]

    def open(self, session: Session) -> S:
        """The session's store. Call `close` once for every `open`."""
        key = self.key(session)
        self._users[key] = self._users.get(key, 0) + 1
        return self.get(key)

    def close(self, session: Session) -> None:
        """A session ended: its own store goes, shared idle ones while too much is held."""
        key = self.key(session)
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
        if not self.lasting:
            del self._stores[key]
            return
        total = sum(len(store) for store in self._stores.values())
        for idle in [k for k in self._stores if k not in self._users and k != key]:
            if total <= self.limit:
                break
            total -= len(self._stores.pop(idle))

    def state(self, tokenizer_hash: str) -> dict[str, Any]:
        """What all stores learned, by key; nothing for scopes that end with their session."""
        if not self.lasting:
            return {}
        stores = {str(key): store.state() for key, store in self._stores.items()}
        return {"tokenizer_hash": tokenizer_hash, "stores": stores}

    def load(self, state: dict[str, Any], owner: str, tokenizer_hash: str) -> None:
        """Take up what `state` gave; ArtifactError, which names `owner`, if it is of another
        tokenizer."""
        if not state:
            return
        check_tokenizer(state, owner, tokenizer_hash)
        for key, learned in state["stores"].items():
            self.get(key).load(learned)


def check_tokenizer(state: dict[str, Any], owner: str, tokenizer_hash: str) -> None:
    """Raise ArtifactError, which names `owner`, for a state that another tokenizer's text gave."""
    if state["tokenizer_hash"] != tokenizer_hash:
        raise ArtifactError(
            f"{owner}: the saved state is of the tokenizer {state['tokenizer_hash']}, the "
            f"model's is {tokenizer_hash}"
        )
