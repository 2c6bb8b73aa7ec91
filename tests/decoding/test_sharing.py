"""Lines shared out, in one process; ``tests/training/test_distributed.py`` has what two do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from nmt.decoding.sharing import Sharing
from nmt.distributed import ALONE
from nmt.errors import ConfigError, DataError


def numbered(lines: Sequence[str], first: int) -> list[str]:
    return [f"{number} {line}" for number, line in enumerate(lines, first)]


def test_every_window_is_answered_in_order_when_it_comes() -> None:
    read = []

    def windows() -> Iterator[list[str]]:
        for window in (["a", "b"], ["c"], [], ["d"]):
            read.append(window)
            yield window

    with Sharing(ALONE) as sharing:
        answers = sharing.out(windows(), numbered)
        assert next(answers) == ["1 a", "2 b"]
        assert len(read) == 1
        assert list(answers) == [["3 c"], [], ["4 d"]]


@pytest.mark.parametrize("fault", range(8))
def test_what_comes_before_a_fault_is_answered(fault: int) -> None:
    def work(lines: Sequence[str], first: int) -> list[str]:
        if "bad" in lines:
            raise DataError(f"line {first + lines.index('bad')}")
        return numbered(lines, first)

    lines = [*["good"] * fault, "bad", *["good"] * (7 - fault)]
    answered: list[str] = []
    with pytest.raises(DataError, match=f"^line {fault + 3}$"), Sharing(ALONE) as sharing:
        for texts in sharing.out([lines], work, done=2):
            answered += texts
    assert answered == numbered(lines[:fault], 3)


def test_a_fault_of_none_of_the_lines_is_told_at_once() -> None:
    seen = []

    def work(lines: Sequence[str], first: int) -> list[str]:
        seen.append(lines)
        raise ConfigError("no such beam")

    with pytest.raises(ConfigError), Sharing(ALONE) as sharing:
        list(sharing.out([["a", "b"]], work))
    assert seen == [["a", "b"]]


def test_what_reading_and_working_raise_is_raised() -> None:
    def windows() -> Iterator[list[str]]:
        yield ["a"]
        raise ValueError("unreadable")

    def broken(lines: Sequence[str], first: int) -> list[str]:
        raise ZeroDivisionError

    with pytest.raises(ValueError, match="unreadable"), Sharing(ALONE) as sharing:
        list(sharing.out(windows(), numbered))
    with pytest.raises(ZeroDivisionError), Sharing(ALONE) as sharing:
        list(sharing.out([["a"]], broken))
