"""Whoever writes in a run folder is alone in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from nmt.errors import TrainingError
from nmt.files import lock

__all__ = ["alone_in"]


@contextlib.contextmanager
def alone_in(folder: Path, warn: Callable[[str], object] = lambda text: None) -> Iterator[None]:
    """The run folder, there, writable, and nobody else's meanwhile; ``warn`` hears where that cannot be made sure.

    Raises TrainingError where it cannot be written, or where a training runs in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("wb")
    except OSError as error:
        raise TrainingError(f"{folder}: the run folder cannot be written: {error.strerror}") from error
    with stream:
        try:
            lock(stream)
        except BlockingIOError as error:
            raise TrainingError(f"{folder}: another training is running in this folder") from error
        except OSError as error:
            warn(f"{folder}: cannot be locked ({error.strerror}): see to it that no other training runs in it")
        yield
