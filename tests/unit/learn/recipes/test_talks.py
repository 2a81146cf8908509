import json

import pytest
from tests import letters, talking

from foretoken.errors import ConfigError
from foretoken.learn.corpus import stdlib_source
from foretoken.learn.recipes import talks
from foretoken.learn.recipes.talks import read_talks

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "Bye"},
]
SHARED = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi."}]


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(*prompts, **options):
    return read_talks(prompts, tokenizer=talking.tokenizer(), **options)


def test_every_kind_of_row_is_read(tmp_path):
    file = written(
        tmp_path / "all.jsonl",
        {"question": "a?", "answer": "b"},
        {"prompt": "c"},
        {"text": "d"},
        {"turns": ["e", "f"]},
        {"id": "x7", "conversations": CONVERSATION},
        {"messages": CONVERSATION[1:]},
        {"conversations": SHARED},
        {"input_ids": [1, 2, 3]},
        {"input_ids": [1, 2, 3], "loss_mask": [0, 0, 1]},
        {"input_ids": [4, 5], "loss_mask": [0, 0]},
    )
    asked = read(file)
    talks = asked.talks
    assert [m["content"] for m in talks[0].messages] == ["a?", "b"]
    assert [[m["content"] for m in t.messages] for t in talks[1:4]] == [["c"], ["d"], ["e", "f"]]
    assert (talks[4].name, list(talks[4].messages)) == ("x7", CONVERSATION)
    assert talks[6].messages == (CONVERSATION[1], CONVERSATION[2])
    assert (talks[7].ids, talks[7].mask) == ((1, 2, 3), ())
    assert talks[8].mask == (False, False, True)
    assert talks[9].mask == ()  # nothing to learn: it is asked
    assert talks[1].name == "all.jsonl:2"
    assert asked.sources[0].documents == {"prompts": 10}


def test_equal_prompts_are_asked_once_whatever_file_they_stand_in(tmp_path):
    one = written(tmp_path / "one.jsonl", {"prompt": "a"}, {"question": "b", "answer": "1"})
    two = written(tmp_path / "two.jsonl", {"text": "b", "answer": "2"}, {"turns": ["a"]})
    asked = read(one, two)
    assert [t.name for t in asked.talks] == ["one.jsonl:1", "one.jsonl:2"]
    assert (asked.read, asked.repeated) == (4, 2)
    # answers that are kept make the difference
    assert len(read(one, two, keep=True).talks) == 3


def test_a_limit_chooses_by_content_and_adding_rows_moves_little(tmp_path):
    rows = [{"prompt": f"number {i}"} for i in range(40)]
    few = read(written(tmp_path / "a.jsonl", *rows), limit=10)
    again = read(written(tmp_path / "b.jsonl", *reversed(rows)), limit=10)
    assert [t.key for t in few.talks] == [t.key for t in again.talks]
    assert few.sha256 == again.sha256
    more = read(written(tmp_path / "c.jsonl", *rows, {"prompt": "new"}), limit=10)
    assert len({t.key for t in few.talks} & {t.key for t in more.talks}) >= 9
    assert read(written(tmp_path / "d.jsonl", *rows)).talks[3].name == "d.jsonl:4"


def test_documents_are_begun_with_their_first_tokens_at_most_half(tmp_path):
    file = written(tmp_path / "docs.jsonl", {"text": "x" * 100}, {"text": "abcdef"})
    (tmp_path / "one.txt").write_text("z" * 40)
    asked = read_talks((), [file, tmp_path / "one.txt"], tokenizer=talking.tokenizer(), start=16)
    assert [len(t.ids) for t in asked.talks] == [16, 3, 16]
    letters_of = letters.tokenizer().decode(list(asked.talks[1].ids))
    assert letters_of == "abc"


def test_the_standard_library_is_a_source_with_its_licence(tmp_path, monkeypatch):
    (tmp_path / "module.py").write_text('def f(x):\n    """Doc."""\n    return x\n')
    (tmp_path / "empty.py").write_text("")
    monkeypatch.setattr(talks, "stdlib_source", lambda: stdlib_source(tmp_path))
    asked = read_talks((), stdlib=True, tokenizer=talking.tokenizer(), start=8, limit=20)
    assert asked.sources[0].licence.startswith("PSF-2.0")
    assert [len(t.ids) for t in asked.talks] == [8]  # module and function begin alike


def test_licence_and_sha256_of_a_file_are_kept(tmp_path):
    (tmp_path / "LICENSE.maths").write_text("MIT License\n\nCopyright (c) 2021 Somebody\n")
    source = read(written(tmp_path / "maths_train.jsonl", {"prompt": "a"})).sources[0]
    assert source.licence == "MIT License, Copyright (c) 2021 Somebody"
    assert len(source.sha256) == 64


@pytest.mark.parametrize(
    "row",
    [
        "no json",
        "[1]",
        '{"other": "a"}',
        '{"prompt": 3}',
        '{"input_ids": []}',
        '{"input_ids": [1, 2], "loss_mask": [1]}',
        '{"conversations": [{"role": "tool", "content": "x"}]}',
        '{"conversations": [{"role": "assistant", "content": "x"}]}',
        '{"conversations": [{"role": "user"}]}',
        '{"conversations": "hello"}',
    ],
)
def test_a_malformed_row_is_named(tmp_path, row):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "good"}\n' + row + "\n")
    with pytest.raises(ConfigError, match=r"^prompts: 'bad\.jsonl:2'") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_nothing_to_ask_is_said(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    for files in ((), (empty,)):
        with pytest.raises(ConfigError, match="prompts"):
            read(*files)
    with pytest.raises(ConfigError, match=r"missing\.jsonl"):
        read(tmp_path / "missing.jsonl")
