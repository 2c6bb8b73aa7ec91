"""Answering line by line: input as it arrives, output that no signal cuts in two."""

from __future__ import annotations

import io
import os
import select
import signal
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal, Self

from nmt.errors import DataError, Interrupted
from nmt_cli.continuing import PROBES
from nmt_cli.streams import STANDARD, greet, input_lines

__all__ = ["WholeLines", "input_windows", "obeying_the_first"]


def input_windows(
    path: Path,
    size: int,
    *,
    on_bad_bytes: Literal["error", "replace"] = "error",
    skip: int = 0,
    skipped: Callable[[list[str]], object] | None = None,
) -> Iterator[list[str]]:
    """The lines of a file or of stdin, at most ``size`` at a time: as many as are there, without waiting for more.

    The first ``skip`` lines are read and left out; where there are not so many it is a DataError. ``skipped`` is called
    with the last few of them, and may raise what it likes.

    Out of a pipe or a terminal comes what has arrived, so that somebody who waits for the answer to one line before
    writing the next gets it. A file always comes in windows of ``size``. Raises what
    :func:`~nmt_cli.streams.input_lines` does, after the lines that come before the fault.
    """
    if path != STANDARD or sys.stdin is None or stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode):
        lines, pipe = input_lines(path, on_bad_bytes=on_bad_bytes), None
    else:
        lines, pipe = _arriving_lines(on_bad_bytes)
    window: list[str] = []
    taken = 0
    passed: deque[str] = deque(maxlen=PROBES)
    try:
        for line in lines:
            taken += 1
            if taken <= skip:
                passed.append(line)
                if taken == skip and skipped is not None:
                    skipped(list(passed))
                continue
            window.append(line)
            if len(window) == size or (pipe is not None and pipe.ends <= taken and pipe.is_idle()):
                yield window
                window = []
    except DataError:
        if window:
            yield window
        raise
    if taken < skip:
        raise DataError(f"{path}: ends after {taken} lines, but {skip} are said to be done: is it another text?")
    if window:
        yield window


class _Pipe(io.RawIOBase):
    """Standard input as it arrives; ``ends`` counts the ends of lines that have been handed on."""

    def __init__(self) -> None:
        self.ends = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = os.read(sys.stdin.fileno(), len(buffer))
        buffer[: len(data)] = data
        self.ends += data.count(b"\n")
        return len(data)

    def is_idle(self) -> bool:
        """Whether reading on would mean waiting: nothing is there, not even the end."""
        return not select.select([sys.stdin.fileno()], [], [], 0)[0]


def _arriving_lines(on_bad_bytes: Literal["error", "replace"]) -> tuple[Iterator[str], _Pipe]:
    """The lines of stdin, and the pipe that says how many of them are there."""
    from nmt.data.text import decode_lines, decompressed

    greet()
    pipe = _Pipe()

    def lines() -> Iterator[str]:
        yield from decode_lines(decompressed(io.BufferedReader(pipe)), "stdin", on_bad_bytes=on_bad_bytes)

    return lines(), pipe


class WholeLines:
    """Within its ``with`` block SIGINT and SIGTERM end the command at once, but never in the middle of a line.

    What is written within ``with lines.whole():`` is written to its end before the signal is obeyed. A second signal
    ends the process as if nobody had asked. A signal that the parent has switched off stays off. ``left`` is what the
    error says of what there is then.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, left: str = "what was written ends with a whole line") -> None:
        self._left = left
        self._previous: dict[int, Any] = {}
        self._writing = False
        self._heard: int | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """What is written in here is not cut short by a signal, only followed by it."""
        self._writing = True
        try:
            yield
        finally:
            self._writing = False
        self._obey()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._heard is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._heard = number
        if not self._writing:
            self._obey()

    def _obey(self) -> None:
        if self._heard is not None:
            said = "interrupted" if self._heard == signal.SIGINT else "terminated"
            raise Interrupted(f"{said}: {self._left}", self._heard)


@contextmanager
def obeying_the_first() -> Iterator[None]:
    """One of several processes that is not the first leaves signals to it: the first tells it when to end."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in WholeLines.SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
