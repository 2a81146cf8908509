"""Parity counts what differs, alone and in company; memory and kernels give their figures."""

from __future__ import annotations

import pytest

from foretoken import registry
from foretoken.bench.kernels import linear_shapes, time_kernels
from foretoken.bench.memory import Point, long_run, memory_report, peak, resident
from foretoken.bench.parity import Parity
from foretoken.bench.spec import PLAIN, parse_methods
from foretoken.errors import CapabilityError
from tests import tiny
from tests.unit.bench import helper, sabotage


def run(methods: str, batch: int, mixed: bool, n: int = 4) -> Parity:
    specs = parse_methods(methods, "fixed")
    parity = Parity(helper.engine(batch=batch), specs, helper.prompts(n), max_new_tokens=16)
    parity.run(batch, mixed)
    return parity


@pytest.mark.parametrize(("batch", "mixed"), [(1, False), (3, False), (3, True)])
def test_no_token_differs(batch: int, mixed: bool) -> None:
    parity = run("plain,aded,prompt-lookup", batch, mixed)
    report = parity.report(batch, mixed, ["/x/p.jsonl"])
    assert not report.failed
    assert len(report.results) == 3 * (2 if batch > 1 else 1)
    for result in report.results:
        assert result.prompts == 4
        assert result.differing_tokens == 0
    # in mixed company prompt i writes 16, 12, 8 or 4 tokens, and each method meets all prompts
    lengths = [r.compared_tokens for r in report.results if "mixed" in r.company]
    assert lengths == ([16 + 12 + 8 + 4] * 3 if mixed else [])
    assert parity.texts(batch) == 4 * (1 + 3 * (2 if batch > 1 else 1))


def test_a_wrong_method_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._added["verifier"], "flip", sabotage.WHERE)
    report = run("plain,aded:verifier=flip", 3, True).report(3, True, [])
    assert report.failed
    wrong = [r for r in report.results if r.differing_tokens]
    assert {r.method for r in wrong} == {"aded:verifier=flip"}
    assert {r.company for r in wrong} == {"alone", "batches of 3, mixed"}
    assert all(d.gap is not None for r in wrong for d in r.divergences)


def test_ctrl_c_keeps_the_counts() -> None:
    calls = 0

    def impatient() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt

    specs = parse_methods("plain", "fixed")
    parity = Parity(helper.engine(), specs, helper.prompts(6), max_new_tokens=4, on_text=impatient)
    parity.run(1, False)
    report = parity.report(1, False, [])
    assert report.interrupted
    assert report.results[0].prompts == 2


def test_a_long_run_notes_memory_and_reserves_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foretoken.bench.memory.EVERY", 100)
    seen: list[Point] = []
    on = helper.engine()
    result = long_run(
        on, PLAIN, helper.prompts(2), tokens=210, max_new_tokens=20, on_point=seen.append
    )
    assert result.points == seen
    assert [p.tokens for p in seen] == [0, 100, 200, 210]
    assert seen[1].kv_mb == seen[-1].kv_mb > 0
    assert result.growth_mb is not None
    report = memory_report(on, [result], 210, 20)
    assert report.growth_mb == {"plain": result.growth_mb}
    assert report.peak_mb > 10
    assert 0 < resident() <= peak()


def test_growth_is_free_of_the_kv_cache() -> None:
    from foretoken.bench.memory import MemoryResult

    points = [(0, 10.0, 0.0), (1000, 20.0, 5.0), (2000, 33.0, 10.0)]
    made = [Point(tokens=t, resident_mb=r, kv_mb=k) for t, r, k in points]
    assert MemoryResult(method="x", points=made).growth_mb == pytest.approx(8.0)
    assert MemoryResult(method="x", points=made[:2]).growth_mb is None


def test_kernels_are_timed_at_the_models_shapes() -> None:
    target = tiny.target("llama")
    assert linear_shapes(target.model) == [(32, 16), (32, 32), (32, 48), (32, 97), (48, 32)]
    results = time_kernels(target, rows=(1, 8), repeats=2)
    assert [(r.inputs, r.outputs, r.rows) for r in results[:2]] == [(32, 16, 1), (32, 16, 8)]
    assert all(r.plain_ms > 0 and r.packed_ms > 0 for r in results)


def test_kernels_refuse_what_cannot_be_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foretoken.bench.kernels.can_pack", lambda *_: False)
    with pytest.raises(CapabilityError, match="float32"):
        time_kernels(tiny.target("llama"))
