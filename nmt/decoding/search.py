"""What all searches in torch share: what they ask of a model, and how they look at what it answers.

Search knows of a model only what :class:`Searchable` says: it remembers sources, it takes one step after another, its
logits say what comes next, and memories and states are reordered by ``select``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nmt.errors import NmtError
from nmt.models.interface import Step

__all__ = ["Searchable", "check_numbers", "numbers", "on_device", "on_host", "wide"]


@runtime_checkable
class Searchable(Protocol):
    """What search asks of a model; :class:`~nmt.models.seq2seq.Seq2Seq` is one."""

    def remember(self, source: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Any:
        """The :class:`~nmt.models.interface.Memory` of a batch of sources."""
        ...

    def start(self, memory: Any) -> Any:
        """The :class:`~nmt.models.interface.State` before the first target token."""
        ...

    def step(self, tokens: Int[Tensor, " B"], state: Any, memory: Any) -> Step:
        """One step: ``tokens`` are the previous target tokens (BOS at first)."""
        ...

    def logits(self, features: Float[Tensor, "*batch H"]) -> Float[Tensor, "*batch V"]:
        """Unnormalised log-probabilities of the next token; the tensor is new: search writes into it."""
        ...


def wide(logits: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
    """Logits in single precision at least."""
    return logits.float() if logits.dtype.itemsize < 4 else logits


def check_numbers(log_probabilities: Tensor | np.ndarray, position: int) -> None:
    """Refuse to search on among values that compare with nothing. One NaN or +inf logit makes its whole row NaN.

    Logarithms of probabilities are nowhere +inf: if one is not a number then neither is their sum, and only then.
    """
    if math.isnan(log_probabilities.sum()):
        raise NmtError(
            f"the model's output is not a number at target token {position}: "
            "its weights are damaged or its training diverged"
        )


def on_host(values: Tensor) -> np.ndarray:
    """The numbers of a tensor where numpy can work on them; on the processor they are the tensor's own."""
    array: np.ndarray = values.cpu().numpy()
    return array


def on_device(values: np.ndarray, device: torch.device) -> Tensor:
    """A tensor of these numbers; on the processor they are the array's own."""
    return torch.from_numpy(values).to(device)


def numbers(rows: Sequence[Float[Tensor, " S"]]) -> Float[np.ndarray, "T S"]:
    """Rows of attention as one matrix in single precision, away from the device."""
    matrix: Float[np.ndarray, "T S"] = torch.stack(list(rows)).float().cpu().numpy()
    return matrix
