"""Tables of docs/training.md from the runs in benchmarks/: `python -m docs.training`.

benchmarks/drafters.json is the study of the recipes (`python -m benchmarks.drafters`),
benchmarks/drafters_long.json the part of it that compares losses at a real budget,
benchmarks/lengths.json, lengths_head.json and lengths_bound.json the policies (`foretoken bench`),
benchmarks/online.json and .svg the stream (`foretoken train draft online`). tests/docs compares the
page with the files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RUNS = HERE.parent / "benchmarks"
PAGE = HERE / "training.md"
START, END = "<!-- measured: python -m docs.training -->\n", "<!-- /measured -->\n"


def written() -> str:
    """What stands between the markers: a part for each run that is there."""
    parts = {
        "drafters": recipes, "drafters_long": losses, "lengths": lengths, "lengths_head": head,
        "lengths_bound": bound, "online": online, "online_hard": hard,
    }  # fmt: skip
    found = [part(read(name)) for name, part in parts.items() if (RUNS / f"{name}.json").exists()]
    return "\n".join(line for lines in found for line in lines) + "\n"


def read(name: str) -> Any:
    """The document of a run."""
    return json.loads((RUNS / f"{name}.json").read_text())


def recipes(document: Any) -> list[str]:
    """A row for each drafter, and what training cost."""
    arms = {arm["name"]: arm for arm in document["arms"]}
    data = arms["answers"]["counts"]
    out = [
        "### Every recipe on the demo target",
        "",
        f"Printed from `benchmarks/drafters.json`, which `{document['command']}` makes: "
        f"{data['rows']:,} answers of the bundled target with {data['learned']:,} tokens to learn, "
        f"temperatures 0, 0.7 and 1, 5 % of the prompts held out. {document['note']}",
        "",
        "Held out: alpha is the exact chance that a token drawn at temperature 1 is accepted, "
        "before -> after. Drafts of four tokens on 12 held-out prompts: acceptance, tokens per "
        "step and MBSU at temperature 0 (`lm`) and 1 (`lm-sampled`). The machine was busy, so that "
        "speeds are not shown. Differences of 0.02 are noise. `medium-amft` is evaluated on a half "
        "of the held-out rows, since its controller looks at the rest; `large-s2d` at each exit.",
        "",
        "| drafter | parameters | training | alpha | T 0: accepted | tokens/step | MBSU | "
        "T 1: accepted | tokens/step | MBSU |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    figures = simulated(arms)
    for name, arm in arms.items():
        if "parameters" in arm and name in figures["0"]:
            out.append(_row(name, arm, figures))
    out += ["", *_targets(arms, figures), "", "The commands:", "", "```"]
    out += [arm["command"] for arm in arms.values() if "simulation" not in arm]
    return [*out, "```", ""]


def losses(document: Any) -> list[str]:
    """What aligns a drafter best at a real budget, and what a trimmed vocabulary brings."""
    arms = {arm["name"]: arm for arm in document["arms"]}
    figures, data = simulated(arms), arms["answers"]["counts"]
    out = ["### Losses at a real budget, and a trimmed vocabulary", "",
           f"`{document['command']}`: {data['rows']:,} answers with {data['learned']:,} tokens to "
           "learn, 700 steps of about 2,000 tokens for each loss (`earlier-aligned`: lk-hybrid, "
           f"which is what is shipped). {document['note']} x plain: with drafts of four tokens, "
           "always, under the policy `fixed`; a forward of so small a target costs little more "
           "than its drafter's. alpha is exact, on held-out text; the drafts are of 12 prompts, "
           "and at T 1 differences of 0.2 tokens are noise.", "",
           "| drafter | alpha | T 0: tokens/step | MBSU | x plain | T 1: tokens/step | MBSU | "
           "x plain |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, arm in arms.items():
        if "parameters" not in arm or name not in figures["0"]:
            continue
        cells = [name, _alpha(arm) if name != "earlier-trimmed" else "-"]
        for heat in ("0", "1"):
            found = figures[heat][name]
            keys = ("tokens_per_step", "mbsu", "ratio_to_plain")
            cells += [_number(found[key]) for key in keys]
        out.append("| " + " | ".join(cells) + " |")
    whole = document["trim"][-1]
    out += [
        "",
        "`vocab-trim` chooses the number of tokens by what it expects of each (calibration "
        "on the same answers; this vocabulary is small, and its tokens are spread: the paper "
        "trims 128,000 tokens, gains 16 % MBSU and loses 1 to 5 % of the accepted ones):",
        "",
        "| tokens kept | coverage | alpha | tokens/step | MBSU |",
        "|---|---|---|---|---|",
    ]
    for row in document["trim"]:
        less = row["tokens_per_step"] / whole["tokens_per_step"] - 1
        more = row["mbsu"] / whole["mbsu"] - 1
        out.append(
            f"| {row['tokens']:,} | {row['coverage']:.3f} | {row['alpha']:.3f} | "
            f"{row['tokens_per_step']:.2f} ({less:+.0%}) | {row['mbsu']:.2f} ({more:+.0%}) |"
        )
    return [*out, ""]


def simulated(arms: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Temperature -> drafter -> figures of its drafts for the demo target, by its own method."""
    out: dict[str, dict[str, Any]] = {"0": {}, "1": {}}
    for name, arm in arms.items():
        if "simulation" not in arm or name.startswith("simulate-other"):
            continue
        for figures in arm["simulation"]:
            nested = figures["method"].startswith("s2d")
            if nested == figures["drafter"].endswith("s2d"):
                out[name[-1]][figures["drafter"]] = figures
    return out


