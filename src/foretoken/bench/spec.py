"""What to compare, as it is written on the command line: `aded:nodes=8,mode=reference`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from foretoken import registry
from foretoken.errors import ConfigError
from foretoken.registry import DEFAULT_POLICY


@dataclass(frozen=True)
class Spec:
    """A method with its options. `label` is how it was asked for and names it in the report."""

    label: str
    name: str
    policy: str = DEFAULT_POLICY
    verifier: str | None = None  # None: the drafter's own
    options: Mapping[str, Any] = field(default_factory=dict)
    policy_options: Mapping[str, Any] = field(default_factory=dict)


PLAIN = Spec("plain", "plain", "fixed", policy_options={"nodes": 0})


def split_methods(text: str) -> list[str]:
    """ "plain,aded:nodes=8,mode=reference" -> ["plain", "aded:nodes=8,mode=reference"].

    A comma starts a new method unless what follows is a bare `key=value`: that belongs to the
    method before it.
    """
    labels: list[str] = []
    for piece in (part.strip() for part in text.split(",")):
        if not piece:
            continue
        if labels and "=" in piece.split(":", 1)[0]:
            labels[-1] += ("," if ":" in labels[-1] else ":") + piece
        else:
            labels.append(piece)
    return labels


def parse_methods(
    text: str, policy: str = DEFAULT_POLICY, nodes: int | None = None, settings: Sequence[str] = ()
) -> list[Spec]:
    """The methods asked for; plain comes first, added if it was not named: it is the baseline.

    settings: `METHOD.key=value`, for every spec of that method unless its own options say
    otherwise. Raises ConfigError for an unknown method, a method named twice, or a malformed part.
    """
    common = _settings(settings)
    specs = [_parse(label, policy, nodes, common) for label in split_methods(text)]
    if unused := set(common) - {spec.name for spec in specs}:
        raise ConfigError("set", sorted(unused)[0], f"a method of this run ({text})")
    labels = [spec.label for spec in specs]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise ConfigError("methods", twice, "each method once; give a second one other options")
    others = [spec for spec in specs if spec.label != "plain"]
    return [PLAIN, *others]


def _settings(settings: Sequence[str]) -> dict[str, dict[str, str]]:
    out: dict[str, dict[str, str]] = {}
    for setting in settings:
        left, equals, value = setting.partition("=")
        method, dot, key = left.partition(".")
        if not (equals and dot and method and key):
            raise ConfigError("set", setting, "METHOD.key=value")
        out.setdefault(method, {})[key] = value
    return out


def _parse(
    label: str, policy: str, nodes: int | None, common: Mapping[str, Mapping[str, str]]
) -> Spec:
    name, _, rest = label.partition(":")
    drafter = registry.find("drafter", name)
    if label == PLAIN.label:
        return PLAIN
    values: dict[str, str] = dict(common.get(name, {}))
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError("methods", label, "METHOD or METHOD:key=value,key=value")
        values[key.strip()] = value.strip()
    chosen = values.pop("policy", policy)
    fields = registry.find("policy", chosen).Options.model_fields
    verifier = values.pop("verifier", None)
    if verifier is not None:
        registry.find("verifier", verifier)
    own = set(drafter.Options.model_fields)
    of_policy = {key: values.pop(key) for key in list(values) if key in fields and key not in own}
    if nodes is not None and "nodes" in fields:
        of_policy.setdefault("nodes", str(nodes))
    return Spec(label, name, chosen, verifier, values, of_policy)
