"""The records that travel through one step of decoding; each field says its shape, unit and filler.

Request -> Session -> Budget -> DraftTree -> Scores -> Verdict -> Committed -> Step -> Completion
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

if TYPE_CHECKING:
    from foretoken.commit.stop import StopRule
    from foretoken.draft.base import Drafter
    from foretoken.draft.shapes import Shape
    from foretoken.policy.base import Policy
    from foretoken.prompt.sampling import Warper
    from foretoken.target.base import KVCache
    from foretoken.tree import DraftTree
    from foretoken.verify.base import Verifier


class Options(BaseModel):
    """Typed and closed: an unknown or ill-typed option is an error that names it."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Sampling(Options):
    """How the target's logits become the distribution that text is drawn from.

    The names are those of Hugging Face's GenerationConfig and of OpenAI's API. temperature 0 is
    greedy: the distribution is a point mass on the argmax. See `foretoken.prompt.sampling`.
    """

    temperature: float = Field(0.0, ge=0.0, description="0 is greedy")
    top_k: int = Field(0, ge=0, description="keep the k likeliest; 0 is off")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="nucleus mass; 1 is off")
    min_p: float = Field(
        0.0, ge=0.0, le=1.0, description="floor relative to the likeliest; 0 is off"
    )
    typical_p: float = Field(1.0, gt=0.0, le=1.0, description="locally typical mass; 1 is off")
    epsilon_cutoff: float = Field(0.0, ge=0.0, lt=1.0, description="absolute floor; 0 is off")
    eta_cutoff: float = Field(0.0, ge=0.0, lt=1.0, description="entropy-dependent floor; 0 is off")
    repetition_penalty: float = Field(1.0, gt=0.0, description="divides logits of seen tokens")
    presence_penalty: float = Field(0.0, description="subtracted once if generated before")
    frequency_penalty: float = Field(0.0, description="subtracted per earlier generation")
    no_repeat_ngram_size: int = Field(0, ge=0, description="no n-gram twice; 0 is off")
    bad_words_ids: tuple[tuple[int, ...], ...] = Field((), description="sequences never written")
    logit_bias: Mapping[int, float] = Field(default_factory=dict, description="added to logits")
    suppress_tokens: tuple[int, ...] = Field((), description="never written")
    begin_suppress_tokens: tuple[int, ...] = Field((), description="never written first")
    forced_bos_token_id: int | None = Field(None, description="written after a prompt of one token")
    forced_eos_token_id: int | None = Field(None, description="written at max_new_tokens")
    min_new_tokens: int = Field(0, ge=0, description="no end of text before")
    processors: tuple[Any, ...] = Field((), description="LogitsProcessors, called last-but-warpers")
    seed: int = Field(0, ge=0, description="text depends on (seed, position) alone")

    @property
    def greedy(self) -> bool:
        """Whether tokens are chosen and not drawn."""
        return self.temperature == 0.0


class Limits(Options):
    """When to stop; the first that holds wins, and nothing after it is given out."""

    max_new_tokens: int = Field(128, ge=1)
    stop: tuple[str, ...] = Field((), description="strings; text ends before the first of them")
    eos_token_ids: tuple[int, ...] | None = Field(None, description="None: the target's own")
    ignore_eos: bool = Field(False, description="go on after end-of-text tokens")
    criteria: tuple[Any, ...] = Field((), description="StoppingCriteria or callables")


@dataclass(frozen=True)
class Request:
    """What a user asks for. Filled by the caller; nothing changes it."""

    prompt: Sequence[int]  # token ids, at least one
    sampling: Sampling = field(default_factory=Sampling)
    limits: Limits = field(default_factory=Limits)
    tenant: str = ""  # stores of scope "tenant" are shared within one tenant and never across
    prediction: Sequence[int] | None = None  # expected output, for drafters that need "prediction"
    id: str = ""
    keep_logits: bool = False  # keep the target's raw row of every token given out
    keep_cache: bool = False  # hold the KV rows after the end, for `Engine.add(..., resume=)`
    on_tokens: Callable[[Session, list[int]], None] | None = None  # called after every commit


