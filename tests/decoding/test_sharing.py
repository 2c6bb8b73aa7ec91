"""Lines shared out, in one process; ``tests/training/test_distributed.py`` has what two do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nmt.decoding.sharing import Sharing
from nmt.distributed import ALONE


def numbered(lines: list[str], first: int) -> list[str]:
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


def test_what_reading_and_working_raise_is_raised() -> None:
    def windows() -> Iterator[list[str]]:
        yield ["a"]
        raise ValueError("unreadable")

    def broken(lines: list[str], first: int) -> list[str]:
        raise ZeroDivisionError

    with pytest.raises(ValueError, match="unreadable"), Sharing(ALONE) as sharing:
        list(sharing.out(windows(), numbered))
    with pytest.raises(ZeroDivisionError), Sharing(ALONE) as sharing:
        list(sharing.out([["a"]], broken))
