"""docs/results.md from the runs in benchmarks/: `python -m docs.results`.

A run is a file of `foretoken bench --suite ... --peers ... --save`, with the command that made it
under "command". tests/docs compares the page with the files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RUNS = HERE.parent / "benchmarks"
PAGE = HERE / "results.md"
STREAMS = ("results_demo", "results_wide")
OURS = "auto"
INTRO = """# Results

Speeds by task, ours and other engines', on the same weights and prompts in one run: all engines
write a prompt one after the other, in an order that changes from prompt to prompt. Text comes
first: what an engine writes is compared with our plain decoding token by token, and one that
writes something else has no speed here. An engine's modes stand beside *its own* plain decoding,
because that is what drafting adds; in absolute terms an engine also differs by its kernels and by
what its steps cost beside the model. Tokens are counted as ids on both sides. Intervals are 95 %
by a paired bootstrap over prompts. Written by `python -m docs.results` from the files named
below; `foretoken report FILE -o page.html` shows one with figures. What the words mean:
[concepts](concepts.md).
"""


def read(name: str) -> Any:
    """The document of a run; None if there is none."""
    path = RUNS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def written() -> str:
    """The page."""
    parts = [INTRO]
    for name in STREAMS:
        document = read(name)
        if document is not None:
            parts += stream(name, document)
    parts += batches()
    audited = read("audit_peers")
    if audited is not None:
        parts += audit(audited)
    return "\n".join(parts)


def stream(name: str, document: Any) -> list[str]:
    """One run over suites."""
    settings, first = document["settings"], document["suites"][0]["report"]
    machine, wide = first["machine"], settings["widen"]
    size = f"{settings['parameters'] / 1e6:,.1f} M parameters" + (
        f", widened x{wide}: the demo model's function at the cost of a model of that size"
        if wide > 1 else ""
    )  # fmt: skip
    out = [
        f"## {'The demo model as it is' if wide == 1 else 'At real size'}", "",
        f"`benchmarks/{name}.json`, made by", "", "```", document["command"], "```", "",
        f"{size}; {settings['dtype']}, at most {settings['max_new_tokens']} new tokens a prompt. "
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, Python "
        f"{machine['python']}, torch {machine['torch']}, foretoken at commit {machine['commit']}. "
        + document["note"], "",
    ]  # fmt: skip
    out += _best(document) + _absolute(document) + _engines(document) + _floor(document)
    return out


def _modes(document: Any) -> dict[str, list[str]]:
    """Engine -> its modes beside plain, in order."""
    out: dict[str, list[str]] = {}
    for suite in document["suites"]:
        for result in suite["report"]["results"]:
            if result["peer"]:
                kind = result.get("own_plain") or result["method"]
                modes = out.setdefault(kind, [])
                if result["method"] != kind and result["method"] not in modes:
                    modes.append(result["method"])
    return out


def _by_method(suite: Any) -> dict[str, Any]:
    return {result["method"]: result for result in suite["report"]["results"]}


def _best(document: Any) -> list[str]:
    """What drafting adds: auto over plain, each engine's best mode over its own plain."""
    modes = _modes(document)
    engines = [kind for kind in modes if modes[kind]]
    out = [
        "### What drafting adds", "",
        f"Tokens per second over the same engine's plain decoding: ours (`{OURS}`, and our best "
        "other method), and each engine's best mode *of that task*, chosen afterwards, which "
        "flatters it.", "",
        f"| task | {OURS} | best other of ours | {' | '.join(engines)} |",
        "|---|" + "---|" * (len(engines) + 2),
    ]  # fmt: skip
    ahead: dict[str, int] = dict.fromkeys(engines, 0)
    for suite in document["suites"]:
        by = _by_method(suite)
        mine = by.get(OURS)
        others = [r for m, r in by.items() if not r["peer"] and m not in ("plain", OURS)]
        cells = [suite["suite"], _gain(mine, "ratio_to_plain", "interval"),
                 _named(_top(others, "ratio_to_plain"), "ratio_to_plain")]  # fmt: skip
        for kind in engines:
            top = _top([by[m] for m in modes[kind] if m in by], "ratio_to_own_plain")
            cells.append(_named(top, "ratio_to_own_plain", f"{kind}-"))
            if mine and mine["ratio_to_plain"] and top is not None:
                ahead[kind] += mine["ratio_to_plain"] > top["ratio_to_own_plain"]
        out.append("| " + " | ".join(cells) + " |")
    count = len(document["suites"])
    told = ", ".join(f"{kind} on {n}" for kind, n in ahead.items())
    return [*out, "", f"`{OURS}` is ahead of the best mode of {told} of {count} tasks.", ""]