@dataclass
class Stats:
    """Counts and seconds of one session; ratios are derived, so that they can be summed first."""

    steps: int = 0  # target forwards that this session rode in
    drafted: int = 0  # nodes proposed
    accepted: int = 0  # drafted tokens that stood, never the bonus
    tokens: int = 0  # tokens given out
    accepted_by_depth: list[int] = field(default_factory=list)  # [d]: steps that accepted >= d+1
    drafted_by_depth: list[int] = field(default_factory=list)  # [d]: steps that drafted >= d+1 deep
    seconds: dict[str, float] = field(
        default_factory=lambda: {"draft": 0.0, "target": 0.0, "verify": 0.0, "other": 0.0}
    )  # of a batch's forward, a session counts its share

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens given out per target forward (the field's tau, MAT, block efficiency)."""
        return self.tokens / self.steps if self.steps else 0.0


@dataclass(eq=False)  # two requests may well look alike
class Session:
    """One request being decoded. Invariant between steps: `cache.length == len(tokens) - 1`
    (before the first step: the rows taken over from a resumed session, 0 without one); the last
    token is the root of the next draft."""

    request: Request
    tokens: list[int]  # prompt and what was committed; only commit/ appends (see engine/unseen)
    cache: KVCache
    drafter: Drafter
    policy: Policy
    verifier: Verifier
    warper: Warper
    stop: StopRule
    index: int = 0  # unique within the engine; random streams and stores are keyed by it
    finish_reason: str | None = None  # "stop" | "length" | "criteria" | "cancelled" | "error"
    begun: bool = False  # whether the drafter knows of it
    unseen: int = 0  # how many of the last tokens the drafter has not been shown
    text_end: int | None = None  # characters of the decoded output to keep (a stop string cut it)
    logits: list[Tensor] = field(default_factory=list)  # [V] per token if request.keep_logits
    logprobs: list[float] = field(default_factory=list)  # the target's, one per token given out
    origin: list[bool] = field(default_factory=list)  # per token given out: drafted (else bonus)
    memo: dict[str, Any] = field(default_factory=dict)  # per-session state of the parts, by name
    stats: Stats = field(default_factory=Stats)

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt)

    @property
    def output(self) -> list[int]:
        """The tokens written so far."""
        return self.tokens[self.n_prompt :]

    @property
    def room(self) -> int:
        """How many more tokens may be written."""
        return self.request.limits.max_new_tokens - (len(self.tokens) - self.n_prompt)


@dataclass(frozen=True)
class Budget:
    """How much a drafter may propose in this step. Filled by the policy; the drafter obeys."""

    nodes: int  # at most so many nodes; 0 is a plain step
    depth: int = 1 << 30  # no node deeper (children of the root have depth 1)
    # no fixed node whose joint draft probability is lower; below such a drawn one, nothing hangs
    # (a drawn node may not go for its own probability)
    min_prob: float = 0.0
    way: str = ""  # which of `Drafter.ways` to draft in; "" is the drafter's fullest
    # Asked after every level but the last: False ends the draft there, and what was drafted is
    # submitted whole. None: nobody stops it. Set by the loop from `Policy.go_on`.
    go_on: Callable[[Level], bool] | None = field(default=None, compare=False, repr=False)
    # the same between the levels of a dear source among cheap ones, for drafters that give "source
    # levels": False ends that source, and the others' nodes stay
    source_on: Callable[[Level], bool] | None = field(default=None, compare=False, repr=False)
    # how the draft branches, for drafters that give "shapes"; None: in the drafter's own form
    shape: Shape | None = None
    # the drafter is not shown this step's outcome either, for where watching costs too much: it is
    # shown the text, without rows, before it is next asked or shown anything
    unseen: bool = False


