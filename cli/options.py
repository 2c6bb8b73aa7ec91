"""Options that several verbs take, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["DataFolder", "Device", "Settings", "StoreFolder", "Threads", "use_threads"]

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the recipe, such as training.max_steps=100."),
]
DataFolder = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="A folder with train, valid and test files ending in the languages."),
]
StoreFolder = Annotated[
    Path | None, typer.Option("--store", metavar="DIR", help="Where token ids are kept from run to run.")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, or auto.")]
Threads = Annotated[int, typer.Option("--threads", min=0, max=1024, help="Processor threads; 0 is all.")]


def use_threads(number: int) -> None:
    """Have torch work with so many processor threads, with all that there are for 0."""
    import torch

    if number:
        torch.set_num_threads(number)
