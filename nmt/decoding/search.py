"""What all searches share: what they ask of a model, how they score, and how long they go on.

Search knows of a model only what :class:`Searchable` says: it remembers sources, it takes one step after another, its
logits say what comes next, and memories and states are reordered by ``select``.
"""

from __future__ import annotations

from typing import Any, Protocol, assert_never, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nmt.config import DecodingConfig
from nmt.errors import ConfigError, NmtError
from nmt.models.interface import Step

__all__ = ["Searchable", "check_nbest", "check_numbers", "length_penalty", "longest_target", "wide"]


@runtime_checkable
class Searchable(Protocol):
    """What search asks of a model; :class:`~nmt.models.seq2seq.Seq2Seq` is one."""

    def remember(self, source: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Any:
        """The :class:`~nmt.models.interface.Memory` of a batch of sources."""
        ...

    def start(self, memory: Any) -> Any:
        """The :class:`~nmt.models.interface.State` before the first target token."""
        ...

    def step(self, tokens: Int[Tensor, " B"], state: Any, memory: Any) -> Step:
        """One step: ``tokens`` are the previous target tokens (BOS at first)."""
        ...

    def logits(self, features: Float[Tensor, "*batch H"]) -> Float[Tensor, "*batch V"]:
        """Unnormalised log-probabilities of the next token; the tensor is new: search writes into it."""
        ...


def length_penalty(length: int, config: DecodingConfig) -> float:
    """What the log-probability of ``length`` tokens, EOS counted, is divided by; it never falls with length."""
    match config.length_penalty:
        case "none":
            return 1.0
        case "average":
            return float(length**config.alpha)
        case "gnmt":
            return float(((5 + length) / 6) ** config.alpha)
    assert_never(config.length_penalty)


def check_nbest(nbest: int, config: DecodingConfig) -> None:
    """Raise ConfigError where the beam cannot hold ``nbest`` hypotheses."""
    if nbest > config.beam:
        raise ConfigError(f"nbest {nbest} needs a beam of at least {nbest}, not {config.beam}: set --beam {nbest}")


def longest_target(source_length: int, config: DecodingConfig, limit: int | None = None) -> int:
    """The most target tokens, EOS counted, for a source of ``source_length`` tokens, its EOS counted.

    ``limit`` is the longest target the model can write, if there is one.
    """
    longest = max(1, int(config.max_ratio * source_length + config.max_extra))
    return longest if limit is None else min(longest, limit)


def wide(logits: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
    """Logits in single precision at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def check_numbers(log_probabilities: Tensor, position: int) -> None:
    """Refuse to search on among values that compare with nothing. One NaN or +inf logit makes its whole row NaN."""
    if torch.isnan(log_probabilities).any():
        raise NmtError(
            f"the model's output is not a number at target token {position}: "
            "its weights are damaged or its training diverged"
        )
