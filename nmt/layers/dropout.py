"""Dropout whose random numbers cost next to nothing on a processor."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Dropout", "DroppedLinear"]


class _Drop(torch.autograd.Function):
    """x * keep * scale, remembering one byte an element: 1 for what is kept, 0 for what is not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return _masked(x, keep, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return _masked(gradients[0], keep, ctx.scale), None, None


def _masked(x: Tensor, keep: Tensor, scale: float) -> Tensor:
    """Bytes widen, and products run, many at a time; ``torch.where`` and booleans go one by one on a CPU.

    The scale comes last: on its own it would be rounded to the type of x.
    """
    return keep.to(x.dtype).mul_(x).mul_(scale)


class Dropout(nn.Module):
    """Zeroes a share of the elements in training and scales the rest up to keep the mean (Srivastava et al. 2014).

    On a CPU the share is rounded to a 256th: one random byte decides an element, so that one 64-bit draw serves eight;
    the scale follows the rounded share and the mean is kept. The draws come from torch's own generator.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self._threshold = min(round(probability * 256), 255)  # 256 would keep nothing

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if not self.training or self._threshold == 0:
            return x
        if x.device.type != "cpu":
            return nn.functional.dropout(x, self.probability)
        count = x.numel()
        draws = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        keep = draws.view(torch.uint8)[:count].view(x.shape).ge_(self._threshold)
        dropped: Tensor = _Drop.apply(x, keep, 256 / (256 - self._threshold))  # type: ignore[no-untyped-call]
        return dropped

    def extra_repr(self) -> str:
        return f"{self.probability}"


class DroppedLinear(nn.Linear):
    """x W^T + b, where training drops entries of W in place of units (DropConnect: Wan et al. 2013).

    A recurrence goes through one draw of W from its first step to its last (Merity et al. 2018, section 2), where units
    dropped anew at every step would have little of a state left after a few: a loop draws :meth:`matrix` once.
    """

    def __init__(self, inputs: int, outputs: int, probability: float = 0.0) -> None:
        super().__init__(inputs, outputs)
        self.dropout = Dropout(probability)

    def matrix(self) -> Float[Tensor, "O I"]:
        """W, or in training what a draw has left of it."""
        drawn: Tensor = self.dropout(self.weight)
        return drawn

    def forward(self, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        return nn.functional.linear(x, self.matrix(), self.bias)
