"""How much two translations of one sentence agree: sentence chrF and sentence BLEU, for many pairs at once.

The figures are sacreBLEU's own ``sentence_chrf`` and ``sentence_bleu`` (chrF2 of characters; BLEU of ``13a`` tokens
with effective order and exponential smoothing), of one hypothesis against one reference. sacreBLEU takes a pair at a
time and counts the n-grams of both anew; here those of a text are counted once, and compared with those of all others
in one go.

sacreBLEU is imported when the first agreement is worked out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

__all__ = ["UtilityName", "agreement"]

UtilityName = Literal["chrf", "bleu"]


def agreement(texts: Sequence[str], utility: UtilityName) -> Float[np.ndarray, "N N"]:
    """In row i and column j the score, 0 to 100, of text i as the hypothesis for text j as the reference."""
    match utility:
        case "chrf":
            return _chrf(texts)
        case "bleu":
            return _bleu(texts)


def _chrf(texts: Sequence[str]) -> Float[np.ndarray, "N N"]:
    """chrF (Popović 2015): the F score, recall weighing beta squared, of precision and recall averaged over orders.

    An order that the hypothesis or the reference is too short for does not count.
    """
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.helpers import extract_all_char_ngrams

    matches, totals = _overlaps([extract_all_char_ngrams(text, CHRF.CHAR_ORDER) for text in texts])
    hypothesis, reference = totals[:, None], totals[None, :]
    counts = (hypothesis > 0) & (reference > 0)
    orders = np.maximum(counts.sum(axis=2), 1)
    precision = np.where(counts, matches / np.maximum(hypothesis, 1), 0.0).sum(axis=2) / orders
    recall = np.where(counts, matches / np.maximum(reference, 1), 0.0).sum(axis=2) / orders
    weight = CHRF.BETA**2
    below = weight * precision + recall
    scores: Float[np.ndarray, "N N"] = np.where(
        below > 0, 100 * (1 + weight) * precision * recall / np.where(below > 0, below, 1.0), 0.0
    )
    return scores


def _bleu(texts: Sequence[str]) -> Float[np.ndarray, "N N"]:
    """Sentence BLEU (Papineni et al. 2002) from the counts, by sacreBLEU's own formula."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.helpers import extract_all_word_ngrams

    metric = BLEU(effective_order=True)
    tokenize: Callable[[str], str] = metric.tokenizer
    orders = range(1, metric.max_ngram_order + 1)
    cut = [tokenize(text.rstrip()) for text in texts]
    matches, totals = _overlaps([[extract_all_word_ngrams(text, n, n)[0] for n in orders] for text in cut])
    lengths = totals[:, 0].tolist()
    scores = np.zeros((len(texts), len(texts)))
    for i, length in enumerate(lengths):
        for j, reference in enumerate(lengths):
            scores[i, j] = BLEU.compute_bleu(
                matches[i, j].tolist(), totals[i].tolist(), length, reference, smooth_method="exp", effective_order=True
            ).score
    return scores


def _overlaps(texts: Sequence[Sequence[Counter[Any]]]) -> tuple[Int[np.ndarray, "N N K"], Int[np.ndarray, "N K"]]:
    """How many n-grams two texts have in common, and how many each has, repetitions counted, for each of K orders.

    A text comes as K counters of its n-grams, those of one order in each.
    """
    matches = np.zeros((len(texts), len(texts), len(texts[0])), np.int32)
    totals = np.zeros((len(texts), len(texts[0])), np.int64)
    for order, counters in enumerate(zip(*texts, strict=True)):
        numbers: dict[Any, int] = {}
        own = [np.array([numbers.setdefault(ngram, len(numbers)) for ngram in counter], int) for counter in counters]
        table = np.zeros((len(texts), len(numbers)), np.int32)
        for row, (columns, counter) in enumerate(zip(own, counters, strict=True)):
            table[row, columns] = list(counter.values())
        totals[:, order] = table.sum(axis=1)
        for row, columns in enumerate(own):
            matches[row, :, order] = np.minimum(table[:, columns], table[row, columns]).sum(axis=1)
    return matches, totals
