"""Engines of other makers in this process: transformers' `generate`, and any Python function."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from foretoken.audit.engines import Opener, Output, Setup, checked
from foretoken.bench.peers.hf import LOOKUP, SHARED
from foretoken.errors import ConfigError, ForetokenError, first_line
from foretoken.types import Sampling


def parse_generate(name: str, rest: str) -> Opener:
    """`hf`, `hf-prompt-lookup`, `hf-assistant:FOLDER`."""
    kind = name.partition(":")[0]
    if (kind == "hf-assistant") != bool(rest):
        accepted = "hf-assistant:FOLDER" if kind == "hf-assistant" else f"{kind} without options"
        raise ConfigError("engine", name, accepted)

    def open_it(setup: Setup) -> Generate:
        mode: dict[str, Any] = {}
        if kind == "hf-prompt-lookup":
            mode = {"prompt_lookup_num_tokens": LOOKUP}
        elif rest:
            assistant = setup.open_transformers(rest)
            if assistant.config.get_text_config().vocab_size != setup.reference.vocab:
                raise ConfigError("engine", name, "an assistant of the model's own vocabulary")
            mode = {"assistant_model": assistant}
        return Generate(name, setup.transformers, setup.sampling, mode, setup.reference.eos)

    return open_it


class Generate:
    """`model.generate` in one of its modes, everything set, so that defaults which a model's
    folder may carry do not make it write another text."""

    cannot: Mapping[str, str] = {}

    def __init__(
        self, name: str, model: Any, sampling: Sampling, mode: Mapping[str, Any],
        eos: frozenset[int],
    ) -> None:  # fmt: skip
        self.name, self.model, self.sampling, self.mode = name, model, sampling, dict(mode)
        self.eos = eos
        words = ", ".join(f"{k}={v}" for k, v in self.mode.items() if isinstance(v, int))
        self.what = f"transformers {version('transformers')} generate({words})"
        self._tokens = self._steps = 0

    @property
    def tokens_per_step(self) -> float | None:
        """See `Subject`."""
        return self._tokens / self._steps if self._steps else None

    def greedy(self, prompt: Sequence[int], n: int) -> Output:
        """See `Subject`."""
        plain = {"do_sample": False, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
        return self._generate(prompt, n, plain, 1)[0]

    def sample(self, prompt: Sequence[int], n: int, count: int, seed: int) -> list[Output]:
        """See `Subject`. Assisted modes take one text at a time."""
        values = self.sampling.model_dump()
        settings = {
            "do_sample": True,
            "temperature": self.sampling.temperature,
            **{name: values[name] for name in SHARED},
        }
        hook = self.model.register_forward_pre_hook(self._count)
        # one more than is counted, so that a drafted token may stand at every counted place
        with torch.random.fork_rng(devices=_cuda(self.model)):
            try:
                if not self.mode:
                    torch.manual_seed(seed)
                    return self._generate(prompt, n + 1, settings, count)
                out: list[Output] = []
                for s in range(seed, seed + count):
                    torch.manual_seed(s)
                    out += self._generate(prompt, n + 1, settings, 1)
                    self._tokens += len(out[-1])
                return out
            finally:
                hook.remove()
                if not self.mode:  # one forward writes a token of every text
                    self._tokens = self._steps

    def _count(self, *_: Any) -> None:
        self._steps += 1

    @torch.inference_mode()
    def _generate(
        self, prompt: Sequence[int], n: int, settings: Mapping[str, Any], count: int
    ) -> list[Output]:
        ids = torch.tensor([list(prompt)] * count, device=self.model.device)
        pad = min(self.eos) if self.eos else 0
        done = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, pad_token_id=pad,
            eos_token_id=sorted(self.eos) or None, **settings, **self.mode,
        )  # fmt: skip
        rows: list[list[int]] = done[:, ids.shape[1] :].tolist()
        return [self._ended(row) for row in rows]

    def _ended(self, row: list[int]) -> list[int]:
        """Without the padding that follows the end of text."""
        end = next((i for i, token in enumerate(row) if token in self.eos), len(row))
        return row[: end + 1]


def _cuda(model: Any) -> list[torch.device]:
    return [model.device] if model.device.type == "cuda" else []


def parse_python(name: str, rest: str) -> Opener:
    """`python:module:function` or `python:file.py:function`."""
    where, colon, attribute = rest.rpartition(":")
    if not (colon and where and attribute):
        raise ConfigError("engine", name, "python:MODULE:FUNCTION or python:FILE.py:FUNCTION")
    found = getattr(_module(name, where), attribute, None)
    if not callable(found):
        raise ConfigError("engine", name, f"a function {attribute!r} of {where}")
    return lambda setup: Function(name, found, setup.sampling)


def _module(name: str, where: str) -> Any:
    """A module by name (the current folder counts) or file. Raises ConfigError."""
    try:
        if not where.endswith(".py"):
            if "" not in sys.path:
                sys.path.insert(0, "")
            return importlib.import_module(where)
        spec = importlib.util.spec_from_file_location(Path(where).stem, where)
        if spec is None or spec.loader is None:
            raise ConfigError("engine", name, "a Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, OSError, SyntaxError) as error:
        accepted = f"a module that can be loaded ({first_line(error)})"
        raise ConfigError("engine", name, accepted) from None
    return module


class Function:
    """A user's function `(prompt_ids, n, temperature, top_p, top_k, seed) -> ids`; it is called
    with temperature 0 for greedy text."""

    cannot: Mapping[str, str] = {}
    tokens_per_step: float | None = None

    def __init__(self, name: str, call: Callable[..., Any], sampling: Sampling) -> None:
        self.name, self.call, self.sampling = name, call, sampling
        self.what = "a Python function"

    def greedy(self, prompt: Sequence[int], n: int) -> Output:
        """See `Subject`."""
        return self._write(prompt, n, 0.0, 1.0, 0, 0)

    def sample(self, prompt: Sequence[int], n: int, count: int, seed: int) -> list[Output]:
        """See `Subject`."""
        s = self.sampling
        return [
            self._write(prompt, n, s.temperature, s.top_p, s.top_k, seed + i) for i in range(count)
        ]

    def _write(self, prompt: Sequence[int], n: int, *settings: float) -> Output:
        try:
            return checked(self.name, self.call(list(prompt), n, *settings))
        except ForetokenError:
            raise
        except Exception as error:
            raise ForetokenError(
                f"engine {self.name}: {type(error).__name__}: {first_line(error)}"
            ) from error
