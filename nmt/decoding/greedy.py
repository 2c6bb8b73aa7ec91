"""Greedy search: a beam of one, written down independently of beam search, which it is a check on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nmt.config import DecodingConfig
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.lengths import length_penalty, longest_for
from nmt.decoding.request import Source
from nmt.decoding.search import Searchable, check_numbers, numbers, wide
from nmt.errors import ConfigError

__all__ = ["greedy_search"]


@torch.inference_mode()
def greedy_search(
    model: Searchable,
    source: Int[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    *,
    config: DecodingConfig,
    bos_id: int,
    eos_id: int,
    forbidden: Sequence[int] = (),
    sources: Sequence[Source] = (),
    attention: bool = False,
    max_length: int | None = None,
) -> list[list[Hypothesis]]:
    """The likeliest next token, again and again.

    Takes and returns what :func:`~nmt.decoding.beam.beam_search` does, one hypothesis a source. Nothing is reordered
    and nothing leaves the batch; sentences that have ended are merely ignored. Raises ConfigError where there are
    phrases to use: to find a place for them takes a beam.
    """
    if len(source) == 0:
        return []
    if any(wish.use for wish in sources):
        raise ConfigError("greedy search cannot use phrases: search with a beam")
    lengths = [int(length) for length in mask.sum(dim=1)]
    wishes = sources or [Source(())] * len(lengths)
    limits = [longest_for(wish, length, config, max_length) for wish, length in zip(wishes, lengths, strict=True)]
    tokens: list[list[int]] = [[] for _ in lengths]
    token_log_probabilities: list[list[float]] = [[] for _ in lengths]
    looked: list[list[Tensor]] = [[] for _ in lengths]
    live = set(range(len(lengths)))
    memory = model.remember(source, mask)
    state = model.start(memory)
    previous = source.new_full((len(source),), bos_id)
    while live:
        step = model.step(previous, state, memory)
        state = step.state
        log_probabilities = wide(model.logits(step.features)).log_softmax(dim=-1)
        check_numbers(log_probabilities, 1 + max(map(len, tokens)))
        allowed = log_probabilities.clone()
        allowed[:, [token for token in {bos_id, *forbidden} if token != eos_id]] = -torch.inf
        for row in live:
            allowed[row, [token for token in _banned(tokens[row], wishes[row], config) if token != eos_id]] = -torch.inf
        previous = allowed.argmax(dim=-1)
        for row in sorted(live):
            position = len(tokens[row])
            if position < len(wishes[row].prefix):
                previous[row] = wishes[row].prefix[position]
            token = eos_id if position + 1 == limits[row] else int(previous[row])
            token_log_probabilities[row].append(float(log_probabilities[row, token]))
            looked[row].append(step.attention[row, : lengths[row]])
            if token == eos_id:
                live.remove(row)
            else:
                tokens[row].append(token)
    return [
        [
            Hypothesis(
                tokens=tuple(written),
                log_probability=sum(logarithms),
                score=sum(logarithms) / length_penalty(len(logarithms), config)
                + config.coverage_penalty * _coverage(torch.stack(rows).sum(dim=0).tolist()),
                attention=numbers(rows) if attention else None,
                token_log_probabilities=tuple(logarithms),
            )
        ]
        for written, logarithms, rows in zip(tokens, token_log_probabilities, looked, strict=True)
    ]


def _banned(written: list[int], wish: Source, config: DecodingConfig) -> list[int]:
    """What would complete a phrase to avoid, or an n-gram that is there already."""
    phrases = [list(phrase) for phrase in wish.avoid if phrase]
    n = config.no_repeat_ngram
    phrases += [written[start : start + n] for start in range(len(written) - n + 1) if n]
    return [phrase[-1] for phrase in phrases if written[len(written) - len(phrase) + 1 :] == phrase[:-1]]


def _coverage(read: list[float]) -> float:
    """Wu et al. 2016, equation 14: what each source token was looked at in all, EOS left out."""
    return math.fsum(math.log(min(max(one, torch.finfo(torch.float).tiny), 1.0)) for one in read[:-1])