def _row(name: str, arm: Any, figures: dict[str, dict[str, Any]]) -> str:
    alpha = _alpha(arm)
    minutes = f"{arm.get('steps', 0):,} steps, {arm['wall_seconds'] / 60:.1f} min"
    cells = [name, f"{arm['parameters'] / 1e6:.2f} M", minutes, alpha]
    for heat in ("0", "1"):
        found = figures[heat].get(name)
        cells += ["-"] * 3 if found is None else [
            _number(found["acceptance"]), _number(found["tokens_per_step"]), _number(found["mbsu"])
        ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _alpha(arm: Any) -> str:
    after, before = arm.get("held_out", {}), arm.get("before", {})
    if "alpha" in after:
        start = f"{before['alpha']:.3f} -> " if "alpha" in before else ""
        return f"{start}{after['alpha']:.3f}"
    by_exit = [f"{value:.3f}" for key, value in after.items() if key.startswith("alpha at")]
    return ", ".join(by_exit) or "-"


def _targets(arms: dict[str, Any], figures: dict[str, dict[str, Any]]) -> list[str]:
    """One nested drafter for two targets, against one drafter each."""
    out = ["### One drafter for two targets", "",
           "`s2d` was trained on the text alone, for no target; the others for one of them. The "
           "other target is a model of its own (5.5 M parameters), trained from another start.",
           "", "| target | drafter | tokens/step, T 0 | MBSU | tokens/step, T 1 | MBSU |",
           "|---|---|---|---|---|---|"]  # fmt: skip
    rows = [("demo", "large-forward-kl", figures), ("demo", "large-s2d", figures)]
    other: dict[str, dict[str, Any]] = {"0": {}, "1": {}}
    for heat, mine in other.items():
        for found in arms.get(f"simulate-other-{heat}", {}).get("simulation", ()):
            nested = found["method"].startswith("s2d")
            if nested == found["drafter"].endswith("s2d"):
                mine[found["drafter"]] = found
    rows += [("other", "large-other", other), ("other", "large-s2d", other)]
    for target, name, where in rows:
        cells = [target, name]
        for heat in ("0", "1"):
            found = where[heat].get(name)
            cells += ["-"] * 2 if found is None else [
                _number(found["tokens_per_step"]), _number(found["mbsu"])
            ]  # fmt: skip
        out.append("| " + " | ".join(cells) + " |")
    return out


def lengths(document: Any) -> list[str]:
    """Every policy on one stream: ratio to plain, regret to the best constant length."""
    return _ranked("Every length policy on one stream", document)


def head(document: Any) -> list[str]:
    """SpecDec++ by the threshold of its head."""
    return _ranked("A trained head against constant lengths", document)


def _ranked(heading: str, document: Any) -> list[str]:
    results = [r for r in document["results"] if r["method"] != "plain"]
    constant = [r for r in results if "policy=constant" in r["method"]]
    best = max(constant, key=lambda r: r["ratio_to_plain"])
    out = [f"### {heading}", "",
           f"`{document['command']}`", "", document["note"], "",
           "| method | tokens/step | drafted a step | x plain | against the best constant |",
           "|---|---|---|---|---|"]  # fmt: skip
    for r in sorted(results, key=lambda r: -r["ratio_to_plain"]):
        share = r["ratio_to_plain"] / best["ratio_to_plain"] - 1
        cells = [f"`{r['method']}`", _number(r["tokens_per_step"]),
                 _number(r["drafted"] / max(r["steps"], 1)), _number(r["ratio_to_plain"]),
                 "best" if r is best else f"{share:+.1%}"]  # fmt: skip
        out.append("| " + " | ".join(cells) + " |")
    return [*out, ""]


def bound(document: Any) -> list[str]:
    """Every policy where drafting does not pay, with `slack`."""
    out = ["### Where drafting does not pay", "", f"`{document['command']}`", "", document["note"],
           "", "| method | tokens/step | drafted a step | x plain | of its time |",
           "|---|---|---|---|---|"]  # fmt: skip
    for r in document["results"]:
        drafted = r["drafted"] / max(r["steps"], 1)
        ratio, spent = r["ratio_to_plain"], r["seconds"]
        share = spent["draft"] / sum(spent.values())
        cells = [f"`{r['method']}`", _number(r["tokens_per_step"]), _number(drafted),
                 "-" if ratio is None else f"{ratio:.3f}", f"{share:.1%}"]  # fmt: skip
        out.append("| " + " | ".join(cells) + " |")
    return [*out, ""]


def online(document: Any) -> list[str]:
    """Acceptance by topic for drafters that learn while they serve."""
    return _stream("A stream that changes topic twice", document, "online.svg")


def hard(document: Any) -> list[str]:
    """The same with more and larger steps."""
    return _stream("The same, learning harder", document)


def _stream(heading: str, document: Any, picture: str = "") -> list[str]:
    topics = document["topics"]
    shown = ["", f"![acceptance over the stream]({picture})"] if picture else []
    out = [f"### {heading}", "", f"`{document['command']}`", "", document["note"], *shown, "",
           "Acceptance of a judged token over the first and the last "
           f"{document['window']} requests of a topic; (n): requests until it was within 5 % of "
           "the last.", "",
           "| drafter | " + " | ".join(topics) + " | tokens/s, last topic | learning |",
           "|---|" + "---|" * (len(topics) + 2)]  # fmt: skip
    for lane in document["lanes"]:
        cells = [f"`{lane['label']}`"]
        for phase in lane["phases"]:
            waited = "" if phase["recovery"] is None else f" ({phase['recovery']})"
            cells.append(f"{_number(phase['first'])} -> {_number(phase['last'])}{waited}")
        share = sum(p["learning"] for p in lane["requests"]) / sum(
            p["seconds"] for p in lane["requests"]
        )
        cells += [_number(lane["phases"][-1]["tokens_per_s"]), f"{share:.1%}"]
        out.append("| " + " | ".join(cells) + " |")
    return [*out, "", "Learning: its share of the time of serving.", ""]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main() -> None:
    """Write the part of the page between the markers."""
    before, rest = PAGE.read_text().split(START)
    _, after = rest.split(END)
    PAGE.write_text(before + START + written() + END + after)


if __name__ == "__main__":
    main()
