import pytest
from tests import letters, talking

from foretoken.errors import ConfigError
from foretoken.learn.recipes.turns import Turn, given_turns, prompt_of, rows_of

END = letters.EOS
SAID = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "So long!"},
]


def learned(ids, mask):
    """What is learned, as text; the end token as '|'."""
    tokens = [i for i, m in zip(ids, mask, strict=True) if m]
    return "".join("|" if t == END else letters.CHARACTERS[t] for t in tokens)


def test_the_mask_marks_exactly_the_assistants_tokens_with_their_end():
    turns = given_turns(talking.tokenizer(), SAID, [END])
    rows = rows_of(turns)
    assert len(rows) == 1
    ids, mask = rows[0]
    assert learned(ids, mask) == "Hi.|So long!|"
    text = "s>Be brief.|\nu>Hello|\na>Hi.|\nu>Bye|\na>So long!|"
    assert learned(ids, [True] * len(ids)) == text


def test_turns_share_a_row_only_where_the_next_prompt_holds_their_very_tokens():
    first = Turn([1, 2], [3, 4])
    assert rows_of([first, Turn([1, 2, 3, 4, 9], [5])]) == [
        ([1, 2, 3, 4, 9, 5], [False, False, True, True, False, True])
    ]
    apart = rows_of([first, Turn([1, 2, 8, 9], [5]), Turn([1, 2, 8, 9, 5, 7], [6])])
    assert apart == [
        ([1, 2, 3, 4], [False, False, True, True]),
        ([1, 2, 8, 9, 5, 7, 6], [False] * 4 + [True, False, True]),
    ]
    assert rows_of([]) == []


def test_a_template_that_drops_what_was_said_gives_a_row_for_each_turn():
    """As reasoning models do: earlier answers are shortened when the next turn is asked."""
    short = (
        "{% for m in messages %}{% if m['role'] == 'assistant' and not loop.last %}"
        "a>...{{ eos_token }}\n{% else %}{{ m['role'][0] }}>{{ m['content'] }}{{ eos_token }}\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}a>{% endif %}"
    )
    rows = rows_of(given_turns(talking.tokenizer(short), SAID, [END]))
    assert [learned(*row) for row in rows] == ["Hi.|", "So long!|"]
    assert learned(rows[1][0], [True] * len(rows[1][0])).count("a>...|") == 1


def test_without_a_template_there_is_one_prompt_and_an_end_behind_the_answer():
    bare = talking.tokenizer(None)
    (turn,) = given_turns(bare, SAID[1:3], [END])
    assert learned([*turn.answer], [True] * len(turn.answer)) == "Hi.|"
    assert turn.prompt == bare.encode("Hello")
    with pytest.raises(ConfigError, match="2 messages"):
        prompt_of(bare, SAID[:2])


def test_a_template_that_rewrites_answers_is_refused():
    shouting = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}" \
        "{% if add_generation_prompt %}>{% endif %}"  # fmt: skip
    with pytest.raises(ConfigError, match="keep-answers"):
        given_turns(talking.tokenizer(shouting), SAID[1:3], [END])
