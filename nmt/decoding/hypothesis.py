"""What search returns."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

__all__ = ["Hypothesis"]


@dataclass(frozen=True)
class Hypothesis:
    """One finished translation of one source.

    ``tokens`` are target ids without BOS and EOS; ``log_probability`` is the sum of the natural logarithms of the
    token probabilities, EOS counted; ``score`` is that sum after length normalisation, what hypotheses are ranked by.
    ``attention`` has one row a token of ``tokens`` and one for EOS, over the source tokens and their EOS; None unless
    it was asked for. ``text`` is filled in by the :class:`~nmt.decoding.translator.Translator`, empty before.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float
    attention: Float[Tensor, "T S"] | None = None
    text: str = ""
