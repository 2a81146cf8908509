"""Names and options -> objects that fit together. Impossible pairs are refused before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from foretoken import registry
from foretoken.draft.base import Context, Drafter
from foretoken.errors import CapabilityError, ConfigError
from foretoken.policy.base import Policy
from foretoken.target.base import Target
from foretoken.target.cost import cost_curve
from foretoken.types import Request
from foretoken.verify.base import Verifier

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Method:
    """A drafter, a policy and a verifier that may work together, and what they guarantee."""

    name: str
    drafter: Drafter
    policy: Policy
    verifier: Verifier

    @property
    def guarantee(self) -> str:
        """One line: which outputs are the target's own."""
        exact = self.verifier.exact
        if exact and self.drafter.lossy:
            return f"exact for greedy only; otherwise lossy: {self.drafter.lossy}"
        if exact == {"greedy", "sampling"}:
            return "exact"
        if exact:
            return f"exact for {', '.join(sorted(exact))} only; otherwise lossy"
        return f"lossy: the rule {self.verifier.name!r} changes the target's distribution"


def options(model: type[M], values: Mapping[str, Any], owner: str = "") -> M:
    """Validate options. Raises ConfigError that names the field, the value and what is accepted."""
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or model.__name__
        name = f"{owner}.{field}" if owner else field
        if first["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields) or "none: it has no options"
            raise ConfigError(name, first["input"], f"known options: {known}") from None
        raise ConfigError(name, first["input"], first["msg"]) from None


def build(
    target: Target,
    context: Context,
    method: str | Drafter,
    policy: str | Policy,
    verifier: str | Verifier | None = None,
    drafter_options: Mapping[str, Any] | None = None,
    policy_options: Mapping[str, Any] | None = None,
) -> Method:
    """Make and check the parts. Strings are names of the registry, objects are taken as they are;
    without a verifier the drafter's own choice judges.

    Raises ConfigError for unknown names or options, CapabilityError for a pair that cannot be:
    a drafter that needs what the target does not give, or a draft kind that the rule would bias.
    """
    drafter = _drafter(method, drafter_options or {}, context)
    chosen = drafter.verifier if verifier is None else verifier
    rule: Verifier = registry.find("verifier", chosen)() if isinstance(chosen, str) else chosen
    _check_pair(target, drafter, rule)
    chosen_policy = _policy(policy, policy_options or {}, drafter, target)
    if chosen_policy.needs:
        try:
            drafter.provide(chosen_policy.needs)
            check_kinds(drafter, rule, turns="turns" in chosen_policy.needs)
        except CapabilityError as error:
            raise CapabilityError(f"policy {chosen_policy.name!r}: {error}") from None
    chosen_policy.meet(drafter)
    return Method(drafter.name, drafter, chosen_policy, rule)


def _drafter(method: str | Drafter, values: Mapping[str, Any], context: Context) -> Drafter:
    if isinstance(method, Drafter):
        return method
    cls: type[Drafter] = registry.find("drafter", method)
    return cls(options(cls.Options, values, method), context)


def _policy(
    policy: str | Policy, values: Mapping[str, Any], drafter: Drafter, target: Target
) -> Policy:
    if isinstance(policy, Policy):
        return policy
    cls: type[Policy] = registry.find("policy", policy)
    chosen = options(cls.Options, values, policy)
    if "nodes" in cls.Options.model_fields and getattr(chosen, "nodes", 0) is None:
        chosen = chosen.model_copy(update={"nodes": drafter.nodes})
    # a drafter that never drafts needs no curve, which would take seconds to measure
    measured = cost_curve(target) if cls.wants_curve(chosen) and drafter.nodes else None
    return cls(chosen, measured)


def _check_pair(target: Target, drafter: Drafter, verifier: Verifier) -> None:
    if missing := drafter.needs - {*target.features, "prediction"}:
        raise CapabilityError(
            f"drafter {drafter.name!r} needs {', '.join(sorted(missing))}, which this target does "
            f"not give (it gives {', '.join(sorted(target.features))})"
        )
    check_kinds(drafter, verifier)
    if verifier.max_vocab is not None and target.vocab > verifier.max_vocab:
        raise CapabilityError(
            f"verifier {verifier.name!r} serves vocabularies up to {verifier.max_vocab} tokens, "
            f"this target has {target.vocab}"
        )


def check_kinds(
    drafter: Drafter | type[Drafter], verifier: Verifier | type[Verifier], turns: bool = False
) -> None:
    """Raise CapabilityError for drafts that the rule would bias. Classes will do: nothing is made,
    so that a forbidden pair can be refused before a model is loaded. turns: the policy's shapes
    look at what was drawn."""
    if drafter.emits not in verifier.accepts:
        raise CapabilityError(
            f"drafter {drafter.name!r} emits {drafter.emits!r} drafts, which verifier "
            f"{verifier.name!r} does not accept (it accepts {', '.join(sorted(verifier.accepts))})"
        )
    if not verifier.fits(drafter, turns):
        raise CapabilityError(
            f"the number of a node's children hangs on what drafter {drafter.name!r} draws, and "
            f"verifier {verifier.name!r} is exact only where it is settled before"
        )


def check_request(target: Target, request: Request) -> None:
    """Raise ConfigError for a prompt that the target cannot read, or a prediction of no tokens of
    its."""
    n, most = len(request.prompt), target.max_context
    if n == 0:
        raise ConfigError("prompt", "", "at least one token")
    if n >= most:
        raise ConfigError("prompt", f"{n} tokens", f"fewer than the model's context of {most}")
    for field, tokens in (("prompt", request.prompt), ("prediction", request.prediction or ())):
        bad = next((t for t in tokens if not 0 <= t < target.vocab), None)
        if bad is not None:
            raise ConfigError(field, bad, f"token ids from 0 to {target.vocab - 1}")
