"""Files that are there whole or not at all, and files that one has to oneself."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from nmt.errors import NmtError

__all__ = ["check_writable", "lock", "place_of", "written_whole"]


def place_of(path: Path) -> Path | None:
    """Where the file of this name lies or will lie: where a link leads to. None for a pipe or a device, which are no
    files that another could take the place of.

    Raises NmtError for a folder, and for a link that leads to itself.
    """
    named = Path(os.path.abspath(path))
    is_device = named.is_relative_to("/dev") and not named.is_relative_to("/dev/shm")  # files like others, in memory
    if is_device or named.is_relative_to("/proc"):
        return None
    if path.is_dir():
        raise NmtError(f"{path}: cannot be written: {os.strerror(errno.EISDIR)}")
    if path.exists() and not path.is_file():
        return None
    try:
        place = path.resolve() if path.is_symlink() else path
    except RuntimeError as error:  # what Python before 3.13 says of it; later ones give the link itself
        raise NmtError(f"{path}: cannot be written: the link leads to itself") from error
    if place.is_symlink():
        raise NmtError(f"{path}: cannot be written: the link leads to itself")
    return place


def check_writable(path: Path) -> None:
    """Raise NmtError, as :func:`place_of` does too, where no file of this name could be written: before the work."""
    place = place_of(path)
    if place is None:
        return
    part = _part(place)
    try:
        part.touch()
        part.unlink()
    except OSError as error:
        raise NmtError(f"{path}: cannot be written: {error.strerror}") from error


def _part(place: Path) -> Path:
    """What a file is called while it is written: every process has a name of its own."""
    return place.with_name(f".{place.name}.{os.getpid()}.part")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name to write under: ``path`` is what lies there at the end, and after an error what it was.

    Every process has a name of its own, so that of several that write the same file the last one is right. A pipe or a
    device is written as it is. Raises NmtError as :func:`place_of` does.
    """
    place = place_of(path)
    if place is None:
        yield path
        return
    part = _part(place)
    try:
        yield part
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)


def lock(file: IO[Any], *, wait: bool = False) -> None:
    """Have an open file to oneself until it is closed, among those who ask as well; a process that dies lets go of it.

    Raises BlockingIOError where another has it and nobody is to ``wait`` for that, and OSError on a file system that
    knows of no locks, as shared ones may. On Windows, which locks otherwise, nothing is asked for.
    """
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
