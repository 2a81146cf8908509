"""The page: every figure that the documents say something of, words that nobody can break."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from base64 import b64decode
from pathlib import Path

import pytest

from foretoken.bench.contest import Plan
from foretoken.bench.pages.read import read
from foretoken.bench.pages.sections import SEEN, pictures, sections
from foretoken.bench.report import PeerFacts, Result
from foretoken.bench.results import make_report
from foretoken.bench.stream_report import Cell, Figures, PromptRow, StreamReport, SuiteReport
from foretoken.bench.tally import CLASSES, Kept
from foretoken.errors import ArtifactError, ConfigError
from foretoken.page.write import to_html, write_page
from tests import tiny
from tests.unit.bench import helper

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def comparison(batch: int):
    plan = Plan(max_new_tokens=16, repeats=2, batch=batch, cut_loops=False)
    made = make_report(helper.compare(plan, helper.prompts(4)), tiny.target("llama"))
    peer = PeerFacts(label="<b>peer</b>", what="another", versions={"it": "1"}, peak_mb=12.0)
    return made.model_copy(
        update={"peers": [peer], "missing": {"vllm": "ImportError: libcuda & more"}}
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Two comparisons of other batches, and a run over one suite."""
    folder = tmp_path_factory.mktemp("results")
    out = []
    for batch in (1, 2):
        out.append(folder / f"batch{batch}.json")
        out[-1].write_text(comparison(batch).model_dump_json())
    report = comparison(1)
    kept = [Kept(nodes=50, promised=5.0 * i + 2, accepted=5 * i) for i in range(CLASSES)]
    rows = [
        PromptRow(
            name=f"p{i}", prompt_tokens=10 * i + 5,
            cells={r.method: Cell(walls=[1.0 + i], tokens=20, steps=10) for r in report.results},
        )
        for i in range(3)
    ]  # fmt: skip
    figures = [
        Figures(method=r.method, tokens_per_s=1.0, ratio_to_plain=1.0, ratio_low=1.0,
                tokens_per_step=1.0, by_class=kept if r.method == "aded" else [])
        for r in report.results
    ]  # fmt: skip
    suite = SuiteReport(suite="code", summary="", sampling={}, shortened=0, too_long=0,
                        report=report, figures=figures, rows=rows)  # fmt: skip
    stream = StreamReport(settings={}, suites=[suite], stream=figures)
    out.append(folder / "suites.json")
    out[-1].write_text(stream.model_dump_json())
    return out


def page(files: list[Path]) -> str:
    documents = [read(path) for path in files]
    return to_html(sections(documents, pictures(documents), "a <title>"))


def test_all_figures_and_all_words_are_there(files: list[Path]) -> None:
    documents = [read(path) for path in files]
    drawn = pictures(documents)
    assert list(drawn) == list(SEEN)
    text = page(files)
    for wanted in ("a <title>", "<b>peer</b>", "vllm could not run: ImportError: libcuda & more",
                   "prompt-lookup", "Run: batch2", "code", "at most 12 MB"):  # fmt: skip
        assert html.escape(wanted) in text, wanted
    assert "<b>" not in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text), "nothing lies elsewhere"
    images = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', text)
    assert len(images) == len(SEEN)
    assert all(b"</svg>" in b64decode(image) for image in images)


def test_what_documents_do_not_tell_is_not_drawn(files: list[Path]) -> None:
    assert list(pictures([read(files[0])])) == ["speed_up", "cost_split", "tokens_against_cost"]


def test_bars_are_the_documents_ratios(files: list[Path]) -> None:
    document = read(files[0])
    figure = pictures([document])["speed_up"]
    patches = figure.axes[0].patches
    bars = sorted(round(bar.get_height(), 9) for bar in patches if bar.get_height())
    known: list[Result] = document.comparison.results  # type: ignore[union-attr]
    assert bars == sorted(round(r.ratio_to_plain, 9) for r in known if r.method != "plain")


def test_a_failed_run_shows_no_speed(files: list[Path], tmp_path: Path) -> None:
    report = comparison(1)
    results = [r.model_copy(update={"tokens_per_s": None, "ratio_to_plain": None, "interval": None})
               for r in report.results]  # fmt: skip
    path = tmp_path / "failed.json"
    path.write_text(
        report.model_copy(update={"failed": True, "results": results}).model_dump_json()
    )
    document = read(path)
    assert document.failed
    assert "A text differs that must not" in page([path])
    assert "speed_up" not in pictures([document])


def test_the_same_bytes_every_time(files: list[Path]) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "foretoken"}):
        assert page(files) == page(files)


@pytest.mark.parametrize(
    ("text", "says"), [("{", "StreamReport"), ("{}", "Report"), (None, "readable")]
)
def test_other_files_are_refused(text: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises((ArtifactError, ConfigError), match=says):
        read(path)


def test_a_run_without_suites_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(StreamReport(settings={}).model_dump_json())
    with pytest.raises(ArtifactError, match="no results yet"):
        read(path)


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_a_browser_shows_it(files: list[Path], tmp_path: Path) -> None:
    """Every picture is decoded and drawn; nothing is asked of a network."""
    documents = [read(path) for path in files]
    target = tmp_path / "page.html"
    write_page(sections(documents, pictures(documents), "seen"), target)
    probe = (
        "<script>addEventListener('load',()=>{document.title=[...document.images]"
        ".map(i=>i.naturalWidth>0&&i.complete).join()})</script>"
    )
    target.write_text(target.read_text().replace("</body>", probe + "</body>"))
    shown = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom",
         target.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    title = re.search("<title>(.*?)</title>", shown)
    assert title is not None
    assert title[1].split(",") == ["true"] * len(SEEN)
