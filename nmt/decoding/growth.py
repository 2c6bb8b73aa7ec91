"""One step of beam search: from the logits of the next token to the best continuations of every beam.

Of the (R, V) log-probabilities only the few that are looked at are worked out. What a feature costs is paid where it is
asked for: phrases to use are looked after in plain Python, in the sentences that have some, all else for the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nmt.config import DecodingConfig
from nmt.decoding.beams import Beams, Growth
from nmt.decoding.constraints import Candidate, Phrases, Progress
from nmt.decoding.request import Source
from nmt.decoding.rules import Rules
from nmt.decoding.search import check_numbers
from nmt.decoding.topk import top_k

__all__ = ["Grower"]


@dataclass(frozen=True)
class _Next:
    """The tokens that come into question next, in each row: the ``k`` best, behind them those that phrases want.

    ``values`` are the logarithms of their probabilities, ``ranks`` what they are ranked by, both -inf where a token may
    not be written. ``eos`` is the log-probability of EOS.
    """

    k: int
    tokens: Int[Tensor, "R C"]
    values: Float[Tensor, "R C"]
    ranks: Float[Tensor, "R C"]
    eos: Float[Tensor, " R"]


@dataclass(frozen=True)
class _Grown:
    """What goes on (``last`` is -inf where nothing does), and at which places a hypothesis ends by itself."""

    tokens: Int[Tensor, "B m"]
    parents: Int[Tensor, "B m"]
    last: Float[Tensor, "B m"]
    ends: Bool[Tensor, "B n"]


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
        for sentence, source in enumerate(sources):
            phrases = Phrases(source.use)
            if phrases.total:
                for number in range(sentence * self.groups, (sentence + 1) * self.groups):
                    self._phrases[number] = phrases
                    self._progress[number] = [phrases.start]

    def grow(self, beams: Beams, logits: Float[Tensor, "R V"], length: int) -> Growth:
        """The best continuations of each beam: which hypotheses end with this token, and the N best that go on.

        A hypothesis ends where EOS is among the N best continuations of its beam, or where the sentence is at its
        longest. ``logits`` is used up. Raises NmtError where they are no numbers.

        Groups grow one after the other (Vijayakumar et al. 2018, algorithm 1): what the earlier groups of a sentence go
        on with at this step is ranked lower by ``diversity``, once for each hypothesis that does (Hamming diversity).
        EOS is not: that two translations are of one length does not make them alike. Log-probabilities stay as they
        are.
        """
        if self.groups == 1:
            return self._grow(beams, logits, length, None)
        sentences, group = beams.numbers // self.groups, beams.numbers % self.groups
        by_beam = logits.view(len(sentences), beams.log_probabilities.shape[1], -1)
        taken = logits.new_zeros(int(sentences.max()) + 1, logits.shape[1])
        parts, order = [], []
        for number in range(self.groups):
            mine = (group == number).nonzero().squeeze(1)
            if not len(mine):
                continue
            handicap = self.diversity * taken[sentences[mine]]
            part = self._grow(beams.select(mine), by_beam[mine].flatten(0, 1), length, handicap)
            rows = sentences[mine].unsqueeze(1).expand_as(part.tokens)
            taken.index_put_((rows, part.tokens), (part.live > -torch.inf).to(taken.dtype), accumulate=True)
            parts.append(part)
            order.append(mine)
        back = torch.cat(order).argsort()
        return Growth(**{f.name: torch.cat([getattr(part, f.name) for part in parts])[back] for f in fields(Growth)})

    def _grow(
        self, beams: Beams, logits: Float[Tensor, "R V"], length: int, handicap: Float[Tensor, "B V"] | None
    ) -> Growth:
        numbers = beams.numbers.tolist() if self._phrases else []
        using = [row for row, number in enumerate(numbers) if number in self._phrases]
        found = self._next(beams, logits, handicap, self._wanted(beams, using) if using else None)
        check_numbers(found.eos, length)
        grown = self._select(beams, found)
        if using:
            self._use_(grown, beams, found, using)
        eos = found.eos.view_as(beams.log_probabilities)
        stops = grown.ends | (beams.longest == length).unsqueeze(1)
        return Growth(
            live=beams.log_probabilities.gather(1, grown.parents) + grown.last,
            tokens=grown.tokens,
            last=grown.last,
            parents=grown.parents,
            stop=(beams.log_probabilities + eos).masked_fill(~stops, -torch.inf),
            eos=eos,
        )

    def _next(
        self,
        beams: Beams,
        logits: Float[Tensor, "R V"],
        handicap: Float[Tensor, "B V"] | None,
        wanted: Int[Tensor, "R A"] | None,
    ) -> _Next:
        """What comes into question, the rules kept. ``wanted`` is -1 where nothing more is."""
        eos = logits[:, self.rules.eos_id].clone()
        if self.rules.is_plain and handicap is None:
            # What is forbidden is put back for the norm, which then needs no memory of its own.
            unused = logits[:, self.rules.never]
            logits.index_fill_(1, self.rules.never, -torch.inf)
            ranks, tokens = self._best(logits, wanted)
            norm = _log_sum_exp_(logits.index_copy_(1, self.rules.never, unused)).unsqueeze(1)
            values = ranks = ranks - norm
        else:
            norm = _log_sum_exp_(logits.clone()).unsqueeze(1)
            places = beams.log_probabilities.shape[1]
            sentences = (beams.numbers // self.groups).repeat_interleave(places)
            self.rules.forbid_(logits, beams.tokens.flatten(0, 1), sentences)
            ranked = logits if handicap is None else logits - handicap.repeat_interleave(places, dim=0)
            ranks, tokens = self._best(ranked, wanted)
            values, ranks = logits.gather(1, tokens) - norm, ranks - norm
        return _Next(min(self.width + 1, logits.shape[1]), tokens, values, ranks, eos - norm.squeeze(1))

    def _best(
        self, ranks: Float[Tensor, "R V"], wanted: Int[Tensor, "R A"] | None
    ) -> tuple[Float[Tensor, "R C"], Int[Tensor, "R C"]]:
        """The N + 1 best tokens of each row, and behind them those that are wanted, or else the best one again."""
        best, tokens = top_k(ranks, self.width + 1)
        if wanted is None:
            return best, tokens
        wanted = torch.where(wanted < 0, tokens[:, :1], wanted)
        return torch.cat([best, ranks.gather(1, wanted)], dim=1), torch.cat([tokens, wanted], dim=1)

    def _select(self, beams: Beams, found: _Next) -> _Grown:
        """The N best of each beam. Each place can end in one way only: its N + 1 best tokens hold all that go on."""
        (count, places), k, width = beams.log_probabilities.shape, found.k, self.width
        totals = beams.log_probabilities.unsqueeze(2) + found.ranks[:, :k].view(count, places, k)
        totals, order = totals.flatten(1).sort(dim=1, descending=True, stable=True)
        totals, order = totals[:, : 2 * width], order[:, : 2 * width]
        parents = order // k
        columns = order + parents * (found.tokens.shape[1] - k)
        tokens = found.tokens.view(count, -1).gather(1, columns)
        is_eos = tokens == self.rules.eos_id
        ending = is_eos[:, :width] & (totals[:, :width] > -torch.inf)
        ends = torch.zeros(count, places, dtype=torch.long, device=tokens.device)
        ends.scatter_add_(1, parents[:, :width], ending.long())
        going = is_eos.sort(dim=1, stable=True).indices[:, :width]
        last = found.values.view(count, -1).gather(1, columns).masked_fill(is_eos, -torch.inf)
        return _Grown(tokens.gather(1, going), parents.gather(1, going), last.gather(1, going), ends > 0)

    def _wanted(self, beams: Beams, using: Sequence[int]) -> Int[Tensor, "R A"]:
        """The tokens that would take each hypothesis further with the phrases of its sentence, filled up with -1."""
        places = beams.log_probabilities.shape[1]
        rows: list[list[int]] = [[] for _ in range(beams.log_probabilities.numel())]
        for row, number in zip(using, beams.numbers[list(using)].tolist(), strict=True):
            for place, progress in enumerate(self._progress[number]):
                rows[row * places + place] = self._phrases[number].wanted(progress)
        most = max(map(len, rows))
        filled = [row + [-1] * (most - len(row)) for row in rows]
        return torch.tensor(filled, dtype=torch.long, device=beams.tokens.device).view(len(rows), most)

    def _use_(self, grown: _Grown, beams: Beams, found: _Next, using: Sequence[int]) -> None:
        """Choose over again in the beams whose sentences have phrases to use."""
        count, places = beams.log_probabilities.shape
        here = torch.tensor(using, device=beams.tokens.device)
        numbers, totals = beams.numbers[here].tolist(), beams.log_probabilities[here].tolist()
        tokens, ranks, values = (
            x.view(count, places, -1)[here].tolist() for x in (found.tokens, found.ranks, found.values)
        )
        width = grown.tokens.shape[1]
        chosen: list[list[Candidate]] = []
        ends = torch.zeros(len(using), places, dtype=torch.bool)
        for i, number in enumerate(numbers):
            candidates = {
                (place, token): Candidate(totals[i][place] + rank, place, token, value)
                for place in range(len(self._progress[number]))
                for token, rank, value in zip(tokens[i][place], ranks[i][place], values[i][place], strict=True)
                if rank > -torch.inf
            }
            choice = self._phrases[number].choose(
                candidates.values(), self._progress[number], self.width, eos_id=self.rules.eos_id
            )
            ends[i, list(choice.ending)] = True
            self._progress[number] = choice.progress
            nothing = Candidate(-torch.inf, 0, self.rules.eos_id, -torch.inf)
            chosen.append(choice.live + [nothing] * (width - len(choice.live)))
        for part, name in ((grown.tokens, "token"), (grown.parents, "parent"), (grown.last, "log_probability")):
            values = [[getattr(one, name) for one in row] for row in chosen]
            part[here] = torch.tensor(values, dtype=part.dtype, device=part.device)
        grown.ends[here] = ends.to(here.device)


def _log_sum_exp_(logits: Float[Tensor, "R V"]) -> Float[Tensor, " R"]:
    """log sum exp of each row, written over the row: at this size new memory costs more than the sum.

    torch's softmax reads a row while it is near; its largest value is exp(0) over the sum that is looked for.
    """
    largest = logits.amax(dim=1)
    return largest - torch.softmax(logits, dim=1, out=logits).amax(dim=1).log_()
