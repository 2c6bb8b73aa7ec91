"""SIGINT, SIGTERM and SIGUSR1 during training: finish the step, save, say how to go on."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

__all__ = ["StopRequest", "Stopped"]


class Stopped(Exception):
    """What can be done again was left in the middle because a stop was requested."""


class StopRequest:
    """Within its ``with`` block, a signal sets ``signal_number`` and nothing else: the loop looks when it can stop.

    The second SIGINT ends the process at once, as it would without us. Outside the main thread, where Python lets
    nobody handle signals, it stays silent.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, object] = {}

    def __bool__(self) -> bool:
        return self.signal_number is not None

    @property
    def name(self) -> str:
        """The signal's name, such as SIGTERM; empty before there was one."""
        return "" if self.signal_number is None else signal.Signals(self.signal_number).name

    @property
    def ending(self) -> int:
        """The signal whose exit code the run ends with: SIGINT, or SIGTERM for all others that ask for the same."""
        return signal.SIGINT if self.signal_number == signal.SIGINT else signal.SIGTERM

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                # What whoever started us has switched off stays off, as a shell does with SIGINT for ``nmt train &``.
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number
