"""Beam search over any model: all families go through the same lines.

A hypothesis that ends does not leave its place in the beam unused: the N best unfinished ones always go on. A sentence
is done at the first of

- N hypotheses have ended, each of them having been among the N best of its step, and the best live one has no better
  score, by the length it has, than the ``nbest``-th of them: without this, a model that is sure of itself ends N times
  on what stands in the last places of its beam while the right translation is still being written;
- ``nbest`` have ended and no live one can overtake the last of these: a log-probability only falls, so a live one of
  log-probability p will at best score p over the length penalty of the longest translation allowed;
- the longest translation allowed is reached: live ones are ended by force, the probability of EOS counted.

So whatever is returned is a whole translation, and its score is that of a whole translation. Sentences that are done
leave the batch. No sentence knows of its neighbours: neither padding nor batch size changes a result beyond what
floating-point sums of another shape do. Equal scores go to the earlier place in the beam, then to the smaller token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nmt.config import DecodingConfig
from nmt.decoding.engine import check_nbest
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.lengths import length_penalty, longest_target
from nmt.decoding.search import Searchable, check_numbers, wide
from nmt.decoding.topk import top_k

__all__ = ["beam_search"]


@dataclass(frozen=True)
class _Beams:
    """The live hypotheses: n places for each of the B sentences that are not done yet, t tokens in each.

    A place that nothing stands in has the log-probability -inf. ``trail`` says in which of the rows of each step so far
    the hypothesis stood, for its attention; None where attention is not asked for. ``ended`` are the N best scores of
    ended hypotheses (-inf where there are fewer), ``num_ended`` counts them all.
    """

    sentences: Int[Tensor, " B"]
    longest: Int[Tensor, " B"]
    final_penalty: Float[Tensor, " B"]
    log_probabilities: Float[Tensor, "B n"]
    tokens: Int[Tensor, "B n t"]
    trail: Int[Tensor, "B n t"] | None
    ended: Float[Tensor, "B N"]
    num_ended: Int[Tensor, " B"]

    def select(self, rows: Int[Tensor, " R"]) -> _Beams:
        """The beams of the given sentences."""
        return _Beams(
            sentences=self.sentences[rows],
            longest=self.longest[rows],
            final_penalty=self.final_penalty[rows],
            log_probabilities=self.log_probabilities[rows],
            tokens=self.tokens[rows],
            trail=None if self.trail is None else self.trail[rows],
            ended=self.ended[rows],
            num_ended=self.num_ended[rows],
        )


@dataclass(frozen=True)
class _Growth:
    """What one step made of the beams: every place's best continuations, ranked over the sentence.

    ``live`` continue as ``tokens`` of the hypothesis at place ``parents``; ``stop`` holds, place by place, the
    log-probability of a hypothesis that ends here, -inf where it does not.
    """

    live: Float[Tensor, "B m"]
    tokens: Int[Tensor, "B m"]
    parents: Int[Tensor, "B m"]
    stop: Float[Tensor, "B n"]


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
    nbest: int = 1,
    attention: bool = False,
    max_length: int | None = None,
) -> list[list[Hypothesis]]:
    """The ``nbest`` best translations of each source, best first (fewer where there are not so many).

    ``source`` ends with EOS. BOS and the ``forbidden`` tokens are never generated; probabilities are the model's own,
    over the whole vocabulary. ``max_length`` is the longest target the model can write, EOS counted. The model is used
    in the mode it is in: call ``eval()`` before.

    Raises ConfigError where ``nbest`` exceeds the beam, NmtError where the model gives no numbers.
    """
    check_nbest(nbest, config)
    if len(source) == 0:
        return []
    never = torch.as_tensor(sorted({bos_id, *forbidden} - {eos_id}), device=source.device)
    lengths = [int(length) for length in mask.sum(dim=1)]
    limits = [longest_target(length, config, max_length) for length in lengths]
    memory = model.remember(source, mask)
    state = model.start(memory)
    beams = _start(limits, config, attention=attention, device=source.device)
    looked: list[Tensor] = []
    results: list[list[_Ended]] = [[] for _ in lengths]
    previous = source.new_full((len(source),), bos_id)
    for length in range(1, max(limits) + 1):
        step = model.step(previous, state, memory)
        logits = wide(model.logits(step.features))
        growth = _grow(beams, logits, length, never=never, eos_id=eos_id, beam=config.beam)
        if attention:
            looked.append(step.attention)
        beams = _end(beams, growth, length, config, results)
        num_places = beams.log_probabilities.shape[1]
        beams, rows, kept = _advance(beams, growth, length, config, nbest=nbest)
        if not len(beams.sentences):
            break
        state = step.state if _is_identity(rows, len(previous)) else step.state.select(rows)
        if len(kept) * num_places != len(previous) or beams.log_probabilities.shape[1] != num_places:
            # The places of a sentence remember the same source: the first place's memory serves all.
            memory = memory.select((kept * num_places).repeat_interleave(beams.log_probabilities.shape[1]))
        previous = beams.tokens[:, :, -1].flatten()
    return [_best(ended, looked, nbest, length) for ended, length in zip(results, lengths, strict=True)]


def _start(limits: Sequence[int], config: DecodingConfig, *, attention: bool, device: torch.device) -> _Beams:
    """One place a sentence, nothing written yet."""
    count = len(limits)
    nothing = torch.empty(count, 1, 0, dtype=torch.long, device=device)
    return _Beams(
        sentences=torch.arange(count, device=device),
        longest=torch.as_tensor(limits, device=device),
        final_penalty=torch.as_tensor([length_penalty(limit, config) for limit in limits], device=device),
        log_probabilities=torch.zeros(count, 1, device=device),
        tokens=nothing,
        trail=nothing if attention else None,
        ended=torch.full((count, config.beam), -torch.inf, device=device),
        num_ended=torch.zeros(count, dtype=torch.long, device=device),
    )


def _grow(
    beams: _Beams,
    logits: Float[Tensor, "R V"],
    length: int,
    *,
    never: Int[Tensor, " F"],
    eos_id: int,
    beam: int,
) -> _Growth:
    """The best continuations of each sentence: which hypotheses end with this token, and the N best that go on.

    A hypothesis ends where EOS is among the N best continuations of its sentence, or where the sentence is at its
    longest. Each place can end in one way only, so its N + 1 best tokens hold the N best to go on with.

    Of the (R, V) log-probabilities only these few are worked out; ``logits`` is used up.
    """
    count, places = beams.log_probabilities.shape
    eos, unused = logits[:, eos_id].clone(), logits[:, never]
    logits.index_fill_(1, never, -torch.inf)
    values, tokens = top_k(logits, beam + 1)
    norm = _log_sum_exp_(logits.index_copy_(1, never, unused))
    check_numbers(norm, length)
    width = values.shape[1]
    closing = beams.log_probabilities + (eos - norm).view(count, places)
    values = (values - norm.unsqueeze(1)).view(count, places, width)
    totals = (beams.log_probabilities.unsqueeze(2) + values).flatten(1)
    totals, order = totals.sort(dim=1, descending=True, stable=True)
    totals, order = totals[:, : 2 * beam], order[:, : 2 * beam]
    tokens = tokens.view(count, -1).gather(1, order)
    parents = order // width
    is_eos = tokens == eos_id
    stop = _ending(beams, closing, parents, is_eos[:, :beam], length)
    going = is_eos.sort(dim=1, stable=True).indices[:, :beam]
    return _Growth(
        live=totals.masked_fill(is_eos, -torch.inf).gather(1, going),
        tokens=tokens.gather(1, going),
        parents=parents.gather(1, going),
        stop=stop,
    )


def _ending(
    beams: _Beams,
    closing: Float[Tensor, "B n"],
    parents: Int[Tensor, "B m"],
    is_eos: Bool[Tensor, "B k"],
    length: int,
) -> Float[Tensor, "B n"]:
    """``closing`` where a hypothesis ends, by itself or by force, -inf elsewhere."""
    ends = torch.zeros_like(closing, dtype=torch.long)
    ends.scatter_add_(1, parents[:, : is_eos.shape[1]], is_eos.long())
    forced = (beams.longest == length).unsqueeze(1)
    return closing.masked_fill(~((ends > 0) | forced), -torch.inf)


@dataclass(frozen=True)
class _Ended:
    """A hypothesis that has ended: its tokens without EOS, and the rows of ``looked`` it stood in, EOS's too."""

    score: float
    log_probability: float
    tokens: list[int]
    trail: list[int]


