"""The optimiser of `stand`'s tree: what it counts is what decoding does; section 9, check 6."""

import json
import random
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tests import tiny

from foretoken.cli.main import main
from foretoken.draft import stand_template
from foretoken.draft.stand import Stand, StandDrawn, new_table
from foretoken.engine.build import build, options
from foretoken.engine.engine import Engine
from foretoken.errors import ConfigError
from foretoken.learn.stand_tree import (
    Text,
    Tuned,
    accepted_at,
    best,
    count,
    followed,
    record,
    tokens_per_step,
    tune,
)
from foretoken.types import Sampling

PROMPTS = [tiny.prompt(seed, 8, 32) for seed in range(3)]
NEW, SAMPLES = 24, 2


@cache
def texts(temperature: float) -> list[Text]:
    engine = Engine(tiny.target("small"), method="plain", policy="fixed")
    return list(record(engine, PROMPTS, SAMPLES, Sampling(temperature=temperature), NEW, 10))


def tuned(temperature: float, nodes: int, drawn: bool = False) -> Tuned:
    given = Stand.Options()
    sampling = Sampling(temperature=temperature)
    return tune(texts(temperature), new_table(given), given.prompt, sampling, nodes, drawn)


def decoded(tree: Path, cls: type, temperature: float, nodes: int) -> float:
    """Tokens per step of the engine on the recorded texts, one after the other."""
    given = {"template": tree, "all_nodes": False}
    given |= {"shape": "template"} if cls is Stand else {}
    target = tiny.target("small")
    one = cls(options(cls.Options, given, cls.name), tiny.context(32))
    method = build(target, one.context, one, "fixed", None, None, {"nodes": nodes})
    engine = Engine(target, method="plain", policy="fixed", max_sessions=1)
    requests = [
        tiny.request(PROMPTS[seed // SAMPLES], NEW, Sampling(temperature=temperature, seed=seed))
        for seed in range(len(PROMPTS) * SAMPLES)
    ]
    done = engine.run(requests, method)
    return sum(c.stats.tokens for c in done) / sum(c.stats.steps for c in done)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_figure_is_that_of_decoding(temperature: float, tmp_path: Path) -> None:
    """Fixed children: the walk over recorded rows counts what the engine then does, to the step."""
    made = tuned(temperature, 20)
    stand_template.save(tmp_path / "t.json", made.paths, {})
    expected = made.tokens_per_step[len(made.paths)]
    assert expected > 1.05
    assert decoded(tmp_path / "t.json", Stand, temperature, 20) == pytest.approx(expected)


def test_no_tree_of_that_size_accepts_more() -> None:
    """Check 6, over steps that begin at every position."""
    table, dice = new_table(Stand.Options()), random.Random(1)
    paths = [path for t in texts(0.7) for path in followed(t, table, Sampling(), None)]
    counts = count(paths)
    ours = best(counts, 20)
    accepted = sum(counts[path] for path in ours)
    assert len(counts) > 40
    for _ in range(200):
        chosen: list[tuple[int, ...]] = []
        while len(chosen) < 20:
            known = {(), *chosen}
            offers = [p for p in counts if p not in known and p[:-1] in known]
            chosen.append(dice.choices(offers, [counts[p] for p in offers])[0])
        assert sum(counts[path] for path in chosen) <= accepted


def test_best_breaks_ties_by_depth_then_rank() -> None:
    counts = Counter({(0,): 5, (0, 0): 5, (1,): 3, (0, 1): 3, (2,): 3, (0, 1, 0): 1})
    assert best(counts, 5) == [(0,), (0, 0), (1,), (2,), (0, 1)]


def test_elder_siblings_of_drawn_children_come_first() -> None:
    counts = Counter({(0,): 5, (2,): 4, (1,): 1, (2, 1): 3, (2, 0): 2, (0, 1): 2})
    made = best(counts, 10, drawn=True)
    assert made == [(0,), (1,), (2,), (2, 0), (2, 1)]
    stand_template.shape(made, drawn=True)


def test_steps_are_counted_as_they_follow_each_other() -> None:
    text = [(0, 0), (0,), (), (1,), ()]
    assert tokens_per_step([text], [(0,), (0, 0)]) == 5 / 3  # 3 tokens, 1, 1
    assert tokens_per_step([text], [(0,), (1,)]) == 5 / 3  # 2, 1, 2
    assert tokens_per_step([text], []) == 1.0


def test_the_rank_of_acceptance_has_the_law_of_recursive_rejection() -> None:
    """Given the text's token or not: the joint law of (rank, token) must come out the same. 5
    sigma in each of the cells; the rest of p lies on a token that the row lacks."""
    p, q, n, dice = [0.35, 0.3, 0.1, 0.05], [0.1, 0.2, 0.3, 0.4], 20_000, random.Random(3)
    backwards: Counter[tuple[int | None, int]] = Counter()
    forwards: Counter[tuple[int | None, int]] = Counter()
    for _ in range(n):
        token = dice.choices(range(5), [*p, 0.2])[0]
        rank = accepted_at(p, q, token, dice) if token < 4 else None
        backwards[rank, token] += 1
        forwards[rejected(np.array([*p, 0.2]), np.array([*q, 0.0]), dice)] += 1
    assert {rank for rank, _ in forwards} == {None, 0, 1, 2, 3}
    for cell in {*backwards, *forwards}:
        a, b = backwards[cell], forwards[cell]
        assert abs(a - b) < 5 * (a + b) ** 0.5, (cell, a, b)


def rejected(p: np.ndarray, q: np.ndarray, dice: random.Random) -> tuple[int | None, int]:
    """Recursive rejection as the papers write it: (rank of the accepted pick, the token)."""
    for rank in range(4):
        pick = dice.choices(range(5), q.tolist())[0]
        if dice.random() < p[pick] / q[pick]:
            return rank, pick
        p = np.maximum(p - q, 0.0)
        p = p / p.sum()
        q = q * (np.arange(5) != pick)
        if q.sum() <= 0.0:
            break
        q = q / q.sum()
    return None, dice.choices(range(5), p.tolist())[0]


def test_drawn_children_are_tuned_too(tmp_path: Path) -> None:
    """Their figure is that of other texts of the same law: near, not equal."""
    made = tuned(0.7, 12, drawn=True)
    stand_template.shape(made.paths, drawn=True)
    stand_template.save(tmp_path / "t.json", made.paths, {})
    expected = made.tokens_per_step[len(made.paths)]
    assert expected > 1.05
    found = decoded(tmp_path / "t.json", StandDrawn, 0.7, 12)
    assert found == pytest.approx(expected, rel=0.25)


def test_texts_that_repeat_nothing_are_refused() -> None:
    given = Stand.Options(prompt=0.0)
    unique = Text(list(range(9)), 4, [([20 + i], [1.0]) for i in range(5)])
    with pytest.raises(ConfigError, match="prompts: '5 tokens written'"):
        tune([unique], new_table(given), 0.0, Sampling(), 8, False)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tree.json"
    sizes = ["--limit", "2", "--samples", "2", "-n", "20", "--nodes", "12"]
    assert main(["train", "stand-tree", *sizes, "--json", "--out", str(out)]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    document = json.loads(out.read_text())
    assert len(stand_template.read(out, drawn=False)) == figures["nodes"] == 12
    made = document["made"]
    assert made["tokens_per_step"] == figures["tokens_per_step"]
    assert list(made["tokens_per_step"]) == ["4", "8", "12"]
    assert (made["model"], made["prompts"], made["texts"]) == ("demo", "bundled", 4)
    assert made["command"].startswith("foretoken train stand-tree --limit 2 --samples 2")
    assert len(made["tokenizer_hash"]) > 8
    assert str(tmp_path) not in out.read_text()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("--form round", "form: 'round' is not accepted; fixed or drawn"),
     ("--form drawn --temperature 0", "temperature: 0 is not accepted"),
     ("--nodes 0", "--nodes"), ("missing.txt", "prompts: 'missing.txt'")],
)  # fmt: skip
def test_mistakes_are_named(wrong: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "stand-tree", *wrong.split()]) == 2
    heard = capsys.readouterr().err
    assert said in heard
    assert "Traceback" not in heard
