"""Tables and a picture from `foretoken bench --suite ... --save`: `python -m docs.measured`.

Writes the part of docs/adaptive.md between its markers, and docs/adaptive.svg, from the two files
in benchmarks/. tests/docs compares the page with the files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RUNS = HERE.parent / "benchmarks"
FILES = {
    "stream": ("Reference texts", RUNS / "adaptive_forced.json"),
    "edit": ("Editing, the old text given as prediction", RUNS / "adaptive_edit.json"),
}
SHIFTS = RUNS / "scorecard.json"
PAGE = HERE / "adaptive.md"
START, END = "<!-- measured: python -m docs.measured -->\n", "<!-- /measured -->\n"
SHOWN = "auto"


def read() -> dict[str, Any]:
    """Mode -> the document of its run."""
    return {mode: json.loads(file.read_text()) for mode, (_, file) in FILES.items()}


def tables(documents: dict[str, Any]) -> str:
    """Markdown: for each mode ratio to plain and tokens per step, by suite and for the stream."""
    parts = []
    for mode, document in documents.items():
        methods = [f["method"] for f in document["stream"]]
        parts += [f"### {FILES[mode][0]}", ""]
        for field, title, digits in (
            ("ratio_to_plain", "tokens per second over plain decoding", 2),
            ("tokens_per_step", "tokens per step", 2),
        ):
            columns = [m for m in methods if m != "plain"]
            parts += [f"*{title}*", "", f"| suite | {' | '.join(columns)} |"]
            parts += ["|---|" + "---|" * len(columns)]
            for suite in document["suites"]:
                parts.append(_row(suite["suite"], suite["figures"], columns, field, digits))
            parts += [_row("**whole stream**", document["stream"], columns, field, digits), ""]
        parts += _promises(document)
    return "\n".join(parts)


def shifts(document: Any) -> str:
    """Markdown: ratio to plain, regret and floor of every contestant under every shift."""
    scenarios = document["scorecard"]["scenarios"]
    names = list(dict.fromkeys(lane["method"] for s in scenarios for lane in s["lanes"]))
    lines = ["", "### Scripted shifts", "", "*ratio to plain (worst window) and regret*", ""]
    lines += [f"| method | {' | '.join(s['name'] for s in scenarios)} |"]
    lines += ["|---|" + "---|" * len(scenarios)]
    for name in names:
        cells = []
        for scenario in scenarios:
            by = {lane["method"]: lane["score"] for lane in scenario["lanes"]}
            score = by[name]
            cells.append(f"{score['ratio']:.2f} ({score['floor']:.2f}) {score['regret']:.0%}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", *(f"- {s['name']}: {s['summary']}" for s in scenarios), ""]
    return "\n".join(lines)


def written() -> str:
    """What stands between the markers."""
    return tables(read()) + shifts(json.loads(SHIFTS.read_text()))


def _row(name: str, figures: Any, columns: list[str], field: str, digits: int) -> str:
    by = {f["method"]: f[field] for f in figures}
    values = [by.get(method) for method in columns]
    best = max(v for v in values if v is not None)
    cells = ["-" if v is None else f"**{v:.{digits}f}**" if v == best else f"{v:.{digits}f}"
             for v in values]  # fmt: skip
    return f"| {name} | {' | '.join(cells)} |"


def _promises(document: Any) -> list[str]:
    out = ["*promised against what stood, over the stream*", ""]
    out += ["| method | nodes scored | promised | stood | draft ms a step | draft us a node |"]
    out += ["|---|---|---|---|---|---|"]
    for f in document["stream"]:
        if f["drafted"]:
            step, node = 1e3 * f["draft_s_per_step"], 1e6 * f["draft_s_per_node"]
            counts = f"{f['drafted']} | {f['promised']:.0f} | {f['accepted']}"
            out.append(f"| {f['method']} | {counts} | {step:.2f} | {node:.0f} |")
    return [*out, ""]


def picture(document: Any, path: Path = HERE / "adaptive.svg") -> None:
    """Bars of `auto`, the best other method and prompt lookup by suite; calibration of `auto`."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "foretoken"
    figure, (bars, promises) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(3, 2))
    suites = [*document["suites"], {"suite": "whole stream", "figures": document["stream"]}]
    chosen: dict[str, list[float]] = {SHOWN: [], "best other method": [], "prompt-lookup": []}
    for suite in suites:
        by = {f["method"]: f["ratio_to_plain"] for f in suite["figures"]}
        chosen[SHOWN].append(by[SHOWN])
        chosen["prompt-lookup"].append(by["prompt-lookup"])
        chosen["best other method"].append(max(v for k, v in by.items() if k != SHOWN))
    at, colours = range(len(suites)), ("#1b6ca8", "#a5d3ec", "#d98c5f")
    for i, (label, values) in enumerate(chosen.items()):
        bars.bar([x + 0.27 * (i - 1) for x in at], values, 0.27, label=label, color=colours[i])
    bars.axhline(1.0, color="black", linewidth=0.8)
    names = [suite["suite"].removeprefix("spec-bench:") for suite in suites]
    bars.set_xticks(list(at), names, rotation=40, ha="right", fontsize=8)
    bars.set_ylabel("tokens per second, x plain decoding")
    bars.legend(fontsize=8)
    figures = next(f for f in document["stream"] if f["method"] == SHOWN)
    found = [c for c in figures["by_class"] if c["nodes"] >= 5]
    said = [c["promised"] / c["nodes"] for c in found]
    stood = [c["accepted"] / c["nodes"] for c in found]
    promises.plot(said, stood, "o-", color=colours[0])
    promises.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    promises.set_xlabel("probability that the node stands, as promised")
    promises.set_ylabel("share that stood")
    promises.set_title(f"Calibration of {SHOWN}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Write both."""
    documents = read()
    text = PAGE.read_text()
    before, rest = text.split(START)
    _, after = rest.split(END)
    PAGE.write_text(before + START + written() + END + after)
    picture(documents["stream"])


if __name__ == "__main__":
    main()
