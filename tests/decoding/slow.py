"""Search once more, from its description: one sentence, one hypothesis and one token at a time, over a table model.

Nothing here is shared with :mod:`nmt.decoding` but the length penalty. Tokens become characters where Python's strings
know the answer: ``"abab".count("ab")`` counts occurrences that do not overlap.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from nmt.config import DecodingConfig
from nmt.data.batching import pad
from nmt.decoding.beam import beam_search
from nmt.decoding.greedy import greedy_search
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.lengths import length_penalty
from nmt.decoding.request import Source

PAD, UNK, BOS, EOS = 0, 1, 2, 3

Tokens = tuple[int, ...]


def config(**changes: Any) -> DecodingConfig:
    return DecodingConfig.model_validate({"max_ratio": 1.0, "max_extra": 0, **changes})


def search(model: Any, wishes: Sequence[Source], *, greedy: bool = False, **arguments: Any) -> list[list[Hypothesis]]:
    """Search a batch; the first token of a source names its table, EOS is its last."""
    source, mask = pad([[*wish.tokens, EOS] for wish in wishes], PAD)
    settings = {"bos_id": BOS, "eos_id": EOS, "forbidden": (PAD, UNK), "sources": wishes, **arguments}
    return greedy_search(model, source, mask, **settings) if greedy else beam_search(model, source, mask, **settings)


def allowed_after(written: Tokens, wish: Source, no_repeat_ngram: int, vocabulary: int) -> set[int]:
    """What may come next, from the description of the rules."""
    if len(written) < len(wish.prefix):
        return {wish.prefix[len(written)]}
    ngrams = {written[start : start + no_repeat_ngram] for start in range(len(written) - no_repeat_ngram + 1)}
    return {EOS} | {
        word
        for word in range(EOS + 1, vocabulary)
        if not any((*written, word)[-len(phrase) :] == phrase for phrase in wish.avoid)
        and not (no_repeat_ngram and (*written, word)[-no_repeat_ngram:] in ngrams)
    }


def writable(wish: Source) -> Source:
    """What is left to wish for when what may not be written is not: UNK, BOS and what is to be avoided."""
    bad = [letters(phrase) for phrase in (*wish.avoid, (PAD,), (UNK,), (BOS,)) if phrase]
    return replace(wish, use=tuple(one for one in wish.use if not any(part in letters(one) for part in bad)))


def letters(tokens: Tokens) -> str:
    return "".join(map(chr, tokens))


def inside(tokens: Tokens, use: Sequence[Tokens]) -> dict[Tokens, int]:
    """How much of each phrase that is missing the tokens end with."""
    rests = {
        phrase: letters(tokens).split(letters(phrase))[-1]
        for phrase, times in Counter(use).items()
        if letters(tokens).count(letters(phrase)) < times
    }
    return {
        phrase: max(k for k in range(len(phrase)) if rest.endswith(letters(phrase[:k])))
        for phrase, rest in rests.items()
    }


def gained(tokens: Tokens, use: Sequence[Tokens]) -> int:
    """Tokens of the phrases that are there, and of the longest that is begun; ``len`` of all where none is missing."""
    there = (len(phrase) * min(times, letters(tokens).count(letters(phrase))) for phrase, times in Counter(use).items())
    return sum(there) + max(inside(tokens, use).values(), default=0)


def begun(tokens: Tokens, use: Sequence[Tokens]) -> set[int]:
    """What comes next in the phrases that are begun, or first in those that are missing."""
    missing = inside(tokens, use)
    return {phrase[k] for phrase, k in missing.items() if k or not any(missing.values())}


def uses_all(tokens: Tokens, use: Sequence[Tokens]) -> bool:
    return all(letters(tokens).count(letters(phrase)) >= times for phrase, times in Counter(use).items())


def score(model: Any, tokens: Tokens, wish: Source, settings: DecodingConfig) -> float:
    """The score of a translation, by the equations; without an EOS at its end what it has reached so far."""
    eos = tokens[-1:] == (EOS,)
    total = model.log_probability(wish.tokens[0], tokens[: len(tokens) - eos], eos=eos)
    total /= length_penalty(len(tokens), settings)
    if settings.coverage_penalty:
        read = model.attention_of(wish.tokens[0], tokens[:-1], len(wish.tokens) + 1).sum(dim=0).tolist()
        total += settings.coverage_penalty * sum(math.log(min(one, 1.0)) for one in read[: len(wish.tokens)])
    return float(total)


def enumerated(model: Any, wish: Source, settings: DecodingConfig, longest: int) -> list[tuple[float, Tokens]]:
    """Every translation that is as it has to be, best first."""
    return sorted(
        (
            (score(model, (*tokens, EOS), wish, settings), tokens)
            for tokens in model.every(wish.tokens[0], longest)
            if uses_all(tokens, wish.use)
            and all(
                token in allowed_after(tokens[:t], wish, settings.no_repeat_ngram, model.vocabulary)
                for t, token in enumerate([*tokens, EOS])
            )
        ),
        reverse=True,
    )


@dataclass
class Group:
    """The beam of a group: what lives, and what has ended."""

    live: list[Tokens] = field(default_factory=lambda: [()])
    ended: list[tuple[float, Tokens]] = field(default_factory=list)
    done: bool = False


class SlowSearch:
    """Beam search of one sentence. ``late`` has it stop by what is ``fast`` or not at all, never by a bound."""

    def __init__(self, model: Any, wish: Source, settings: DecodingConfig, longest: int, *, late: bool = False) -> None:
        self.model, self.wish, self.settings, self.longest, self.late = model, wish, settings, longest, late
        self.width = settings.beam // settings.groups
        self.total = sum(map(len, wish.use))
        self._totals: dict[Tokens, float] = {(): 0.0}
        self._scores: dict[Tokens, float] = {}

    def log_probability(self, tokens: Tokens) -> float:
        if tokens not in self._totals:
            before = self.log_probability(tokens[:-1])
            for token, value in enumerate(self.model.next_log_probabilities(self.wish.tokens[0], tokens[:-1])):
                self._totals[(*tokens[:-1], token)] = before + value
        return self._totals[tokens]

    def score(self, tokens: Tokens) -> float:
        if tokens not in self._scores:
            self._scores[tokens] = score(self.model, tokens, self.wish, self.settings)
        return self._scores[tokens]

    def run(self, nbest: int) -> tuple[list[tuple[float, Tokens]], int]:
        """The nbest, best first, and the number of steps taken."""
        groups = [Group() for _ in range(self.settings.groups)]
        for length in range(1, self.longest + 1):
            taken: Counter[int] = Counter()
            for group in groups:
                if not group.done:
                    self.step(group, length, taken, min(nbest, self.width))
            if all(group.done for group in groups):
                break
        return self.best(groups, nbest), length

    def rank(self, pair: tuple[float, Tokens]) -> tuple[int, float]:
        missing = Counter(self.wish.use)
        for phrase in missing:
            missing[phrase] = max(0, missing[phrase] - letters(pair[1]).count(letters(phrase)))
        return missing.total(), -pair[0]

    def best(self, groups: list[Group], nbest: int) -> list[tuple[float, Tokens]]:
        lists = [sorted(group.ended, key=self.rank) for group in groups]
        chosen: list[tuple[float, Tokens]] = []
        while len(chosen) < nbest and any(lists):
            turn: list[tuple[float, Tokens]] = []
            for ended in lists:
                while ended and ended[0][1] in [tokens for _, tokens in chosen + turn]:
                    ended.pop(0)
                if ended:
                    turn.append(ended.pop(0))
            chosen += sorted(turn, key=self.rank)[: nbest - len(chosen)]
        return sorted(chosen, key=self.rank)

    def step(self, group: Group, length: int, taken: Counter[int], nbest: int) -> None:
        wish, settings = self.wish, self.settings

        def cost(tokens: Tokens) -> float:
            return settings.diversity * taken[tokens[-1]] - self.log_probability(tokens)

        grown = []
        for tokens in group.live:
            allowed = allowed_after(tokens, wish, settings.no_repeat_ngram, self.model.vocabulary)
            best = sorted(((*tokens, token) for token in allowed), key=cost)
            wanted = begun(tokens, wish.use)
            grown += [
                one
                for rank, one in enumerate(best)
                if (rank <= self.width or one[-1] in wanted)
                and (one[-1] != EOS or gained(tokens, wish.use) == self.total)
            ]
        grown.sort(key=cost)
        ending = [tokens[:-1] for tokens in self.share(grown) if tokens[-1] == EOS]
        before, group.live = group.live, self.share([tokens for tokens in grown if tokens[-1] != EOS])
        taken.update(tokens[-1] for tokens in group.live)
        if length == self.longest or not (group.live or ending):
            ending = before
        group.ended += [(self.score((*tokens, EOS)), tokens) for tokens in ending]
        group.done = length == self.longest or not group.live
        if not group.done and len(group.ended) >= nbest:
            last = sorted((one for one, _ in group.ended), reverse=True)[nbest - 1]
            live = max(map(self.log_probability, group.live))
            behind = max(map(self.score, group.live)) <= last and len(group.ended) >= self.width
            beaten = live / length_penalty(self.longest, settings) <= last
            group.done = (settings.stopping == "fast" and behind) or (beaten and not self.late)

    def share(self, grown: list[Tokens]) -> list[Tokens]:
        """The best of each bank, the best first; without phrases there is one bank."""
        banks: list[list[Tokens]] = [[] for _ in range(self.total + 1)]
        for tokens in grown:
            words = tokens[:-1] if tokens[-1] == EOS else tokens
            banks[gained(words, self.wish.use)].append(tokens)
        banks = [bank for bank in reversed(banks) if bank]
        slots = [
            len(range(i, self.width, len(banks))) for i in range(len(banks))
        ]  # dealt like cards, the fullest first
        for i, bank in enumerate(banks):
            slots[i] = min(slots[i], len(bank))
        while sum(slots) < min(self.width, len(grown)):
            slots[min(i for i, bank in enumerate(banks) if slots[i] < len(bank))] += 1
        chosen = {tokens for bank, count in zip(banks, slots, strict=True) for tokens in bank[:count]}
        return [tokens for tokens in grown if tokens in chosen]


def as_pairs(found: Sequence[Hypothesis]) -> list[tuple[Any, Tokens]]:
    return [(one.score, one.tokens) for one in found]


def about(expected: Sequence[tuple[float, Tokens]]) -> list[tuple[Any, Tokens]]:
    """The same tokens, with scores that may differ as sums of single precision do in another order."""
    return [(pytest.approx(value, rel=1e-6, abs=1e-6), tokens) for value, tokens in expected]
