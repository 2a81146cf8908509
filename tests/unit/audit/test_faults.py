"""The planted faults: each found with its statistic, the control passes, and blindness is told."""

from foretoken.audit import faults
from foretoken.audit.engines import Setup
from foretoken.audit.faults import FAULTS, NODES, likeliest, planted
from foretoken.audit.ours import engine_of
from foretoken.audit.report import AuditReport
from foretoken.types import Sampling
from tests.unit.audit.helper import audit, law, setup, table


def run(given: Setup, **wanted: object) -> AuditReport:
    return audit(given, [], greedy=False, self_test=True, **wanted)


def test_every_planted_fault_is_found_and_the_control_passes() -> None:
    report = run(setup(), samples=500)
    found = {p.name: p for p in report.self_test}
    assert set(found) == {"control", *(fault.name for fault in FAULTS)}
    assert not found["control"].found
    assert [p.name for p in report.self_test if p.lossy and p.found] == [f.name for f in FAULTS]
    assert not report.blind
    assert not report.failed
    for p in report.self_test:
        worst = p.sampling.worst
        assert p.found == (worst.p_value < report.plan.threshold), p.name  # type: ignore[union-attr]
        if p.lossy:
            assert abs(worst.statistic) > 4, p.name
            assert p.sampling.interval[1] > 0.05
    speed = found["control"].sampling.tokens_per_step
    assert speed is not None
    assert speed > 1.5, "much must be accepted, or little is tested"


def test_at_a_low_temperature_the_audit_says_that_it_is_blind() -> None:
    report = run(setup(sampling=Sampling(temperature=0.02)), samples=200)
    assert set(report.blind) & {fault.name for fault in FAULTS}
    assert not report.failed


def test_an_accused_control_makes_the_report_unsound(monkeypatch) -> None:
    monkeypatch.setattr(faults, "Walk", faults.PerLeaf)
    monkeypatch.setattr(faults, "FAULTS", ())
    report = run(setup(), samples=300)
    assert report.unsound
    assert report.failed


def test_the_tree_holds_the_likeliest_beginnings() -> None:
    every = {text: p for depth in (1, 2, 3) for text, p in table(depth).items()}
    best = sorted(every, key=lambda text: -every[text])[:NODES]
    assert set(likeliest(law(), NODES)) == set(best)


def test_a_fault_is_greedy_text_as_it_should_be() -> None:
    """The planted rules are lossy for sampled text alone, as their like in practice."""
    given = setup()
    for subject, _, _ in planted(engine_of(given), law(), given.sampling):
        plain = setup()
        wrote = subject.greedy([1, 2, 3, 1, 2], 8)
        assert wrote == audit_plain(plain)


def audit_plain(given: Setup) -> list[int]:
    from tests.unit.audit.helper import write

    return write(given.reference.model, [1, 2, 3, 1, 2], 8, 0.0, 0)
