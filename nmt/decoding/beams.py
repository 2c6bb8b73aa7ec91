"""What beam search carries from one step to the next, for all sentences of a batch together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nmt.config import DecodingConfig
from nmt.decoding.coverage import coverage, words_of
from nmt.decoding.lengths import length_penalty

__all__ = ["Beams", "Growth", "start"]


@dataclass(frozen=True)
class Beams:
    """The live hypotheses: n places in each of the B beams that are not done yet, t tokens in each.

    A sentence has one beam, or one for each group; ``numbers`` counts them sentence by sentence. A place that nothing
    stands in has the log-probability -inf. ``trail`` says in which of the rows of each step so far the hypothesis
    stood, for its attention; None where attention is not asked for. ``read`` is the attention that each source token
    got, ``words`` says which of these count; None without a coverage penalty. ``ended`` are the N best scores of ended
    hypotheses (-inf where there are fewer), ``num_ended`` counts them all.
    """

    numbers: Int[Tensor, " B"]
    longest: Int[Tensor, " B"]
    final_penalty: Float[Tensor, " B"]
    log_probabilities: Float[Tensor, "B n"]
    tokens: Int[Tensor, "B n t"]
    token_log_probabilities: Float[Tensor, "B n t"]
    trail: Int[Tensor, "B n t"] | None
    read: Float[Tensor, "B n S"] | None
    words: Bool[Tensor, "B S"] | None
    ended: Float[Tensor, "B N"]
    num_ended: Int[Tensor, " B"]

    def select(self, rows: Int[Tensor, " R"]) -> Beams:
        """The beams of the given rows."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        selected: dict[str, Any] = {name: None if value is None else value[rows] for name, value in values}
        return Beams(**selected)

    def extend(self, growth: Growth, rows: Int[Tensor, "B m"]) -> Beams:
        """The beams one token longer; ``rows`` says in which row of this step each new hypothesis stood."""

        def longer(history: Tensor, last: Tensor) -> Tensor:
            before = history.gather(1, growth.parents.unsqueeze(2).expand(-1, -1, history.shape[2]))
            return torch.cat([before, last.unsqueeze(2)], dim=2)

        read = self.read
        if read is not None:
            read = read.gather(1, growth.parents.unsqueeze(2).expand(-1, -1, read.shape[2]))
        return replace(
            self,
            log_probabilities=growth.live,
            tokens=longer(self.tokens, growth.tokens),
            token_log_probabilities=longer(self.token_log_probabilities, growth.last),
            trail=None if self.trail is None else longer(self.trail, rows),
            read=read,
        )

    def look(self, attention: Float[Tensor, "R S"]) -> Beams:
        """The beams, this step's attention being read."""
        if self.read is None:
            return self
        return replace(self, read=self.read + attention.to(self.read.dtype).view_as(self.read))

    def coverage(self) -> Float[Tensor, "B n"] | None:
        """cp of what each hypothesis has read; None without a coverage penalty."""
        if self.read is None or self.words is None:
            return None
        return coverage(self.read, self.words.unsqueeze(1).expand_as(self.read))


@dataclass(frozen=True)
class Growth:
    """What one step made of the beams: every place's best continuations, ranked over the beam.

    ``live`` continue as ``tokens`` of the hypothesis at place ``parents``, each token of log-probability ``last``;
    ``stop`` holds, place by place, the log-probability of a hypothesis that ends here, -inf where it does not, and
    ``eos`` that of its EOS.
    """

    live: Float[Tensor, "B m"]
    tokens: Int[Tensor, "B m"]
    last: Float[Tensor, "B m"]
    parents: Int[Tensor, "B m"]
    stop: Float[Tensor, "B n"]
    eos: Float[Tensor, "B n"]

    def select(self, rows: Int[Tensor, " R"]) -> Growth:
        """The growth of the beams of the given rows."""
        return Growth(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def start(limits: Sequence[int], mask: Bool[Tensor, "B S"], config: DecodingConfig, *, attention: bool) -> Beams:
    """The beams of a batch: one place in each, nothing written yet. ``limits`` are the longest translations allowed."""
    device, groups = mask.device, config.groups
    count = len(limits) * groups
    nothing = torch.empty(count, 1, 0, dtype=torch.long, device=device)
    words = words_of(mask).repeat_interleave(groups, dim=0) if config.coverage_penalty else None
    penalties = [length_penalty(limit, config) for limit in limits]
    return Beams(
        numbers=torch.arange(count, device=device),
        longest=torch.as_tensor(limits, device=device).repeat_interleave(groups),
        final_penalty=torch.as_tensor(penalties, device=device).repeat_interleave(groups),
        log_probabilities=torch.zeros(count, 1, device=device),
        tokens=nothing,
        token_log_probabilities=nothing.float(),
        trail=nothing if attention else None,
        read=None if words is None else torch.zeros_like(words, dtype=torch.float).unsqueeze(1),
        words=words,
        ended=torch.full((count, config.beam // groups), -torch.inf, device=device),
        num_ended=torch.zeros(count, dtype=torch.long, device=device),
    )
