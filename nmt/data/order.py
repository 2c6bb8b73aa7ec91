"""The order of an epoch, computed where it is asked for: no array as long as the corpus is ever shuffled.

What an epoch sees is a range of numbers, and a shuffled order of them is a permutation that can be had at any place: a
Feistel network over pairs of digits (Black and Rogaway 2002), keyed by the seed. Random numbers are Philox's raw ones,
which no version of numpy draws otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nmt.data.ragged import Numbers
from nmt.data.store import CorpusRows

__all__ = ["Bits", "Epoch", "Permutation", "mix", "random_of", "shuffled"]

ROUNDS = 8
"""Rounds of the Feistel network; four are enough in theory where each has a random function of its own."""

Bits = npt.NDArray[np.uint64]


class Epoch:
    """What an epoch sees, in order: ``size`` places, at each a row of the corpora.

    A corpus of weight 2.5 gives all its rows twice and half of them, drawn, once more.
    """

    def __init__(self, corpora: Sequence[CorpusRows], random: np.random.Philox) -> None:
        self._corpora = corpora
        self._drawn = [Permutation(corpus.stop - corpus.start, random) for corpus in corpora]
        self._stops = np.cumsum(np.array([_seen(corpus) for corpus in corpora], dtype=np.int64))
        self.size = int(self._stops[-1])
        self._order = Permutation(self.size, random)

    def rows(self, first: int, last: int) -> tuple[Numbers, Numbers]:
        """The rows at the places from ``first`` to ``last`` (excluded), and how often each was seen before."""
        items = self._order(np.arange(first, min(last, self.size)))
        rows, times = np.empty_like(items), np.empty_like(items)
        of_corpus = np.searchsorted(self._stops, items, side="right")
        for number in np.unique(of_corpus).tolist():
            corpus, here = self._corpora[number], of_corpus == number
            size = corpus.stop - corpus.start
            item = items[here] - (self._stops[number - 1] if number else 0)
            time, row = item // size, item % size
            part = time == int(corpus.weight)
            row[part] = self._drawn[number](row[part])
            rows[here], times[here] = corpus.start + row, time
        return rows, times


def _seen(corpus: CorpusRows) -> int:
    """How many places the rows of a corpus take."""
    size, whole = corpus.stop - corpus.start, int(corpus.weight)
    rest = (corpus.weight - whole) * size
    return whole * size + math.ceil(rest * (1 - 1e-9))  # 2.2 less 2 is a little more than 0.2


class Permutation:
    """The numbers below ``size`` in random order, any place of which can be had without the others.

    A number is a pair of digits (left, right), and each round adds to one of them a random function of the other. There
    are a few more pairs than numbers: where one comes out that is none of them, the rounds are gone through again.
    """

    def __init__(self, size: int, random: np.random.Philox) -> None:
        self._size = size
        self._low = max(1, math.isqrt(size))
        self._high = max(1, -(-size // self._low))
        self._keys = random.random_raw(ROUNDS)

    def __call__(self, places: Numbers) -> Numbers:
        """What stands at some places."""
        found = self._walk(places)
        while (outside := found >= self._size).any():
            found[outside] = self._walk(found[outside])
        return found

    def _walk(self, numbers: Numbers) -> Numbers:
        left, right = np.divmod(numbers, self._low)
        for turn, key in enumerate(self._keys):
            if turn % 2:
                right = (right + self._function(left, key, self._low)) % self._low
            else:
                left = (left + self._function(right, key, self._high)) % self._high
        return left * self._low + right

    @staticmethod
    def _function(digits: Numbers, key: np.uint64, size: int) -> Numbers:
        return (mix(digits, key) % np.uint64(size)).astype(np.int64)


def mix(numbers: Numbers, key: np.uint64) -> Bits:
    """64 random bits a number, from number and key alone (the finaliser of SplitMix64, Steele et al. 2014)."""
    bits = key + numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))


def random_of(seed: int, *numbers: int) -> np.random.Philox:
    """A stream of random bits for one purpose; other numbers, other streams."""
    return np.random.Philox(np.random.SeedSequence([seed, *numbers]))


def shuffled(random: np.random.Philox, number: int) -> Numbers:
    """The numbers below ``number`` in random order, for few of them."""
    return np.argsort(random.random_raw(number), kind="stable")