def _end(beams: _Beams, growth: _Growth, length: int, config: DecodingConfig, results: list[list[_Ended]]) -> _Beams:
    """Put the hypotheses that end with this token into ``results``, and their scores into the beams."""
    ending = growth.stop > -torch.inf
    if not ending.any():
        return beams
    penalty = length_penalty(length, config)
    rows, places = ending.nonzero(as_tuple=True)
    tokens = beams.tokens[rows, places].tolist()
    here = rows * ending.shape[1] + places
    trails = (
        [[]] * len(here)
        if beams.trail is None
        else torch.cat([beams.trail[rows, places], here.unsqueeze(1)], dim=1).tolist()
    )
    sentences, totals = beams.sentences[rows].tolist(), growth.stop[rows, places].tolist()
    for sentence, total, written, trail in zip(sentences, totals, tokens, trails, strict=True):
        results[sentence].append(_Ended(total / penalty, total, written, trail))
    scores = torch.cat([beams.ended, growth.stop / penalty], dim=1).topk(config.beam, dim=1).values
    return replace(beams, ended=scores, num_ended=beams.num_ended + ending.sum(dim=1))


def _advance(
    beams: _Beams, growth: _Growth, length: int, config: DecodingConfig, *, nbest: int
) -> tuple[_Beams, Int[Tensor, " R"], Int[Tensor, " K"]]:
    """The beams of the sentences that are not done, one token longer.

    Also: in which row of this step each of the new rows stood, and which sentences of this step go on.
    """
    places = beams.log_probabilities.shape[1]
    live, last_chosen = growth.live.amax(dim=1), beams.ended[:, nbest - 1]
    beaten = live / beams.final_penalty <= last_chosen
    behind = live / length_penalty(length, config) <= last_chosen
    done = beaten | (behind & (beams.num_ended >= beams.ended.shape[1])) | (beams.longest == length)
    kept = (~done).nonzero().squeeze(1)
    live, tokens, parents = growth.live, growth.tokens, growth.parents
    if len(kept) < len(done):
        beams, live, tokens, parents = beams.select(kept), live[kept], tokens[kept], parents[kept]
    rows = kept.unsqueeze(1) * places + parents

    def extend(history: Tensor, last: Tensor) -> Tensor:
        before = history.gather(1, parents.unsqueeze(2).expand(-1, -1, history.shape[2]))
        return torch.cat([before, last.unsqueeze(2)], dim=2)

    beams = replace(
        beams,
        log_probabilities=live,
        tokens=extend(beams.tokens, tokens),
        trail=None if beams.trail is None else extend(beams.trail, rows),
    )
    return beams, rows.flatten(), kept


def _log_sum_exp_(logits: Float[Tensor, "R V"]) -> Float[Tensor, " R"]:
    """log sum exp of each row, written over the row: at this size new memory costs more than the sum."""
    largest = logits.amax(dim=1)
    return logits.sub_(largest.unsqueeze(1)).exp_().sum(dim=1).log_().add_(largest)


def _is_identity(rows: Int[Tensor, " R"], count: int) -> bool:
    """Whether selecting ``rows`` out of ``count`` changes nothing."""
    return len(rows) == count and torch.equal(rows, torch.arange(count, device=rows.device))


def _best(ended: list[_Ended], looked: list[Tensor], nbest: int, source_length: int) -> list[Hypothesis]:
    """The ``nbest`` best of one sentence, best first; of equal ones the shorter, then the earlier in the beam."""
    ranked = sorted(ended, key=lambda hypothesis: -hypothesis.score)[:nbest]
    return [
        Hypothesis(
            tokens=tuple(one.tokens),
            log_probability=one.log_probability,
            score=one.score,
            attention=torch.stack([looked[t][row, :source_length] for t, row in enumerate(one.trail)])
            .float()
            .cpu()
            .numpy()
            if one.trail
            else None,
        )
        for one in ranked
    ]
