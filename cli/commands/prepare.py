"""``nmt prepare``: what training needs of its corpora, made ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nmt_cli import console
from nmt_cli.options import DataFolder, Settings, StoreFolder, read_recipe

__all__ = ["prepare"]


def prepare(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a TOML file.")],
    data: DataFolder = None,
    set_: Settings = None,
    store: StoreFolder = None,
    workers: Annotated[
        int,
        typer.Option("--workers", metavar="N", min=0, max=1024, help="Processes to work with; 0 is one a processor."),
    ] = 0,
) -> None:
    """Train the tokenizers of a recipe and tokenise its corpora, so that nmt train begins at once.

    A preparing that was stopped goes on where it was when the command is given again.
    """
    from nmt.data.ahead import prepare_ahead, ready_overlaps, store_folder

    parsed = read_recipe(recipe, set_ or (), data)
    folder = store or store_folder()
    with console.Progress("preparing", unit="pairs") as progress:
        made = prepare_ahead(parsed, folder, workers=workers, note=console.note, progress=progress)
    console.note(made.report.text())
    for overlap in ready_overlaps(parsed.data, folder):
        console.warn(overlap.text())
    console.note(f"{made.folder}: ready for nmt train")
