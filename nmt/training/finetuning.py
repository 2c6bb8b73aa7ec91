"""A run that begins as another one has ended: what was learnt of much text goes on with a little of another kind.

The new run has the other's tokenizers and its model, every part of the same size, and begins with the weights that
translate there; its optimiser, its schedule and its data are its own (Luong and Manning 2015, "Stanford neural machine
translation systems for spoken language domains").
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nmt.checkpoint import Checkpoint, Run, check_folder, load_weights, weights
from nmt.config import Recipe, reshaped, setting
from nmt.data.tokenizer import Tokenizer
from nmt.errors import ConfigError
from nmt.models import Seq2Seq

__all__ = ["begin_as", "origin_of", "settings_for"]


def settings_for(folder: Path) -> list[str]:
    """What a recipe has to say, as ``key=value``, to begin as the run in ``folder``.

    Raises CheckpointError where there is none.
    """
    run = Run.open(folder)
    target = "source.model" if run.tokenizers.joint else "target.model"
    paths = {
        "training.finetune_from": folder,
        "tokenizer.source_model": folder / "source.model",
        "tokenizer.target_model": folder / target,
    }
    joint = "true" if run.tokenizers.joint else "false"
    return [f"tokenizer.joint={joint}", *(setting(key, str(path)) for key, path in paths.items())]


def origin_of(recipe: Recipe) -> tuple[Run, Checkpoint]:
    """The run that ``training.finetune_from`` names, and its model that translates.

    Raises CheckpointError where there is none or it has no whole model, ConfigError where its model or its tokenizers
    are not those of the recipe.
    """
    folder, named = recipe.training.finetune_from, recipe.tokenizer
    assert folder is not None, "asked for of a recipe that names a run"
    run = Run.open(folder)
    best = run.best()
    check_folder(best.folder)
    how = f"nmt train --finetune-from {folder} without a recipe takes what it has"
    for difference in reshaped(run.recipe, recipe):
        raise ConfigError(f"training.finetune_from: {folder} is another model than the recipe's: {difference}; {how}")
    for side, path, wanted in (
        ("source", named.source_model, run.tokenizers.source),
        ("target", named.target_model, run.tokenizers.target),
    ):
        if path is None or Tokenizer.load(path).digest != wanted.digest:
            raise ConfigError(f"training.finetune_from: tokenizer.{side}_model is not that of {folder}; {how}")
    return run, best


def begin_as(model: Seq2Seq, recipe: Recipe, note: Callable[[str], None]) -> None:
    """Have ``model`` begin with the weights of the run that the recipe names. Raises as :func:`origin_of` does."""
    run, best = origin_of(recipe)
    load_weights(model, weights(run.load_model(best.name)), str(best.folder))
    note(f"begins as {best.folder}")
