"""``nmt runs``: what became of the runs in a folder, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nmt_cli import console


def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of run folders, or one of them.")] = Path(
        "runs"
    ),
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line, nothing rounded.")] = False,
) -> None:
    """List the runs in a folder: model, size, time, best validation, test score."""
    import json as encoder

    from nmt.errors import NmtError
    from nmt.training.summary import RunSummary, find_runs, summarize, table

    found: list[RunSummary] = []
    paths = list(find_runs(folder))
    for path in paths:
        try:
            found.append(summarize(path))
        except NmtError as error:
            if path == folder:
                raise
            console.warn(f"{error}; it is left out")
    if not paths:
        console.note(f"{folder}: there are no runs in it")
    elif json:
        for summary in found:
            typer.echo(encoder.dumps(summary.as_dict(), ensure_ascii=False))
    elif found:
        for line in table(found):
            typer.echo(line)
