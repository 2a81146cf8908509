"""How methods are written on the command line."""

from __future__ import annotations

import pytest

from foretoken.bench.spec import PLAIN, parse_methods, split_methods
from foretoken.errors import ConfigError


def test_commas_belong_to_options_when_a_key_follows() -> None:
    text = "plain, aded:nodes=8,mode=reference,prompt-lookup,aded"
    assert split_methods(text) == ["plain", "aded:nodes=8,mode=reference", "prompt-lookup", "aded"]


def test_options_go_to_the_policy_or_the_drafter() -> None:
    plain, aded = parse_methods("aded:nodes=8,mode=reference,policy=fixed,depth=3")
    assert plain is PLAIN  # the baseline is always there, and first
    assert (aded.name, aded.policy) == ("aded", "fixed")
    assert aded.options == {"mode": "reference"}
    assert aded.policy_options == {"nodes": "8", "depth": "3"}


def test_plain_comes_first_and_takes_no_policy() -> None:
    labels = [s.label for s in parse_methods("prompt-lookup,plain", "marginal", nodes=9)]
    assert labels == ["plain", "prompt-lookup"]
    assert parse_methods("plain", "marginal", nodes=9) == [PLAIN]


def test_settings_and_nodes_are_defaults() -> None:
    _, a, b = parse_methods("aded,aded:nodes=4,eta=0.5", nodes=20, settings=["aded.eta=0.1"])
    assert (a.options, a.policy_options) == ({"eta": "0.1"}, {"nodes": "20"})
    assert (b.options, b.policy_options) == ({"eta": "0.5"}, {"nodes": "4"})


@pytest.mark.parametrize(
    ("text", "settings", "says"),
    [
        ("magic", (), "magic"),
        ("aded,aded", (), "each method once"),
        ("aded:nodes", (), "METHOD:key=value"),
        ("aded:policy=odd", (), "odd"),
        ("aded:verifier=odd", (), "odd"),
        ("aded", ("eta=1",), "METHOD.key=value"),
        ("aded", ("prompt-lookup.length=1",), "prompt-lookup"),
    ],
)
def test_errors_name_the_part(text: str, settings: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_methods(text, settings=settings)
    assert says in str(caught.value)
