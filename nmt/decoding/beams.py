"""What beam search carries from one step to the next, for all sentences of a batch together.

It is numbers by the dozen, on which a call costs more than the sums in it. So they are kept by numpy, where the
processor is, wherever the model may be: on a few numbers its calls cost a fraction of torch's, and nothing waits for a
device in order to know what is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from nmt.config import DecodingConfig
from nmt.decoding.coverage import coverage, words_of
from nmt.decoding.lengths import length_penalty

__all__ = ["Beams", "Growth", "start"]


@dataclass(frozen=True)
class Beams:
    """The live hypotheses: n places in each of the B beams that are not done yet.

    Their places, beam by beam, are the R = B n rows of a step; what they have written is in the
    :class:`~nmt.decoding.history.History`. A sentence has one beam, or one for each group; ``numbers`` counts them
    sentence by sentence. A place that nothing stands in has the log-probability -inf. ``read`` is the attention that
    each source token got, ``words`` says which of these count; None without a coverage penalty. ``ended`` are the N
    best scores of ended hypotheses, best first (-inf where there are fewer), ``num_ended`` counts them all.
    """

    numbers: Int[np.ndarray, " B"]
    longest: Int[np.ndarray, " B"]
    final_penalty: Float[np.ndarray, " B"]
    log_probabilities: Float[np.ndarray, "B n"]
    read: Float[np.ndarray, "B n S"] | None
    words: Bool[np.ndarray, "B S"] | None
    ended: Float[np.ndarray, "B N"]
    num_ended: Int[np.ndarray, " B"]

    @property
    def places(self) -> int:
        """n."""
        return int(self.log_probabilities.shape[1])

    def select(self, rows: Int[np.ndarray, " K"]) -> Beams:
        """The beams of the given numbers."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        selected: dict[str, Any] = {name: None if value is None else value[rows] for name, value in values}
        return Beams(**selected)

    def extend(self, growth: Growth, kept: Int[np.ndarray, " K"]) -> Beams:
        """The beams of the given numbers, one token longer; ``growth`` is that of these alone."""
        beams = self if len(kept) == len(self.numbers) else self.select(kept)
        read = self.read
        if read is not None:
            read = read.reshape(-1, read.shape[2])[growth.rows]
        return replace(beams, log_probabilities=growth.live, read=read)

    def look(self, attention: Float[np.ndarray, "R S"]) -> Beams:
        """The beams, this step's attention being read."""
        assert self.read is not None, "attention is read for a coverage penalty"
        return replace(self, read=self.read + attention.reshape(self.read.shape))

    def coverage(self) -> Float[np.ndarray, "B n"] | None:
        """cp of what each hypothesis has read; None without a coverage penalty."""
        if self.read is None or self.words is None:
            return None
        return coverage(self.read, self.words[:, None])


@dataclass(frozen=True)
class Growth:
    """What one step made of the beams: the best continuations of each, best first, and which hypotheses end.

    ``live`` are the log-probabilities of what continues the hypotheses in these ``rows`` of the step by ``tokens``,
    each token of log-probability ``last``; -inf where nothing does. ``ends`` says, place by place, which hypotheses end
    here, and ``eos`` is the log-probability that EOS has there.
    """

    live: Float[np.ndarray, "B m"]
    tokens: Int[np.ndarray, "B m"]
    last: Float[np.ndarray, "B m"]
    rows: Int[np.ndarray, "B m"]
    ends: Bool[np.ndarray, "B n"]
    eos: Float[np.ndarray, "B n"]

    def select(self, rows: Int[np.ndarray, " K"]) -> Growth:
        """The growth of the beams of the given numbers."""
        return Growth(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def start(limits: Sequence[int], mask: Bool[np.ndarray, "B S"], config: DecodingConfig) -> Beams:
    """The beams of a batch: one place in each, nothing written yet. ``limits`` are the longest translations allowed."""
    groups = config.groups
    count = len(limits) * groups
    words = words_of(mask).repeat(groups, axis=0) if config.coverage_penalty else None
    penalties = [length_penalty(limit, config) for limit in limits]
    return Beams(
        numbers=np.arange(count),
        longest=np.array(limits).repeat(groups),
        final_penalty=np.array(penalties, dtype=np.float32).repeat(groups),
        log_probabilities=np.zeros((count, 1), dtype=np.float32),
        read=None if words is None else np.zeros((count, 1, words.shape[1]), dtype=np.float32),
        words=words,
        ended=np.full((count, config.beam // groups), -np.inf, dtype=np.float32),
        num_ended=np.zeros(count, dtype=np.int64),
    )
