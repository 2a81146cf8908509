"""auto: sources from what lies beside the weights; what the user says wins."""

from foretoken.draft.auto import BESIDE, Auto, found
from foretoken.draft.base import Context
from foretoken.draft.mix import SOURCES
from foretoken.engine.build import options
from foretoken.prompt.samples import demo_model
from foretoken.prompt.tokens import load_tokenizer, tokenizer_hash


def made(assets, **values):
    tokenizer = load_tokenizer(demo_model())
    context = Context(len(tokenizer), (), tokenizer_hash(tokenizer), assets)
    return Auto(options(Auto.Options, values, "auto"), context)


def test_without_files_the_cheap_sources_propose():
    auto = made(None)
    assert auto.names == SOURCES
    assert auto.ways == ("light", "free")
    assert not any(part.runs_model for part in auto.parts)


def test_what_lies_beside_the_weights_is_taken_up(tmp_path):
    assert found(tmp_path) == []
    for name in BESIDE:
        (tmp_path / name).mkdir()
    assert found(tmp_path) == list(BESIDE.values())
    auto = made(demo_model())  # the bundled model has a drafter
    assert auto.names == (*SOURCES, "lm-top-k")
    assert auto.ways == ("light", "free", "all")
    assert auto.gives == frozenset({"source levels"})  # its drafts end on the way


def test_the_user_decides():
    assert made(demo_model(), sources="suffix").names == ("suffix",)
    deep = made(demo_model(), source_options={"lm-top-k": {"depth": 9}})
    assert deep.parts[-1].options.depth == 9
