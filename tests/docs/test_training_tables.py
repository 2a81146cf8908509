"""docs/training.md: its tables are those of the files in benchmarks/."""

from docs.training import END, PAGE, START, written


def test_the_tables_are_those_of_the_files():
    text = PAGE.read_text()
    assert text[text.index(START) + len(START) : text.index(END)] == written()
