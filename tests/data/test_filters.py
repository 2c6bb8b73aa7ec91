"""Filters that count, hashes that are found again, and held-out lines that stand in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nmt.config import DataConfig, TextCorpus
from nmt.data.filters import Filters, HashSet, HeldOutLines, Reasons, find_overlaps, hash_texts, is_blank, judge
from nmt.errors import ConfigError


def reasons(data: DataConfig, *lengths: tuple[int, int]) -> Reasons:
    source, target = np.array(lengths, dtype=np.int64).reshape(-1, 2).T
    return judge(source, target, data)


def test_pairs_with_a_blank_side_go_as_pairs() -> None:
    filters = Filters(DataConfig())
    assert filters.keep(5, reasons(DataConfig(), (3, 4), (2, 0), (5, 1))).tolist() == [True, False, True]
    assert filters.report.dropped["blank"] == 3
    assert filters.report.text() == "training pairs: 2 of 5 kept, dropped 3 with a blank side"
    assert [is_blank(text) for text in ("", " \u3000\t", "a", " a")] == [True, True, False, False]


def test_duplicates_are_pairs_seen_before_in_any_chunk() -> None:
    data = DataConfig(drop_duplicates=True, max_length=5)
    filters = Filters(data)
    assert filters.seen is not None
    for texts, long, kept in (("ab", 9, "a"), ("abcdd", 1, "cd"), ("", 1, "")):
        new = filters.seen.add(hash_texts(text.encode() for text in texts))
        keep = filters.keep(len(texts), reasons(data, *[(1, long if text == "b" else 1) for text in texts]), new)
        assert "".join(text for text, is_kept in zip(texts, keep, strict=True) if is_kept) == kept
    assert filters.report.dropped == {"blank": 0, "duplicate": 3, "held_out": 0, "length": 1, "ratio": 0}
    assert Filters(DataConfig()).seen is None


def test_lengths_and_ratios_count_tokens_and_each_pair_once() -> None:
    data = DataConfig(max_length=5, max_ratio=2.0)
    filters = Filters(data)
    judged = reasons(data, (5, 3), (6, 6), (2, 5), (1, 2), (1, 9), (0, 4))
    assert filters.keep(6, judged).tolist() == [True, False, False, True, False, False]
    assert filters.report.dropped == {"blank": 1, "duplicate": 0, "held_out": 0, "length": 2, "ratio": 1}
    assert filters.report.text() == (
        "training pairs: 2 of 6 kept, dropped 1 with a blank side, 2 longer than data.max_length, "
        "1 beyond data.max_ratio"
    )


def test_filters_set_to_0_are_off() -> None:
    assert reasons(DataConfig(max_length=0, max_ratio=0.0), (9999, 1)).tolist() == [0]


def test_a_hash_set_is_a_set() -> None:
    random = np.random.default_rng(1)
    mine, theirs = HashSet(), set[int]()
    for size in (0, 1, 1, 5, 100, 3, 1000, 1000, 7):
        numbers = random.integers(0, 800, size=size).astype(np.uint64)
        new = mine.add(numbers)
        for number, is_new in zip(numbers.tolist(), new.tolist(), strict=True):
            assert is_new == (number not in theirs)
            theirs.add(number)
    assert mine.contains(np.arange(900, dtype=np.uint64)).tolist() == [n in theirs for n in range(900)]
    assert len(mine._runs) < 8
    again = HashSet(np.array([5, 3, 9], dtype=np.uint64))
    assert again.add(np.array([9, 4, 4], dtype=np.uint64)).tolist() == [False, True, False]


def test_hashes_are_the_same_everywhere() -> None:
    assert hash_texts([b"", b"a\nb"]).tolist() == [13020603013274838756, 6888081726617775527]


# ------------------------------------------------------------------------------------------------------------- overlap


def corpus(folder: Path, name: str, rows: list[tuple[str, str]]) -> TextCorpus:
    for side, lines in (("en", [row[0] for row in rows]), ("fr", [row[1] for row in rows])):
        (folder / f"{name}.{side}").write_text("".join(f"{line}\n" for line in lines))
    return TextCorpus(source=folder / f"{name}.en", target=folder / f"{name}.fr")


def test_held_out_lines_that_stand_in_training_are_found(tmp_path: Path) -> None:
    data = DataConfig(
        train=(corpus(tmp_path, "one", [("a", "b"), ("", "x")]), corpus(tmp_path, "two", [("c", "d"), ("e", "b")])),
        valid=corpus(tmp_path, "valid", [("new", "neu"), ("c", "d"), ("a", "other"), ("", "x"), ("a", "d")]),
        test=corpus(tmp_path, "test", [("new", "neu"), ("", "")]),
    )
    found = find_overlaps(data)
    assert [overlap.split for overlap in found] == ["valid"]
    valid = found[0]
    assert (valid.total, valid.pairs, valid.sources, valid.targets, valid.first) == (5, 1, 3, 3, 2)
    assert valid.text() == (
        f"data.valid ({tmp_path}/valid.en and {tmp_path}/valid.fr): 1 of 5 pairs also stand in data.train, "
        f"and so do 3 source and 3 target lines (the first is line 2); scores on it will look better than they are; "
        "data.drop_held_out = true leaves pairs with such a line out of a training"
    )


def test_pairs_that_share_a_line_with_a_held_out_set_are_dropped(tmp_path: Path) -> None:
    data = DataConfig(
        valid=corpus(tmp_path, "valid", [("a", "A"), ("", "X")]), test=corpus(tmp_path, "test", [("b", "B")])
    )
    pairs = [("a", "A"), ("a", "new"), ("new", "B"), ("A", "a"), ("new", "X"), ("a", "")]
    found = HeldOutLines(data).have([one for one, _ in pairs], [other for _, other in pairs])
    assert found.tolist() == [True, True, True, False, True, True]
    filters = Filters(data)
    lengths = np.array([1, 1, 1, 1, 9, 1]), np.array([1, 1, 1, 1, 1, 0])
    judged = judge(*lengths, data.model_copy(update={"max_ratio": 2.0}), found)
    assert filters.keep(6, judged).tolist() == [False, False, False, True, False, False]
    assert filters.report.dropped == {"blank": 1, "duplicate": 0, "held_out": 4, "length": 0, "ratio": 0}
    assert "dropped 1 with a blank side, 4 sharing a line with data.valid or data.test" in filters.report.text()


def test_there_is_something_to_leave_out_the_lines_of() -> None:
    with pytest.raises(ConfigError, match=r"data\.drop_held_out: there is no data\.valid and no data\.test"):
        HeldOutLines(DataConfig(drop_held_out=True))


@pytest.mark.parametrize("held_out", [False, True])
def test_nothing_is_said_where_nothing_is_shared(tmp_path: Path, held_out: bool) -> None:
    valid = corpus(tmp_path, "valid", [("x", "y")]) if held_out else None
    assert find_overlaps(DataConfig(train=(corpus(tmp_path, "train", [("a", "b")]),), valid=valid)) == []
