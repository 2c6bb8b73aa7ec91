"""Lines that several processes work on: each takes a share of every window, the first reads and gets all of it back.

Where one process does it all and a line cannot be worked on, what comes before that line is answered first.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

from nmt.distributed import Ranks
from nmt.errors import ConfigError, Interrupted, NmtError

__all__ = ["Sharing", "up_to_a_fault"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def up_to_a_fault(
    work: Callable[[Sequence[Item], int], list[Answer]], items: Sequence[Item], first: int
) -> Iterator[list[Answer]]:
    """What ``work`` makes of ``items``, the first of which has the number ``first``; of those before a fault, if any.

    Raises the fault behind that, as ``work`` does of the one item. A ConfigError is none of an item's.
    """
    try:
        answers = work(items, first)
    except (ConfigError, Interrupted):
        raise
    except NmtError:
        if len(items) < 2:
            raise
    else:
        yield answers
        return
    half = len(items) // 2
    yield from up_to_a_fault(work, items[:half], first)
    yield from up_to_a_fault(work, items[half:], first + half)


class Sharing:
    """Shares lines out among processes within its ``with`` block, at whose end the others are told to go home."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._awaited = True  # whether the others wait for a window

    def __enter__(self) -> Sharing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.ranks.is_first and self._awaited:
            with contextlib.suppress(RuntimeError):  # who is gone need not be told
                self.ranks.tell("")

    def out(
        self, windows: Iterable[list[str]], work: Callable[[Sequence[str], int], list[str]], *, done: int = 0
    ) -> Iterator[list[str]]:
        """What ``work`` makes of the lines of every window, in order.

        ``work`` is given lines and the number of the first, counted from 1, and gives a text for each; ``done`` lines
        come before the first window. Of several processes each is given a share of every window; what the first has as
        ``windows`` and ``done`` counts for all. A process alone answers what comes before a line that ``work`` raises
        an error of.
        """
        ranks = self.ranks
        if ranks.size == 1:
            for before, window in self._counted(windows, done):
                yield from up_to_a_fault(work, window, before + 1)
            return
        for before, window in self._counted(windows, done) if ranks.is_first else self._told():
            if ranks.is_first:
                ranks.tell(json.dumps([before, window]))
            self._awaited = False
            first, last = (len(window) * rank // ranks.size for rank in (ranks.rank, ranks.rank + 1))
            made = work(window[first:last], before + first + 1)
            texts = [text for share in ranks.collect(json.dumps(made)) for text in json.loads(share)]
            self._awaited = True
            yield texts

    def _counted(self, windows: Iterable[list[str]], done: int) -> Iterator[tuple[int, list[str]]]:
        """Every window, and how many lines come before it."""
        for window in windows:
            yield done, window
            done += len(window)

    def _told(self) -> Iterator[tuple[int, list[str]]]:
        """The same as the first process tells it."""
        while told := self.ranks.tell(""):
            done, window = json.loads(told)
            yield done, window
