"""Lines that several processes work on: each takes a share of every window, the first reads and gets all of it back."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator

from nmt.distributed import Ranks

__all__ = ["shared_out"]


def shared_out(
    ranks: Ranks, windows: Iterable[list[str]], work: Callable[[list[str], int], list[str]]
) -> Generator[list[str], None, None]:
    """What ``work`` makes of the lines of every window, in order.

    ``work`` is given lines and the number of the first, counted from 1, and gives a text for each. Of several processes
    each is given a share of the window; all of them have to exhaust this, but only the windows of the first are read.
    """
    stream = iter(windows)
    done = 0
    while window := _next(ranks, stream):
        first, last = (len(window) * rank // ranks.size for rank in (ranks.rank, ranks.rank + 1))
        made = work(window[first:last], done + first + 1)
        done += len(window)
        texts = [text for share in ranks.collect(json.dumps(made)) for text in json.loads(share)]
        try:
            yield texts
        except GeneratorExit:
            _end(ranks)
            raise


def _next(ranks: Ranks, stream: Iterator[list[str]]) -> list[str]:
    """The next window of the first process; nothing at the end. Raises there what reading raises."""
    try:
        window = next(stream, []) if ranks.is_first else []
    except BaseException:
        _end(ranks)
        raise
    told: list[str] = json.loads(ranks.tell(json.dumps(window)))
    return told


def _end(ranks: Ranks) -> None:
    """Tell the others that there is nothing more to do."""
    if ranks.is_first:
        ranks.tell(json.dumps([]))
