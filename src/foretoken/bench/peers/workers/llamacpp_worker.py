"""llama.cpp through llama-cpp-python: plain and prompt lookup, on GGUF written here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from protocol import Asked, Engine, Sampling, Texts, ended, serve

LOOKUP, NGRAM = 10, 2  # its defaults for prompt lookup


class LlamaCpp(Engine):
    """`Llama.generate`, token by token."""

    def __init__(self, asked: Asked) -> None:
        import llama_cpp
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

        lookup = None
        if asked.mode == "prompt-lookup":
            lookup = LlamaPromptLookupDecoding(max_ngram_size=NGRAM, num_pred_tokens=LOOKUP)
        self.model = llama_cpp.Llama(
            model_path=str(converted(asked)), n_ctx=asked.context, n_threads=asked.threads,
            n_threads_batch=asked.threads, draft_model=lookup, logits_all=lookup is not None,
            verbose=False, type_k=0 if asked.dtype == "float32" else None,
            type_v=0 if asked.dtype == "float32" else None,
        )  # fmt: skip
        self.versions = {"llama-cpp-python": version("llama-cpp-python")}
        cache = "float32" if asked.dtype == "float32" else "float16"
        self.notes = [f"{asked.dtype} weights, cache in {cache}"]

    def generate(
        self, prompts: Sequence[Sequence[int]], limits: Sequence[int], sampling: Sampling
    ) -> Texts:
        """See the base class."""
        out = Texts([])
        for prompt, limit in zip(prompts, limits, strict=True):
            self.model.reset()
            self.model.set_seed(sampling.seed)
            start, first, tokens = perf_counter(), None, list[int]()
            steps = self.model.generate(
                list(prompt), temp=sampling.temperature, top_k=sampling.top_k,
                top_p=sampling.top_p, min_p=0.0, repeat_penalty=1.0, reset=True,
            )  # fmt: skip
            for token in steps:
                first = first or perf_counter() - start
                tokens.append(int(token))
                if token in sampling.eos or len(tokens) >= limit:
                    break
            steps.close()
            out.tokens.append(ended(tokens, sampling.eos, limit))
            out.first.append(first)
        return out


def converted(asked: Asked) -> Path:
    """The model as GGUF, made once: llama.cpp's own converter is not in the package. Raises
    ValueError for models that are no Llama."""
    out = Path(asked.work) / f"{Path(asked.target).name}-{asked.dtype}.gguf"
    if out.exists():
        return out
    config = json.loads((Path(asked.target) / "config.json").read_text())
    if config["model_type"] != "llama":
        raise ValueError(f"model_type {config['model_type']}: only llama is converted")
    temporary = out.with_suffix(".tmp")
    _write(temporary, config, Path(asked.target), asked.dtype)
    temporary.rename(out)
    return out


def _write(out: Path, config: dict[str, Any], folder: Path, dtype: str) -> None:
    import gguf
    from safetensors.numpy import load_file

    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10000.0)}
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _vocabulary(writer, gguf, folder, config["vocab_size"])
    for name, values in load_file(folder / "model.safetensors").items():
        array = values.astype(np.float32)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            array = _interleaved(array, heads if "q_proj" in name else kv)
        kind = None
        if dtype != "float32" and array.ndim == 2:
            kind = gguf.GGMLQuantizationType.BF16
            array = gguf.quants.quantize(array, kind)
        writer.add_tensor(_renamed(name), array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _vocabulary(writer: Any, gguf: Any, folder: Path, size: int) -> None:
    """Names of the tokens; text is asked for as ids, so that nothing is tokenized with them."""
    told = json.loads((folder / "tokenizer.json").read_text())["model"]
    by_id = {i: token for token, i in told["vocab"].items()}
    merges = [m if isinstance(m, str) else " ".join(m) for m in told["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([by_id.get(i, f"[PAD{i}]") for i in range(size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * size)
    writer.add_token_merges(merges)
    writer.add_add_bos_token(False)


def _interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of rotary pairs side by side, as llama.cpp has them."""
    rows, columns = weight.shape
    split = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(rows, columns))


_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def _renamed(name: str) -> str:
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight":
           "output_norm.weight", "lm_head.weight": "output.weight"}  # fmt: skip
    if name in top:
        return top[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest.removesuffix('.weight')]}.weight"


if __name__ == "__main__":
    serve(LlamaCpp)