@dataclass(frozen=True)
class Level:
    """A level that was just drafted, as `Policy.go_on` sees it. Filled by drafters that give
    "levels", and by the loop for finished fixed drafts."""

    depth: int  # children of the root have depth 1
    q: Sequence[float]  # [k] draft probability of each of its nodes given the node's path
    joint: Sequence[float]  # [k] of the whole path
    parents: Sequence[int] = ()  # [k] row of `entropy`, `hidden` that each node was chosen from
    # [m] nats, of the drafter's rows that the level was chosen from; () unless the policy needs it
    entropy: Sequence[float] = ()
    # [m, H] float: the drafter's last hidden state at each node that the level hangs below (the
    # root at depth 1); None unless the policy needs it
    hidden: Tensor | None = None
    # [m] whose rows those are: places in the level before; () at depth 1, where it is the root's
    rows: Sequence[int] = ()
    seconds: float = 0.0  # that drafting it took, this session's share; 0.0: not known

    def paths(self, q: Sequence[float], above: Sequence[float]) -> list[float]:
        """[k] of each node's path, if its own probability is q and that of the paths in the level
        before `above` ([1.0] at depth 1)."""
        rows = self.rows or [0] * len(above)
        return [p * above[rows[parent]] for p, parent in zip(q, self.parents, strict=True)]


@dataclass(frozen=True)
class Scores:
    """What the target said about one session's root and draft. Filled by the target."""

    logits: Tensor  # [n+1, V] float; row 0 follows the root, row i+1 follows node i
    hidden: Mapping[str, Tensor] = field(default_factory=dict)  # named points -> [n+1, H]
    # [n+1] whether the row is the model's; () is all. A replayed trace knows the rows of the text
    # that was written and no others: nobody may learn from the unknown ones
    known: Sequence[bool] = ()

    def top(self, m: int) -> tuple[list[list[int]], list[list[float]]]:
        """The m likeliest tokens of every row and their probabilities at temperature 1, best
        first: two lists of shape [n+1, m]; empty lists for rows that are not known. Cached, so that
        many observers cost one."""
        cached = self._tops.get(m)
        if cached is None:
            ids = self.logits.topk(min(m, self.logits.shape[-1]), dim=-1).indices
            # log_softmax is vectorised on a CPU, logsumexp is not
            logprobs = torch.log_softmax(self.logits.float(), dim=-1).gather(-1, ids)
            tokens, probs = ids.tolist(), logprobs.exp().tolist()
            for row in [i for i, known in enumerate(self.known) if not known]:
                tokens[row], probs[row] = [], []
            cached = self._tops[m] = (tokens, probs)
        return cached

    @cached_property
    def _tops(self) -> dict[int, tuple[list[list[int]], list[list[float]]]]:
        return {}


@dataclass(frozen=True)
class Verdict:
    """Which drafts stand. Filled by the verifier. len(output) == len(path) + 1."""

    path: tuple[int, ...]  # accepted node indices from the root down
    bonus: int  # the token that the target adds after the last accepted node


@dataclass(frozen=True)
class Committed:
    """What became real in this step. Filled by commit/."""

    tokens: list[int]  # given out, in order; possibly fewer than path + bonus when a stop cut them
    rows: list[int]  # row of Scores.logits that each token was read from
    accepted: int  # how many of `tokens` had been drafted
    finish_reason: str | None


@dataclass(frozen=True)
class Step:
    """One finished step: all that drafters, policies and learners see. Filled by the loop."""

    context: int  # len(session.tokens) when the draft was made; the root is tokens[context-1]
    budget: Budget
    tree: DraftTree
    scores: Scores
    verdict: Verdict
    committed: Committed
    # draft, target, verify: wall clock of this session's share; drafting is shared by who asked
    seconds: Mapping[str, float]
    batch: int  # sessions that rode in the same forward
    rows: int  # rows of that forward: as many for every session as for the one with the most
    fresh: int = 1  # this session's committed tokens among them: its prompt in the first step
    prompts: int = 0  # rows of prompts that were read by themselves in the same step


@dataclass(frozen=True)
class Completion:
    """The answer to one request."""

    id: str
    prompt: list[int]
    tokens: list[int]  # what was written, the end-of-text token included if it was written
    text: str  # decoded, special tokens skipped, cut before a stop string
    finish_reason: str
    stats: Stats
    logprobs: list[float]
    origin: list[bool]
    logits: list[Tensor]
    guarantee: str  # "exact" or "lossy: ..." as the pair (drafter, verifier) declares

    @property
    def distinct_4grams(self) -> float:
        """Share of distinct 4-grams in the output; low means that the text loops."""
        grams = list(zip(*(self.tokens[i:] for i in range(4)), strict=False))
        return len(set(grams)) / len(grams) if grams else 1.0


FloatArray = np.ndarray[Any, np.dtype[np.float64]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
