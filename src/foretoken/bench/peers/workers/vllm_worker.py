"""vLLM on a CPU: plain, n-gram, suffix decoding, a draft model. The wheel is a third party's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from protocol import Asked, Engine, Sampling, Texts, ended, serve

DEEP = 4  # tokens of a draft, as in vLLM's examples with a draft model
LOOKUP, LONGEST, SHORTEST = 5, 4, 2  # tokens of an n-gram draft, and the n-grams that are looked up


class Vllm(Engine):
    """`LLM`, eager."""

    def __init__(self, asked: Asked) -> None:
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GB
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process: its memory counts
        os.environ["OMP_NUM_THREADS"] = str(asked.threads)
        from vllm import LLM

        self.engine = LLM(
            model=asked.target, dtype=asked.dtype, enforce_eager=True,
            max_model_len=asked.context, max_num_seqs=asked.batch, seed=0,
            enable_prefix_caching=False, disable_log_stats=False, skip_tokenizer_init=True,
            speculative_config=self._speculation(asked),
        )  # fmt: skip
        self.versions = {"vllm": _version("vllm-cpu", "vllm"), "torch": version("torch")}
        if asked.mode == "suffix":
            self.versions["arctic-inference"] = version("arctic-inference")
        self.notes = ["vllm-cpu, a build of a third party", "eager"]

    def _speculation(self, asked: Asked) -> dict[str, Any] | None:
        if asked.mode == "ngram":
            return {"method": "ngram", "num_speculative_tokens": LOOKUP,
                    "prompt_lookup_max": LONGEST, "prompt_lookup_min": SHORTEST}  # fmt: skip
        if asked.mode == "suffix":
            return {"method": "suffix"}
        if asked.mode == "draft":
            return {"method": "draft_model", "model": asked.drafter,
                    "num_speculative_tokens": DEEP}  # fmt: skip
        return None

    def generate(
        self, prompts: Sequence[Sequence[int]], limits: Sequence[int], sampling: Sampling
    ) -> Texts:
        """See the base class. All prompts ride together."""
        from vllm import SamplingParams

        params = [
            SamplingParams(
                max_tokens=limit, temperature=sampling.temperature, top_p=sampling.top_p,
                top_k=sampling.top_k, seed=sampling.seed if sampling.temperature > 0 else None,
                stop_token_ids=list(sampling.eos), ignore_eos=True, detokenize=False,
            )
            for limit in limits
        ]  # fmt: skip
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        done = self.engine.generate(asked, params, use_tqdm=False)
        out = Texts([])
        for text, limit in zip(done, limits, strict=True):
            out.tokens.append(ended(text.outputs[0].token_ids, sampling.eos, limit))
            out.first.append(_first(text.metrics))
        return out


def _first(metrics: Any) -> float | None:
    value = getattr(metrics, "first_token_latency", None)
    return float(value) if value else None


def _version(*names: str) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"


if __name__ == "__main__":
    serve(Vllm)
