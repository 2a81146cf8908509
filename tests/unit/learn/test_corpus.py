import ast
import json

import pytest

from foretoken.errors import ConfigError
from foretoken.learn.corpus import build_corpus, documented_functions, file_source, stdlib_source


def test_modules_and_documented_functions_become_documents(sources):
    documents, source = stdlib_source(sources[0])
    assert source.documents == {"function": 40, "module": 20}
    assert not any("SECRET" in document.text for document in documents)
    functions = [document.text for document in documents if document.kind == "function"]
    assert not any("silent" in text for text in functions)  # no docstring
    for text in functions:
        body = ast.parse(text).body[-1]
        assert isinstance(body, ast.FunctionDef)
        assert ast.get_docstring(body)


def test_a_method_is_dedented_with_its_decorator_and_sometimes_its_imports(sources):
    text = (sources[0] / "package" / "module_3.py").read_text()
    found = [f for f in documented_functions(text) if "def area" in f]
    assert [f.removeprefix("import math\n\n\n") for f in found] == [
        '@property\ndef area(self):\n    """The area of shape 3."""\n    return math.pi * 3\n'
    ]
    documents, _ = stdlib_source(sources[0])
    areas = [d.text for d in documents if "def area" in d.text and d.kind == "function"]
    assert 0 < sum(text.startswith("import math\n\n\n@property") for text in areas) < len(areas)


def test_questions_have_the_format_of_the_chat_template(sources):
    documents, source = file_source(sources[1])
    assert documents[2].text == "Question: What is 2 + 2?\nAnswer: It is <<2+2=4>>4.\n#### 4"
    assert source.documents == {"qa": 60}
    assert source.licence == "Some License, Copyright (c) 2021 Somebody"
    assert source.bytes == sources[1].stat().st_size


def test_held_out_groups_are_not_in_the_training_text(corpus):
    assert {d.kind for d in corpus.held_out} == {"function", "module", "qa"}
    assert not {d.text for d in corpus.held_out} & {d.text for d in corpus.train}
    assert not {d.group for d in corpus.held_out} & {d.group for d in corpus.train}
    assert len(corpus.held_out) + len(corpus.train) == 40 + 20 + 60


def test_a_repeated_text_cannot_slip_into_training(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {n % 50}"}) + "\n" for n in range(200)))
    corpus = build_corpus([path], held_out=0.3, use_stdlib=False)
    assert corpus.held_out
    assert not {d.text for d in corpus.held_out} & {d.text for d in corpus.train}


def test_the_manifest_is_stable_and_notices_a_change(sources, corpus, tmp_path):
    library, rows = sources
    again = build_corpus([rows], held_out=0.2, stdlib=library).manifest()
    assert again == corpus.manifest()
    assert json.loads(json.dumps(again)) == again
    changed = tmp_path / rows.name
    changed.write_text(rows.read_text().replace("What is 7", "What was 7"))
    other = build_corpus([changed], held_out=0.2, stdlib=library).manifest()
    assert other["sha256"] != again["sha256"]
    assert other["sources"][0] == again["sources"][0]
    assert other["sources"][1]["sha256"] != again["sources"][1]["sha256"]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"question": "y"}\n', "a.jsonl:2"),
        ("a.jsonl", b'{"text": "x"}\n\n[1]\n', "a.jsonl:3"),
        ("a.jsonl", b"no json\n", "a.jsonl:1"),
        ("a.txt", b"\xff\xfe", "a.txt"),
    ],
)
def test_bad_data_is_named(tmp_path, name, content, place):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^data: .*{place}") as caught:
        build_corpus([path], held_out=0.0, use_stdlib=False)
    assert caught.value.exit_code == 2


def test_missing_file_and_empty_corpus_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="missing"):
        build_corpus([tmp_path / "missing.txt"], held_out=0.0, use_stdlib=False)
    with pytest.raises(ConfigError, match="no documents"):
        build_corpus([], held_out=0.0, use_stdlib=False)
