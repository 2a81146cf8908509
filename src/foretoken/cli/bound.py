"""foretoken bound: how much the best possible rule would accept, and how near each rule comes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foretoken.cli.opening import load_target
from foretoken.cli.options import TargetOptions, grouped
from foretoken.errors import INTERRUPTED, CapabilityError, ConfigError

if TYPE_CHECKING:
    from foretoken.bound.report import BoundReport

MOST_DRAFTS = 64
DRAFTER = "drafter"  # folder inside a model's own that holds its drafter
_PAIR, _TEXT, _OUT = "Laws", "Text", "Output"


def _option(names: str, text: str, panel: str, shown: str | bool = True) -> Any:
    return typer.Option(*names.split(), help=text, rich_help_panel=panel, show_default=shown)


@dataclass(frozen=True)
class PairOptions:
    """Two models, or two files of laws."""

    model: Annotated[
        str | None,
        _option("--model -m", "Target: folder or hub name.", _PAIR, "the bundled demo model"),
    ] = None
    drafter: Annotated[
        str | None,
        _option("--drafter -d", "A model of the same vocabulary.", _PAIR, "MODEL/drafter"),
    ] = None
    dtype: Annotated[str, _option("--dtype", "auto, float32, bfloat16 or float16.", _PAIR)] = "auto"
    device: Annotated[str, _option("--device", "auto, cpu, cuda ...", _PAIR)] = "auto"
    p: Annotated[
        Path | None, _option("--p", "Target laws instead: .json or .npy, one or a list.", _PAIR)
    ] = None
    q: Annotated[Path | None, _option("--q", "The drafter's laws, likewise.", _PAIR)] = None

    @property
    def given(self) -> bool:
        """Whether laws come from files. Raises ConfigError for half a pair, or both sources."""
        if (self.p is None) != (self.q is None):
            raise ConfigError("q" if self.q is None else "p", None, "a file: --p and --q together")
        if self.p is None:
            return False
        for name in ("model", "drafter"):
            if getattr(self, name) is not None:
                raise ConfigError(name, getattr(self, name), "none together with --p and --q")
        return True


@dataclass(frozen=True)
class WrittenOptions:
    """The text that the target writes, and where it is looked at."""

    temperature: Annotated[
        str | None,
        _option("--temperature -t", "Of both models; comma-separated.", _TEXT, "0.2,0.6,1.0"),
    ] = None
    prompts: Annotated[
        str | None,
        _option("--prompts", "Files (.txt, .jsonl), comma-separated; none: bundled ones.", _TEXT),
    ] = None
    limit: Annotated[int, _option("--limit", "Prompts at most.", _TEXT)] = 40
    positions: Annotated[
        int, _option("--positions", "Positions of each temperature, over all prompts.", _TEXT)
    ] = 200
    max_new_tokens: Annotated[
        int, _option("--max-new-tokens -n", "Most tokens of a text.", _TEXT)
    ] = 64
    seed: Annotated[int, _option("--seed", "Of texts and simulated draws.", _TEXT)] = 0

    def temperatures(self) -> list[float]:
        """Raises ConfigError for what is no positive number."""
        out = []
        for part in (self.temperature or "0.2,0.6,1.0").split(","):
            try:
                value = float(part)
            except ValueError:
                raise ConfigError("temperature", part, "numbers above 0, as 0.2,0.6,1") from None
            if not 0.0 < value < float("inf"):
                raise ConfigError("temperature", value, "numbers above 0: greedy text has no odds")
            out.append(value)
        return list(dict.fromkeys(out))

    def check(self) -> None:
        """Raises ConfigError for counts that are not positive."""
        for name, least in (("limit", 1), ("positions", 1), ("max_new_tokens", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(name, getattr(self, name), f"a whole number from {least}")


@dataclass(frozen=True)
class OutOptions:
    """What is computed, and where it goes."""

    drafts: Annotated[str, _option("--drafts -k", "Drafted tokens, as 1-8 or 1,2,4.", _OUT)] = "1-8"
    json: Annotated[
        bool, _option("--json", "One JSON document as the last line of stdout.", _OUT)
    ] = False
    save: Annotated[Path | None, _option("--save", "Write the JSON document here.", _OUT)] = None
    plot: Annotated[Path | None, _option("--plot", "Draw a .png or .svg here.", _OUT)] = None

    def counts(self) -> list[int]:
        """The numbers of drafts, rising. Raises ConfigError for what is none."""
        accepted = f"whole numbers from 1 to {MOST_DRAFTS}, as 1-8 or 1,2,4"
        found: set[int] = set()
        for part in self.drafts.split(","):
            first, dash, last = part.partition("-")
            try:
                low, high = int(first), int(last if dash else first)
            except ValueError:
                raise ConfigError("drafts", part, accepted) from None
            if not 1 <= low <= high <= MOST_DRAFTS:
                raise ConfigError("drafts", part, accepted)
            found |= set(range(low, high + 1))
        return sorted(found)

    def check(self) -> None:
        """Raises ConfigError for a file that cannot be written."""
        from foretoken.page.figure import check_plot

        if self.save is not None and not self.save.parent.is_dir():
            raise ConfigError("save", str(self.save), "a file in a folder that exists")
        if self.plot is not None:
            check_plot(self.plot)


@grouped
def bound(pair: PairOptions, written: WrittenOptions, out: OutOptions) -> None:
    """How far each acceptance rule is from the best possible one. The table goes to stderr."""
    drafts = out.counts()
    out.check()
    console = Console(stderr=True)
    if pair.given:
        if written.temperature is not None:
            raise ConfigError("temperature", written.temperature, "none: --p and --q are as given")
        report = _of_files(pair, drafts, written.seed, console)
    else:
        report = _of_models(pair, written, drafts, console)
    _write(report, out, console)


def _write(report: BoundReport, out: OutOptions, console: Console) -> None:
    from foretoken.bound.plot import save_plot
    from foretoken.cli.bound_show import show_report

    show_report(report, console)
    document = report.model_dump_json()
    if out.save is not None:
        out.save.write_text(document + "\n", encoding="utf-8")
    if out.plot is not None and report.panels:
        save_plot(out.plot, report)
    if out.json:
        typer.echo(document)
    raise typer.Exit(INTERRUPTED if report.interrupted else 0)


def _of_files(pair: PairOptions, drafts: list[int], seed: int, console: Console) -> BoundReport:
    from foretoken.bound.pairs import check_same_shape, read_laws
    from foretoken.bound.report import Collected
    from foretoken.cli.bench_show import Bar

    assert pair.p is not None  # `given` was asked
    assert pair.q is not None
    p, q = read_laws("p", pair.p), read_laws("q", pair.q)
    check_same_shape(p, q)
    found = Collected(drafts, seed)
    with Bar(console) as bar:
        bar.phase("positions", len(p))
        try:
            for i in range(len(p)):
                found.add(None, i, i, p[i], q[i])
                bar.advance()
        except KeyboardInterrupt:
            found.interrupted = True
    return found.report(pair.p.name, pair.q.name, p.shape[1])


def _of_models(
    pair: PairOptions, written: WrittenOptions, drafts: list[int], console: Console
) -> BoundReport:
    from foretoken.bench.machine import model_name
    from foretoken.bench.prompts import encode, read_rows
    from foretoken.bound.pairs import Source
    from foretoken.bound.report import Collected
    from foretoken.cli.bench_options import WhatOptions
    from foretoken.cli.bench_show import Bar

    written.check()
    temperatures = written.temperatures()
    files = WhatOptions(prompts=written.prompts).files()
    rows = read_rows(files, written.limit)
    with console.status("loading the models"):
        loaded, drafter = _load(pair)
    prompts = encode(rows, loaded.tokenizer)
    source = Source(loaded.target, drafter, written.max_new_tokens, written.seed)
    found = Collected(drafts, written.seed)
    prompts = prompts[: written.positions]
    with Bar(console) as bar:
        bar.phase("positions", written.positions * len(temperatures))
        try:
            for i, prompt in enumerate(prompts):
                # what is left over is spread over the first prompts
                share = (written.positions + len(prompts) - 1 - i) // len(prompts)
                for temperature in temperatures:
                    pairs = source.pairs(prompt.tokens, temperature, share)
                    for at, (p, q) in enumerate(pairs):
                        found.add(temperature, i, at, p, q)
                        bar.advance()
        except KeyboardInterrupt:
            found.interrupted = True
    if not (found.any or found.interrupted):
        raise ConfigError("prompts", f"{len(prompts)} prompts", "one that fits both models")
    target = loaded.target
    return found.report(
        model_name(target), model_name(drafter), target.vocab, dtype=str(target.dtype)[6:],
        prompts=[file.name for file in files], max_new_tokens=written.max_new_tokens,
    )  # fmt: skip


def _load(pair: PairOptions) -> tuple[Any, Any]:
    """(loaded target, drafter as a target). Raises ConfigError, CapabilityError."""
    from foretoken.prompt.samples import demo_model
    from foretoken.prompt.tokens import load_tokenizer, tokenizer_hash
    from foretoken.target.hf import HFTarget
    from foretoken.target.load import load_model

    inside = Path(pair.model) / DRAFTER if pair.model else demo_model() / DRAFTER
    name = pair.drafter or (str(inside) if inside.is_dir() else None)
    if name is None:
        raise ConfigError("drafter", None, "the folder or hub name of a model, as --drafter")
    loaded = load_target(TargetOptions(model=pair.model, dtype=pair.dtype, device=pair.device))
    target = loaded.target
    try:
        drafter = HFTarget(load_model(name, target.dtype, target.device, "default"), name)
    except ConfigError as error:
        raise ConfigError("drafter", name, error.accepted) from None
    own = not Path(name).is_dir() or (Path(name) / "tokenizer.json").is_file()
    alike = not own or tokenizer_hash(load_tokenizer(name)) == tokenizer_hash(loaded.tokenizer)
    if drafter.vocab != target.vocab or not alike:
        raise CapabilityError(
            f"drafter {name!r} ({drafter.vocab} tokens) has another vocabulary than the target "
            f"{target.name!r} ({target.vocab} tokens); p and q must speak of the same tokens"
        )
    return loaded, drafter
