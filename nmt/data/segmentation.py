"""Subword regularisation: text cut into pieces at random, the same for the same seed on every machine, in every run.

SentencePiece samples too, but its random numbers are salted anew in each process: no seed repeats them, and a run that
was resumed would not see what it would have seen. So the two samplers are here, on SentencePiece's own pieces:

* **BPE-dropout** (Provilkov et al. 2020): pieces are merged in the order of the vocabulary, and each merge is left out
  with a probability. Without dropout it is SentencePiece's own segmentation.
* **Unigram sampling** (Kudo 2018, section 3.2): a segmentation x is drawn with a probability in proportion to
  P(x)**alpha, exactly, by forward filtering and backward sampling.

No piece spans two words, so that words can be cut one by one, and each word's cuts are remembered: there are
:data:`VARIANTS` of each, drawn once, and which one a word gets is drawn anew every time it is met.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Sampler"]

VARIANTS = 64
"""How many cuts of a word there are to choose from."""

REMEMBERED = 100_000
"""After so many words what is remembered is forgotten, to bound memory."""

SPACE = "\u2581"
UNKNOWN_PENALTY = 10.0  # SentencePiece's: an unknown character is so much worse than the worst piece

Cut = tuple[int, ...]
Chance = Callable[[], float]


class Sampler:
    """Cuts text at random with the pieces of one SentencePiece model."""

    def __init__(self, processor: Any, strength: float) -> None:
        """``strength`` is the dropout of a BPE model's merges, or the alpha of a unigram model."""
        self._processor = processor
        self._strength = strength
        special = (processor.is_control, processor.is_unknown, processor.is_byte, processor.is_unused)
        normal = [i for i in range(len(processor)) if not any(is_special(i) for is_special in special)]
        self._ids: dict[str, int] = {processor.id_to_piece(i): i for i in normal}
        self._scores: dict[str, float] = {piece: processor.get_score(i) for piece, i in self._ids.items()}
        # BPE's scores are the ranks of its merges, a unigram model's are logarithms of probabilities.
        self._is_bpe = all(score.is_integer() for score in self._scores.values())
        self._spans_words = any(SPACE in piece[1:] for piece in self._ids)
        self._longest = max(map(len, self._ids), default=1)
        self._unknown_score = min(self._scores.values(), default=0.0) - UNKNOWN_PENALTY
        self._cuts: dict[str, list[Cut | None]] = {}
        self._same: dict[Cut, Cut] = {}

    def __call__(self, text: str, seed: int) -> list[int]:
        """The ids of one segmentation of ``text``, a function of text and seed (64 bits of it) alone."""
        ids: list[int] = []
        chance = _stream(seed)
        for word in self._words(self._processor.normalize(text)):
            ids += self._cut(word, int(chance() * VARIANTS))
        return ids

    def _words(self, text: str) -> Iterable[str]:
        """The words of a normalised text, each with the space before it."""
        if self._spans_words:
            return (text,) if text else ()
        first, *rest = text.split(SPACE)
        return [first] * bool(first) + [SPACE + word for word in rest]

    def _cut(self, word: str, variant: int) -> Cut:
        """One of the cuts of a word."""
        cuts = self._cuts.get(word)
        if cuts is None:
            if len(self._cuts) >= REMEMBERED:
                self._cuts.clear()
                self._same.clear()
            cuts = self._cuts[word] = [None] * VARIANTS
        cut = cuts[variant]
        if cut is None:
            digest = hashlib.blake2b(f"{variant} {word}".encode(), digest_size=8).digest()
            chance = _stream(int.from_bytes(digest, "little"))
            pieces = self._merge(word, chance) if self._is_bpe else self._walk(word, chance)
            cut = tuple(self._to_ids(pieces))
            cut = cuts[variant] = self._same.setdefault(cut, cut)
        return cut

    def _merge(self, word: str, chance: Chance) -> list[str]:
        """BPE with dropout: of all neighbours the pair of the best score becomes one, or is left alone for good."""
        score, never = self._scores.get, -math.inf
        pieces = list(word)
        scores = [score(pieces[i] + pieces[i + 1], never) for i in range(len(pieces) - 1)]
        while scores and (best := max(scores)) > never:
            i = scores.index(best)
            if chance() < self._strength:
                scores[i] = never
                continue
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
            del scores[i]
            if i > 0:
                scores[i - 1] = score(pieces[i - 1] + pieces[i], never)
            if i < len(scores):
                scores[i] = score(pieces[i] + pieces[i + 1], never)
        return pieces

    def _walk(self, word: str, chance: Chance) -> list[str]:
        """A path through the lattice of pieces: forward the weight of all paths to a place, backward one of them."""
        totals = [0.0]
        arcs: list[list[tuple[int, float]]] = [[]]
        for end in range(1, len(word) + 1):
            here = []
            for start in range(max(0, end - self._longest), end):
                score = self._scores.get(word[start:end])
                if score is None and start == end - 1:
                    score = self._unknown_score
                if score is not None:
                    here.append((start, totals[start] + self._strength * score))
            most = max(weight for _, weight in here)
            totals.append(most + math.log(sum(math.exp(weight - most) for _, weight in here)))
            arcs.append(here)
        pieces: list[str] = []
        end = len(word)
        while end:
            start, left = 0, chance()
            for start, weight in arcs[end]:  # noqa: B007
                left -= math.exp(weight - totals[end])
                if left <= 0.0:
                    break
            pieces.append(word[start:end])
            end = start
        return pieces[::-1]

    def _to_ids(self, pieces: Iterable[str]) -> Iterable[int]:
        """The ids of pieces; a character that is none is spelt in bytes, or else unknown, in a row only once."""
        processor = self._processor
        before = None
        for piece in pieces:
            found = self._ids.get(piece)
            if found is not None:
                yield found
            elif processor.is_byte(byte := processor.piece_to_id("<0x00>")):
                yield from (byte + value for value in piece.encode())
            elif before != processor.unk_id():
                found = processor.unk_id()
                yield found
            else:
                found = before
            before = found


def _stream(seed: int) -> Chance:
    """Random numbers in [0, 1) from 64 bits of seed (a congruential generator, Knuth's MMIX, upper bits only)."""
    state = ((seed & _BITS) ^ 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9 & _BITS
    state ^= state >> 32

    def chance() -> float:
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) & _BITS
        return (state >> 11) * 2.0**-53

    return chance


_BITS = 0xFFFFFFFFFFFFFFFF
