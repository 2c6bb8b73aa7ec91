"""Phrases that a translation has to use: dynamic beam allocation (Post and Vilar 2018).

A phrase is used where its tokens stand in a row; one that is asked for twice has to stand there twice, side by side or
apart. Phrases may overlap each other: "a b" and "b c" are both in "a b c". How far a hypothesis has come is read from
its tokens alone, and the one number for it is how many tokens of phrases it has *gained*: those of the phrases it has
used, and those of the longest phrase that it is in the middle of.

At each step the candidates of a sentence are what beam search has anyway and, from every hypothesis, the next token of
each phrase that it is in the middle of, or else the first token of each phrase it has not used yet. They are ranked
among those that have gained as much, in a *bank* for each number of tokens gained, and the places of the beam are
shared out evenly among the banks. (The paper has places for banks that are empty too and gives these to the fullest
bank: a beam narrower than the number of tokens then begins each translation with the phrases.) The fullest bank has a
place at least, and a candidate of its hypotheses gains a token at least, unless a word goes on that looked like a whole
phrase: after as many steps as the phrases have tokens there is a hypothesis that has used them all, be the beam as
narrow as one. Phrases that cannot be written are left out from the start (:func:`writable`).

A hypothesis ends by itself when it has used all phrases. Others end where the longest translation allowed is reached,
or where nothing may be written any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nmt.data.text import in_word
from nmt.data.tokenizer import Tokenizer

__all__ = ["Candidate", "Choice", "Phrases", "met", "standing", "used", "writable"]

Progress = tuple[int, ...]
"""Of each phrase, how many of its tokens are written: whole ones counted as often as they stand.

