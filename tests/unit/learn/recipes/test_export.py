import copy
import json

import pytest
import torch
import transformers as tf
from tests import letters, talking

from foretoken.engine.engine import Engine
from foretoken.errors import ArtifactError, ForetokenError
from foretoken.learn.recipes import export as exporting
from foretoken.learn.recipes.card import card, write_card
from foretoken.learn.recipes.export import export
from foretoken.prompt.samples import demo_model, demo_prompts
from foretoken.prompt.tokens import load_tokenizer, tokenizer_hash
from foretoken.types import Limits, Request

SOURCE = {"name": "maths.jsonl", "licence": "MIT License, Copyright (c) 2021 Somebody",
          "bytes": 12345, "sha256": "a" * 64, "documents": {"prompts": 7}}  # fmt: skip
FACTS = {
    "recipe": "align",
    "target": "some-target",
    "begun_with": "some-drafter",
    "command": "foretoken train draft align --data answers --out made",
    "data": {
        "model": "some-target",
        "counts": {"rows": 21, "learned": 400},
        "prompts_sha256": "b" * 64,
        "sources": [SOURCE],
        "command": "foretoken train draft data --prompts maths.jsonl --out answers",
    },
    "steps": 40,
    "tokens": 40_000,
    "seconds": 90.0,
    "before": {"alpha": 0.25},
    "held_out": {"alpha": 0.5},
}
LOG = [{"step": s, "loss": 4.0 / s, "alpha": 0.1 * s} for s in range(1, 6)]
# what vLLM and llama.cpp's converter read of config.json for a Llama
READ = (
    "architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size",
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act",
    "rms_norm_eps", "rope_theta", "rope_parameters", "max_position_embeddings",
    "tie_word_embeddings", "torch_dtype", "dtype", "eos_token_id",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "drafter"
    model = talking.model(seed=3, layers=1)
    export(model, talking.tokenizer(), out, FACTS, LOG, {"vocab_trim.json": b"{}"})
    return out


def test_the_folder_is_that_of_a_model_and_nothing_else_is_left(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "training_log.json", "curves.svg", "README.md", "vocab_trim.json",
    }  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["drafter"]
    log = json.loads((folder / "training_log.json").read_text())
    assert log["curve"] == LOG
    assert log["versions"]["transformers"] == tf.__version__


def test_config_and_tokenizer_hold_the_keys_that_other_programs_read(folder):
    config = json.loads((folder / "config.json").read_text())
    missing = [key for key in READ if config.get(key) is None]
    assert missing == []
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["vocab_size"] == 97
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000.0
    assert config["torch_dtype"] == config["dtype"] == "float32"
    words = json.loads((folder / "tokenizer_config.json").read_text())
    assert words["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert words["chat_template"] == talking.TEMPLATE
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == letters.EOS


def test_transformers_loads_the_same_model_and_tokenizer(folder):
    model = tf.AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.inference_mode():
        ours = talking.model(seed=3, layers=1)(ids, use_cache=False).logits
        theirs = model(ids, use_cache=False).logits
    torch.testing.assert_close(theirs, ours, atol=2e-5, rtol=0)
    assert model.config.rope_parameters["rope_theta"] == 10000.0
    assert tokenizer_hash(load_tokenizer(folder)) == tokenizer_hash(talking.tokenizer())


def test_a_scaled_rotary_embedding_keeps_its_old_keys(tmp_path):
    config = tf.LlamaConfig(
        **{**talking.model(seed=3, layers=1).config.to_dict(), "rope_parameters": {
            "rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}
    )  # fmt: skip
    export(tf.LlamaForCausalLM(config), talking.tokenizer(), tmp_path / "made", FACTS)
    saved = json.loads((tmp_path / "made" / "config.json").read_text())
    assert saved["rope_theta"] == 5e5
    assert saved["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    loaded = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    assert loaded.config.rope_parameters == config.rope_parameters


@pytest.fixture(scope="module")
def demo_drafter(tmp_path_factory):
    """The bundled drafter, exported anew."""
    source = demo_model() / "drafter"
    out = tmp_path_factory.mktemp("again") / "drafter"
    model = tf.AutoModelForCausalLM.from_pretrained(source)
    export(model, load_tokenizer(source), out, FACTS)
    return out


def test_assisted_generation_uses_it_and_writes_the_targets_text(demo_drafter):
    target = tf.AutoModelForCausalLM.from_pretrained(demo_model()).eval()
    drafter = tf.AutoModelForCausalLM.from_pretrained(demo_drafter).eval()
    tokenizer = load_tokenizer(demo_drafter)
    calls = {"target": 0, "drafter": 0}
    for name, model in (("target", target), ("drafter", drafter)):
        model.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    for prompt in (*demo_prompts("maths", 2), *demo_prompts("code", 1)):
        inputs = tokenizer(prompt, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        options = {"max_new_tokens": 40, "do_sample": False}
        plain = target.generate(**inputs, **options)
        alone, calls["target"], calls["drafter"] = calls["target"], 0, 0
        assisted = target.generate(**inputs, **options, assistant_model=drafter)
        assert assisted.tolist() == plain.tolist()
        assert calls["drafter"] > 5
        assert calls["target"] < 0.75 * alone  # drafts stood
        calls["target"] = 0


def test_our_own_engine_takes_the_folder(demo_drafter):
    from foretoken.target.load import load

    loaded = load(str(demo_model()), dtype="float32")
    engine = Engine(loaded.target, loaded.tokenizer, method="plain", policy="fixed")
    requests = [
        Request(loaded.tokenizer.encode(p), limits=Limits(max_new_tokens=24))
        for p in demo_prompts("maths", 2)
    ]
    plain = engine.run(requests)
    drafted = engine.run(requests, engine.use("lm", None, None, {"model": str(demo_drafter)}))
    assert [d.tokens for d in drafted] == [p.tokens for p in plain]
    assert sum(d.stats.accepted for d in drafted) > 5


def test_the_card_states_what_why_how_and_from_what(folder):
    text = (folder / "README.md").read_text()
    for stated in (
        "some-target", "some-drafter", FACTS["command"], FACTS["data"]["command"], SOURCE["name"],
        SOURCE["licence"], SOURCE["sha256"], "b" * 64, "12,345", "21 answers", "400 tokens",
        "40 steps", "0.2500 -> 0.5000", "torch " + torch.__version__, "(curves.svg)",
        "`vocab_trim.json`", "untied", "assistant_model",
    ):  # fmt: skip
        assert stated in text, stated
    assert "{" not in text.replace("{**", "").replace('"{', "")
    assert text.count("## ") == 4


def test_measured_figures_enter_the_card_when_they_are_there(folder, tmp_path):
    import shutil

    out = tmp_path / "drafter"
    shutil.copytree(folder, out)
    figures = {"method": "lm", "depth": 4, "acceptance": 0.5, "alpha": 0.625,
               "tokens_per_step": 1.9, "cost": 0.25, "mbsu": 0.95, "ratio_to_plain": None}  # fmt: skip
    report = {"prompts": {"used": 3}, "mode": "own text", "sampling": {}, "dtype": "float32",
              "machine": {"processor": "a processor", "threads": 2}}  # fmt: skip
    (out / "simulation.json").write_text(json.dumps({"report": report, "figures": [figures]}))
    write_card(out)
    text = (out / "README.md").read_text()
    assert "| lm | 4 | 0.500 | 0.625 | 1.900 | 0.250 | 0.950 | - |" in text
    assert "3 texts (own text, greedy)" in text
    # the figures are of these weights: others do not keep them
    export(talking.model(seed=4, layers=1), talking.tokenizer(), out, FACTS)
    assert not (out / "simulation.json").exists()
    assert not (out / "curves.svg").exists()
    assert "## Measured" not in (out / "README.md").read_text()


def test_sources_of_several_corpora_are_listed_once(folder, tmp_path):
    other = {**SOURCE, "name": "code", "sha256": "c" * 64}
    corpus = {"text": {"sha256": "d" * 64, "sources": [SOURCE]},
              "code": {"sha256": "e" * 64, "sources": [SOURCE, other]}}  # fmt: skip
    facts = {"recipe": "pretrain", "target": "t", "corpus": corpus}
    export(talking.model(seed=3, layers=1), talking.tokenizer(), tmp_path / "made", facts)
    text = (tmp_path / "made" / "README.md").read_text()
    assert text.count(SOURCE["sha256"]) == 1
    for stated in ("c" * 64, "d" * 64, "e" * 64):
        assert stated in text


def test_a_full_disk_leaves_the_older_drafter_whole(folder, tmp_path, monkeypatch):
    out = tmp_path / "drafter"
    export(talking.model(seed=3, layers=1), talking.tokenizer(), out, FACTS, LOG)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "save_tokenizer", full)
    with pytest.raises(ForetokenError, match="No space left") as error:
        export(talking.model(seed=4, layers=1), talking.tokenizer(), out, FACTS, LOG)
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["drafter"]


def test_a_folder_without_a_log_has_no_card(tmp_path):
    with pytest.raises(ArtifactError, match=r"training_log\.json"):
        card(tmp_path, "x")


def test_the_models_own_way_of_drawing_is_untouched(tmp_path):
    model = copy.deepcopy(talking.model(seed=3, layers=1))
    model.generation_config = tf.GenerationConfig(
        eos_token_id=[5, 6], temperature=0.3, do_sample=True
    )
    own = model.generation_config
    export(model, talking.tokenizer(), tmp_path / "made", FACTS)
    saved = json.loads((tmp_path / "made" / "generation_config.json").read_text())
    assert model.generation_config is own
    assert saved["eos_token_id"] == [5, 6]
    assert "temperature" not in saved
