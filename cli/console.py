"""All that is said on stderr: notes, warnings, errors and the live progress line.

Results go to stdout and nowhere near this module. ``--quiet`` hides notes and progress, never warnings and errors.
Colour and the live line appear on a terminal only, and colour not where ``NO_COLOR`` is set (https://no-color.org).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TextIO, TypeVar

__all__ = ["Progress", "error", "is_live", "note", "settings", "take_over", "trace", "track", "warn"]

T = TypeVar("T")


@dataclass
class Settings:
    """What the flags that every verb has were given as."""

    quiet: bool = False
    debug: bool = False


settings = Settings()
_live: Progress | None = None


def note(text: str) -> None:
    """Say on one line what is going on; silent with ``--quiet``."""
    if not settings.quiet:
        _say(text)


def warn(text: str) -> None:
    """Say on one line what the user should look at; the command goes on."""
    _say(f"{_paint('nmt: warning:', '33')} {_one_line(text)}")


def error(text: str) -> None:
    """Say on one line why the command ends."""
    _say(f"{_paint('nmt: error:', '31')} {_one_line(text)}")


def trace(error: BaseException) -> None:
    """Show where an error came from, whole, as Python would."""
    _say("".join(traceback.format_exception(error)).rstrip())


def is_live() -> bool:
    """Whether a line may be drawn and drawn over: stderr is a terminal that can, and the user did not ask for quiet."""
    return _is_terminal(sys.stderr) and not settings.quiet


def take_over() -> None:
    """Send what the library logs and what Python warns of through :func:`note` and :func:`warn`."""
    log = logging.getLogger("nmt")
    if not any(isinstance(handler, _Handler) for handler in log.handlers):
        log.addHandler(_Handler())
        log.propagate = False
    log.setLevel(logging.INFO)
    warnings.showwarning = _show_warning


class Progress:
    """A live line on the terminal: label, done of total, a second, time left. Nothing at all in a pipe.

    It is called with the number of things done so far (and the total, if that is learnt on the way), so it can be
    passed as it is wherever the library takes a ``progress`` callback::

        with Progress("tokenizing", unit="pairs") as progress:
            prepare(..., progress=progress)

    ``extra`` is shown behind the counts, such as the loss. ``left`` are the seconds left where somebody knows better
    than that things will go on at the rate that they had.
    """

    def __init__(self, label: str, total: int | None = None, *, unit: str = "", interval: float = 0.1) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.interval = interval
        self.extra = ""
        self.left: float | None = None
        self.done = 0
        self._first: tuple[int, float] | None = None
        self._drawn_at = 0.0
        self._is_drawn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.clear()

    def __call__(self, done: int, total: int | None = None) -> None:
        """Set how many are done; draws at most every ``interval`` seconds.

        The rate counts from the first call: what was done before, in a run that is resumed, took no time today.
        """
        now = time.monotonic()
        self.done = done
        self.total = total if total is not None else self.total
        self._first = self._first or (done, now)
        if now - self._drawn_at >= self.interval and is_live():
            self._drawn_at = now
            self._draw(self.text(now))

    def advance(self, count: int = 1) -> None:
        """Add to what is done."""
        self(self.done + count)

    def text(self, now: float) -> str:
        """The line at a moment, such as ``tokenizing 1,200/5,000 pairs  24%  400/s  0:09 left``."""
        first, began = self._first or (self.done, now)
        rate = (self.done - first) / (now - began) if now > began else 0.0
        of_total = f"/{self.total:,}" if self.total else ""
        parts = [f"{self.label} {self.done:,}{of_total} {self.unit}".rstrip()]
        if self.total:
            parts.append(f"{100 * self.done / self.total:.0f}%")
        if self.extra:
            parts.append(self.extra)
        if rate > 0:
            parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
        left = (self.total - self.done) / rate if self.total and rate > 0 and self.left is None else self.left
        if left is not None:
            parts.append(f"{_clock(left)} left")
        return "  ".join(parts)

    def clear(self) -> None:
        """Wipe the line off the terminal."""
        if self._is_drawn:
            self._is_drawn = False
            _write("\r\x1b[K")

    def _draw(self, text: str) -> None:
        global _live
        _live = self
        self._is_drawn = True
        _write("\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1])


def track(items: Iterable[T], label: str, total: int | None = None, *, unit: str = "") -> Iterator[T]:
    """The items as they are, with a live line counting them."""
    with Progress(label, total, unit=unit) as progress:
        for item in items:
            yield item
            progress.advance()


class _Handler(logging.Handler):
    """What the library logs: warnings as warnings, the rest as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        say = warn if record.levelno >= logging.WARNING else note
        say(record.getMessage())


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    where = f" ({category.__name__}, {filename}:{lineno})" if settings.debug else ""
    warn(f"{message}{where}")


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def _paint(text: str, code: str) -> str:
    """The text in colour where colour is wanted."""
    if os.environ.get("NO_COLOR") or not _is_terminal(sys.stderr):
        return text
    return f"\x1b[1;{code}m{text}\x1b[0m"


def _one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _say(text: str) -> None:
    if _live is not None:
        _live.clear()
    _write(text + "\n")


def _write(text: str) -> None:
    """Write to stderr. Where that fails there is nobody left to tell."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text)
        sys.stderr.flush()
