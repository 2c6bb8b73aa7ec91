"""``nmt train``: from a recipe to a translator."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nmt.errors import CheckpointError, ConfigError
from nmt_cli import console
from nmt_cli.options import (
    DataFolder,
    Device,
    Settings,
    StoreFolder,
    Threads,
    by_hand,
    check_force,
    read_recipe,
    use_threads,
)

__all__ = ["train"]


class Preset(StrEnum):
    """Who chooses a recipe."""

    AUTO = "auto"


def train(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            metavar="RECIPE",
            help="The recipe, a TOML file; with --resume and --finetune-from that of the run by default.",
        ),
    ] = None,
    data: DataFolder = None,
    set_: Settings = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", metavar="TIME", help="Train for so long, such as 30m or 2h, in place of training.max_steps."
        ),
    ] = None,
    preset: Annotated[
        Preset | None,
        typer.Option(
            "--preset",
            help="auto: choose a recipe for the corpus and the budget, by default 30m, and keep it as auto.toml in the "
            "run folder; RECIPE need not be given, or says which corpora.",
        ),
    ] = None,
    finetune_from: Annotated[
        Path | None,
        typer.Option(
            "--finetune-from",
            metavar="RUN",
            help="Begin with the model and the tokenizers of another run, to go on with other text.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="RUN", help="The run folder; runs/<the recipe's name>, or <RUN>-finetuned, by default."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Resume although the recipe has changed.")] = False,
    device: Device = "auto",
    threads: Threads = 0,
    store: StoreFolder = None,
) -> None:
    """Train a translation model; the run folder is all that translating needs."""
    began = time.monotonic()

    check_force(resume)
    if budget is not None and not budget.strip(" 0.smh"):
        raise ConfigError(f"--budget {budget}: give a time such as 30m or 2h, or leave it out to train for max_steps")
    settings = [*(set_ or ()), *([f"training.budget={budget}"] if budget else [])]
    if not by_hand("finetune_from") and (preset is not None or resume):
        finetune_from = None  # a variable's, for runs that are begun by a recipe
    if finetune_from is not None:
        if preset is not None:
            raise ConfigError("--preset chooses a model, and --finetune-from has one: leave one of them out")
        from nmt.training.finetuning import settings_for

        settings += settings_for(finetune_from)
        place = finetune_from.resolve() if finetune_from.name in ("", "..") else finetune_from
        out = out or place.with_name(f"{place.name}-finetuned")
        recipe = recipe or (None if resume else finetune_from / "recipe.toml")
    folder = out or Path("runs") / (recipe.stem if recipe else "auto")
    if preset is None:
        recipe = recipe or _recipe_of_run(out, resume)
        parsed = read_recipe(recipe, settings, data)

    from nmt.distributed import joined
    from nmt.training.session import Session, train
    from nmt_cli.training import reporting

    use_threads(threads)
    session = Session(folder, resume, force, device, store, began)
    with joined() as ranks:
        with reporting(ranks) as reporter:
            if preset is not None:
                from nmt.training.preset import auto

                parsed = auto(recipe, settings, data, session, reporter, ranks)
            best = train(parsed, session, reporter, ranks)
        if not ranks.is_first:
            return
    scores = ", ".join(f"{name} {value:.2f}" for name, value in best.scores.items())
    console.note(f"best: {best.folder} ({scores})")
    console.note(f"translate with: nmt translate {folder} < FILE")


def _recipe_of_run(run: Path | None, resume: bool) -> Path:
    """The recipe that a run to be resumed carries."""
    if run is None or not resume:
        raise ConfigError("which recipe? nmt train RECIPE begins a run, nmt train --resume --out RUN goes on with one")
    if not (run / "run.json").exists():
        raise CheckpointError(f"{run}: there is no run to resume; nmt train RECIPE --out {run} begins one")
    return run / "recipe.toml"
