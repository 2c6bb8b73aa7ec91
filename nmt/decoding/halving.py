"""Work on many items at once, and on halves of them where memory does not suffice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from nmt.errors import NmtError, is_out_of_memory

__all__ = ["in_halves"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_log = logging.getLogger(__name__)


def in_halves(
    work: Callable[[Sequence[Item]], list[Answer]], items: Sequence[Item], too_much: Callable[[Item], str], what: str
) -> list[Answer]:
    """What ``work`` makes of ``items`` together; where memory does not suffice, of each half, down to single ones.

    Raises NmtError, in the words of ``too_much``, for an item that has no room by itself. ``what`` items are called in
    a note.
    """
    try:
        return work(items)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    if len(items) == 1:
        raise NmtError(too_much(items[0]))
    half = (len(items) + 1) // 2
    _log.info("out of memory over %d %s at once: going on with %d", len(items), what, half)
    return [answer for part in (items[:half], items[half:]) for answer in in_halves(work, part, too_much, what)]
