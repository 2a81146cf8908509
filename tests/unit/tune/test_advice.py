"""Which row is advised, and what there is to type."""

from __future__ import annotations

from foretoken.registry import DEFAULT_METHOD, DEFAULT_POLICY
from foretoken.tune.advice import advise
from foretoken.tune.report import OPTIMUM, PLAIN, Row


def row(method: str, policy: str, rate: float) -> Row:
    return Row(
        method=method, policy=policy, tokens_per_step=2.0, tokens_per_second=10 * rate, ratio=rate,
        worst=1.0, regret=0.5, draft_seconds=0.0,
    )  # fmt: skip


DEFAULT = row(DEFAULT_METHOD, DEFAULT_POLICY, 1.5)
OTHERS = [row("bandit (UCB)", "", 3.0), row(PLAIN, "", 1.0), row(OPTIMUM, "", 4.0)]


def test_the_default_if_it_is_nearly_the_fastest() -> None:
    advice = advise([DEFAULT, row("aded", "fixed", 1.52), *OTHERS], None)
    assert advice is not None
    assert (advice.method, advice.policy) == (DEFAULT_METHOD, DEFAULT_POLICY)
    assert "1.50 x plain" in advice.why
    assert "aded / fixed, has 1.52 x" in advice.why
    assert advice.command == "foretoken generate PROMPT"


def test_else_the_fastest_that_can_be_typed() -> None:
    advice = advise([DEFAULT, row("aded", "fixed", 1.6), *OTHERS], "my models/one")
    assert advice is not None
    assert advice.command == (
        "foretoken generate --model 'my models/one' --method aded --policy fixed PROMPT"
    )
    assert "the default has 1.50 x" in advice.why


def test_plain_where_nothing_gains() -> None:
    advice = advise([row(DEFAULT_METHOD, DEFAULT_POLICY, 1.01), *OTHERS], None)
    assert advice is not None
    assert advice.command == "foretoken generate --method plain PROMPT"
    assert "nothing gains 2%" in advice.why
    assert advise(OTHERS, None) is None
