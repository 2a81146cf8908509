"""Names of methods and where their classes lie. Listing names imports nothing heavy.

Built-in names stand in the tables below; other packages add theirs through the entry point groups
`foretoken.drafters`, `foretoken.policies` and `foretoken.verifiers` (name = "module:Class"), or at
run time with `register`.
"""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal

from foretoken.errors import ConfigError

Role = Literal["drafter", "policy", "verifier"]

# The only names that other parts of the product refer to.
DEFAULT_METHOD, DEFAULT_POLICY = "auto", "cost-model"
NULL_METHOD, NULL_POLICY = "plain", "fixed"  # never drafts; never adapts

_BUILTIN: dict[Role, dict[str, str]] = {
    "drafter": {
        "plain": "foretoken.draft.plain:Plain",
        "aded": "foretoken.draft.aded:Aded",
        "prompt-lookup": "foretoken.draft.prompt_lookup:PromptLookup",
        "token-recycling": "foretoken.draft.token_recycling:TokenRecycling",
        "lookahead": "foretoken.draft.lookahead:Lookahead",
        "predicted": "foretoken.draft.predicted:Predicted",
        "auto": "foretoken.draft.auto:Auto",
        "suffix": "foretoken.draft.suffix:Suffix",
        "suffix-store": "foretoken.draft.suffix_store:SuffixStore",
        "mix": "foretoken.draft.mix:Mix",
        "rest": "foretoken.draft.rest:Rest",
        "stand": "foretoken.draft.stand:Stand",
        "stand-drawn": "foretoken.draft.stand:StandDrawn",
        "lm": "foretoken.draft.lm:Lm",
        "lm-sampled": "foretoken.draft.lm_sampled:LmSampled",
        "lm-iid-k": "foretoken.draft.lm_iid_k:LmIidK",
        "lm-rsd-c": "foretoken.draft.lm_rsd_c:LmRsdC",
        "lm-rsd-s": "foretoken.draft.lm_rsd_s:LmRsdS",
        "lm-greedy-k": "foretoken.draft.lm_greedy_k:LmGreedyK",
        "lm-top-k": "foretoken.draft.lm_top_k:LmTopK",
        "vocabtrim": "foretoken.draft.vocabtrim:VocabTrim",
        "s2d": "foretoken.draft.s2d:S2d",
        "osd": "foretoken.draft.osd:Osd",
        "lm-tli": "foretoken.draft.lm_tli:LmTli",
        "lm-slem": "foretoken.draft.lm_slem:LmSlem",
        "lm-slrs": "foretoken.draft.lm_slrs:LmSlrs",
        "omnidraft": "foretoken.draft.omnidraft:OmniDraft",
        "superposed": "foretoken.draft.superposed:Superposed",
        "rasd": "foretoken.draft.rasd:Rasd",
        "oracle": "foretoken.draft.oracle:Oracle",
        "random": "foretoken.draft.random:Random",
        "corrupt": "foretoken.draft.oracle:Corrupt",
    },
    "policy": {
        "fixed": "foretoken.policy.fixed:Fixed",
        "marginal": "foretoken.policy.marginal:Marginal",
        "cost-model": "foretoken.policy.cost_model:CostModel",
        "constant": "foretoken.policy.constant:Constant",
        "heuristic": "foretoken.policy.heuristic:Heuristic",
        "confidence": "foretoken.policy.confidence:Confidence",
        "draft-verify": "foretoken.policy.draft_verify:DraftVerify",
        "adaedl": "foretoken.policy.adaedl:AdaEdl",
        "svip": "foretoken.policy.svip:Svip",
        "specdec++": "foretoken.policy.specdecpp:SpecdecPlusPlus",
        "pearl-length": "foretoken.policy.pearl_length:PearlLength",
        "goodput": "foretoken.policy.goodput:Goodput",
        "bandit": "foretoken.policy.bandit:Bandit",
        "opt-tree": "foretoken.policy.opt_tree:OptTree",
        "eagle2-tree": "foretoken.policy.eagle2_tree:Eagle2Tree",
        "sequoia": "foretoken.policy.sequoia:Sequoia",
        "dyspec": "foretoken.policy.dyspec:DySpec",
    },
    "verifier": {
        "walk": "foretoken.verify.walk:Walk",
        "token": "foretoken.verify.token:Token",
        "multi-round": "foretoken.verify.multi_round:MultiRound",
        "recursive": "foretoken.verify.recursive:Recursive",
        "mixed": "foretoken.verify.mixed:Mixed",
        "block": "foretoken.verify.block:Block",
        "traversal": "foretoken.verify.traversal:Traversal",
        "k-seq": "foretoken.verify.k_seq:KSeq",
        "optimal": "foretoken.verify.optimal:Optimal",
        "typical": "foretoken.verify.typical:Typical",
        "threshold": "foretoken.verify.threshold:Threshold",
    },
}
_GROUPS: dict[Role, str] = {
    "drafter": "foretoken.drafters",
    "policy": "foretoken.policies",
    "verifier": "foretoken.verifiers",
}
_added: dict[Role, dict[str, str]] = {"drafter": {}, "policy": {}, "verifier": {}}


@cache
def _entry_points(role: Role) -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=_GROUPS[role])}


def table(role: Role) -> dict[str, str]:
    """name -> "module:Class" of everything known in this role; built-ins cannot be replaced."""
    return {**_entry_points(role), **_added[role], **_BUILTIN[role]}


def names(role: Role) -> list[str]:
    """Every known name, built-ins first."""
    return [*_BUILTIN[role], *sorted(set(table(role)) - set(_BUILTIN[role]))]


def register(role: Role, name: str, where: str) -> None:
    """Add a method at run time. Raises ConfigError if the name is a built-in one."""
    if name in _BUILTIN[role]:
        raise ConfigError(role, name, "this name is built in; choose another")
    _added[role][name] = where


def find(role: Role, name: str) -> Any:
    """The class of a name. Raises ConfigError that lists what is known."""
    where, field = table(role).get(name), "method" if role == "drafter" else role
    if where is None:
        raise ConfigError(field, name, f"one of {', '.join(_shown(role))}")
    module, _, attribute = where.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        accepted = f"a method that can be loaded ({where!r}: {error})"
        raise ConfigError(field, name, accepted) from error


def _shown(role: Role) -> list[str]:
    """Names for users: those that load and are not for testing."""
    out = []
    for name in names(role):
        try:
            if not getattr(find(role, name), "testing", False):
                out.append(name)
        except ConfigError:  # somebody else's broken package must not hide the user's mistake
            continue
    return out
