"""The small model behind an `lm` drafter: found, loaded once a process, checked for its vocabulary.

Drafters that name the same folder share one model and its KV memory, for as long as one of them
lives. Everything that touches that memory holds the model's lock: two engines may use it from two
threads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from foretoken.draft.base import Context
from foretoken.draft.sketched import load_small
from foretoken.draft.trim import Trim, read_trim
from foretoken.draft.trimmed import trimmed
from foretoken.errors import ConfigError
from foretoken.prompt.tokens import load_tokenizer, tokenizer_hash
from foretoken.target.hf import HFTarget
from foretoken.target.linear import can_pack, pack_head, pack_linears
from foretoken.target.load import choose_device, choose_dtype
from foretoken.target.small import may_loop, small_target, suited

if TYPE_CHECKING:
    from foretoken.target.nested import NestedTarget

BESIDE = "drafter"  # where a target's folder may hold its drafter
ACCEPTED = "a folder or hub name of a small model with the target's vocabulary"
OTHERS = "lm-tli, lm-slem and omnidraft take any"  # for whoever has a model of other tokens
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclass(eq=False)
class SmallModel:
    """A model that drafts; whoever scores with it or moves its cache rows holds `lock`."""

    target: HFTarget | NestedTarget
    name: str = ""  # folder or hub name; "" for a model given as an object
    lock: Any = field(default_factory=RLock)
    trim: Trim | None = None  # of its vocabulary, as the file in its folder says
    _read: Any = None  # the tokenizer, once there was one

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that lies with the model, None if there is none (yet: it is looked for
        again)."""
        if self._read is None:
            self._read = self._find_tokenizer()
        return self._read

    def _find_tokenizer(self) -> Any:
        folder = Path(self.name)
        known = any((folder / file).exists() for file in _TOKENIZER_FILES)
        if not self.name or (folder.is_dir() and not known):
            return None
        try:
            return load_tokenizer(self.name)
        except ConfigError:
            return None

    @property
    def tokenizer_hash(self) -> str:
        """Its identity, "" if there is none."""
        return tokenizer_hash(self.tokenizer) if self.tokenizer is not None else ""


_guard = Lock()
_shared: WeakValueDictionary[object, SmallModel] = WeakValueDictionary()


def small_model(
    model: Any,
    context: Context,
    owner: str,
    whole: bool = False,
    foreign: bool = False,
    domain: str = "",
) -> SmallModel:
    """The model for the drafter `owner` of a target.

    model: a folder, a hub name, a transformers model, an HFTarget, or None for the folder "drafter"
    beside the target's weights. Where the folder holds a `vocab_trim.json` the output layer is that
    part of it, unless `whole` is set. foreign: any vocabulary will do. domain: whose tables a
    sketched folder is loaded with. Raises ConfigError for what is missing or has another
    vocabulary or tokenizer, ArtifactError for a side file that is another model's,
    CapabilityError for a family that cannot be rolled back.
    """
    field_name = f"{owner}.model"
    if model is None:
        beside = context.assets / BESIDE if context.assets is not None else None
        if beside is None or not beside.is_dir():
            accepted = f"{ACCEPTED} (the target's folder has no {BESIDE!r} of its own)"
            raise ConfigError(field_name, None, accepted)
        model = beside
    try:
        found = _find(model, whole, domain)
    except ConfigError as error:
        raise ConfigError(f"{owner}.{error.field}", error.value, error.accepted) from None
    if not foreign:
        _check(found, context, field_name)
    return found


def _find(model: Any, whole: bool, domain: str) -> SmallModel:
    with _guard:
        if isinstance(model, str | Path):
            name = str(model)
            here = Path(name).is_dir()
            trim = read_trim(Path(name)) if here and not whole else None
            place = str(Path(name).resolve()) if here else name
            key: object = (place, trim and trim.key, domain)
            found = _shared.get(key) or SmallModel(_load(name, trim, domain), name, trim=trim)
        elif domain:
            raise ConfigError("domain", domain, "none for a model that is given as an object")
        elif isinstance(model, HFTarget) or hasattr(model, "generation_config"):
            key = id(model)  # the entry holds the object, so its id is its own while the entry is
            found = _shared.get(key) or SmallModel(
                model if isinstance(model, HFTarget) else small_target(model)
            )
        else:
            accepted = f"{ACCEPTED}, a transformers model, or a target"
            raise ConfigError("model", type(model).__name__, accepted)
        _shared[key] = found
        return found


def _load(name: str, trim: Trim | None, domain: str) -> HFTarget:
    """As `foretoken.target.load.load`, but a drafter needs no tokenizer."""
    device = choose_device()
    # what runs as loops is in float32
    dtype = choose_dtype("float32" if may_loop(name, device) else "auto", device)
    model = load_small(name, dtype, device, domain)
    if trim is not None:
        trim.check(name, vocab=int(model.config.get_text_config().vocab_size))
        model = trimmed(model, trim.keep)  # before packing: the kept rows alone are packed
    if can_pack(dtype, device):
        if suited(model):
            pack_head(model)
        else:
            pack_linears(model)
    return small_target(model, name)


def _check(found: SmallModel, context: Context, field_name: str) -> None:
    shown = found.name or found.target.name
    if found.target.vocab != context.vocab:
        accepted = f"a model of the target's {context.vocab} tokens ({OTHERS}); this one has"
        raise ConfigError(field_name, shown, f"{accepted} {found.target.vocab}")
    if found.trim is not None:
        found.trim.check(found.name, context.tokenizer_hash)
    own = found.tokenizer_hash if context.tokenizer_hash else ""
    if own and own != context.tokenizer_hash:
        accepted = f"a model with the target's tokenizer ({OTHERS}); this one's is another"
        raise ConfigError(field_name, shown, accepted)
