"""Masks: True where a position may be looked at."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["causal_mask", "masked_mean", "window_mask"]


def causal_mask(length: int, device: torch.device) -> Bool[Tensor, "T T"]:
    """Row t may look at columns 0 .. t: the decoder's self-attention (Vaswani et al. 2017, section 3.2.3)."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def window_mask(length: int, window: int, device: torch.device) -> Bool[Tensor, "S S"]:
    """Row s may look at columns s - window .. s + window: truncated self-attention."""
    position = torch.arange(length, device=device)
    return (position.unsqueeze(0) - position.unsqueeze(1)).abs() <= window


def masked_mean(states: Float[Tensor, "B S H"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, "B H"]:
    """The mean of the real states of each sentence."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)
