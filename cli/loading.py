"""The time between a command and its first result."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["loading"]


@contextmanager
def loading() -> Iterator[None]:
    """Within its ``with`` block modules and models are loaded, which stay until the process ends.

    Python's garbage collector, which looks through all there is again and again as it grows, is kept from it, there and
    afterwards: for torch alone a look takes a tenth of a second.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
