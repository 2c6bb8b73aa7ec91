"""Beam search over any model: all families go through the same lines.

A hypothesis that ends does not leave its place in the beam unused: the N best unfinished ones always go on. A sentence
is done at the first of

- ``fast``: N hypotheses have ended, each of them having been among the N best of its step, and no live one has a
  better score, by the length and the coverage it has, than the ``nbest``-th of them: without this, a model that is sure
  of itself ends N times on what stands in the last places of its beam while the right translation is still being
  written;
- ``nbest`` have ended and no live one can overtake the last of these: a log-probability only falls, so a live one of
  log-probability p will at best score p over the length penalty of the longest translation allowed. With ``exact``
  stopping this is the only way to be done early;
- the longest translation allowed is reached: live ones are ended by force, the probability of EOS counted.

So whatever is returned is a whole translation, and its score is that of a whole translation. Sentences that are done
leave the batch. No sentence knows of its neighbours: neither padding nor batch size changes a result beyond what
floating-point sums of another shape do. Equal scores go to the earlier place in the beam, then to the smaller token.

Live hypotheses are ranked by their probabilities. A coverage penalty is not part of that, a source token that is not
read yet may still be; where their reach is bounded it is taken at its best, 0. What may be written is said by
:mod:`nmt.decoding.rules`. Of sentences that have phrases to use the beam is shared out by
:mod:`nmt.decoding.constraints`, and translations with fewer phrases missing come before all others. ``groups`` of a
beam are beams of their own, of N places each, which :mod:`nmt.decoding.growth` keeps apart; the best of each group come
first into the ``nbest``. What several groups find counts once, so each goes on until it has ``nbest`` itself, or N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nmt.config import DecodingConfig
from nmt.decoding.beams import Beams, Growth, start
from nmt.decoding.constraints import met
from nmt.decoding.engine import check_nbest
from nmt.decoding.growth import Grower
from nmt.decoding.history import History, Line
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.lengths import length_penalty, longest_for
from nmt.decoding.request import Source
from nmt.decoding.rules import Rules
from nmt.decoding.search import Searchable, numbers, on_device, on_host, wide

__all__ = ["beam_search"]


@torch.inference_mode()
def beam_search(
    model: Searchable,
    source: Int[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    *,
    config: DecodingConfig,
    bos_id: int,
    eos_id: int,
    forbidden: Sequence[int] = (),
    sources: Sequence[Source] = (),
    nbest: int = 1,
    attention: bool = False,
    max_length: int | None = None,
) -> list[list[Hypothesis]]:
    """The ``nbest`` best translations of each source, best first (fewer where there are not so many).

    ``source`` ends with EOS. BOS and the ``forbidden`` tokens are never generated; probabilities are the model's own,
    over the whole vocabulary. ``sources`` say what the translation of each has to be like; without them, any will do.
    A phrase to use may be missing where it could not be written (:func:`~nmt.decoding.constraints.met`). ``max_length``
    is the longest target the model can write, EOS counted. The model is used in the mode it is in: call ``eval()``
    before.

    Raises ConfigError where ``nbest`` exceeds the beam, NmtError where the model gives no numbers or a prefix is longer
    than it can write.
    """
    check_nbest(nbest, config)
    if len(source) == 0:
        return []
    where = source.device
    real = on_host(mask)
    lengths = real.sum(axis=1).tolist()
    sources = sources or [Source(())] * len(lengths)
    limits = [longest_for(wish, length, config, max_length) for wish, length in zip(sources, lengths, strict=True)]
    rules = Rules.of(sources, config, bos_id=bos_id, eos_id=eos_id, forbidden=forbidden, device=where)
    grower = Grower(sources, rules, config)
    beams, history = start(limits, real, config), History()
    memory = model.remember(source, mask)
    if config.groups > 1:
        memory = memory.select(on_device(beams.numbers // config.groups, where))
    state = model.start(memory)
    looked: list[Tensor] = []
    results: list[list[_Ended]] = [[] for _ in range(len(beams.numbers))]
    previous = source.new_full((len(beams.numbers),), bos_id)
    for length in range(1, max(limits) + 1):
        step = model.step(previous, state, memory)
        growth = grower.grow(beams, wide(model.logits(step.features)), history, length)
        if attention:
            looked.append(step.attention)
        if beams.read is not None:
            beams = beams.look(on_host(step.attention.float()))
        beams = _end(beams, growth, history, length, config, results)
        kept = _going(beams, growth, length, config, nbest=min(nbest, grower.width))
        if not len(kept):
            break
        if len(kept) < len(beams.numbers):
            growth = growth.select(kept)
        before, beams = beams, beams.extend(growth, kept)
        rows = growth.rows.reshape(-1)
        history.add(rows, growth.tokens.reshape(-1), growth.last.reshape(-1))
        state = step.state if _is_identity(rows, len(previous)) else step.state.select(on_device(rows, where))
        if len(kept) < len(before.numbers) or beams.places != before.places:
            # The places of a beam remember the same source: the first place's memory serves all.
            memory = memory.select(on_device((kept * before.places).repeat(beams.places), where))
        previous = on_device(growth.tokens.reshape(-1), where)
    return [
        _best(results[row * config.groups : (row + 1) * config.groups], looked, nbest, wish, length)
        for row, (wish, length) in enumerate(zip(sources, lengths, strict=True))
    ]


@dataclass(frozen=True)
class _Ended:
    """A hypothesis that has ended after ``length`` tokens, which stood in ``row`` then; ``eos`` is EOS's logarithm."""

    score: float
    history: History
    length: int
    row: int
    eos: float

    @cached_property
    def line(self) -> Line:
        """What it has written, EOS left out; read only of those that are asked for it."""
        return self.history.line(self.length, self.row)

    def hypothesis(self, looked: list[Tensor], source_length: int) -> Hypothesis:
        """The same with the attention it was written by."""
        tokens, log_probabilities, trail = self.line
        rows = [looked[t][row, :source_length] for t, row in enumerate(trail)] if looked else []
        return Hypothesis(
            tokens=tokens,
            log_probability=sum((*log_probabilities, self.eos)),
            score=self.score,
            attention=numbers(rows) if rows else None,
            token_log_probabilities=(*log_probabilities, self.eos),
        )


