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

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nmt.config import DecodingConfig
from nmt.decoding.beams import Beams, Growth, start
from nmt.decoding.constraints import met
from nmt.decoding.engine import check_nbest
from nmt.decoding.growth import Grower
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.lengths import length_penalty, longest_for
from nmt.decoding.request import Source
from nmt.decoding.rules import Rules
from nmt.decoding.search import Searchable, numbers, wide

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
    lengths = [int(length) for length in mask.sum(dim=1)]
    sources = sources or [Source(())] * len(lengths)
    limits = [longest_for(wish, length, config, max_length) for wish, length in zip(sources, lengths, strict=True)]
    rules = Rules.of(sources, config, bos_id=bos_id, eos_id=eos_id, forbidden=forbidden, device=source.device)
    grower = Grower(sources, rules, config)
    beams = start(limits, mask, config, attention=attention)
    memory = model.remember(source, mask)
    if config.groups > 1:
        memory = memory.select(beams.numbers // config.groups)
    state = model.start(memory)
    looked: list[Tensor] = []
    results: list[list[_Ended]] = [[] for _ in range(len(beams.numbers))]
    previous = source.new_full((len(beams.numbers),), bos_id)
    for length in range(1, max(limits) + 1):
        step = model.step(previous, state, memory)
        growth = grower.grow(beams, wide(model.logits(step.features)), length)
        if attention:
            looked.append(step.attention)
        beams = _end(beams.look(step.attention), growth, length, config, results)
        num_places = beams.log_probabilities.shape[1]
        beams, rows, kept = _advance(beams, growth, length, config, nbest=min(nbest, grower.width))
        if not len(beams.numbers):
            break
        state = step.state if _is_identity(rows, len(previous)) else step.state.select(rows)
        if len(kept) * num_places != len(previous) or beams.log_probabilities.shape[1] != num_places:
            # The places of a beam remember the same source: the first place's memory serves all.
            memory = memory.select((kept * num_places).repeat_interleave(beams.log_probabilities.shape[1]))
        previous = beams.tokens[:, :, -1].flatten()
    return [
        _best(results[row * config.groups : (row + 1) * config.groups], looked, nbest, wish, length)
        for row, (wish, length) in enumerate(zip(sources, lengths, strict=True))
    ]


@dataclass(frozen=True)
class _Ended:
    """A hypothesis that has ended: its tokens without EOS, their log-probabilities and EOS's.

    ``trail`` are the rows of ``looked`` it stood in, EOS's too.
    """

    score: float
    tokens: tuple[int, ...]
    token_log_probabilities: tuple[float, ...]
    trail: list[int]

    def hypothesis(self, looked: list[Tensor], source_length: int) -> Hypothesis:
        """The same with the attention it was written by."""
        rows = [looked[t][row, :source_length] for t, row in enumerate(self.trail)]
        return Hypothesis(
            tokens=self.tokens,
            log_probability=sum(self.token_log_probabilities),
            score=self.score,
            attention=numbers(rows) if rows else None,
            token_log_probabilities=self.token_log_probabilities,
        )


def _end(beams: Beams, growth: Growth, length: int, config: DecodingConfig, results: list[list[_Ended]]) -> Beams:
    """Put the hypotheses that end with this token into ``results``, and their scores into the beams."""
    ending = growth.stop > -torch.inf
    if not ending.any():
        return beams
    rows, places = ending.nonzero(as_tuple=True)
    scores = _scores(growth.stop, beams.coverage(), length, config)
    here = (rows * ending.shape[1] + places).unsqueeze(1)
    trails = [[]] * len(here) if beams.trail is None else torch.cat([beams.trail[rows, places], here], dim=1).tolist()
    last = growth.eos[rows, places].unsqueeze(1)
    for number, score, tokens, token_log_probabilities, trail in zip(
        beams.numbers[rows].tolist(),
        scores[rows, places].tolist(),
        beams.tokens[rows, places].tolist(),
        torch.cat([beams.token_log_probabilities[rows, places], last], dim=1).tolist(),
        trails,
        strict=True,
    ):
        results[number].append(_Ended(score, tuple(tokens), tuple(token_log_probabilities), trail))
    best = torch.cat([beams.ended, scores], dim=1).topk(beams.ended.shape[1], dim=1).values
    return replace(beams, ended=best, num_ended=beams.num_ended + ending.sum(dim=1))


def _advance(
    beams: Beams, growth: Growth, length: int, config: DecodingConfig, *, nbest: int
) -> tuple[Beams, Int[Tensor, " R"], Int[Tensor, " K"]]:
    """The beams that are not done, one token longer.

    Also: in which row of this step each of the new rows stood, and which beams of this step go on.
    """
    places = beams.log_probabilities.shape[1]
    last_chosen = beams.ended[:, nbest - 1]
    done = (growth.live.amax(dim=1) / beams.final_penalty <= last_chosen) | (beams.longest == length)
    if config.stopping == "fast":
        covered = beams.coverage()
        if covered is not None:
            covered = covered.gather(1, growth.parents)
        behind = _scores(growth.live, covered, length, config).amax(dim=1) <= last_chosen
        done |= behind & (beams.num_ended >= beams.ended.shape[1])
    kept = (~done).nonzero().squeeze(1)
    if len(kept) < len(done):
        beams, growth = beams.select(kept), growth.select(kept)
    rows = kept.unsqueeze(1) * places + growth.parents
    return beams.extend(growth, rows), rows.flatten(), kept


def _scores(
    log_probabilities: Float[Tensor, "B n"], covered: Float[Tensor, "B n"] | None, length: int, config: DecodingConfig
) -> Float[Tensor, "B n"]:
    """The scores of hypotheses of ``length`` tokens (Wu et al. 2016, equation 14)."""
    scores = log_probabilities / length_penalty(length, config)
    return scores if covered is None else scores + config.coverage_penalty * covered


def _is_identity(rows: Int[Tensor, " R"], count: int) -> bool:
    """Whether selecting ``rows`` out of ``count`` changes nothing."""
    return len(rows) == count and rows.tolist() == list(range(count))


def _best(
    groups: list[list[_Ended]], looked: list[Tensor], nbest: int, wish: Source, source_length: int
) -> list[Hypothesis]:
    """The ``nbest`` best of one sentence, best first; of equal ones the shorter, then the earlier in the beam.

    They are those with the most phrases, and of these the best of each group, then the second best, and so on.
    """

    def rank(one: _Ended) -> tuple[int, float]:
        return met(one.tokens, wish.use, wish.continuing).count(False), -one.score

    queues = [iter(sorted(ended, key=rank)) for ended in groups]
    chosen: list[_Ended] = []
    while queues and len(chosen) < nbest:
        seen = {one.tokens for one in chosen}
        turn: list[_Ended] = []
        for queue in list(queues):
            one = next((one for one in queue if one.tokens not in seen), None)
            if one is None:
                queues.remove(queue)
            else:
                turn.append(one)
                seen.add(one.tokens)
        chosen += sorted(turn, key=rank)[: nbest - len(chosen)]
    return [one.hypothesis(looked, source_length) for one in sorted(chosen, key=rank)]
