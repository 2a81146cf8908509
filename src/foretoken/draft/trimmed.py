"""A model whose output layer scores the kept tokens alone; all others get -inf.

Its logits still have a row for every token of the target, so that every form of draft and every
rule works as before: q is zero for what was dropped, the bonus and what is drawn after a rejection
come from the target's whole vocabulary. The input embedding stays whole, since every token of the
text must be read; where it is the output layer as well, the kept rows are copied.
Source: VocabTrim 2506.22694, sec. 3. Cost: k of V rows of the output layer are read and multiplied.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foretoken.errors import CapabilityError
from foretoken.target.linear import PackedLinear, can_pack, pack_linears

Rows = tuple[Tensor, Tensor | None]  # weights [n, H] and biases [n] of an output layer


class Slice(nn.Module):
    """The kept rows of an output layer: hidden states [..., H] -> logits [..., k]."""

    def __init__(self, keep: Tensor, rows: Rows) -> None:
        super().__init__()
        weight, bias = rows
        self.in_features = int(weight.shape[1])
        layer = nn.Linear(
            weight.shape[1], len(weight), bias is not None, device="meta", dtype=weight.dtype
        )
        layer.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            layer.bias = nn.Parameter(bias, requires_grad=False)
        self.layer: nn.Module = layer
        self.register_buffer("keep", keep, persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.layer(hidden)
        return logits


class TrimmedHead(nn.Module):
    """An output layer of which a slice is used: hidden states [..., H] -> logits [..., V].

    rows: gives any rows of the whole layer, so that another slice can be cut. cap: what the family
    bounds its logits by, 0 for nothing: it must act before the -inf are put in.
    """

    def __init__(
        self, vocab: int, keep: Sequence[int], rows: Callable[[Tensor], Rows], cap: float
    ) -> None:
        super().__init__()
        self.vocab, self._rows, self._cap = vocab, rows, cap
        self.slice = self.cut(keep)

    @property
    def in_features(self) -> int:
        """H."""
        return self.slice.in_features

    def cut(self, keep: Sequence[int]) -> Slice:
        """Another slice of the whole layer. keep: distinct ids, rising."""
        ids = torch.tensor(list(keep), dtype=torch.int64)
        weight, bias = self._rows(ids)
        made = Slice(ids.to(weight.device), (weight, bias))
        if can_pack(weight.dtype, weight.device):
            pack_linears(made)
        return made

    @contextmanager
    def using(self, other: Slice) -> Iterator[None]:
        """Score with another slice for a while."""
        own, self.slice = self.slice, other
        try:
            yield
        finally:
            self.slice = own

    def forward(self, hidden: Tensor) -> Tensor:
        """See the class."""
        logits = self.slice(hidden)
        if self._cap:
            logits = torch.tanh(logits / self._cap) * self._cap
        whole = logits.new_full((*logits.shape[:-1], self.vocab), -math.inf)
        out: Tensor = whole.index_copy_(-1, self.slice.get_buffer("keep"), logits)
        return out


def trimmed(model: Any, keep: Sequence[int]) -> Any:
    """A twin of a transformers model with a trimmed output layer; it shares all other weights, and
    the model given is not changed.

    keep: distinct token ids, rising. Raises CapabilityError for a model whose output layer cannot
    be sliced, or that does something to its logits by which -inf would not stay -inf.
    """
    head, config = model.get_output_embeddings(), copy.deepcopy(model.config)
    text = config.get_text_config()
    cap = float(getattr(text, "final_logit_softcapping", None) or 0.0)
    if cap:
        text.final_logit_softcapping = None
    made = TrimmedHead(int(text.vocab_size), keep, _rows_of(model, head), cap)
    twin = with_head(model, made)
    twin.config = config
    _check(twin, made, len(keep))
    return twin


def trimmed_head(model: Any) -> TrimmedHead | None:
    """The output layer of a model that `trimmed` made; None for any other model."""
    head = model.get_output_embeddings()
    return head if isinstance(head, TrimmedHead) else None


def _rows_of(model: Any, head: Any) -> Callable[[Tensor], Rows]:
    """What gives rows of the output layer, wherever its weights lie."""
    config, embedding = model.config.get_text_config(), model.get_input_embeddings()
    tied = bool(getattr(config, "tie_word_embeddings", False))
    if tied and isinstance(embedding, nn.Embedding):
        source: Any = embedding.weight  # a packed copy of it need not be unpacked
    elif isinstance(head, PackedLinear):
        source = head
    elif type(head) is nn.Linear:
        source = head.weight
    else:
        raise CapabilityError(
            f"model family {model.config.model_type!r}: its output layer is a "
            f"{type(head).__name__}, of which no rows can be taken"
        )
    bias = getattr(head, "bias", None)

    def rows(ids: Tensor) -> Rows:
        weight = source.dense() if isinstance(source, PackedLinear) else source.detach()
        here = ids.to(weight.device)
        return weight[here], None if bias is None else bias.detach()[here]

    return rows


def with_head(model: Any, new: nn.Module) -> Any:
    """A twin of a model with another output layer; it shares all other weights."""
    return _with(model, model.get_output_embeddings(), new)


def _with(module: Any, old: nn.Module, new: nn.Module) -> Any:
    """A shallow copy of a module in which `new` stands in for `old`: only the modules that lead
    there are copied."""
    twin = module.__class__.__new__(module.__class__)
    shallow = {
        name: copy.copy(value) if isinstance(value, dict) else value
        for name, value in vars(module).items()
    }
    twin.__dict__.update(shallow)
    for name, child in module.named_children():
        if child is old:
            twin._modules[name] = new
        elif any(inner is old for inner in child.modules()):
            twin._modules[name] = _with(child, old, new)
    return twin


@torch.inference_mode()
def _check(twin: Any, head: TrimmedHead, kept: int) -> None:
    """One forward: exactly the dropped tokens are ruled out."""
    ids = torch.zeros(1, 1, dtype=torch.int64, device=head.slice.get_buffer("keep").device)
    logits = twin(input_ids=ids, use_cache=False).logits[0, -1]
    if int((logits > -math.inf).sum()) != kept or logits.shape[-1] != head.vocab:
        raise CapabilityError(
            f"model family {twin.config.model_type!r}: it changes its logits in a way that a "
            "trimmed vocabulary does not survive"
        )