def _end(
    beams: Beams, growth: Growth, history: History, length: int, config: DecodingConfig, results: list[list[_Ended]]
) -> Beams:
    """Put the hypotheses that end with this token into ``results``, and their scores into the beams."""
    if not growth.ends.any():
        return beams
    totals = np.where(growth.ends, beams.log_probabilities + growth.eos, -np.inf)
    ending = totals > -np.inf
    scores = _scores(totals, beams.coverage(), length, config)
    for row in np.flatnonzero(ending).tolist():
        number = beams.numbers.item(row // beams.places)
        results[number].append(_Ended(scores.item(row), history, length - 1, row, growth.eos.item(row)))
    every = np.concatenate([beams.ended, scores], axis=1)
    every.sort(axis=1)
    best = every[:, : -1 - beams.ended.shape[1] : -1]
    return replace(beams, ended=best, num_ended=beams.num_ended + ending.sum(axis=1))


def _going(beams: Beams, growth: Growth, length: int, config: DecodingConfig, *, nbest: int) -> Int[np.ndarray, " K"]:
    """Which beams are not done."""
    last_chosen = beams.ended[:, nbest - 1]
    done = (growth.live.max(axis=1) / beams.final_penalty <= last_chosen) | (beams.longest == length)
    if config.stopping == "fast":
        enough = beams.num_ended >= beams.ended.shape[1]
        if enough.any():
            covered = beams.coverage()
            if covered is not None:
                covered = covered.take(growth.rows)
            done |= enough & (_scores(growth.live, covered, length, config).max(axis=1) <= last_chosen)
    return np.flatnonzero(~done)


def _scores(
    log_probabilities: Float[np.ndarray, "B n"],
    covered: Float[np.ndarray, "B n"] | None,
    length: int,
    config: DecodingConfig,
) -> Float[np.ndarray, "B n"]:
    """The scores of hypotheses of ``length`` tokens (Wu et al. 2016, equation 14)."""
    scores = log_probabilities / length_penalty(length, config)
    return scores if covered is None else scores + config.coverage_penalty * covered


def _is_identity(rows: Int[np.ndarray, " R"], count: int) -> bool:
    """Whether selecting ``rows`` out of ``count`` changes nothing."""
    return len(rows) == count and rows.tolist() == list(range(count))


def _best(
    groups: list[list[_Ended]], looked: list[Tensor], nbest: int, wish: Source, source_length: int
) -> list[Hypothesis]:
    """The ``nbest`` best of one sentence, best first; of equal ones the shorter, then the earlier in the beam.

    They are those with the most phrases, and of these the best of each group, then the second best, and so on.
    """

    def rank(one: _Ended) -> tuple[int, float]:
        missing = met(one.line.tokens, wish.use, wish.continuing).count(False) if wish.use else 0
        return missing, -one.score

    queues = [iter(sorted(ended, key=rank)) for ended in groups]
    chosen: list[_Ended] = []
    while queues and len(chosen) < nbest:
        seen = {one.line.tokens for one in chosen}
        turn: list[_Ended] = []
        for queue in list(queues):
            one = next((one for one in queue if one.line.tokens not in seen), None)
            if one is None:
                queues.remove(queue)
            else:
                turn.append(one)
                seen.add(one.line.tokens)
        chosen += sorted(turn, key=rank)[: nbest - len(chosen)]
    return [one.hypothesis(looked, source_length) for one in sorted(chosen, key=rank)]
