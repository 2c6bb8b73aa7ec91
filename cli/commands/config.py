"""``nmt config``: what a recipe comes to, and where each value came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def config(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, in TOML.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a key, as training.max_steps=100.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, without the origins.")] = False,
) -> None:
    """Print a recipe with its defaults filled in, and where each value came from."""
    from nmt.config import load_recipe

    loaded = load_recipe(recipe, set_ or ())
    typer.echo(loaded.model_dump_json(indent=2) if json else loaded.to_toml(), nl=json)