def _absolute(document: Any) -> list[str]:
    """Tokens per second: our plain and auto, every engine's plain and best."""
    modes = _modes(document)
    columns = ["plain", OURS, *modes]
    out = ["### Tokens per second", "",
           "An engine's plain decoding / its fastest mode.", "",
           f"| task | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]  # fmt: skip
    for suite in document["suites"]:
        by = _by_method(suite)
        cells = [suite["suite"], _speed(by.get("plain")), _speed(by.get(OURS))]
        for kind, names in modes.items():
            known = [by[n] for n in names if n in by and by[n]["tokens_per_s"] is not None]
            top = max((r["tokens_per_s"] for r in known), default=None)
            fast = "" if top is None else f" / {top:,.0f}"
            cells.append(_speed(by.get(kind)) + fast)
        out.append("| " + " | ".join(cells) + " |")
    return [*out, ""]


def _engines(document: Any) -> list[str]:
    """Versions, settings, text, memory; and who could not run."""
    facts: dict[str, Any] = {}
    missing: dict[str, str] = {}
    differ: dict[str, list[int]] = {}
    first: dict[str, list[float]] = {}
    for suite in document["suites"]:
        facts |= {peer["label"]: peer for peer in suite["report"]["peers"]}
        missing |= suite["report"]["missing"]
        for result in suite["report"]["results"]:
            counted = differ.setdefault(result["method"], [0, 0])
            counted[0] += len(result["divergences"])
            counted[1] += (
                suite["report"]["prompts"]["used"] if result["identical"] is not None else 0
            )
            if result["first_token_s"] is not None:
                first.setdefault(result["method"], []).append(result["first_token_s"])
    out = ["### The engines", "",
           "Texts that differ from plain's, of those compared (sampled texts are not); seconds to "
           "the first token, the median task's; memory of the process at its peak.", "",
           "| engine | versions | set | texts that differ | first token | memory |",
           "|---|---|---|---|---|---|"]  # fmt: skip
    for label, peer in facts.items():
        versions = ", ".join(f"{name} {value}" for name, value in peer["versions"].items())
        memory = "ours" if peer["peak_mb"] is None else f"{peer['peak_mb']:,.0f} MB"
        wrong, of = differ[label]
        times = sorted(first.get(label, [])) or [float("nan")]
        out.append(
            f"| {label} | {versions} | {', '.join(peer['notes'])} | {wrong} of {of} | "
            f"{1000 * times[len(times) // 2]:.0f} ms | {memory} |"
        )
    out += ["", *(f"`{label}` could not run: {why}" for label, why in missing.items())]
    return [*out, ""]


def _floor(document: Any) -> list[str]:
    floor = document.get("floor")
    if not floor:
        return []
    rows = [
        f"| {n} | {1000 * s:.2f} ms | {s / floor['seconds']:.2f} |"
        for n, s in floor["forwards"].items()
    ]
    return [
        "### How far from the floor", "",
        f"A forward of one text reads every weight once: {floor['weight_mb']:,.1f} MB at "
        f"{floor['read_gb_per_s']:.1f} GB/s, the rate measured here, take "
        f"{1000 * floor['seconds']:.2f} ms. Our forwards of so many scored rows, and how far they "
        "are above that; an engine's plain decoding is a forward a token:", "",
        "| rows | forward | over the floor |", "|---|---|---|", *rows, "", *_plain_floor(document),
    ]  # fmt: skip


def _plain_floor(document: Any) -> list[str]:
    """Time per token of plain decoding over the floor, by engine, over all tasks."""
    seconds = document["floor"]["seconds"]
    spent: dict[str, list[float]] = {}
    for suite in document["suites"]:
        for result in suite["report"]["results"]:
            own = result["method"] == "plain" or (result["peer"] and not result.get("own_plain"))
            if own and result["tokens_per_s"] and "-" not in result["method"]:
                spent.setdefault(result["method"], []).append(1 / result["tokens_per_s"])
    rows = [
        f"| {method} | {1000 * sum(times) / len(times):.2f} ms | "
        f"{sum(times) / len(times) / seconds:.2f} |"
        for method, times in spent.items()
    ]
    return ["| plain decoding | per token, prompt included | over the floor |", "|---|---|---|",
            *rows, ""]  # fmt: skip


def batches() -> list[str]:
    """Tokens per second by how many texts ride together."""
    found = sorted(
        RUNS.glob("results_batch_*.json"), key=lambda path: int(path.stem.split("_")[-1])
    )
    documents = [json.loads(path.read_text()) for path in found]
    if not documents:
        return []
    methods = [result["method"] for result in documents[0]["results"]]
    out = [
        "## Several texts at a time", "", "Made by", "", "```",
        *(document["command"] for document in documents), "```", "",
        "Tokens per second of all texts together, the demo model in float32. What drafting saves "
        "is shared forwards, and those are cheap here; what it costs is Python for every text: "
        "beyond a few texts of so small a model it does not pay, and a drafter that does not pay "
        "is left alone (beside ours: x our plain). 64 texts are one group here: all that a drafter "
        "costs at the start falls on it.", "",
        f"| texts | {' | '.join(methods)} |", "|---|" + "---|" * len(methods),
    ]  # fmt: skip
    for document in documents:
        by = {result["method"]: result for result in document["results"]}
        cells = [str(document["batch"])]
        for method in methods:
            result = by.get(method)
            ratio = result["ratio_to_plain"] if result and not result["peer"] else None
            inside = f" ({ratio:.2f})" if ratio and method != "plain" else ""
            cells.append(_speed(result) + inside)
        out.append("| " + " | ".join(cells) + " |")
    return [*out, ""]


def audit(document: Any) -> list[str]:
    """Whether the engines' text is the model's, greedy and drawn."""
    plan = document["plan"]
    out = [
        "## Is their text exact?", "", "```", document["command"], "```", "",
        f"Greedy text token by token; of drawn text the joint law of {plan['tokens']} tokens by "
        f"{plan['samples']:,} samples: a law that is {plan['effect']:g} away in total variation is "
        f"seen with probability {plan['power']:.3f} at least, a right one accused in this report "
        f"with probability {document['false_alarms']:g} at most. The demo model, "
        f"{document['dtype']}. A fault is one of an engine in this build, driven as named here. "
        + document.get("note", ""), "",
        "| engine | versions and settings | greedy text | drawn text | total variation |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for engine in document["engines"]:
        greedy, drawn = engine["greedy"], engine["sampling"]
        text = "-" if greedy is None else (
            f"{greedy['same']} of {greedy['prompts']} the same, {greedy['faults']} faults"
        )  # fmt: skip
        law, distance = "-", "-"
        if drawn is not None:
            worst = min(test["p_value"] for test in drawn["tests"])
            wrong = drawn["impossible"] or drawn["short"] or not all(
                test["passed"] for test in drawn["tests"]
            )  # fmt: skip
            law = f"{'**a fault**' if wrong else 'as the model says'}, least p {worst:.2g}"
            distance = f"{drawn['distance']:.3f}"
        if engine.get("error"):
            law = f"it broke off: {engine['error']}"
        name = engine["engine"].removeprefix("peer:")
        out.append(f"| {name} | {engine['what']} | {text} | {law} | {distance} |")
    return [*out, ""]


def _top(results: list[Any], field: str) -> Any:
    known = [r for r in results if r.get(field) is not None]
    return max(known, key=lambda r: r[field], default=None)


def _gain(result: Any, field: str, interval: str) -> str:
    if result is None or result.get(field) is None:
        return "-"
    low_high = result.get(interval)
    inside = f" ({low_high[0]:.2f}-{low_high[1]:.2f})" if low_high else ""
    return f"**{result[field]:.2f}**{inside}"


def _named(result: Any, field: str, prefix: str = "") -> str:
    if result is None:
        return "-"
    return f"{result[field]:.2f} {result['method'].removeprefix(prefix)}"


def _speed(result: Any) -> str:
    value = None if result is None else result["tokens_per_s"]
    return "-" if value is None else f"{value:,.0f}"


def main() -> None:
    """Write the page."""
    PAGE.write_text(written())


if __name__ == "__main__":
    main()
