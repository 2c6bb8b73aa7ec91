"""``nmt train``: from a recipe to a translator."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nmt_cli import console

if TYPE_CHECKING:
    from nmt.training.report import StepReport, ValidationReport

__all__ = ["train"]


def train(
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="RECIPE", help="The recipe, a TOML file; with --resume that of the run by default."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="A folder with train, valid and test files ending in the languages."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the recipe, such as training.max_steps=100."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="TIME", help="Train for so long, such as 30m or 2h, and end on time."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="RUN", help="The run folder; runs/<the recipe's name> by default.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Resume although the recipe has changed.")] = False,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, or auto.")] = "auto",
    threads: Annotated[int, typer.Option("--threads", min=0, max=1024, help="Processor threads; 0 is all.")] = 0,
    store: Annotated[
        Path | None, typer.Option("--store", metavar="DIR", help="Where token ids are kept from run to run.")
    ] = None,
) -> None:
    """Train a translation model; the run folder is all that translating needs."""
    began = time.monotonic()

    from nmt.config import load_recipe
    from nmt.data.corpus import with_folder

    if recipe is None:
        recipe = _recipe_of_run(out, resume)
    settings = [*(set_ or ()), *([f"training.budget={budget}"] if budget else [])]
    parsed = load_recipe(recipe, settings)
    if data is not None:
        parsed = parsed.model_copy(update={"data": with_folder(parsed.data, data)})
    folder = out or Path("runs") / recipe.stem

    import torch

    from nmt.distributed import joined
    from nmt.errors import Interrupted
    from nmt.training.report import SilentReporter
    from nmt.training.session import Session, train

    if threads:
        torch.set_num_threads(threads)
    session = Session(folder, resume, force, device, store, began)
    with joined() as ranks:
        if not ranks.is_first:
            try:
                train(parsed, session, SilentReporter(), ranks)
            except Interrupted as stopped:  # of which the first process tells
                raise typer.Exit(stopped.exit_code) from stopped
            return
        with TerminalReporter() as reporter:
            best = train(parsed, session, reporter, ranks)
    scores = ", ".join(f"{name} {value:.2f}" for name, value in best.scores.items())
    console.note(f"best: {best.folder} ({scores})")
    console.note(f"translate with: nmt translate {folder} < FILE")


def _recipe_of_run(run: Path | None, resume: bool) -> Path:
    """The recipe that a run to be resumed carries."""
    from nmt.errors import CheckpointError, ConfigError

    if run is None or not resume:
        raise ConfigError("which recipe? nmt train RECIPE begins a run, nmt train --resume --out RUN goes on with one")
    if not (run / "run.json").exists():
        raise CheckpointError(f"{run}: there is no run to resume; nmt train RECIPE --out {run} begins one")
    return run / "recipe.toml"


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
