"""docs/results.md is what its runs say."""

from docs.results import PAGE, written


def test_the_page_is_that_of_the_files():
    assert PAGE.read_text() == written()
