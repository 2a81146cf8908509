"""load: a folder becomes a target, and what is wrong is said in one line."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from foretoken.errors import CapabilityError, ConfigError
from foretoken.target.attention import BITWISE, FOLDED
from foretoken.target.linear import PackedLinear
from foretoken.target.load import choose_device, choose_dtype, load, set_attention
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny.model("llama").save_pretrained(path)
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(tiny.VOCAB)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(path)
    return path


@pytest.mark.parametrize("widen", [1, 2])
def test_load_and_decode(folder: Path, widen: int) -> None:
    loaded = load(str(folder), dtype="float32", device="cpu", widen=widen)
    assert loaded.folder == folder
    assert len(loaded.tokenizer) == tiny.VOCAB
    assert loaded.target.model.config._attn_implementation == FOLDED
    prompt = tiny.prompt(1, 7)
    done = tiny.decode(loaded.target, tiny.request(prompt, 12), "random")
    assert done.tokens == tiny.generate("llama", [prompt], 12)[0]


def test_pack_is_a_choice(folder: Path) -> None:
    kinds = {type(m) for m in load(str(folder), dtype="float32", pack=False).target.model.modules()}
    assert PackedLinear not in kinds


def test_bitwise_is_set(folder: Path) -> None:
    target = load(str(folder), dtype="bfloat16", device="cpu", exact="bitwise").target
    assert target.model.config._attn_implementation == BITWISE
    assert (target.dtype, target.exact) == (torch.bfloat16, "bitwise")


def test_bitwise_refuses_families_with_more_than_a_softmax() -> None:
    with pytest.raises(ConfigError, match="exact: 'bitwise' .*gemma2"):
        set_attention(tiny.make(tiny.FAMILIES["gemma2"]()), "bitwise")


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model: .*nowhere.* a folder with config.json") as caught:
        load(str(tmp_path / "nowhere"), dtype="float32", device="cpu")
    assert "\n" not in str(caught.value)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model: "):
        load(str(tmp_path), dtype="float32", device="cpu")


def test_refused_family(tmp_path: Path) -> None:
    import transformers as tf

    config = tf.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1)
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises((CapabilityError, ConfigError), match="mamba"):
        load(str(tmp_path), dtype="float32", device="cpu")


def test_dtypes() -> None:
    cpu = torch.device("cpu")
    assert choose_dtype("float16", cpu) == torch.float16
    assert choose_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    with pytest.raises(ConfigError, match="dtype: 'int3' is not accepted; auto, float32"):
        choose_dtype("int3", cpu)


@pytest.mark.parametrize("name", ["warp", "cuda:99"])
def test_devices(name: str) -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match=f"device: '{name}'"):
        choose_device(name)
