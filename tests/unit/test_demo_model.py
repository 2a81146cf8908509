"""The bundled model: complete, small, honest about itself, and sped up with its own table."""

import json
from pathlib import Path

import pytest

import foretoken
from foretoken.draft.aded import ASSET
from foretoken.engine.engine import Engine
from foretoken.prompt.samples import demo_model, demo_prompts
from foretoken.prompt.tokens import load_tokenizer, tokenizer_hash
from foretoken.target.load import load
from foretoken.types import Limits, Request, Sampling

DRAFTER = demo_model() / "drafter"
MODELS = Path(foretoken.__file__).parent / "assets"


@pytest.fixture(scope="module")
def loaded():
    return load(str(demo_model()), dtype="float32")


def test_all_model_files_stay_under_64_mb():
    assert sum(f.stat().st_size for f in MODELS.rglob("*") if f.is_file()) < 64 * 10**6


@pytest.mark.parametrize("folder", [demo_model(), DRAFTER], ids=["target", "drafter"])
def test_the_card_states_data_licences_recipe_and_loss(folder):
    card = (folder / "README.md").read_text()
    log = json.loads((folder / "training_log.json").read_text())
    assert "foretoken train lm" in card
    assert "MIT" in card
    assert "PSF" in card or "Python" in card
    assert log


def test_it_answers_in_its_format_and_stops_by_itself(loaded):
    prompts = [loaded.tokenizer.encode(text) for text in demo_prompts("maths", 10)]
    engine = Engine(loaded.target, loaded.tokenizer, method="plain", policy="fixed")
    answers = engine.run([Request(p, limits=Limits(max_new_tokens=256)) for p in prompts])
    stopped = [a for a in answers if a.finish_reason == "stop"]
    assert len(stopped) >= 5
    assert sum("####" in a.text for a in stopped) >= len(stopped) / 2


def test_its_own_table_is_taken_up_and_the_text_stays(loaded):
    assert (loaded.folder / ASSET).exists()
    texts = [*demo_prompts("code", 3), *demo_prompts("maths", 3)]
    requests = [
        Request(loaded.tokenizer.encode(text), limits=Limits(max_new_tokens=64)) for text in texts
    ]
    outputs = {}
    for method in ("plain", "aded", "prompt-lookup"):
        engine = Engine(
            loaded.target, loaded.tokenizer, method=method, policy="fixed", assets=loaded.folder
        )
        outputs[method] = engine.run(requests)
    for done in outputs.values():
        assert [c.tokens for c in done] == [c.tokens for c in outputs["plain"]]
    tokens, steps = (sum(getattr(c.stats, f) for c in outputs["aded"]) for f in ("tokens", "steps"))
    assert tokens > 1.5 * steps


def test_the_drafter_has_the_targets_tokens(loaded):
    """Same tokenizer, same number of rows, and much smaller; it is a model like any other."""
    assert tokenizer_hash(load_tokenizer(DRAFTER)) == tokenizer_hash(loaded.tokenizer)
    drafter = load(str(DRAFTER), dtype="float32")
    assert drafter.target.vocab == loaded.target.vocab
    assert drafter.target.eos == loaded.target.eos
    assert drafter.target.max_context >= loaded.target.max_context
    ours, theirs = ((f / "model.safetensors").stat().st_size for f in (DRAFTER, demo_model()))
    assert ours < theirs / 3
    assert "--tokenizer" in (DRAFTER / "README.md").read_text()


def test_the_drafter_is_found_and_the_text_stays(loaded):
    """`lm` without options takes the drafter of the model's folder. Acceptance is asked for far
    below what it reaches, so that a broken drafter is noticed and another machine is not."""
    texts = [*demo_prompts("code", 1), *demo_prompts("maths", 2)]
    requests = [
        Request(loaded.tokenizer.encode(text), limits=Limits(max_new_tokens=48)) for text in texts
    ]
    outputs = {}
    for method in ("plain", "lm"):
        engine = Engine(
            loaded.target, loaded.tokenizer, method=method, policy="fixed", assets=loaded.folder,
            policy_options={"nodes": 0 if method == "plain" else 4},
        )  # fmt: skip
        outputs[method] = engine.run(requests)
    assert [c.tokens for c in outputs["lm"]] == [c.tokens for c in outputs["plain"]]
    accepted, drafted = (
        sum(getattr(c.stats, f) for c in outputs["lm"]) for f in ("accepted", "drafted")
    )
    assert accepted > 0.2 * drafted > 0


def test_the_drafter_helps_when_text_is_drawn(loaded):
    engine = Engine(
        loaded.target, loaded.tokenizer, method="lm-sampled", policy="fixed", assets=loaded.folder,
        policy_options={"nodes": 4},
    )  # fmt: skip
    request = Request(
        loaded.tokenizer.encode(demo_prompts("maths", 1)[0]), Sampling(temperature=1.0, seed=5),
        Limits(max_new_tokens=96),
    )  # fmt: skip
    done = engine.run([request])[0]
    assert done.guarantee == "exact"
    assert done.stats.accepted > 0.2 * done.stats.drafted > 0
