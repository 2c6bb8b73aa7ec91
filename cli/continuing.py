"""Output that gets its name when it is whole, and an interrupted one that is gone on with.

While a command writes ``out.txt`` the file is called ``out.txt.part``: whoever finds ``out.txt`` finds all of it. What
is no regular file, a pipe or a device, is written as it is.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from nmt.data.text import COMPRESSIONS, LineWriter, whole_lines
from nmt.errors import ConfigError, DataError, Interrupted, NmtError
from nmt.files import place_of
from nmt_cli.streams import STANDARD, check_input

if TYPE_CHECKING:
    from nmt.formats import Style

__all__ = ["PROBES", "Begun", "Output", "look_back", "refuse_inputs", "whole_output"]


PROBES = 4
"""Lines of an interrupted output that are translated once more, to tell whether it is of this input."""


@dataclass(frozen=True)
class Begun:
    """What is there of an interrupted output: ``lines`` of the input are done, in ``kept`` lines of the output.

    ``last`` are the last few of these that are the first, or all, of what a line of the input became.
    """

    lines: int = 0
    kept: int = 0
    last: tuple[str, ...] = ()


def look_back(path: Path, window: int, style: Style) -> Begun:
    """How far an interrupted output got, in whole windows: so that what follows is worked out as it would have been.

    Raises DataError for an output that is not there, or was not written in this ``style``: what is in two styles is no
    output of either.
    """
    from nmt.formats import number_of

    done = kept = 0
    number = -1
    recent: deque[bytes] = deque(maxlen=PROBES)
    last: tuple[bytes, ...] = ()
    for count, line in enumerate(whole_lines(_begun(path))):
        where = f"{path}:{count + 1}"
        told = number_of(line, style, where)
        if told is not None and told == number:
            continue
        if told not in (None, number + 1):
            raise DataError(f"{where}: has the number {told}, where {number + 1} comes next: is it one output?")
        number += 1
        if number % window == 0:
            done, kept, last = number, count, tuple(recent)
        recent.append(line)
    if number >= 0 and not style.is_list and (number + 1) % window == 0:
        done = kept = number + 1
        last = tuple(recent)
    return Begun(done, kept, tuple(line[:-1].decode("utf-8", "replace") for line in last))


def _part(path: Path) -> Path:
    """What an output is called until it is whole; beside the file itself where the name is a link.

    Raises NmtError for a folder and for a link that leads to itself.
    """
    place = None if path == STANDARD else place_of(path)
    return path if place is None else place.with_name(f"{place.name}.part")


def _begun(path: Path) -> Path:
    """The interrupted output: under the name it has until it is whole, or what a shell's redirection left."""
    part = _part(path)
    return part if part.exists() else path


class Output:
    """Where a command writes its lines. Until :meth:`ready`, or the first line, what is there stays as it is."""

    def __init__(self, open_: Callable[[], LineWriter]) -> None:
        self._open = open_
        self._writer: LineWriter | None = None

    def ready(self) -> LineWriter:
        """The writer, opened now if it was not before. Raises NmtError where it cannot be."""
        if self._writer is None:
            self._writer = self._open()
        return self._writer

    def write(self, line: str) -> None:
        """Write one line, as :meth:`LineWriter.write` does."""
        self.ready().write(line)

    def flush(self) -> None:
        """Have what was written seen by others."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Close what was opened."""
        if self._writer is not None:
            self._writer.close()


def refuse_inputs(places: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Raise ConfigError where what is to be written is one of ``inputs``, by whatever name."""
    for place in places:
        if place.is_file() and any(one.exists() and one.samefile(place) for one in inputs if one != STANDARD):
            raise ConfigError(f"{place}: is read and written at once: name another file for the output")


@contextmanager
def whole_output(
    path: Path, *, inputs: Sequence[Path] = (), kept: int | None = None, resumable: bool = True
) -> Iterator[Output]:
    """Where to write a file that gets its name at the end, or stdout.

    With ``kept`` so many lines of the interrupted output stay; it is as it was until there is another. Where the work
    does not come to its end, the error says where the lines are that were written before, and if the verb is
    ``resumable`` how to go on. Raises ConfigError where the file, or what it is called until it is whole, is one of
    ``inputs``, NmtError where it cannot be written, and DataError for an input that cannot be read: what is there of an
    output stays as it is then. An interrupted verb that is not ``resumable`` leaves nothing.
    """
    part = _part(path)
    refuse_inputs((path, part), inputs)
    for one in inputs:
        if one != STANDARD:
            check_input(one)
    output = Output(lambda: LineWriter.open(part, name=path) if kept is None else _reopen(path, part, kept))
    if kept is None:
        output.ready()
    try:
        yield output
        output.ready().close()
    except BaseException as error:
        with suppress(NmtError):  # on a full disk this is the same error once more
            output.close()
        if part != path:
            wanted = resumable or not isinstance(error, Interrupted | KeyboardInterrupt)
            stays = wanted and part.exists() and part.stat().st_size > 0
            if stays and isinstance(error, NmtError):
                how = f", go on with --continue-from {path}" if resumable else ""
                error.args = (f"{error}; what was written before is in {part}{how}",)
            elif not stays and kept is None:
                part.unlink(missing_ok=True)
        raise
    if part != path:
        _rename(part, part.with_name(part.name.removesuffix(".part")))


def _reopen(path: Path, part: Path, kept: int) -> LineWriter:
    """A writer behind the first ``kept`` lines of an interrupted output.

    What is compressed cannot be cut, so it is written anew beside.
    """
    if not part.exists():
        _rename(part.with_name(part.name.removesuffix(".part")), part)
    if path.suffix not in COMPRESSIONS:
        try:
            os.truncate(part, sum(map(len, islice(whole_lines(part), kept))))
        except OSError as error:
            raise NmtError(f"{path}: cannot be written: {error.strerror}") from error
        return LineWriter.open(part, name=path, append=True)
    again = part.with_name(f"{part.name}.new")
    writer = LineWriter.open(again, name=path)
    for line in islice(whole_lines(part), kept):
        writer.write(line[:-1].decode("utf-8"))
    writer.flush()
    _rename(again, part)
    return writer


def _rename(path: Path, name: Path) -> None:
    try:
        path.replace(name)
    except OSError as error:
        raise NmtError(f"{name}: cannot be written: {error.strerror}; what was written is in {path}") from error
