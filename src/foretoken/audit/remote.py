"""Engines that run elsewhere: OpenAI-compatible completions endpoints, and vLLM's own class.

An endpoint gives text and no token ids. See `words` for how text is compared.
"""

from __future__ import annotations

import importlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from foretoken.audit.engines import Opener, Output, Setup, checked
from foretoken.errors import ConfigError, ForetokenError, first_line
from foretoken.types import Sampling

PER_CALL = 32  # completions asked for at once, where the server accepts that
TIMEOUT = 600.0  # seconds of one call


def parse_http(name: str, rest: str) -> Opener:
    """`http:URL`, the URL with or without /completions at its end."""
    if not rest.startswith(("http://", "https://")):
        raise ConfigError(
            "engine", name, "http:URL with a URL that starts with http:// or https://"
        )
    url = rest.rstrip("/")
    url = url if url.endswith("/completions") else f"{url}/completions"

    def open_it(setup: Setup) -> Endpoint:
        if setup.api_model is None:
            raise ConfigError("api-model", "", f"the model's name at {rest}")
        return Endpoint(name, url, setup)

    return open_it


class Endpoint:
    """A completions API. The prompt is sent as text, the answer is text."""

    cannot: Mapping[str, str] = {}
    tokens_per_step: float | None = None

    def __init__(self, name: str, url: str, setup: Setup) -> None:
        self.name, self.url, self.sampling = name, url, setup.sampling
        self.tokenizer, self.model = setup.tokenizer, setup.api_model
        self.what = f"model {setup.api_model}, completions API, compared as text"
        self.headers = {"Content-Type": "application/json"}
        self._many = PER_CALL
        if setup.api_key_env is not None:
            key = os.environ.get(setup.api_key_env)
            if not key:
                raise ConfigError("api-key-env", setup.api_key_env, "a variable that is set")
            self.headers["Authorization"] = f"Bearer {key}"

    def greedy(self, prompt: Sequence[int], n: int) -> Output:
        """See `Subject`."""
        return self._ask(prompt, {"temperature": 0.0, "max_tokens": n})[0]

    def sample(self, prompt: Sequence[int], n: int, count: int, seed: int) -> list[Output]:
        """See `Subject`. A server that refuses several completions a call is asked for one."""
        s, out = self.sampling, list[Output]()
        body: dict[str, Any] = {"temperature": s.temperature, "max_tokens": n, "top_p": s.top_p}
        if s.top_k:
            body["top_k"] = s.top_k  # no part of OpenAI's API; llama.cpp and vLLM know it
        while len(out) < count:
            body |= {"seed": seed + len(out), "n": min(self._many, count - len(out))}
            try:
                texts = self._ask(prompt, body)
            except urllib.error.HTTPError as error:
                if error.code not in (400, 422) or body["n"] == 1:
                    raise ForetokenError(self._refusal(error)) from None
                self._many = 1
                continue
            self._many = min(self._many, max(1, len(texts)))  # some answer one, whatever is asked
            out += texts
        return out[:count]

    def _ask(self, prompt: Sequence[int], body: Mapping[str, Any]) -> list[str]:
        content = {"model": self.model, "prompt": self._prompt(prompt), **body}
        request = urllib.request.Request(self.url, json.dumps(content).encode(), self.headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                choices = json.load(answer)["choices"]
            return [str(choice["text"]) for choice in choices]
        except urllib.error.HTTPError as error:
            if body.get("n", 1) > 1:
                raise  # the caller may ask for less
            raise ForetokenError(self._refusal(error)) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ForetokenError(f"engine {self.name}: {reason}") from None

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        said = error.read(200).decode(errors="replace")
        return f"engine {self.name}: HTTP {error.code}: {said}"

    def _prompt(self, prompt: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(prompt), skip_special_tokens=True)
        if list(self.tokenizer.encode(text)) != list(prompt):
            raise ConfigError(
                "prompts", text[:60], "prompts that are the same tokens when sent as text"
            )
        return text


def parse_vllm(name: str, rest: str) -> Opener:
    """`vllm:FOLDER[:JSON]`, JSON an object of further arguments of `LLM`."""
    folder, brace, tail = rest.partition(":{")
    try:
        options = json.loads("{" + tail) if brace else {}
    except ValueError:
        raise ConfigError("engine", name, "vllm:FOLDER or vllm:FOLDER:{JSON}") from None
    if not folder:
        raise ConfigError("engine", name, "vllm:FOLDER or vllm:FOLDER:{JSON}")
    try:
        vllm = importlib.import_module("vllm")
    except ImportError:
        raise ConfigError("engine", name, "another engine: vllm is not installed here") from None
    return lambda setup: Vllm(name, vllm, {"model": folder, **options}, setup.sampling)


class Vllm:
    """vLLM's offline class. `logprobs` are not asked for: they can switch speculation off."""

    cannot: Mapping[str, str] = {}
    tokens_per_step: float | None = None

    def __init__(
        self, name: str, vllm: Any, options: Mapping[str, Any], sampling: Sampling
    ) -> None:
        self.name, self.vllm, self.sampling = name, vllm, sampling
        self.llm = vllm.LLM(**options)
        try:
            release = version("vllm")
        except PackageNotFoundError:
            release = str(getattr(vllm, "__version__", "of unknown version"))
        self.what = f"vllm {release}, LLM({json.dumps(dict(options))})"

    def greedy(self, prompt: Sequence[int], n: int) -> Output:
        """See `Subject`."""
        return self._generate(prompt, [self.vllm.SamplingParams(temperature=0.0, max_tokens=n)])[0]

    def sample(self, prompt: Sequence[int], n: int, count: int, seed: int) -> list[Output]:
        """See `Subject`. One token more than is counted, as everywhere."""
        s = self.sampling
        common = {"temperature": s.temperature, "top_p": s.top_p, "max_tokens": n + 1}
        if s.top_k:  # what stands for "off" has changed over versions: it is not said
            common["top_k"] = s.top_k
        settings = [self.vllm.SamplingParams(**common, seed=seed + i) for i in range(count)]
        return self._generate(prompt, settings)

    def _generate(self, prompt: Sequence[int], settings: Sequence[Any]) -> list[Output]:
        prompts = [{"prompt_token_ids": list(prompt)} for _ in settings]
        done = self.llm.generate(prompts, list(settings), use_tqdm=False)
        return [checked(self.name, list(answer.outputs[0].token_ids)) for answer in done]
