"""n-best lists of many systems: what is read of them, and that nothing else of them changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.decoding.nbest import Entry, NbestReader, rescore
from nmt.decoding.scorer import PairScore, Scorer
from nmt.errors import DataError


def read(*lines: str, num_sources: int = 9) -> list[Entry]:
    reader = NbestReader("list", num_sources)
    return [reader(line, number) for number, line in enumerate(lines, 1)]


@pytest.mark.parametrize(
    ("line", "text", "expected"),
    [
        ("0 ||| le chat ||| LM0= -1 TM0= -2 3 ||| -4.5", "le chat", "LM0= -1 TM0= -2 3 x= -1.2500 ||| 0.5000"),
        ("0 ||| le chat ||| lm: -1 w: -2 ||| -4", "le chat", "lm: -1 w: -2 x= -1.2500 ||| 0.5000"),
        ("0 ||| le chat ||| lm_0=-1 ||| 1e-3", "le chat", "lm_0=-1 x= -1.2500 ||| 0.5000"),
        ("0 ||| le chat ||| -1 -2 ||| -inf", "le chat", "-1 -2 x= -1.2500 ||| 0.5000"),
        ("0 ||| le chat ||| F0= -1 ||| -4 ||| 0-0 1-1", "le chat", "F0= -1 x= -1.2500 ||| 0.5000 ||| 0-0 1-1"),
        ("0 ||| le chat ||| 0-0 ||| F0= -1 ||| -4", "le chat", "0-0 ||| F0= -1 x= -1.2500 ||| 0.5000"),
        ("0 ||| a ||| 0-0 ||| c= 1.0 ||| l= -1 ||| -4", "a", "0-0 ||| c= 1.0 ||| l= -1 x= -1.2500 ||| 0.5000"),
        ("0 ||| le ||| ||| -4", "le", " x= -1.2500 ||| 0.5000"),
        ("0 |||  ||| logprob= 0.0000 ||| 0.0000", "", "logprob= 0.0000 x= -1.2500 ||| 0.5000"),
        ("0 ||| ||| F0= 0 ||| 0", "", "F0= 0 x= -1.2500 ||| 0.5000"),
        ("0 |||  a  b\u00a0||| c|||d  ||| F0= 0 ||| 0", " a  b\u00a0||| c|||d ", "F0= 0 x= -1.2500 ||| 0.5000"),
        ("0 ||| a= 1 ||| F0= 0 |||   0", "a= 1", "F0= 0 x= -1.2500 |||   0.5000"),
    ],
)  # fmt: skip
def test_forms(line: str, text: str, expected: str) -> None:
    (entry,) = read(line)
    assert entry.text == text
    written = entry.with_feature("x", -1.25, 0.5)
    assert written.endswith(f"|||{expected if expected[0] == ' ' else f' {expected}'}")
    kept = entry.with_feature("x", -1.25)
    assert kept.replace(" x= -1.2500", "", 1).replace(" ", "") == line.replace(" ", "")
    assert line.startswith(kept[: kept.index(" x= ")].rstrip())


WORDS = st.text("ab=:|0.- \u2028\t😀", max_size=8).filter(lambda text: "|||" not in text)


@given(
    text=WORDS,
    before=st.lists(st.sampled_from(["0-0 1-1", "", "c= 1 1"]), max_size=1),
    after=st.lists(WORDS, max_size=2),
)
def test_nothing_else_changes(text: str, before: list[str], after: list[str]) -> None:
    fields = ["3", text, *before, "F0= -1 2 G=3", "-1.5", *after]
    (entry,) = read(" ||| ".join(fields))
    assert (entry.id, entry.text) == (3, text)
    fields[entry.place] += " x= -0.5000"
    assert entry.place == 2 + len(before)
    assert entry.with_feature("x", -0.5) == " ||| ".join(fields)
    fields[entry.place + 1] = "0.0000"
    assert entry.with_feature("x", -0.5, -1e-9) == " ||| ".join(fields)


def test_features_that_are_there_already() -> None:
    with_it, joshua, without = read(
        "0 ||| a ||| logprob= 1 ||| 1", "0 ||| a ||| logprob=1 ||| 1", "0 ||| logprob= ||| xlogprob= 1 ||| 1"
    )
    assert (with_it.has_feature("logprob"), joshua.has_feature("logprob")) == (True, True)
    assert (without.has_feature("logprob"), without.has_feature("xlogprob")) == (False, True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "list:2: 1 fields: a line is id ||| text ||| features ||| score"),
        ("1 ||| a ||| -3", "list:2: 3 fields"),
        ("1|||a|||F= 1|||-3", "list:2: 1 fields"),
        ("one ||| a ||| F= 1 ||| -3", "list:2: the id 'one' is not a number"),
        ("-1 ||| a ||| F= 1 ||| -3", "list:2: the id '-1' is not a number"),
        ("² ||| a ||| F= 1 ||| -3", "list:2: the id '²' is not a number"),
        ("3 ||| a ||| F= 1 ||| -3", "list:2: id 3, but the source has 3 lines, which are counted from 0"),
        (f"{'9' * 30} ||| a ||| F= 1 ||| -3", "list:2: the id '99999999999999999999' is not a number"),
        ("0 ||| a ||| F= 1 ||| -3", "list:2: id 0 behind id 1: lists stand in the order of the source's lines"),
        ("1 ||| a ||| F= 1 ||| high", "list:2: no features with a number behind them"),
        ("1 ||| a ||| F= 1 ||| ", "list:2: no features with a number behind them"),
        ("1 ||| a ||| F= 1 ||| 1 2", "list:2: no features with a number behind them"),
    ],
)
def test_faults_name_file_and_line(line: str, words: str) -> None:
    with pytest.raises(DataError) as raised:
        read("1 ||| a ||| F= 1 ||| -3", line, num_sources=3)
    assert str(raised.value).startswith(words)


class Lengths(Scorer):
    """A scorer whose log-probability is the text's length, below 0, and whose score is that of its first letter."""

    def __init__(self) -> None:
        self.windows: list[tuple[int, list[tuple[str, str]]]] = []

    def score_window(self, pairs: Sequence[tuple[str, str]], *, first: int = 1) -> list[PairScore]:
        self.windows.append((first, list(pairs)))
        return [PairScore(-float(len(target)), -float(ord(target[0])), (), ()) for _, target in pairs]


