"""``nmt race``: recipes against each other, the same time for each."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from nmt_cli import console


def race(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE...", help="The recipes, TOML files.")],
    budget: Annotated[str, typer.Option("--budget", metavar="TIME", help="The time for each run, such as 30m or 2h.")],
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="How often each recipe is trained.")] = 1,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="A folder with train, valid and test files ending in the languages."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set a key of every recipe, such as training.batch_tokens=2048."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the runs, table and picture go.")] = Path(
        "runs/race"
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the race in the folder.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Resume although the recipes or the budget have changed.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, or auto.")] = "auto",
    threads: Annotated[int, typer.Option("--threads", min=0, max=1024, help="Processor threads; 0 is all.")] = 0,
    store: Annotated[
        Path | None, typer.Option("--store", metavar="DIR", help="Where token ids are kept from run to run.")
    ] = None,
) -> None:
    """Train recipes for the same time each, with several seeds; a table of what they reached, and a picture.

    The table is that of the validation set: mean and standard deviation over the seeds.
    """
    from nmt.config import load_recipe
    from nmt.data.corpus import with_folder
    from nmt.race import draw_race, names_of, race, table

    parsed = {}
    for name, path in zip(names_of(recipes), recipes, strict=True):
        recipe = load_recipe(path, [*(set_ or ()), f"training.budget={budget}"])
        if data is not None:
            recipe = recipe.model_copy(update={"data": with_folder(recipe.data, data)})
        parsed[name] = recipe

    import torch

    from nmt.distributed import joined
    from nmt.errors import Interrupted
    from nmt.training.report import SilentReporter
    from nmt.training.session import Session
    from nmt_cli.commands.train import TerminalReporter

    if threads:
        torch.set_num_threads(threads)
    session = Session(out, resume, force, device, store)
    with joined() as ranks:
        if not ranks.is_first:
            try:
                race(parsed, session, lambda: contextlib.nullcontext(SilentReporter()), seeds=seeds, ranks=ranks)
            except Interrupted as stopped:  # of which the first process tells
                raise typer.Exit(stopped.exit_code) from stopped
            return
        standings = race(parsed, session, TerminalReporter, seeds=seeds, ranks=ranks)
    for line in table(standings):
        typer.echo(line)
    draw_race(standings, out / "race.svg")
    console.note(f"picture: {out / 'race.svg'}")
