"""Minimum Bayes risk decoding: of many samples the one that agrees best with all of them.

The likeliest translation of a sentence is often an odd one, among thousands that say nearly the same with a little of
the probability each. The translation of the highest expected utility is the one that is most like what the model
writes on the whole (Kumar and Byrne 2004, equation 4; for neural models Eikema and Aziz 2020, section 6):

    argmax over h in C of  1/N sum_n u(h, y_n)

with y_1 .. y_N drawn from the model (:mod:`nmt.decoding.sampling`), the candidates C being these samples themselves,
and u(h, y) sentence chrF or sentence BLEU of h against y as if it were the reference. What was drawn twice counts
twice as a reference and is one candidate. BLEU cuts words as sacreBLEU's ``13a`` does: for languages without spaces
chrF is the utility to take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from nmt.config import DecodingConfig
from nmt.decoding.engine import check_nbest
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.sampling import sample
from nmt.decoding.search import Searchable
from nmt.decoding.utility import UtilityName, agreement
from nmt.errors import ConfigError

__all__ = ["by_expected_utility", "minimum_bayes_risk"]


def minimum_bayes_risk(
    model: Searchable,
    source: Int[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    *,
    config: DecodingConfig,
    decode: Callable[[Sequence[int]], str],
    nbest: int = 1,
    **how: Any,
) -> list[list[Hypothesis]]:
    """The ``nbest`` candidates of highest expected utility for each source, best first (fewer where fewer were drawn).

    ``config.mbr_samples`` are drawn of each source as ``config`` says (temperature, truncations, seed), ``config.mbr``
    names the utility. ``decode`` makes text of target tokens, ``how`` are the other arguments of
    :func:`~nmt.decoding.sampling.sample`. The ``score`` of what is returned is its expected utility, 0 to 100; its
    log-probability stays the model's.

    Raises ConfigError where no utility is named or ``nbest`` exceeds the samples, NmtError where the model gives no
    numbers.
    """
    if config.mbr == "none":
        raise ConfigError("minimum Bayes risk decoding needs a utility: set decoding.mbr to chrf or bleu")
    check_nbest(nbest, config)
    drawn = sample(model, source, mask, config=config, nbest=config.mbr_samples, **how)
    return [by_expected_utility(samples, config.mbr, decode)[:nbest] for samples in drawn]


def by_expected_utility(
    samples: Sequence[Hypothesis], utility: UtilityName, decode: Callable[[Sequence[int]], str]
) -> list[Hypothesis]:
    """The samples, those of one text being one, by their expected utility over all of them, best first.

    Of several ways to write one text the likeliest is kept. Equal utilities go to the likelier.
    """
    best: dict[str, Hypothesis] = {}
    counts: Counter[str] = Counter()
    for one in samples:
        text = decode(one.tokens)
        counts[text] += 1
        if text not in best or one.log_probability > best[text].log_probability:
            best[text] = replace(one, text=text)
    texts = list(best)
    weights = np.array([counts[text] for text in texts]) / len(samples)
    expected = agreement(texts, utility) @ weights
    ranked = [replace(best[text], score=float(value)) for text, value in zip(texts, expected, strict=True)]
    return sorted(ranked, key=lambda one: (-one.score, -one.log_probability))
