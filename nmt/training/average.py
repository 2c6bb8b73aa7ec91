"""One model from several checkpoints of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nmt.checkpoint import Checkpoint, Run, check_folder, latest_folder, load_weights, read_json, read_tensors
from nmt.data.corpus import describe, digest_corpus, read_eval_pairs
from nmt.decoding.torch_engine import pick_device
from nmt.errors import ConfigError, DataError
from nmt.models import Seq2Seq
from nmt.training.lock import alone_in
from nmt.training.precision import resolve_precision
from nmt.training.validation import Validator

__all__ = ["average", "choose", "save_average"]


def average(run: Run, checkpoints: Sequence[Checkpoint]) -> Seq2Seq:
    """The model whose every weight is the mean over ``checkpoints`` (Vaswani et al. 2017, section 6.1).

    Nothing is drawn from the random generators: a run that made its average is where it was before. Raises
    CheckpointError where one of the checkpoints is damaged.
    """
    sums: dict[str, torch.Tensor] = {}
    for checkpoint in checkpoints:
        check_folder(checkpoint.folder)
        for name, tensor in read_tensors(checkpoint.folder / "weights.safetensors").items():
            sums[name] = sums[name] + tensor.double() if name in sums else tensor.double()
    with torch.random.fork_rng(devices=[]):  # a new model's weights are drawn
        model = run.new_model()
    load_weights(model, {name: total / len(checkpoints) for name, total in sums.items()}, str(run.folder))
    return model.eval()


def choose(run: Run, names: Sequence[str] = (), *, last: int = 0, best: int = 0) -> list[Checkpoint]:
    """The checkpoints of those names, the ``last`` by step, the ``best`` by validation, or every ``step-N`` there is.

    Raises ConfigError for several of these at once, for a name given twice, and where the run has not as many or not
    two; CheckpointError for a name that is not there.
    """
    if sum(map(bool, (names, last, best))) > 1:
        raise ConfigError("give names of checkpoints, --last or --best: one of them")
    if names:
        chosen = [run.checkpoint(name) for name in names]
        if twice := [one.name for place, one in enumerate(chosen) if one in chosen[:place]]:
            raise ConfigError(f"{twice[0]} is named twice: each checkpoint counts once")
    else:
        chosen = [one for one in run.checkpoints() if one.step]
        if (last or best or 2) > len(chosen):
            there = ", ".join(one.name for one in chosen) or "none"
            raise ConfigError(
                f"{run.folder}: {max(last or best, 2)} checkpoints are wanted for an average, there are {len(chosen)} "
                f"({there}): a run keeps as many of its best as training.average says, here "
                f"{run.recipe.training.average}"
            )
        if last:
            chosen.sort(key=lambda one: one.step, reverse=True)
        chosen = chosen[: last or best or None]
    if len(chosen) < 2:
        raise ConfigError(f"the average of {chosen[0].name} alone is {chosen[0].name}: give two checkpoints at least")
    return chosen


def save_average(
    run: Run, checkpoints: Sequence[Checkpoint], name: str, *, force: bool = False, score: bool = True, device: str
) -> Checkpoint:
    """Write the average of ``checkpoints`` as ``models/NAME``, with the scores of a validation like those of training.

    It is a checkpoint of the run like any other: the best of the run where its scores are the best, found by its name
    in any case. Without ``score`` it has none and is the best only where nothing has. ``force`` replaces an average of
    that name. ``device`` is ``auto`` or what torch calls it.

    Raises ConfigError for a name that cannot be, CheckpointError for a damaged checkpoint or a disk that is full,
    DataError for a validation set that cannot be read or is not the run's, TrainingError where a training is running.
    """
    folder = run.folder / "models" / name
    if not re.fullmatch(r"\w[\w.-]*", name) or re.fullmatch(r"best|average|step-\d+", name):
        raise ConfigError(
            f"an average cannot be called {name!r}: take letters, digits, '-', '_' and '.', and neither best, average "
            f"nor step-N, which training gives"
        )
    if folder.exists() and not force:
        raise ConfigError(f"{folder} is there already: --force replaces it, --name NAME gives the new one another name")
    with alone_in(run.folder):
        validator = _validator(run) if score else None
        place = pick_device(device)
        model: Seq2Seq = average(run, checkpoints).to(place)
        dtype = resolve_precision(run.recipe.training.precision, place)
        scores = validator(model, place, dtype).by_metric() if validator is not None else {}
        return run.save_model(model, 0, scores, name=name, averaged=[one.name for one in checkpoints])


def _validator(run: Run) -> Validator:
    """What scores the run's checkpoints. Raises DataError where the validation set cannot be read, or is another."""
    recipe = run.recipe
    if recipe.data.valid is None:
        raise DataError(f"{run.folder}: its recipe has no data.valid: --no-score does without")
    try:
        pairs = read_eval_pairs(recipe.data.valid)
    except DataError as error:
        raise DataError(f"{error}; --no-score does without the validation set") from error
    known, _ = latest_folder(run.folder / "resume", _state)
    digest = "" if known is None else str(_state(known).get("valid", ""))
    if digest not in ("", digest_corpus(recipe.data.valid)):
        raise DataError(
            f"{describe(recipe.data.valid)}: not the validation set whose scores the run's checkpoints have: put that "
            f"back; --no-score does without"
        )
    spoken, learnt = recipe.data.target, recipe.data.max_length
    return Validator(pairs, run.tokenizers, recipe.training, recipe.decoding, spoken, learnt)


def _state(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint to go on from says beside its tensors. Raises CheckpointError where it cannot be read."""
    return read_json(checkpoint / "state.json")
