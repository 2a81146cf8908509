"""Draws docs/rules.svg: where each rule takes its mass from. `python -m docs.pictures.rules`

One position, seven tokens, three drafts. For each rule the bars are the target's probabilities; the
coloured parts were given out because the first, second or third draft stood, the hatched part is
the correction. Every part is computed by running the rule with every coin followed both ways.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import torch
from tests.exact.enumeration import Rows, Table, outcomes
from tests.exact.every_draft import LEAF, drafts

from foretoken import registry
from foretoken.tree import Kind

P = [0.34, 0.06, 0.16, 0.08, 0.20, 0.05, 0.11]
Q = [0.14, 0.33, 0.20, 0.15, 0.07, 0.08, 0.03]
DRAFTS = 3
PANELS: list[tuple[str, Kind, int, str]] = [
    ("walk", "point", DRAFTS, "draw and follow\nthe 3 likeliest, fixed"),
    ("token", "sampled", 1, "token by token\n1 draft"),
    ("multi-round", "sampled", DRAFTS, "multi-round\n3 drafts, drawn independently"),
    ("k-seq", "sampled", DRAFTS, "k-SEQ\n3 drafts, drawn independently"),
    ("recursive", "without_replacement", DRAFTS, "recursive rejection\n3 drafts without repeats"),
    ("mixed", "mixed", DRAFTS, "greedy drafting\n2 fixed, 1 drawn"),
    ("optimal", "sampled", DRAFTS, "optimal transport\n3 drafts, drawn independently"),
    ("optimal", "without_replacement", DRAFTS, "optimal transport\n3 drafts without repeats"),
]
COLOURS = ("#1b6ca8", "#4fa3d1", "#a5d3ec")


def parts(name: str, kind: Kind, k: int) -> torch.Tensor:
    """[k + 1, V]: mass given out through draft 1..k, and as a correction."""
    p = torch.tensor(P, dtype=torch.float64)
    q = torch.tensor(Q, dtype=torch.float64)
    table: Table = {(): p, **{(t,): p for t in range(len(P))}}
    out = torch.zeros(k + 1, len(P), dtype=torch.float64)
    rule = registry.find("verifier", name)()
    law = dict.fromkeys(table, q)  # of the drafter, whatever stands before
    for tree, weight in drafts(law, kind, [LEAF] * k):
        rows = Rows(table, tree)
        for verdict, chance in outcomes(lambda coins: rule.judge(tree, rows, coins)):  # noqa: B023
            if verdict.path:
                node = verdict.path[0]
                draft = list(tree.draws.nodes).index(node)
                out[draft, tree.tokens[node]] += weight * chance
            else:
                out[k, verdict.bonus] += weight * chance
    return out


def main(path: Path = Path("docs/rules.svg")) -> None:
    """Draw and write."""
    mpl.rcParams["svg.hashsalt"] = "foretoken"  # the same bytes every time
    figure, axes = plt.subplots(2, 4, figsize=(12, 5.6), sharey=True)
    for axis, (name, kind, k, title) in zip(axes.flat, PANELS, strict=True):
        made = parts(name, kind, k)
        bottom = torch.zeros(len(P), dtype=torch.float64)
        for i in range(k):
            axis.bar(range(len(P)), made[i], bottom=bottom, color=COLOURS[i], width=0.7)
            bottom = bottom + made[i]
        axis.bar(range(len(P)), made[k], bottom=bottom, color="white", hatch="///",
                 edgecolor="#b0b0b0", linewidth=0, width=0.7)  # fmt: skip
        axis.step([-0.5, *range(len(P)), len(P) - 0.5], [Q[0], *Q, Q[-1]], where="mid",
                  color="#d1495b", linewidth=1.2, linestyle=":")  # fmt: skip
        axis.bar(range(len(P)), P, color="none", edgecolor="black", linewidth=1, width=0.7)
        axis.set_title(f"{title}\naccepted {float(made[:k].sum()):.3f}", fontsize=9)
        axis.set_xticks(range(len(P)), "abcdefg")
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(
        handles=[
            *(plt.Rectangle((0, 0), 1, 1, color=c) for c in COLOURS),
            plt.Rectangle((0, 0), 1, 1, facecolor="white", hatch="///", edgecolor="#b0b0b0"),
            plt.Rectangle((0, 0), 1, 1, facecolor="none", edgecolor="black"),
            plt.Line2D([], [], color="#d1495b", linestyle=":"),
        ],
        labels=["first draft", "second", "third", "correction", "target p", "drafter q"],
        loc="lower center", ncol=6, frameon=False, fontsize=9,
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
