"""The coverage penalty: what a translation left unread counts against it (Wu et al. 2016, equation 14)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["coverage", "words_of"]


def coverage(read: Float[Tensor, "*R S"], words: Bool[Tensor, "*R S"]) -> Float[Tensor, "*R"]:
    """cp: the sum over source tokens of log(min(r, 1)), r being the attention a token got in all steps together.

    ``read`` holds r, ``words`` says which tokens count. It is 0 at best. A token that no step looked at at all counts
    as one that got the smallest attention there is: a number, if a large one.
    """
    least = torch.finfo(read.dtype).tiny
    return read.clamp(least, 1.0).log().masked_fill(~words, 0.0).sum(dim=-1)


def words_of(mask: Bool[Tensor, "B S"]) -> Bool[Tensor, "B S"]:
    """The source tokens that have to be read: all but EOS, the last one.

    There is nothing in EOS to translate. Some models look there whenever they have nothing to look for and some never
    do, and which of both a model does says nothing about whether a word of the source was left out.
    """
    return mask & torch.nn.functional.pad(mask[:, 1:], (0, 1))
