"""What a model thinks of a translation that it did not write: forced scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nmt.data.batching import Batch
from nmt.models.seq2seq import Seq2Seq

__all__ = ["evaluating", "score", "token_log_probabilities"]

CHUNK = 1024
"""Tokens whose logits are held at one time."""


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """All modules of a model in evaluation mode (no dropout) and, at the end, each of them in the mode it was in."""
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def score(model: Seq2Seq, batch: Batch) -> Float[Tensor, " B"]:
    """The log p(target | source) of each pair: the sum of the natural log-probabilities of its tokens, EOS counted."""
    return token_log_probabilities(model, batch).sum(dim=1)


@torch.inference_mode()
def token_log_probabilities(model: Seq2Seq, batch: Batch) -> Float[Tensor, "B T"]:
    """The natural log-probability of each token of ``batch.target_out``, 0 where there is none.

    Logits are made of real positions only and a chunk at a time: a (B, T, V) tensor never exists. The model's mode is
    changed for the time of the call only.
    """
    with evaluating(model.modules()):
        features = model(batch).features[batch.target_mask]
        targets = batch.target_out[batch.target_mask]
        losses = [
            functional.cross_entropy(_wide(model.logits(part)), target, reduction="none")
            for part, target in zip(torch.split(features, CHUNK), torch.split(targets, CHUNK), strict=True)
        ]
    result = torch.zeros(batch.target_mask.shape, dtype=losses[0].dtype, device=features.device)
    result[batch.target_mask] = -torch.cat(losses)
    return result


def _wide(logits: Tensor) -> Tensor:
    """In single precision at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
