"""Options that several verbs take, each declared once.

And which options of the verb that is running were given by hand, as opposed to by the environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nmt.errors import ConfigError

if TYPE_CHECKING:
    from nmt.config import Recipe

__all__ = [
    "Checkpoint",
    "DataFolder",
    "Device",
    "Settings",
    "StoreFolder",
    "Threads",
    "by_hand",
    "check_force",
    "note_by_hand",
    "read_recipe",
    "use_threads",
]

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a key of the recipe, such as training.max_steps=100; may be given again.",
    ),
]
DataFolder = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="A folder with train, valid and test files ending in the languages."),
]
StoreFolder = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="DIR",
        help="Where sentences and their token ids are kept from run to run; ~/.cache/nmt if not.",
    ),
]
Checkpoint = Annotated[
    str, typer.Option("--checkpoint", metavar="NAME", help="best, or a model of RUN by name, such as step-3000.")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, or auto: a GPU where there is one.")]
Threads = Annotated[
    int, typer.Option("--threads", min=0, max=1024, help="Processor threads; 0 is all, or what OMP_NUM_THREADS says.")
]

_by_hand: set[str] = set()
"""Which parameters of the verb that is running were given on the command line."""


def note_by_hand(context: Any) -> None:
    """Take note of which parameters of a verb were given on the command line; it is about to run."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    _by_hand.clear()
    _by_hand.update(name for name, source in sources.items() if source and source.name == "COMMANDLINE")


def by_hand(*names: str) -> list[str]:
    """Which of these options of the verb that is running were given on the command line, as flags are written.

    For checks of options that would have no say: what the environment says may be meant for other verbs.
    """
    return [f"--{name.rstrip('_').replace('_', '-')}" for name in names if name in _by_hand]


def read_recipe(path: Path, settings: Sequence[str], data: Path | None) -> Recipe:
    """The recipe in a file, with settings as of ``--set``, for the corpora of the folder ``data`` if there is one."""
    from nmt.config import load_recipe
    from nmt.data.corpus import with_folder

    recipe = load_recipe(path, settings)
    return recipe if data is None else recipe.model_copy(update={"data": with_folder(recipe.data, data)})


def use_threads(number: int) -> None:
    """Have torch work with so many processor threads, with all that there are for 0."""
    import torch

    if number:
        torch.set_num_threads(number)


def check_force(resume: bool) -> None:
    """Raise ConfigError for --force without --resume, which would have no say."""
    if not resume and by_hand("force"):
        raise ConfigError("--force is about resuming: give --resume too, or leave it out")
