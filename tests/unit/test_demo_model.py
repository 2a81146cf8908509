"""The bundled model: complete, small, honest about itself, and sped up with its own table."""

import json
from pathlib import Path

import pytest

import foretoken
from foretoken.draft.aded import ASSET
from foretoken.engine.engine import Engine
from foretoken.prompt.samples import demo_model, demo_prompts
from foretoken.target.load import load
from foretoken.types import Limits, Request

MODELS = Path(foretoken.__file__).parent / "assets"


@pytest.fixture(scope="module")
def loaded():
    return load(str(demo_model()), dtype="float32")


def test_all_model_files_stay_under_64_mb():
    assert sum(f.stat().st_size for f in MODELS.rglob("*") if f.is_file()) < 64 * 10**6


def test_the_card_states_data_licences_recipe_and_loss():
    card = (demo_model() / "README.md").read_text()
    log = json.loads((demo_model() / "training_log.json").read_text())
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
