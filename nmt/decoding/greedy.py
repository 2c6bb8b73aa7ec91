"""Greedy search: a beam of one, written down independently of beam search, which it is a check on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nmt.config import DecodingConfig
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.lengths import length_penalty, longest_target
from nmt.decoding.search import Searchable, check_numbers, numbers, wide

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
    attention: bool = False,
    max_length: int | None = None,
) -> list[list[Hypothesis]]:
    """The likeliest next token, again and again.

    Takes and returns what :func:`~nmt.decoding.beam.beam_search` does, one hypothesis a source. Nothing is reordered
    and nothing leaves the batch; sentences that have ended are merely ignored.
    """
    if len(source) == 0:
        return []
    lengths = [int(length) for length in mask.sum(dim=1)]
    limits = [longest_target(length, config, max_length) for length in lengths]
    tokens: list[list[int]] = [[] for _ in lengths]
    totals = [0.0 for _ in lengths]
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
        previous = allowed.argmax(dim=-1)
        for row in sorted(live):
            token = eos_id if len(tokens[row]) + 1 == limits[row] else int(previous[row])
            totals[row] += float(log_probabilities[row, token])
            looked[row].append(step.attention[row, : lengths[row]])
            if token == eos_id:
                live.remove(row)
            else:
                tokens[row].append(token)
    return [
        [
            Hypothesis(
                tokens=tuple(written),
                log_probability=total,
                score=total / length_penalty(len(written) + 1, config),
                attention=numbers(rows) if attention else None,
            )
        ]
        for written, total, rows in zip(tokens, totals, looked, strict=True)
    ]
