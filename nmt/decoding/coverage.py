"""The coverage penalty: what a translation left unread counts against it (Wu et al. 2016, equation 14)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["coverage", "words_of"]


def coverage(read: Float[np.ndarray, "*R S"], words: Bool[np.ndarray, "*#R S"]) -> Float[np.ndarray, "*R"]:
    """cp: the sum over source tokens of log(min(r, 1)), r being the attention a token got in all steps together.

    ``read`` holds r, ``words`` says which tokens count. It is 0 at best. A token that no step looked at at all counts
    as one that got the smallest attention there is: a number, if a large one.
    """
    least = np.finfo(read.dtype).tiny
    penalties: Float[np.ndarray, "*R"] = (np.log(read.clip(least, 1.0)) * words).sum(axis=-1)
    return penalties


def words_of(mask: Bool[np.ndarray, "B S"]) -> Bool[np.ndarray, "B S"]:
    """The source tokens that have to be read: all but EOS, the last one.

    There is nothing in EOS to translate. Some models look there whenever they have nothing to look for and some never
    do, and which of both a model does says nothing about whether a word of the source was left out.
    """
    words = np.zeros_like(mask)
    words[:, :-1] = mask[:, :-1] & mask[:, 1:]
    return words
