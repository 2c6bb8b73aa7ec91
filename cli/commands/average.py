"""``nmt average``: one model from several checkpoints of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nmt_cli import console
from nmt_cli.options import Device, Threads, use_threads

__all__ = ["average"]


def average(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CHECKPOINT]...", help="Which to average, such as step-2000 step-3000; if none, all but step-0."
        ),
    ] = None,
    last: Annotated[int, typer.Option("--last", min=0, metavar="N", help="Average the N last ones.")] = 0,
    best: Annotated[int, typer.Option("--best", min=0, metavar="N", help="Average the N best ones.")] = 0,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="What to call it: average-last-N, -best-N or -of-N by default."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", envvar="NMT_AVERAGE_FORCE", help="Replace an average of that name.")
    ] = False,
    no_score: Annotated[bool, typer.Option("--no-score", help="Do not score it on the validation set.")] = False,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Average checkpoints of a run, weight by weight, into a model that nmt translate --checkpoint NAME finds.

    It is scored on the run's validation set as its checkpoints were, and is what the run translates with from then on
    if it is the best of all.
    """
    from nmt.checkpoint import Run
    from nmt.training.average import choose, save_average

    use_threads(threads)
    opened = Run.open(run)
    chosen = choose(opened, checkpoints or (), last=last, best=best)
    how = "last" if last else "best" if best else "of"
    made = save_average(
        opened,
        chosen,
        f"average-{how}-{len(chosen)}" if name is None else name,
        force=force,
        score=not no_score,
        device=device,
    )
    scores = ", ".join(f"{metric} {value:.2f}" for metric, value in made.scores.items())
    parts = ", ".join(one.name for one in chosen)
    console.note(f"{made.folder}: the average of {parts} ({scores or 'not scored'})")
    now = opened.best().name
    console.note(f"best of the run: {'this one' if now == made.name else now}")
    console.note(f"translate with: nmt translate {run} --checkpoint {made.name} < FILE")
