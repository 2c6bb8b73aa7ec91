"""What the length of a hypothesis costs it, and how long it may be: what every engine agrees on."""

from __future__ import annotations

from typing import assert_never

from nmt.config import DecodingConfig
from nmt.decoding.request import Source
from nmt.errors import NmtError

__all__ = ["length_penalty", "longest_for", "longest_target"]


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


def longest_target(source_length: int, config: DecodingConfig, limit: int | None = None) -> int:
    """The most target tokens, EOS counted, for a source of ``source_length`` tokens, its EOS counted.

    ``limit`` is the longest target the model can write, if there is one.
    """
    longest = max(1, int(config.max_ratio * source_length + config.max_extra))
    return longest if limit is None else min(longest, limit)


def longest_for(source: Source, length: int, config: DecodingConfig, limit: int | None = None) -> int:
    """The same for a source of ``length`` tokens that asks for a prefix and phrases: there is room for these and EOS.

    Phrases get what room there is within ``limit``. Raises NmtError where a prefix leaves none.
    """
    prefix = len(source.prefix) + 1
    if limit is not None and prefix > limit:
        raise NmtError(
            f"a translation cannot begin with a prefix of {prefix - 1} tokens: the model writes {limit - 1} at most, "
            "give it a shorter one"
        )
    wanted = max(longest_target(length, config), prefix + sum(map(len, source.use)))
    return wanted if limit is None else min(wanted, limit)
