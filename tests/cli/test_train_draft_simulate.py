"""foretoken train draft simulate: a table for people, one document for programs."""

import json
import shutil

import pytest

from foretoken.learn.recipes.simulate import Simulation


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"question": f"What is {n} + {n}?"} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(model, *more):
    return ["train", "draft", "simulate", "--model", model, "--dtype", "float32", "-n", "12",
            "--repeats", "1", "--no-cut-loops", *more]  # fmt: skip


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The drafter's format, too, so that a model agrees with itself on any processor."""
    monkeypatch.setattr("foretoken.target.load.has_fast_bfloat16", lambda _: False)


def test_figures_go_into_the_cards_of_drafters_that_have_one(cli, model, prompts, tmp_path):
    from transformers import AutoModelForCausalLM

    from foretoken.learn.recipes.export import export
    from foretoken.prompt.tokens import load_tokenizer

    made, bare = tmp_path / "made", tmp_path / "bare"
    shutil.copytree(model, bare)
    (bare / "README.md").write_text("by hand")
    (bare / "training_log.json").write_text("{}")
    drafter = AutoModelForCausalLM.from_pretrained(model)
    export(drafter, load_tokenizer(model), made, {"recipe": "align", "target": "model"})
    before = (made / "README.md").read_text()
    ran = cli(*words(model, "--prompts", prompts, "--drafter", made, "--drafter", bare,
                     "--depth", "2", "--card"))  # fmt: skip
    assert ran.code == 0, ran.err
    assert "## Measured" not in before
    text = (made / "README.md").read_text()
    assert "| lm | 2 | 1.000 | 1.000 |" in text
    assert text.count("| lm |") == 1  # its own figures only
    assert str(tmp_path) not in text
    assert not (bare / "simulation.json").exists()
    assert (bare / "README.md").read_text() == "by hand"
    assert "bare: no folder of `train draft`" in ran.err


def test_several_drafters_methods_and_depths_in_one_run(cli, model, prompts, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(model, other)
    save = tmp_path / "simulation.json"
    ran = cli(*words(model, "--prompts", prompts, "--drafter", model, "--drafter", other,
                     "--methods", "lm,lm-top-k:nodes=8", "--depth", "2", "--depth", "3",
                     "--json", "--save", save))  # fmt: skip
    assert ran.code == 0, ran.err
    made = Simulation.model_validate_json(ran.out.splitlines()[-1])
    assert len(made.figures) == 8
    assert {(f.drafter, f.method, f.depth) for f in made.figures} == {
        (drafter, method, depth)
        for drafter in (model.rsplit("/", 1)[-1], "other")
        for method in ("lm", "lm-top-k:nodes=8")
        for depth in (2, 3)
    }
    assert all(f.cost == 1.0 and f.acceptance == 1.0 for f in made.figures if f.method == "lm")
    assert made == Simulation.model_validate_json(save.read_text())
    for shown in ("MBSU", "alpha", "other", "x plain"):
        assert shown in ran.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "data"),
        (["--forced", "--prompts", "x.jsonl"], "forced"),
        (["--prompts", "x.jsonl", "--methods", "prompt-lookup"], "prompt-lookup"),
        (["--prompts", "x.jsonl", "--methods", "plain"], "methods"),
        (["--prompts", "x.jsonl", "--depth", "0"], "depth"),
        (["--prompts", "x.jsonl"], "x.jsonl"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(cli, model, more, said):
    ran = cli(*words(model, *more))
    assert ran.code == 2
    last = ran.err.strip().splitlines()[-1]
    assert last.startswith("foretoken: ")
    assert said in last


def test_a_model_without_a_drafter_is_told_so(cli, model, prompts):
    ran = cli(*words(model, "--prompts", prompts))
    assert ran.code == 2
    assert "'drafter'" in ran.err
