"""Lines that several processes work on: each takes a share of every window, the first reads and gets all of it back."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from nmt.distributed import Ranks

__all__ = ["Sharing"]


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

    def out(self, windows: Iterable[list[str]], work: Callable[[list[str], int], list[str]]) -> Iterator[list[str]]:
        """What ``work`` makes of the lines of every window, in order.

        ``work`` is given lines and the number of the first, counted from 1, and gives a text for each. Of several
        processes each is given a share of every window; only the windows of the first are read.
        """
        ranks = self.ranks
        done = 0
        for window in windows if ranks.is_first else self._told():
            if ranks.is_first:
                ranks.tell(json.dumps(window))
            self._awaited = False
            first, last = (len(window) * rank // ranks.size for rank in (ranks.rank, ranks.rank + 1))
            made = work(window[first:last], done + first + 1)
            done += len(window)
            texts = [text for share in ranks.collect(json.dumps(made)) for text in json.loads(share)]
            self._awaited = True
            yield texts

    def _told(self) -> Iterator[list[str]]:
        """The windows that the first process tells of."""
        while told := self.ranks.tell(""):
            window: list[str] = json.loads(told)
            yield window
