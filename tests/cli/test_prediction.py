"""foretoken generate --prediction FILE: the same text, in fewer steps where it was right."""

import json

import pytest

from foretoken.prompt.samples import demo_model

PROMPT = "def add(a, b):\n"


def call(cli, model, *arguments):
    return cli("generate", "--model", model, "--dtype", "float32", "-n", 24, PROMPT, *arguments)


def test_a_right_prediction_saves_steps(cli, tmp_path):
    model = demo_model()  # a random model's text is not read back as the tokens it was written in
    plain = json.loads(call(cli, model, "--method", "plain", "--json").out)
    file = tmp_path / "expected.txt"
    for text, most in ((plain["text"], 6), ("nothing of the kind", 24)):
        file.write_text(text)
        ran = call(cli, model, "--json", "--method", "predicted", "--policy", "fixed",
                   "--prediction", file)  # fmt: skip
        assert ran.code == 0, ran.err
        document = json.loads(ran.out)
        assert document["text"] == plain["text"]
        assert document["statistics"]["steps"] <= most


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--method", "prompt-lookup"], "method: 'prompt-lookup'"),
        (["--prediction", "nowhere.txt"], "prediction: "),
    ],
)
def test_bad_input_is_one_line_and_exit_2(cli, model, tmp_path, arguments, named):
    file = tmp_path / "expected.txt"
    file.write_text("text")
    ran = call(cli, model, "--prediction", file, *arguments)
    assert ran.code == 2
    assert named in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert ran.out == ""
