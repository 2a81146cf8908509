"""The page: everything a maintainer needs, safe, and written as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from foretoken.audit.report import AuditReport
from foretoken.audit.sections import sections
from foretoken.bench import saving
from foretoken.errors import ConfigError
from foretoken.page.blocks import Code, Grid, Heading, Text
from foretoken.page.write import check_path, to_html, to_markdown, write_page
from tests.unit.audit.helper import audit, bent, setup


@pytest.fixture(scope="module")
def report() -> AuditReport:
    given = setup()
    given.__dict__["transformers"] = bent("six")
    return audit(given, ["foretoken:plain", "hf"], samples=200, self_test=True)


def test_the_page_holds_all_of_it(report: AuditReport) -> None:
    assert report.plan is not None
    for text in (to_markdown(sections(report)), to_html(sections(report))):
        plain = text.replace("\\", "")
        for wanted in (
            "a fault was found", "exact as far as tested", "foretoken:plain", report.model_hash,
            f"{report.plan.samples} samples", "McDiarmid", "Bonferroni", "chi-square", "per-leaf",
            "foretoken audit ...", "near-tie", f"p = {report.plan.threshold:.2g}",
            *report.versions.values(), report.processor,
        ):  # fmt: skip
            assert wanted in plain, wanted
        worst = report.engines[1].sampling.worst  # type: ignore[union-attr]
        assert f"{worst.statistic:.2f}" in plain
        first = report.engines[1].greedy.differences[0]  # type: ignore[union-attr]
        assert f"{first.gap:.3g}" in plain


def test_the_document_comes_back(report: AuditReport) -> None:
    assert AuditReport.model_validate_json(report.model_dump_json()) == report


def test_text_of_the_audited_cannot_break_the_page() -> None:
    odd = "<script>|*`_\n"
    blocks = [Heading("t", 1), Text(odd, bad=True), Code("```" + odd), Grid(("a",), ((odd,),))]
    assert "<script>" not in to_html(blocks)
    lines = to_markdown(blocks).splitlines()
    assert lines[-1] == "| \\<script>\\|\\*\\`\\_  |"
    assert "~~~~" in lines


@pytest.mark.parametrize("suffix", [".md", ".html"])
def test_written_whole_or_not_at_all(
    report: AuditReport, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    write_page(sections(report), path)
    before = path.read_text()
    assert ("<!doctype html>" in before) == (suffix == ".html")

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(saving.os, "fdopen", fail)
    with pytest.raises(OSError, match="disk full"):
        write_page(sections(report), path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_bad_paths(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="html"):
        check_path(tmp_path / "a.pdf")
    with pytest.raises(ConfigError, match="exists"):
        check_path(tmp_path / "none" / "a.md")
