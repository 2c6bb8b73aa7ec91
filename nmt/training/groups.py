"""Which weights move at which rate: the tables of tokens may move faster than all that multiplies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nmt.models import Seq2Seq

__all__ = ["grouped", "set_rate", "token_tables"]


def token_tables(model: Seq2Seq) -> set[Tensor]:
    """The weights that have a row for every token, embeddings and the output layer, and those for every distance."""
    return {module.weight for module in model.modules() if isinstance(module, nn.Embedding)} | {model.output.weight}


def grouped(model: Seq2Seq, weights: Iterable[Tensor], embedding_rate: float) -> list[dict[str, Any]]:
    """The ``weights`` in groups for an optimiser; a group moves at ``factor`` times the learning rate.

    Tables of tokens have ``embedding_rate`` for their factor: how far a row has to go does not shrink with the width of
    the model as it does for a matrix, whose inputs add up (Yang et al. 2022, table 3).
    """
    tables = token_tables(model)
    parts: dict[float, list[Tensor]] = {}
    for weight in weights:
        parts.setdefault(embedding_rate if weight in tables else 1.0, []).append(weight)
    return [{"params": part, "factor": factor} for factor, part in parts.items()]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let every group of :func:`grouped` move at its factor of the ``rate`` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
