"""What search returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

__all__ = ["Hypothesis"]


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """One finished translation of one source.

    ``tokens`` are target ids without BOS and EOS; ``log_probability`` is the sum of the natural logarithms of the
    token probabilities, EOS counted, and ``token_log_probabilities`` are these logarithms one by one, EOS's last;
    ``score`` is what hypotheses are ranked by: that sum after length normalisation, the coverage penalty counted, or by
    minimum Bayes risk the expected utility. ``attention`` has one row a token
    of ``tokens`` and one for EOS, over the source tokens and their EOS; None unless it was asked for. ``text`` is
    filled in by the :class:`~nmt.decoding.translator.Translator`, empty before.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float
    attention: Float[np.ndarray, "T S"] | None = None
    text: str = ""
    token_log_probabilities: tuple[float, ...] = ()
