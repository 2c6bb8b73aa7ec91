"""``nmt export``: a model for another engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nmt.errors import ConfigError, DataError
from nmt_cli import console
from nmt_cli.options import Checkpoint, Threads, use_threads
from nmt_cli.streams import OnBadBytes, input_lines

if TYPE_CHECKING:
    from nmt.checkpoint import Run

__all__ = ["export"]


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder whose model is exported.")],
    to: Annotated[
        Literal["ctranslate2", "onnx"],
        typer.Option("--to", help="The engine: ctranslate2 runs Transformers without torch, onnx any model."),
    ],
    quantize: Annotated[
        str,
        typer.Option(
            "--quantize",
            metavar="TYPE",
            help="How weights are kept: none, int8; for ctranslate2 also int16, float16, bfloat16, int8_float32, ...",
        ),
    ] = "none",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The folder to write; RUN/exports/TO by default, or TO-TYPE."),
    ] = None,
    checkpoint: Checkpoint = "best",
    source: Annotated[
        Path | None,
        typer.Option(
            "--source", metavar="FILE", help="What is translated to compare; the run's validation set if not."
        ),
    ] = None,
    check: Annotated[
        int, typer.Option("--check", min=0, metavar="N", help="Compare at most so many lines; 0 compares none.")
    ] = 200,
    force: Annotated[
        bool, typer.Option("--force", envvar="NMT_EXPORT_FORCE", help="Replace an export that is there.")
    ] = False,
    threads: Threads = 0,
    on_bad_bytes: OnBadBytes = "error",
) -> None:
    """Write a model in the form that another engine reads; nmt translate then takes the folder as it takes a run.

    The export translates lines of the run's validation set, and is written only if it does so as the run does, lines
    and scores, but for one or two lines in a hundred. Of a quantised model the differences are told.
    """
    from nmt.checkpoint import Run
    from nmt.export.export import Target, check_place, place_of
    from nmt.export.export import export as write

    if source is not None and not check:
        raise ConfigError(f"--source {source} is what would be compared: leave it out, or --check 0")
    use_threads(threads)
    target = Target(to, quantize, checkpoint)
    place = place_of(run, target) if out is None else out
    check_place(place, force=force)
    opened = Run.open(run)
    lines: list[str] = []
    if source is not None:
        lines = list(input_lines(source, on_bad_bytes=on_bad_bytes))
        if not lines:
            raise DataError(f"{source}: there are no lines to compare")
    elif check:
        lines = _validation_lines(opened, on_bad_bytes)
    parity = write(opened, target, place, _some(lines, check), threads=threads)
    typer.echo(f"{place}: {sum(path.stat().st_size for path in place.iterdir()) / 1e6:.1f} MB")
    typer.echo(parity.text if parity is not None else "nothing was checked")


def _validation_lines(run: Run, on_bad_bytes: OnBadBytes) -> list[str]:
    """The sources of the run's validation set; none where it is gone, which is said."""
    from nmt.evaluation.runs import held_out_split

    if run.recipe.data.valid is None:
        console.warn("the run's recipe has no validation set: name a text to compare with --source")
        return []
    try:
        return list(held_out_split(run.recipe, "valid", on_bad_bytes=on_bad_bytes).source)
    except (ConfigError, DataError) as error:
        console.warn(f"the run's validation set cannot be read, name another text with --source ({error})")
        return []


def _some(lines: list[str], number: int) -> list[str]:
    """At most so many of the lines, taken all over."""
    return lines if len(lines) <= number else [lines[place * len(lines) // number] for place in range(number)]
