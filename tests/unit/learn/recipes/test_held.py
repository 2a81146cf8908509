import json

import pytest
from tests import talking

from foretoken.errors import ArtifactError, ConfigError
from foretoken.learn.recipes.answering import Settings
from foretoken.learn.recipes.answers import read_answers
from foretoken.learn.recipes.data import write_data
from foretoken.learn.recipes.held import held_out_prompts, own_prompts
from foretoken.learn.recipes.rows import Rows
from foretoken.learn.recipes.talks import read_talks
from foretoken.learn.recipes.turns import prompt_of

KEY = talking.engine().context.tokenizer_hash


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("held")
    path = place / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"number {i}"}) + "\n" for i in range(30)))
    asked = read_talks([path], tokenizer=talking.tokenizer())
    settings = Settings(temperatures=(0.9,), samples=2, max_new_tokens=8, loops="keep")
    write_data(talking.engine(batch=16), asked, settings, place / "answers")
    return place / "answers"


def test_what_is_judged_is_what_training_held_out(folder):
    held = held_out_prompts(folder, 0.3, KEY, 97, 100, True)
    rows = Rows.read(folder, seq=48, held_out=0.3)
    ids = rows.held_out().ids[rows.held_out().mask].tolist()
    want = sorted(t for p in held for t in p.reference)
    assert sorted(ids) == want
    trained = {tuple(e.ids[: int(e.mask.argmax())].tolist()) for e in rows.examples}
    assert trained.isdisjoint({tuple(p.tokens) for p in held})
    assert 2 <= len(held) < 30
    assert len(held_out_prompts(folder, 1.0, KEY, 97, 100, True)) == len(read_answers(folder).rows)


def test_prompts_of_several_answers_are_asked_once(folder):
    forced = held_out_prompts(folder, 1.0, KEY, 97, 100, True)
    own = held_out_prompts(folder, 1.0, KEY, 97, 100, False)
    assert len(own) == 30
    assert len(forced) > len(own)
    assert len({p.seed for p in own}) == 30
    assert held_out_prompts(folder, 1.0, KEY, 97, 7, False) == own[:7]


def test_nothing_held_out_or_foreign_answers_are_said(folder):
    with pytest.raises(ConfigError, match="held-out: 0"):
        held_out_prompts(folder, 0.0, KEY, 97, 5, False)
    with pytest.raises(ArtifactError, match="vocabulary"):
        held_out_prompts(folder, 1.0, KEY, 96, 5, False)


def test_prompts_of_their_own_are_first_turns_through_the_template(tmp_path):
    path = tmp_path / "talks.jsonl"
    system = {"role": "system", "content": "Be brief."}
    users = [{"role": "user", "content": c} for c in ("Hello", "Bye")]
    rows = [{"conversations": [system, *users]}, {"input_ids": [1, 2, 3]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "doc.txt").write_text("abcdefgh" * 9)
    tokenizer = talking.tokenizer()
    found = own_prompts([path], [tmp_path / "doc.txt"], tokenizer, 8, 9)
    by = {p.name: p.tokens for p in found}
    assert by["talks.jsonl:1"] == prompt_of(tokenizer, [system, users[0]])
    assert by["talks.jsonl:2"] == [1, 2, 3]
    assert by["doc.txt"] == tokenizer.encode("abcdefgh")
