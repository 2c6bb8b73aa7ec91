"""One step of beam search: from the logits of the next token to the best continuations of every beam.

Logarithms of probabilities, rules and the largest few of each row are worked out where the model is. These few go to
the processor once a step, where the beams are (:mod:`nmt.decoding.beams`). What a feature costs is paid where it is
asked for: phrases to use are looked after in plain Python, in the sentences that have some, all else for the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nmt.config import DecodingConfig
from nmt.decoding.beams import Beams, Growth
from nmt.decoding.constraints import Candidate, Phrases, Progress, writable
from nmt.decoding.history import History
from nmt.decoding.request import Source
from nmt.decoding.rules import Rules
from nmt.decoding.search import check_numbers, on_device, on_host
from nmt.decoding.topk import first_of_rows, top_k_on_host

__all__ = ["Grower"]


@dataclass(frozen=True)
class _Logits:
    """What the model says of the next token, used up as it is looked at, and what each row has written.

    ``written`` is None where no rule asks for it, ``handicap`` where no group went before.
    """

    values: Float[Tensor, "R V"]
    written: Int[Tensor, "R t"] | None
    handicap: Float[Tensor, "B V"] | None


@dataclass(frozen=True)
class _Next:
    """The tokens that come into question next, in each row: the ``k`` best, behind them those that phrases want.

    ``values`` are the logarithms of their probabilities, ``ranks`` what they are ranked by, both -inf where a token may
    not be written. ``eos`` is the log-probability of EOS.
    """

    k: int
    tokens: Int[np.ndarray, "R C"]
    values: Float[np.ndarray, "R C"]
    ranks: Float[np.ndarray, "R C"]
    eos: Float[np.ndarray, " R"]


@dataclass(frozen=True)
class _Grown:
    """What goes on (``last`` is -inf where nothing does), and at which places a hypothesis ends by itself."""

    tokens: Int[np.ndarray, "B m"]
    rows: Int[np.ndarray, "B m"]
    last: Float[np.ndarray, "B m"]
    ends: Bool[np.ndarray, "B n"]


class Grower:
    """Grows the beams of a batch of sentences by one token, again and again.

    ``width`` is N, the places of a beam. Where sentences have phrases to use it remembers how far each hypothesis is
    with them, by the number of its beam: beams may leave between one step and the next, places may not change.
    """

    def __init__(self, sources: Sequence[Source], rules: Rules, config: DecodingConfig) -> None:
        self.rules = rules
        self.groups = config.groups
        self.width = config.beam // config.groups
        self.diversity = config.diversity
        self._phrases: dict[int, Phrases] = {}
        self._progress: dict[int, list[Progress]] = {}
        never = frozenset(rules.never.tolist())
        for sentence, source in enumerate(sources):
            if any(use := writable(source.use, source.avoid, never)):
                phrases = Phrases(use, source.continuing)
                for number in range(sentence * self.groups, (sentence + 1) * self.groups):
                    self._phrases[number] = phrases
                    self._progress[number] = [phrases.start]

    def grow(self, beams: Beams, logits: Float[Tensor, "R V"], history: History, length: int) -> Growth:
        """The best continuations of each beam: which hypotheses end with this token, and the N best that go on.

        A hypothesis ends where EOS is among the N best continuations of its beam, or where the sentence is at its
        longest. ``logits`` is used up. Raises NmtError where they are no numbers.

        Groups grow one after the other (Vijayakumar et al. 2018, algorithm 1): what the earlier groups of a sentence go
        on with at this step is ranked lower by ``diversity``, once for each hypothesis that does (Hamming diversity).
        EOS is not: that two translations are of one length does not make them alike. Log-probabilities stay as they
        are.
        """
        written = None if self.rules.is_plain else on_device(history.written(len(logits)), logits.device)
        if self.groups == 1:
            return self._grow(beams, _Logits(logits, written, None), length)
        sentences, group = np.divmod(beams.numbers, self.groups)
        taken = logits.new_zeros(int(sentences.max()) + 1, logits.shape[1])
        parts, order = [], []
        for number in range(self.groups):
            mine = np.flatnonzero(group == number)
            if not len(mine):
                continue
            rows = mine[:, None] * beams.places + np.arange(beams.places)
            here = on_device(rows.reshape(-1), logits.device)
            owners = on_device(sentences[mine], logits.device)
            heard = _Logits(logits[here], None if written is None else written[here], self.diversity * taken[owners])
            part = self._grow(beams.select(mine), heard, length)
            part = replace(part, rows=rows.take(part.rows))
            tokens, goes_on = on_device(part.tokens, logits.device), on_device(part.live > -np.inf, logits.device)
            taken.index_put_((owners.unsqueeze(1).expand_as(tokens), tokens), goes_on.to(taken.dtype), accumulate=True)
            parts.append(part)
            order.append(mine)
        back = np.concatenate(order).argsort()
        return Growth(
            **{f.name: np.concatenate([getattr(part, f.name) for part in parts])[back] for f in fields(Growth)}
        )

    def _grow(self, beams: Beams, logits: _Logits, length: int) -> Growth:
        numbers = beams.numbers.tolist() if self._phrases else []
        using = [row for row, number in enumerate(numbers) if number in self._phrases]
        found = self._next(beams, logits, self._wanted(beams, using) if using else None)
        check_numbers(found.eos, length)
        grown = self._select(beams, found)
        if using:
            self._use_(grown, beams, found, using)
        return Growth(
            live=beams.log_probabilities.take(grown.rows) + grown.last,
            tokens=grown.tokens,
            last=grown.last,
            rows=grown.rows,
            ends=grown.ends | (beams.longest == length)[:, None],
            eos=found.eos.reshape(grown.ends.shape),
        )

    def _next(self, beams: Beams, logits: _Logits, wanted: Int[np.ndarray, "R A"] | None) -> _Next:
        """What comes into question, the rules kept. ``wanted`` is -1 where nothing more is."""
        values, handicap = logits.values, logits.handicap
        torch.log_softmax(values, dim=1, out=values)  # at this size new memory costs more than the sums
        eos = on_host(values[:, self.rules.eos_id]).copy()
        if logits.written is None:
            values.index_fill_(1, self.rules.never, -torch.inf)
        else:
            sentences = (beams.numbers // self.groups).repeat(beams.places)
            self.rules.forbid_(values, logits.written, on_device(sentences, values.device))
        ranked = values if handicap is None else values - handicap.repeat_interleave(beams.places, dim=0)
        ranks, tokens = top_k_on_host(ranked, self.width + 1)
        k = ranks.shape[1]
        if wanted is not None:
            # Where no more is wanted the best one stands again.
            wanted = np.where(wanted < 0, tokens[:, :1], wanted)
            tokens = np.concatenate([tokens, wanted], axis=1)
            ranks = np.concatenate([ranks, _gather(ranked, wanted)], axis=1)
        return _Next(k, tokens, ranks if handicap is None else _gather(values, tokens), ranks, eos)

    def _select(self, beams: Beams, found: _Next) -> _Grown:
        """The N best of each beam. Each place can end in one way only: its N + 1 best tokens hold all that go on."""
        (count, places), k, width = beams.log_probabilities.shape, found.k, self.width
        totals = (beams.log_probabilities.reshape(-1, 1) + found.ranks[:, :k]).reshape(count, places * k)
        order = (-totals).argsort(axis=1, kind="stable")[:, : 2 * width]
        chosen = order + first_of_rows(totals)
        rows, tokens = chosen // k, found.tokens[:, :k].take(chosen)
        is_eos = tokens == self.rules.eos_id
        ends = np.zeros((count, places), dtype=np.bool_)
        ending = is_eos[:, :width]
        if ending.any():
            ends.reshape(-1)[rows[:, :width][ending & (totals.take(chosen[:, :width]) > -np.inf)]] = True
        going = is_eos.argsort(axis=1, kind="stable")[:, :width] + first_of_rows(chosen)
        last = found.values[:, :k].take(chosen.take(going))
        last[is_eos.take(going)] = -np.inf
        return _Grown(tokens.take(going), rows.take(going), last, ends)

    def _wanted(self, beams: Beams, using: Sequence[int]) -> Int[np.ndarray, "R A"]:
        """The tokens that would take each hypothesis further with the phrases of its sentence, filled up with -1."""
        places = beams.places
        rows: list[list[int]] = [[] for _ in range(beams.log_probabilities.size)]
        for row in using:
            number = int(beams.numbers[row])
            for place, progress in enumerate(self._progress[number]):
                rows[row * places + place] = self._phrases[number].wanted(progress)
        most = max(map(len, rows))
        return np.array([row + [-1] * (most - len(row)) for row in rows], dtype=np.int64).reshape(len(rows), most)

    def _use_(self, grown: _Grown, beams: Beams, found: _Next, using: Sequence[int]) -> None:
        """Choose over again in the beams whose sentences have phrases to use."""
        count, places = beams.log_probabilities.shape
        width = grown.tokens.shape[1]
        for row in using:
            number = int(beams.numbers[row])
            totals = beams.log_probabilities[row].tolist()
            tokens, ranks, values = (
                x.reshape(count, places, -1)[row].tolist() for x in (found.tokens, found.ranks, found.values)
            )
            candidates = {
                (place, token): Candidate(totals[place] + rank, place, token, value)
                for place in range(len(self._progress[number]))
                for token, rank, value in zip(tokens[place], ranks[place], values[place], strict=True)
                if rank > -np.inf
            }
            choice = self._phrases[number].choose(
                candidates.values(), self._progress[number], self.width, eos_id=self.rules.eos_id
            )
            self._progress[number] = choice.progress
            nothing = Candidate(-np.inf, 0, self.rules.eos_id, -np.inf)
            live = choice.live + [nothing] * (width - len(choice.live))
            grown.tokens[row] = [one.token for one in live]
            grown.rows[row] = [row * places + one.parent for one in live]
            grown.last[row] = [one.log_probability for one in live]
            grown.ends[row] = False
            grown.ends[row, list(choice.ending)] = True


def _gather(values: Float[Tensor, "R V"], tokens: Int[np.ndarray, "R C"]) -> Float[np.ndarray, "R C"]:
    """The values of some tokens of each row, off the device."""
    return on_host(values.gather(1, on_device(tokens, values.device)))