Behind that the phrases that ended with the last token, a bit each: they are none if the word goes on.
"""


class Candidate(NamedTuple):
    """A token that the hypothesis at place ``parent`` could go on with, and what their beam ranks it by."""

    rank: float
    parent: int
    token: int
    log_probability: float


@dataclass(frozen=True)
class Choice:
    """Which candidates go on, best first, with their progress, and at which places a hypothesis ends."""

    live: list[Candidate]
    progress: list[Progress]
    ending: set[int]


def met(
    tokens: Sequence[int], use: Sequence[Sequence[int]], continuing: Collection[int] = frozenset()
) -> tuple[bool, ...]:
    """Which phrases of ``use`` a translation has in it; of n equal ones the first are met, as often as it stands.

    Where one of the ``continuing`` tokens comes next, what looks like a phrase is the beginning of a longer word.
    """
    left: Counter[tuple[int, ...]] = Counter()
    for phrase in set(map(tuple, use)):
        start = 0
        while phrase and start + len(phrase) <= len(tokens):
            end = start + len(phrase)
            found = tuple(tokens[start:end]) == phrase and (end == len(tokens) or tokens[end] not in continuing)
            left[phrase] += found
            start += len(phrase) if found else 1
    answer = []
    for phrase in map(tuple, use):
        answer.append(not phrase or left[phrase] > 0)
        left[phrase] -= 1
    return tuple(answer)


def standing(text: str, phrases: Sequence[str]) -> tuple[bool, ...]:
    """Which phrases stand in a text, in whatever pieces; of n equal ones the first do, as often as it is there.

    Behind a bracket, an apostrophe or, where words are written without spaces, another word a phrase is spelt in other
    pieces than behind a space. Where it begins or ends with a letter or a digit, no other one stands next to that.
    """
    left: Counter[str] = Counter()
    for phrase in filter(None, set(phrases)):
        start = 0
        while (found := text.find(phrase, start)) >= 0:
            end = found + len(phrase)
            borders = [text[end - 1 : end + 1], text[found - 1 : found + 1] if found else ""]
            longer = any(len(pair) == 2 and all(map(in_word, pair)) for pair in borders)
            left[phrase] += not longer
            start = found + 1 if longer else end
    answer = []
    for phrase in phrases:
        answer.append(not phrase or left[phrase] > 0)
        left[phrase] -= 1
    return tuple(answer)


def used(tokenizer: Tokenizer, tokens: Sequence[int], use: Sequence[Sequence[int]]) -> tuple[bool, ...]:
    """Which phrases a translation has used: in their own pieces (:func:`met`) or in others (:func:`standing`)."""
    in_pieces = met(tokens, use, tokenizer.continuing)
    in_text = standing(tokenizer.decode(tokens), [tokenizer.decode(phrase) for phrase in use])
    return tuple(map(max, in_pieces, in_text))


def writable(
    use: Iterable[Sequence[int]], avoid: Sequence[Sequence[int]], never: Collection[int]
) -> list[tuple[int, ...]]:
    """The phrases of ``use`` that have no token of ``never`` and no phrase of ``avoid`` in them."""

    def has(phrase: tuple[int, ...], other: tuple[int, ...]) -> bool:
        starts = range(len(phrase) - len(other) + 1)
        return bool(other) and any(phrase[start : start + len(other)] == other for start in starts)

    return [
        phrase
        for phrase in map(tuple, use)
        if not any(token in never for token in phrase) and not any(has(phrase, other) for other in map(tuple, avoid))
    ]


class Phrases:
    """What one sentence has to use, and how its beam is shared out.

    ``total`` is the number of tokens to gain, ``start`` the progress of a hypothesis with nothing written. A phrase
    that one of the ``continuing`` tokens comes behind is not used there, as :func:`met` has it.
    """

    def __init__(self, use: Iterable[Sequence[int]], continuing: Collection[int] = frozenset()) -> None:
        counted = Counter(tuple(phrase) for phrase in use if phrase)
        self.phrases = list(counted)
        self.ends = [len(phrase) * times for phrase, times in counted.items()]
        self.total = sum(self.ends)
        self.start: Progress = (0,) * (len(self.phrases) + 1)
        self._continuing = continuing
        self._tokens = {token for phrase in self.phrases for token in phrase}
        self._borders = [_borders(phrase) for phrase in self.phrases]

    def advance(self, progress: Progress, token: int) -> Progress:
        """The progress after one more token (Knuth, Morris and Pratt 1977, a phrase at a time)."""
        *counts, ended = progress
        if not (ended and token in self._continuing):
            ended = 0
            if token not in self._tokens:
                return (*(done - done % len(phrase) for done, phrase in zip(counts, self.phrases, strict=True)), 0)
        after, ending = [], 0
        rows = zip(counts, self.ends, self.phrases, self._borders, strict=True)
        for number, (done, end, phrase, borders) in enumerate(rows):
            here = done % len(phrase)
            done -= here
            if ended >> number & 1:  # it was the beginning of a longer word
                done, here = done - len(phrase), borders[len(phrase)]
            if done < end:
                while here and phrase[here] != token:
                    here = borders[here]
                here += phrase[here] == token
                done += here
                ending |= (here == len(phrase)) << number
            after.append(done)
        return (*after, ending if self._continuing else 0)

    def gained(self, progress: Progress) -> int:
        """The tokens of the phrases used, and of the longest one that is being written."""
        counts = progress[:-1]
        inside = [done % len(phrase) for done, phrase in zip(counts, self.phrases, strict=True)]
        return sum(counts) - sum(inside) + max(inside, default=0)

    def wanted(self, progress: Progress) -> list[int]:
        """The tokens that would gain: of the phrases being written, or else of all that are not used yet."""
        unmet = [
            (done % len(phrase), phrase)
            for done, end, phrase in zip(progress[:-1], self.ends, self.phrases, strict=True)
            if done < end
        ]
        begun = [(here, phrase) for here, phrase in unmet if here]
        return sorted({phrase[here] for here, phrase in begun or unmet})

    def choose(
        self, candidates: Iterable[Candidate], progress: Sequence[Progress], places: int, *, eos_id: int
    ) -> Choice:
        """Share ``places`` out among the candidates; ``progress`` is that of each place they come from.

        Where EOS has one of the places the hypothesis ends, and the next candidate has its place, as in any beam.
        """
        banks: dict[int, list[tuple[Candidate, Progress]]] = {}
        for candidate in sorted(candidates, key=lambda one: (-one.rank, one.parent, one.token)):
            before = progress[candidate.parent]
            if candidate.token != eos_id:
                after = self.advance(before, candidate.token)
                banks.setdefault(self.gained(after), []).append((candidate, after))
            elif self.gained(before) == self.total:
                banks.setdefault(self.total, []).append((candidate, before))
        chosen = self._share(banks, places)
        ending = {candidate.parent for candidate, _ in chosen if candidate.token == eos_id}
        words = {gained: [pair for pair in bank if pair[0].token != eos_id] for gained, bank in banks.items()}
        live = self._share(words, places)
        live.sort(key=lambda pair: (-pair[0].rank, pair[0].parent, pair[0].token))
        return Choice(
            live=[candidate for candidate, _ in live],
            progress=[after for _, after in live],
            ending=ending if live or ending else set(range(len(progress))),
        )

    def _share(
        self, banks: dict[int, list[tuple[Candidate, Progress]]], places: int
    ) -> list[tuple[Candidate, Progress]]:
        """The best of each bank: as many of each, the fullest banks first where places do not go round."""
        fullest = sorted(banks, reverse=True)
        each, spare = divmod(places, max(1, len(fullest)))
        taken = {gained: min(each + (i < spare), len(banks[gained])) for i, gained in enumerate(fullest)}
        left = places - sum(taken.values())
        for gained in fullest:
            more = min(left, len(banks[gained]) - taken[gained])
            taken[gained] += more
            left -= more
        return [pair for gained, bank in banks.items() for pair in bank[: taken[gained]]]


def _borders(phrase: tuple[int, ...]) -> list[int]:
    """For each number of tokens of ``phrase``: the longest shorter beginning of it that they end with."""
    borders = [0, 0]
    for length in range(2, len(phrase) + 1):
        here = borders[-1]
        while here and phrase[here] != phrase[length - 1]:
            here = borders[here]
        borders.append(here + (phrase[here] == phrase[length - 1]))
    return borders
