"""Every recipe for drafters, on the bundled demo target: the study behind docs/training.md.

    python -m benchmarks.drafters --out DIR [--jobs 8] [--only NAME,...] [--scale 0.01]

An arm is a command of `foretoken train draft`, made as a user would type it; arms that build on
another one wait for it. What is there already is not made again. `DIR/study.json` gets every arm's
command, minutes and figures: held-out ones of the training, and of real drafts. `--scale`
shortens the training (a smoke of the whole study).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARTS = 2  # processes that write answers
SHORT = 150  # steps of an alignment, 1,024 tokens each
LONG = 700  # steps of the drafter that is shipped
ROOT = Path(__file__).parents[1]
TEXT = ["--text", "data/gsm8k_train.jsonl"]
SIZES = {
    "small": ["--layers", "1", "--hidden", "96", "--heads", "4", "--kv-heads", "2", "--ffn", "288"],
    "medium": ["--layers", "2", "--hidden", "128", "--ffn", "384"],
    "large": ["--layers", "4", "--hidden", "192", "--ffn", "512"],
}
LOSSES = ("ce-text", "forward-kl", "reverse-kl", "jsd", "tv", "tvd++", "lk", "lk-hybrid", "length",
          "amft")  # fmt: skip
LONG_LOSSES = ("forward-kl", "reverse-kl", "tv", "tvd++", "lk", "lk-hybrid")  # at a real budget
FEW = ("forward-kl",)  # of the sizes that are not studied in full
PRETRAIN = ["--batch", "16", "--micro", "16", "--seq", "512", "--eval-every", "500"]
ALIGN = ["--batch", "4", "--micro", "4", "--seq", "256", "--lr", "0.001", "--warmup", "20",
         "--stdlib", "--eval-every", "100"]  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One command; its output is DIR/name."""

    name: str
    words: tuple[str, ...]
    after: tuple[str, ...] = ()  # arms whose folders it reads, written as {name} in the words
    steps: int = 0  # scaled; 0: the command has none
    output: str = "--out"  # the option that names where it writes
    recipe: tuple[str, ...] = ("train", "draft")
    copied: str = ""  # the arm whose folder is copied first: the command adds a file to it


def arms() -> list[Arm]:
    """All of the study, in an order in which they can be made."""
    data = ("data", "--prompts", "data/gsm8k_train.jsonl", "--stdlib", "--limit", "{limit}",
            "--temperature", "0", "--temperature", "0.7", "--temperature", "1",
            "--max-new-tokens", "160", "--batch", "64", "--shard", "64")  # fmt: skip
    parts = [f"answers-{k}" for k in range(1, PARTS + 1)]
    out = [Arm(name, (*data, "--part", f"{k}/{PARTS}")) for k, name in enumerate(parts, start=1)]
    merged = tuple(word for name in parts for word in ("--merge", f"{{{name}}}"))
    starts = []
    for size, shape in SIZES.items():
        start = Arm(f"{size}-pretrain", ("pretrain", *TEXT, *shape, *PRETRAIN), (), 3000)
        starts.append(start)
        losses = LOSSES if size == "medium" else FEW
        out += [_align(f"{size}-{loss}", start.name, loss) for loss in losses]
    alone = ("align", "--data", "{answers}", *SIZES["medium"], *TEXT, *ALIGN, "--loss", "ce-text")
    out.append(Arm("medium-unpretrained", alone, ("answers",), SHORT))
    # the drafter that was shipped before, and what is made of it
    earlier = ("--data", "data/gsm8k_train.jsonl", "--tokenizer", "src/foretoken/assets/demo",
               "--hidden", "128", "--layers", "2", "--heads", "2", "--kv-heads", "1",
               "--ffn", "352")  # fmt: skip
    starts.append(Arm("earlier", earlier, (), 6500, recipe=("train", "lm")))
    begun = ("align", "--data", "{answers}", "--drafter", "{earlier}", *TEXT, *ALIGN)
    long = ("--batch", "8", "--micro", "8", "--text-share", "0.3", "--loss")
    for loss in LONG_LOSSES:  # the last one is what was shipped
        name = "earlier-aligned" if loss == LONG_LOSSES[-1] else f"earlier-{loss}"
        out.append(Arm(name, (*begun, *long, loss), ("answers", "earlier"), LONG))
    own = ("--on-policy", "0.3", "--on-policy-every", "50", "--on-policy-tokens", "64")
    out.append(_align("medium-on-policy", "medium-pretrain", "forward-kl", *own))
    bigger = ("pretrain", *TEXT, "--layers", "6", "--hidden", "256", "--ffn", "704", *PRETRAIN)
    starts.append(Arm("other-target", bigger, (), 3000))
    out.append(
        Arm(
            "large-other",
            ("align", "--data", "{answers}", "--model", "{other-target}", "--drafter",
             "{large-pretrain}", *TEXT, *ALIGN, "--loss", "forward-kl"),
            ("answers", "large-pretrain", "other-target"),
            SHORT,
        )
    )  # fmt: skip
    nested = ("s2d", "--data", "{answers}", "--drafter", "{large-pretrain}", *TEXT, *ALIGN)
    out.append(
        Arm("large-s2d", (*nested, "--exits", "1,2,4"), ("answers", "large-pretrain"), SHORT)
    )
    cut = ("cut", "--data", "{answers}", "--layers", "2", "--params", "1500000", "--stages", "4",
           "--batch", "8", "--micro", "8", "--seq", "256")  # fmt: skip
    out.append(Arm("cut", cut, ("answers",), 200))
    trim = Arm(
        "earlier-trimmed",
        ("vocab-trim", "--data", "{answers}"),
        ("answers", "earlier-aligned"),
        output="--drafter",
        copied="earlier-aligned",
    )
    out.append(trim)  # fmt: skip
    made = [arm for arm in out if arm.name in parts]
    rest = [arm for arm in out if arm.name not in parts]
    whole = [*starts, *made, Arm("answers", ("data", *merged), tuple(parts)), *rest]
    return [*whole, *_simulations(whole)]


