"""``nmt race``: recipes against each other, the same time for each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from nmt.errors import ConfigError
from nmt_cli import console
from nmt_cli.options import DataFolder, Device, Settings, StoreFolder, Threads, check_force, read_recipe, use_threads
from nmt_cli.streaming import WholeLines


def race(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE...", help="The recipes, TOML files.")],
    budget: Annotated[str, typer.Option("--budget", metavar="TIME", help="The time for each run, such as 30m or 2h.")],
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="How often each recipe is trained.")] = 1,
    data: DataFolder = None,
    set_: Settings = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the runs and the picture go.")] = Path(
        "runs/race"
    ),
    test: Annotated[
        bool,
        typer.Option(
            "--test",
            envvar="NMT_RACE_TEST",
            show_envvar=True,
            help="Score the best model of each run on the test set too.",
        ),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the race in the folder.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Resume although the recipes or the budget have changed.")
    ] = False,
    device: Device = "auto",
    threads: Threads = 0,
    store: StoreFolder = None,
) -> None:
    """Train recipes for the same time each, with several seeds; a table of what they reached, and a picture.

    The table is that of the validation set: mean and standard deviation over the seeds. With --test it has that of the
    test set beside it, which decides nothing.
    """
    from nmt.evaluation.runs import held_out_split
    from nmt.race import draw_race, names_of, race, scored_on_test, table

    check_force(resume)
    settings = [*(set_ or ()), f"training.budget={budget}"]
    parsed = {name: read_recipe(path, settings, data) for name, path in zip(names_of(recipes), recipes, strict=True)}
    for name, recipe in parsed.items():
        if test and recipe.data.test is None:
            raise ConfigError(f"{name}: has no data.test, which --test asks for: name one, or a folder with --data")
        if test:  # what cannot be read is told now, not after hours
            held_out_split(recipe, "test")

    from nmt.distributed import joined
    from nmt.training.session import Session
    from nmt_cli.training import reporting

    use_threads(threads)
    session = Session(out, resume, force, device, store)
    with joined() as ranks:
        standings = race(parsed, session, lambda: reporting(ranks), seeds=seeds, ranks=ranks)
        if not ranks.is_first:
            return
    draw_race(standings, out / "race.svg")
    if test:

        def track(items: Iterable[Any], total: int) -> Iterable[Any]:
            return console.track(items, "testing", total, unit="sentences")

        with WholeLines(left="the race is run; the same with --resume scores the test set"):
            standings = scored_on_test(standings, device=device, track=track)
        for score in next((scores for one in standings for scores in one.tests), ()):
            console.note(f"test set: {score.signature}")
    for line in table(standings):
        typer.echo(line)
    console.note(f"picture: {out / 'race.svg'}")
