"""What a translator searches with: a model in torch, or one that was exported and is run by another library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from nmt.config import DecodingConfig
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.request import Source
from nmt.errors import ConfigError

__all__ = ["Engine", "check_nbest"]

MOST = 10_000
"""Hypotheses of one line."""


@runtime_checkable
class Engine(Protocol):
    """Finds translations of token ids.

    ``longest_source`` and ``longest_target`` bound what it can read and write, in tokens, EOS counted; None where
    there is no bound. ``takes_phrases`` says whether it can have a translation use phrases.
    """

    takes_phrases: bool
    longest_source: int | None
    longest_target: int | None

    def check(self, config: DecodingConfig, *, nbest: int, attention: bool) -> None:
        """Raise ConfigError for what this engine cannot do, before anything is read."""
        ...

    def search(
        self, sources: Sequence[Source], config: DecodingConfig, *, nbest: int, attention: bool
    ) -> list[list[Hypothesis]]:
        """The ``nbest`` best translations of each source, best first (fewer where there are not so many).

        Raises NmtError where the model gives no numbers; MemoryError or RuntimeError where memory does not suffice.
        """
        ...


def check_nbest(nbest: int, config: DecodingConfig) -> None:
    """Raise ConfigError where the beam cannot hold ``nbest`` hypotheses, fewer are drawn, or are too many, or none."""
    if nbest < 1:
        raise ConfigError(f"nbest {nbest}: a line has one translation at least")
    if config.mbr != "none" and nbest > config.mbr_samples:
        raise ConfigError(f"nbest {nbest} of {config.mbr_samples} samples: set --mbr-samples {nbest} or more")
    if nbest > MOST:
        raise ConfigError(f"nbest {nbest}: no more than {MOST} hypotheses a line are kept in memory")
    if config.mbr == "none" and not config.sampling and nbest > config.beam:
        raise ConfigError(f"nbest {nbest} needs a beam of at least {nbest}, not {config.beam}: set --beam {nbest}")
