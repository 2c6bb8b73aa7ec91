"""One model from several checkpoints of a run."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nmt.checkpoint import Checkpoint, Run, check_folder, load_weights, read_tensors
from nmt.models import Seq2Seq

__all__ = ["average"]


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
