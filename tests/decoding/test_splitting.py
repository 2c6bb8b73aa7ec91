"""Long lines are cut at sentence ends where that is possible, and nothing of them is lost."""

from __future__ import annotations

import time
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.decoding.splitting import split_line


def words(text: str) -> int:
    return len(text.split())


def test_cuts_stand_behind_the_ends_of_sentences() -> None:
    line = 'One two three. Four five! "Six seven?" Eight nine ten eleven (twelve.) Thirteen'
    assert split_line(line, 5, words) == [
        "One two three. Four five! ",
        '"Six seven?" ',
        "Eight nine ten eleven (twelve.) ",
        "Thirteen",
    ]


def test_a_number_or_a_name_is_not_the_end_of_a_sentence() -> None:
    assert split_line("It costs 3.50 here. Or 4.", 4, words) == ["It costs 3.50 here. ", "Or 4."]


def test_scripts_without_spaces() -> None:
    assert split_line("我爱你。你好吗？「很好。」再见", 6, len) == ["我爱你。", "你好吗？", "「很好。」", "再见"]


def test_a_long_sentence_is_cut_at_white_space_and_its_neighbours_stay_whole() -> None:
    assert split_line("a b. c d e f g h. i j.", 4, words) == ["a b. ", "c d e f ", "g h. ", "i j."]


def test_a_long_word_is_cut_anywhere_but_before_a_combining_mark() -> None:
    assert split_line("abcdefgh", 3, len) == ["ab", "cd", "ef", "gh"]
    assert split_line("abcd\u0301\u0302ef", 5, len) == ["abc", "d\u0301\u0302ef"]
    assert split_line("abe\u0301\u0301\u0301", 4, len) == ["ab", "e\u0301\u0301\u0301"]
    assert split_line("e\u0301\u0301\u0301", 2, len) == ["e\u0301", "\u0301\u0301"]  # where there is nothing else


def test_sentences_stand_together_as_far_as_asked_for() -> None:
    line = "a b. c d. e f. g h i j k l."
    assert split_line(line, 6, words, together=4) == ["a b. c d. ", "e f. ", "g h i j k l."]
    assert split_line(line, 5, words, together=4) == ["a b. c d. ", "e f. ", "g h i j ", "k l."]


def test_white_space_without_a_piece_stands_with_what_comes_after_it() -> None:
    assert split_line("  a b c. d", 2, words) == ["  a b ", "c. ", "d"]
    assert split_line("\u3000a\u3000b\u3000c", 1, words) == ["\u3000a\u3000", "b\u3000", "c"]
    assert split_line(" ", 1, words) == [" "]


@settings(max_examples=100, deadline=None)
@given(
    line=st.text(st.sampled_from(" .?!ab\u3002\u00a0\u0301\t\"'") | st.characters(codec="utf-8"), min_size=1),
    longest=st.integers(1, 20),
    together=st.integers(0, 25),
    length=st.sampled_from([len, lambda text: len("".join(text.split()))]),
)
def test_parts_are_the_line_and_fit(line: str, longest: int, together: int, length: Callable[[str], int]) -> None:
    """Whether white space has pieces of its own or none."""
    parts = split_line(line, longest, length, together=together)
    assert "".join(parts) == line
    for part in parts:
        assert length(part) <= longest or len(part) == 1


def test_a_megabyte_takes_no_time() -> None:
    start = time.process_time()
    for line in ("Some words here. " * 60_000, "word " * 200_000, "x" * 1_000_000, "." * 500_000, '"' * 500_000):
        assert "".join(split_line(line, 1000, len)) == line
    assert time.process_time() - start < 10
