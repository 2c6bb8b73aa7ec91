"""In which type the products of training are made."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch

from nmt.layers.packing import gains_by_bfloat16

__all__ = ["autocast", "resolve_precision"]


def resolve_precision(wanted: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype:
    """The type that a recipe's ``precision`` means on ``device``.

    ``auto`` is bfloat16 where the processor multiplies it sooner (AMX, or AMD's AVX-512 BF16 on a CPU, Ampere and later
    on a GPU), float32 elsewhere. Parameters and their updates are float32 either way.
    """
    match wanted:
        case "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16
        case "auto":
            return torch.bfloat16 if gains_by_bfloat16(device) else torch.float32


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Make the products inside in ``dtype``; nothing changes for float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