def _simulations(arms: Sequence[Arm]) -> list[Arm]:
    """Real drafts of every drafter on held-out prompts, of each size side by side."""
    out = []
    for size in ("earlier", *SIZES, "other", "cut"):
        drafters = [arm.name for arm in arms if arm.name.startswith(size)]
        target: tuple[str, ...] = ()
        if size == "other":
            drafters, target = ["large-other", "large-s2d"], ("--model", "{other-target}")
        if size == "large":
            drafters.remove("large-other")
        chosen = tuple(word for name in drafters for word in ("--drafter", f"{{{name}}}"))
        nested = ",s2d" if "large-s2d" in drafters else ""
        for heat, form in (("0", "lm"), ("1", "lm-sampled")):
            methods = form + nested
            words = ("simulate", "--data", "{answers}", *target, *chosen, "--methods", methods,
                     "--temperature", heat, "--depth", "4", "--limit", "12",
                     "--max-new-tokens", "48", "--repeats", "3")  # fmt: skip
            after = ("answers", *drafters, *(["other-target"] if target else []))
            out.append(Arm(f"simulate-{size}-{heat}", words, after, output="--save"))
    return out


def _align(name: str, start: str, loss: str, *more: str) -> Arm:
    words = ("align", "--data", "{answers}", "--drafter", f"{{{start}}}", *TEXT, *ALIGN)
    return Arm(name, (*words, "--loss", loss, *more), ("answers", start), SHORT)


