"""What a search's rows remember: a sentence is kept once, whatever number of hypotheses is written for it."""

from __future__ import annotations

from itertools import groupby

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["Sharing"]


class Sharing:
    """Which sentence each row of a search belongs to: ``count`` sentences, ``places`` rows each, next to each other."""

    def __init__(self, count: int, places: int = 1) -> None:
        self.count = count
        self.places = places

    def select(self, rows: Int[Tensor, " R"]) -> tuple[Sharing, Int[Tensor, " B"] | None]:
        """The sharing of these rows, and which sentences of this one are its own; None where they are the same.

        Rows of one sentence that stand together share it. Where some sentences have more rows than others, nothing is
        shared.
        """
        owners = [row // self.places for row in rows.tolist()]
        runs = [(owner, sum(1 for _ in run)) for owner, run in groupby(owners)]
        if len({length for _, length in runs}) > 1:
            runs = [(owner, 1) for owner in owners]
        chosen = [owner for owner, _ in runs]
        sharing = Sharing(len(runs), runs[0][1] if runs else 1)
        if chosen == list(range(self.count)):
            return sharing, None
        return sharing, torch.as_tensor(chosen, device=rows.device)
