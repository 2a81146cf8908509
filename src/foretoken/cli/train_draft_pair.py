"""A target, a drafter in its tokens and the target's answers: what two commands begin with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from foretoken.cli.train_draft_options import target_name
from foretoken.cli.training import shown
from foretoken.errors import ConfigError

_WHO = "Models and data"


@dataclass(frozen=True)
class PairOptions:
    """Which."""

    drafter: Annotated[
        Path, typer.Option("--drafter", help="Folder of the drafter; the file is written there.",
                           rich_help_panel=_WHO),
    ]  # fmt: skip
    data: Annotated[
        Path,
        typer.Option("--data", help="Folder that `train draft data` wrote.", rich_help_panel=_WHO),
    ]
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The target, folder or hub name.",
                     show_default="the bundled demo model", rich_help_panel=_WHO),
    ] = None  # fmt: skip
    dtype: Annotated[
        str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.",
                          rich_help_panel=_WHO),
    ] = "auto"  # fmt: skip
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu, cuda ...", rich_help_panel=_WHO)
    ] = "auto"

    @property
    def target(self) -> str:
        """Folder or hub name of the target."""
        return target_name(self.model)

    def check(self) -> None:
        """Raises ConfigError if there is no such drafter."""
        if not (self.drafter / "config.json").is_file():
            raise ConfigError("drafter", str(self.drafter), "a folder of a drafter")

    def words(self) -> list[str]:
        """The options that say so; no path tells where it was made."""
        words = [f"--drafter {shown(self.drafter)}", f"--data {shown(self.data)}"]
        words += [f"--model {shown(self.model)}"] if self.model else []
        return words + ([] if self.dtype == "auto" else [f"--dtype {self.dtype}"])


@dataclass(frozen=True)
class Pair:
    """Both models, frozen, as they serve: the drafter without padding."""

    target: Any
    drafter: Any
    tokenizer: Any
    tokenizer_hash: str
    vocab: int


def load_pair(who: PairOptions, device: str) -> Pair:
    """Raises ConfigError for a drafter in other tokens than the target's."""
    from foretoken.learn.recipes.load import load_model, vocabulary
    from foretoken.prompt.tokens import tokenizer_hash
    from foretoken.target.narrow import unpadded

    target, tokenizer = load_model(who.target, dtype=who.dtype, device=device)
    drafter, own = load_model(who.drafter, dtype=who.dtype, device=device)
    drafter = unpadded(drafter, who.drafter)
    vocab, identity = vocabulary(target), tokenizer_hash(tokenizer)
    if vocabulary(drafter) != vocab or tokenizer_hash(own) != identity:
        accepted = f"a drafter in the tokens of {shown(who.target)}"
        raise ConfigError("drafter", str(who.drafter), accepted)
    return Pair(target, drafter, tokenizer, identity, vocab)