LIST = [
    f"{row} ||| {text} ||| F= 1 ||| -9" for row, text in ((0, "b"), (0, "aa"), (0, "a"), (2, "cc"), (2, "c"), (3, "d"))
]


@pytest.mark.parametrize("size", [1, 2, 6])
def test_rescoring_keeps_the_order(size: int) -> None:
    scorer = Lengths()
    entries = read(*LIST)
    windows = [entries[start : start + size] for start in range(0, 6, size)]
    written = [line for lines in rescore(windows, scorer, "wxyz", feature="len") for line in lines]
    assert written == [line.replace("F= 1", f"F= 1 len= -{len(line.split(' ||| ')[1])}.0000") for line in LIST]
    assert [first for first, _ in scorer.windows] == list(range(1, 7, size))
    assert [pair for _, pairs in scorer.windows for pair in pairs][2:4] == [("w", "a"), ("y", "cc")]


@pytest.mark.parametrize("size", [1, 2, 4, 6])
def test_reranking_sorts_each_list_by_our_score(size: int) -> None:
    scorer = Lengths()
    entries = read(*LIST)
    windows = [entries[start : start + size] for start in range(0, 6, size)]
    written = [line for lines in rescore(windows, scorer, "wxyz", feature="x", rerank=True) for line in lines]
    rows = [line.split(" ||| ") for line in written]
    # Of equal scores the earlier comes first.
    assert [(row[0], row[1]) for row in rows] == [
        ("0", "aa"),
        ("0", "a"),
        ("0", "b"),
        ("2", "cc"),
        ("2", "c"),
        ("3", "d"),
    ]
    assert [row[2] for row in rows] == [f"F= 1 x= -{len(row[1])}.0000" for row in rows]
    assert [row[3] for row in rows] == [f"-{ord(row[1][0])}.0000" for row in rows]


def test_a_fault_comes_after_the_lists_before_it() -> None:
    def windows() -> Any:
        yield read(*LIST)[:5]
        raise DataError("broken")

    scorer = Lengths()
    results = rescore(windows(), scorer, "wxyz", feature="x", rerank=True)
    assert [line[0] for line in next(results)] == ["0", "0", "0"]
    with pytest.raises(DataError, match="broken"):
        next(results)


def test_no_lists() -> None:
    scorer = Lengths()
    assert list(rescore([], scorer, [], feature="x")) == list(rescore([], scorer, [], feature="x", rerank=True)) == []
