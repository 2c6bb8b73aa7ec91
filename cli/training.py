"""Telling a person of a training: a live line a step, a line a validation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from nmt.errors import Interrupted
from nmt_cli import console

if TYPE_CHECKING:
    from nmt.distributed import Ranks
    from nmt.training.report import Reporter, StepReport, ValidationReport

__all__ = ["TerminalReporter", "reporting"]


@contextlib.contextmanager
def reporting(ranks: Ranks) -> Iterator[Reporter]:
    """What a training is told to: the terminal in the first process; the others are silent, on being interrupted too.

    Raises typer.Exit in these where Interrupted is raised inside.
    """
    if ranks.is_first:
        with TerminalReporter() as reporter:
            yield reporter
        return

    from nmt.training.report import SilentReporter

    try:
        yield SilentReporter()
    except Interrupted as stopped:
        raise typer.Exit(stopped.exit_code) from stopped


class TerminalReporter:
    """Tells a person on stderr: a live line a step, a line a validation."""

    def __init__(self) -> None:
        self._steps = console.Progress("training", unit="steps")
        self._pairs = console.Progress("preparing", unit="pairs")

    def __enter__(self) -> TerminalReporter:
        self._steps.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._steps.__exit__(None, None, None)

    def note(self, text: str) -> None:
        """A line worth reading."""
        console.note(text)

    def warn(self, text: str) -> None:
        """A line that should be read."""
        console.warn(text)

    def prepared(self, done: int, total: int | None = None) -> None:
        """So many pairs have been read and tokenised."""
        self._pairs(done, total)

    def expects(self, seconds: float | None) -> None:
        """The training will take so much longer."""
        self._steps.left = seconds

    def stepped(self, report: StepReport, total: int | None) -> None:
        """A step is done."""
        self._steps.extra = f"loss {report.loss:.3f}  {report.tokens_per_second:,.0f} tokens/s"
        self._steps(report.step, total)

    def validated(self, report: ValidationReport) -> None:
        """A validation is done."""
        console.note(
            f"step {report.step}: loss {report.loss:.3f}, perplexity {report.perplexity:.2f}, BLEU {report.bleu:.2f}, "
            f"chrF {report.chrf:.2f} ({report.seconds:.0f} s){', the best so far' if report.best else ''}"
        )