class Study:
    """The arms under one folder."""

    def __init__(self, out: Path, scale: float, limit: int, device: str, threads: int) -> None:
        self.out, self.scale, self.limit = out, scale, limit
        self.device, self.threads = device, threads
        self.failed: dict[str, str] = {}

    def command(self, arm: Arm) -> list[str]:
        """What is typed."""
        places = {name: str(self.out / name) for name in (*arm.after, "answers")}
        places["limit"] = str(self.limit)
        words: list[str] = []
        for word in arm.words:
            name = word[1:-1] if word.startswith("{") else ""
            if name in self.failed and words and words[-1] == "--drafter":
                words.pop()  # the others are simulated all the same
            else:
                words.append(places[name] if name else word)
        if arm.steps:
            words += ["--steps", str(max(8, round(arm.steps * self.scale)))]
        place = self.out / arm.name
        if arm.output == "--save":
            return [*arm.recipe, *words, "--device", "cpu", "--save", f"{place}.json"]
        device = ["--device", self.device] if "draft" in arm.recipe else []
        return [*arm.recipe, *words, *device, arm.output, str(place)]

    def make(self, arm: Arm) -> None:
        """Run one arm; what it printed goes to DIR/name.log."""
        if self.done(arm):
            return
        if arm.copied:
            shutil.copytree(self.out / arm.copied, self.out / arm.name, dirs_exist_ok=True)
        began = time.perf_counter()
        found = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
        threads = str(self.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": found}
        with (self.out / f"{arm.name}.log").open("w") as log:
            code = subprocess.run(
                [sys.executable, "-m", "foretoken", *self.command(arm)],
                cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False,
            ).returncode  # fmt: skip
        spent = time.perf_counter() - began
        note = "" if not code else (self.out / f"{arm.name}.log").read_text()[-300:]
        sys.stdout.write(f"{arm.name}: {spent:.0f} s, exit {code} {note}\n")
        sys.stdout.flush()
        if code:
            self.failed[arm.name] = note
        else:
            (self.out / f"{arm.name}.seconds").write_text(f"{spent:.1f}")

    def done(self, arm: Arm) -> bool:
        """Whether it was made."""
        return (self.out / f"{arm.name}.seconds").exists()

    def run(self, chosen: list[Arm], jobs: int) -> None:
        """All of them, as many at a time as `jobs` says."""
        self.out.mkdir(parents=True, exist_ok=True)
        waiting, running = list(chosen), dict[Future[None], Arm]()
        with ThreadPoolExecutor(jobs) as pool:
            while waiting or running:
                for arm in list(waiting):
                    missing = [name for name in arm.after if not self._made(name)]
                    if arm.output == "--save":
                        missing = [name for name in missing if name not in self.failed]
                    if any(name in self.failed for name in missing):
                        waiting.remove(arm)
                        self.failed[arm.name] = "what it builds on failed"
                    elif len(running) < jobs and not missing:
                        waiting.remove(arm)
                        running[pool.submit(self.make, arm)] = arm
                if not running:
                    break
                for finished in wait(running, return_when=FIRST_COMPLETED).done:
                    running.pop(finished)
                    finished.result()
                self.save(chosen)

    def _made(self, name: str) -> bool:
        return (self.out / f"{name}.seconds").exists()

    def save(self, chosen: list[Arm]) -> None:
        """Write what is known by now."""
        document = {"arms": [self.facts(arm) for arm in chosen if self.done(arm)],
                    "failed": self.failed, "scale": self.scale}  # fmt: skip
        (self.out / "study.json").write_text(json.dumps(document, indent=1) + "\n")

    def facts(self, arm: Arm) -> dict[str, Any]:
        """Command, seconds, and what the trainer wrote."""
        shown = [w.replace(f"{self.out}/", "") for w in self.command(arm) if w != str(self.out)]
        copy = f"cp -r {arm.copied} {arm.name} && " if arm.copied else ""
        facts: dict[str, Any] = {"name": arm.name, "command": f"{copy}foretoken {' '.join(shown)}"}
        facts["wall_seconds"] = float((self.out / f"{arm.name}.seconds").read_text())
        if arm.output == "--save":
            whole = json.loads((self.out / f"{arm.name}.json").read_text())
            facts["simulation"] = whole["figures"]
        manifest = self.out / arm.name / "manifest.json"
        if manifest.exists():
            shards = json.loads(manifest.read_text())["shards"]
            total = Counter[str]()
            for shard in shards:
                total.update(shard["counts"])
            facts["counts"] = dict(total)
        log = self.out / arm.name / "training_log.json"
        if log.exists():
            whole = json.loads(log.read_text())
            kept = ("recipe", "parameters", "steps", "tokens", "seconds", "before", "held_out",
                    "stages", "best", "exits")  # fmt: skip
            facts |= {key: whole[key] for key in kept if key in whole}
            facts["curve"] = [
                {k: entry[k] for k in ("step", "held_out", "seconds")}
                for entry in whole.get("curve", ()) if "held_out" in entry
            ]  # fmt: skip
        return facts


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="", help="names, comma-separated")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--limit", type=int, default=700, help="prompts")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    only = set(filter(None, given.only.split(",")))
    chosen = [arm for arm in arms() if not only or arm.name in only]
    study = Study(given.out.resolve(), given.scale, given.limit, given.device, given.threads)
    study.run(chosen, given.jobs)
    study.save(chosen)
    if study.failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
