"""What training says while it runs, to a person, to ``log.jsonl`` and to TensorBoard.

The loop reports figures; where they are shown is decided by the :class:`Reporter` that it was given. The run's own
:class:`Log` keeps every report as a line of JSON, from which curves are drawn and to which a resumed run appends.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nmt.errors import ConfigError

__all__ = ["Log", "Reporter", "SilentReporter", "StepReport", "ValidationReport", "need_tensorboard", "read_log"]


@dataclass(frozen=True)
class StepReport:
    """The figures of the steps since the last report. Losses are nats a target token, times are seconds.

    ``loss`` is what is minimised: smoothed, and with what two passes are apart where batches go through twice.
    ``seconds`` is the whole run's time so far, validations counted, and ``cpu_seconds`` what its processors worked.
    ``skipped`` steps had no finite gradient; ``halved`` times memory did not suffice for a batch. Why a run is slow:
    ``padding`` is the share of places in its batches that hold no token, ``waiting`` the share of the time that steps
    waited for their batches, and ``memory`` the most bytes that the first process ever held.
    """

    step: int
    epoch: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    tokens_per_second: float
    seconds: float
    cpu_seconds: float
    skipped: int
    halved: int
    padding: float
    waiting: float
    memory: int


@dataclass(frozen=True)
class ValidationReport:
    """The figures of one validation. ``loss`` is the negative log-likelihood a target token in nats, unsmoothed.

    ``seconds`` is what it took, ``elapsed`` the run's time when it began.
    """

    step: int
    loss: float
    perplexity: float
    bleu: float
    chrf: float
    seconds: float
    elapsed: float
    best: bool


@runtime_checkable
class Reporter(Protocol):
    """Who is told of a training's progress."""

    def note(self, text: str) -> None:
        """A line worth reading."""
        ...

    def warn(self, text: str) -> None:
        """A line that should be read."""
        ...

    def prepared(self, done: int, total: int | None) -> None:
        """So many pairs have been read and tokenised, of so many where that is known."""
        ...

    def stepped(self, report: StepReport, total: int | None) -> None:
        """A step is done, of so many where that is known; ``report`` covers the steps since the last logged one."""
        ...

    def expects(self, seconds: float | None) -> None:
        """The training will take so much longer; None where that cannot be told yet."""
        ...

    def validated(self, report: ValidationReport) -> None:
        """A validation is done."""
        ...


class SilentReporter:
    """Tells nobody."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Say nothing."""

    def prepared(self, done: int, total: int | None) -> None:
        """Say nothing."""

    def stepped(self, report: StepReport, total: int | None) -> None:
        """Say nothing."""

    def expects(self, seconds: float | None) -> None:
        """Say nothing."""

    def validated(self, report: ValidationReport) -> None:
        """Say nothing."""


class Log:
    """``log.jsonl``: one report a line, kept in step with the checkpoints.

    A checkpoint remembers the log's size; going on from it cuts the log there, so that steps done twice are told once.
    With ``tensorboard`` every figure is an event in the run folder's ``tensorboard`` too.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        self.path = folder / "log.jsonl"
        self._stream = self.path.open("ab", buffering=0)
        self._events: Any = _summary_writer(folder / "tensorboard") if tensorboard else None

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return os.fstat(self._stream.fileno()).st_size

    def cut(self, size: int, step: int) -> None:
        """Forget what was written after ``size`` bytes, which is of steps after this one."""
        self._shorten(size)
        if self._events is not None:
            self._reopen_events(after=step)

    def flush(self) -> None:
        """Have what was written outlast a power failure. Raises OSError where it cannot be."""
        os.fsync(self._stream.fileno())

    def _shorten(self, size: int) -> None:
        if self.size > size:
            self._stream.truncate(size)

    def write(self, kind: str, report: StepReport | ValidationReport) -> None:
        """Append a report under the name ``train`` or ``valid``; a figure that is no number is null.

        Raises OSError, with nothing of it in the file, where it cannot be written, as on a full disk.
        """
        figures = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(report).items()
        }
        before, line = self.size, json.dumps({"type": kind, **figures}).encode() + b"\n"
        try:
            while line:
                line = line[self._stream.write(line) :]
        except OSError:
            self._shorten(before)
            raise
        if self._events is not None:
            try:
                for name, value in figures.items():
                    if name != "step" and isinstance(value, (int, float)):
                        self._events.add_scalar(f"{kind}/{name}", value, report.step)
            except OSError:  # a thread writes them, and what stopped it, such as a full disk, is told ever after
                self._reopen_events()

    def _reopen_events(self, *, after: int | None = None) -> None:
        """Another writer of events in place of this one, whose last ones may be lost."""
        with contextlib.suppress(OSError):
            self._events.close()
        self._events = _summary_writer(Path(self._events.log_dir), after=after)

    def close(self) -> None:
        """Close the files."""
        self._stream.close()
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()


def need_tensorboard() -> None:
    """Raise ConfigError where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("training.tensorboard = true needs TensorBoard: pip install tensorboard, or set it to false")


def _summary_writer(folder: Path, *, after: int | None = None) -> Any:
    """TensorBoard's writer; of steps ``after`` that one, what others have written is not shown.

    Raises ConfigError where TensorBoard is not installed.
    """
    need_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=None if after is None else after + 1)


def read_log(folder: Path) -> list[Mapping[str, Any]]:
    """The reports in a run folder's log, in order; a last line that was cut short is left out."""
    path = folder / "log.jsonl"
    if not path.exists():
        return []
    records: list[Mapping[str, Any]] = []
    for line in path.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
