"""What a process that is there for one command need not do: look through what stays until the end, give memory back.

Python's garbage collector looks through all objects again and again as their number grows. Modules and models stay, so
that it looks in vain: a look through torch alone takes a tenth of a second, and one more is taken as the process ends.
What memory the process has had it will want again (:mod:`nmt.memory`).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Process", "loading", "process"]


@dataclass
class Process:
    """``is_ours``: whether the process was started for one command and ends with it.

    ``has_loaded``: whether :func:`loading` was there.
    """

    is_ours: bool = False
    has_loaded: bool = False

    def keep(self) -> None:
        """Have the collector never look at what there is by now."""
        if self.is_ours:
            gc.freeze()


process = Process()


@contextmanager
def loading() -> Iterator[None]:
    """Modules and models are loaded in its ``with`` block; the collector waits for its end and goes by them then."""
    if not (process.is_ours and gc.isenabled()):
        yield
        return
    from nmt.memory import keep_freed_memory

    keep_freed_memory()
    gc.disable()
    try:
        yield
    finally:
        process.has_loaded = True
        process.keep()
        gc.enable()
