"""Where in the sentence a token stands, as a vector added to its embedding, and how far from another, in attention."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nmt.errors import DataError

__all__ = ["LearnedPositions", "RelativePositions", "SinusoidalPositions", "build_positions", "longest"]


class SinusoidalPositions(nn.Module):
    """Sines and cosines of geometrically growing wavelengths (Vaswani et al. 2017, section 3.5).

    As in the authors' own code (tensor2tensor), the sines fill the first half and the cosines the second, wavelengths
    running from 2 pi to 10000 * 2 pi inclusive; as in the engines that read such models, the first position is number
    1. There is nothing to learn and no longest sentence.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.table: Tensor
        self.register_buffer("table", self._rows(256).to(torch.get_default_dtype()), persistent=False)

    def _rows(self, length: int) -> Float[Tensor, "L E"]:
        half = self.width // 2
        # In double precision: in single, the angle of position 1000 is off in its fifth decimal.
        frequencies = torch.exp(torch.arange(half, dtype=torch.float64) * -(math.log(10000.0) / max(half - 1, 1)))
        angles = torch.arange(1, length + 1).unsqueeze(1) * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    def forward(self, start: int, length: int) -> Float[Tensor, "L E"]:
        """The vectors of positions ``start`` .. ``start + length - 1``, counted from 0."""
        table = self.table  # another thread may put a shorter one here between two looks at it
        longest = table.shape[0]  # len() of a tensor takes longer than all else here
        if start + length > longest:
            self.table = table = self._rows(max(start + length, 2 * longest)).to(table)
        return table[start : start + length]


class LearnedPositions(nn.Module):
    """One learned vector a position, up to a longest sentence (Gehring et al. 2017)."""

    def __init__(self, width: int, max_positions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_positions, width))
        nn.init.normal_(self.weight, std=width**-0.5)

    def forward(self, start: int, length: int) -> Float[Tensor, "L E"]:
        """The vectors of positions ``start`` .. ``start + length - 1``, counted from 0.

        Raises DataError for a position past the last one learned.
        """
        if start + length > len(self.weight):
            raise DataError(
                f"a sentence of {start + length} tokens is longer than the model's max_positions {len(self.weight)}"
            )
        return self.weight[start : start + length]


class RelativePositions(nn.Module):
    """What attention adds to the score of a query and a key for how far the key is from it: a number a head, learned.

    One number, the same in all layers (Raffel et al. 2020, section 2.1), for each distance from -``most`` to ``most``,
    larger ones counting as these (Shaw et al. 2018, section 3.2). Heads begin as what many a trained one ends as, and
    what can be given to them where there is little to learn it from (Raganato et al. 2020): by turns one that looks at
    the token before, one at that behind (``causal``: at the one before the last), one at the token itself, all three at
    others the less the further off they are (Press et al. 2022, with a slope of 1), and one at all alike.
    """

    def __init__(self, heads: int, most: int, *, causal: bool) -> None:
        super().__init__()
        self.most = most
        self.table = nn.Embedding(2 * most + 1, heads)
        distances = torch.arange(-most, most + 1.0)
        near = [-(distances - focus).abs() for focus in (-1, -2 if causal else 1, 0)]
        patterns = torch.stack([*near, torch.zeros_like(distances)])
        with torch.no_grad():
            self.table.weight.copy_(patterns[torch.arange(heads) % len(patterns)].t())

    def forward(self, start: int, length: int) -> Float[Tensor, "A T P"]:
        """What is added for the queries at positions ``start`` .. ``start + length - 1``, counted from 0, in rows, and
        the keys at all positions up to there, in columns, of every head.
        """
        keys = torch.arange(start + length, device=self.table.weight.device)
        distances = (keys - keys[start:].unsqueeze(1)).clamp(-self.most, self.most)
        of_heads: Tensor = self.table(distances + self.most)
        return of_heads.permute(2, 0, 1)


def build_positions(
    kind: Literal["sinusoidal", "learned", "none"], width: int, max_positions: int
) -> SinusoidalPositions | LearnedPositions | None:
    """The positions a transformer's recipe names, where there are any to be added to embeddings."""
    match kind:
        case "sinusoidal":
            return SinusoidalPositions(width)
        case "learned":
            return LearnedPositions(width, max_positions)
        case "none":
            return None


def longest(part: Any) -> int | None:
    """The longest sentence that an encoder or decoder has learned positions for; None where there is no longest."""
    learned = [len(module.weight) for module in part.modules() if isinstance(module, LearnedPositions)]
    return min(learned, default=None)
