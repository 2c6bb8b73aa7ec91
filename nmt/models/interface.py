"""What an encoder and a decoder owe each other, so that any of the one goes with any of the other.

The letters are the same everywhere: B batch, S source, T target, H width, E embedding, V vocabulary, N beams,
A heads. A mask is True where the token is real.

An encoder reads the whole source at once and gives an :class:`Encoding`. A decoder first works out everything that
depends on the source alone (:meth:`Decoder.remember`: projected keys, keys and values of every layer), then either
reads a whole target prefix (:meth:`Decoder.forward`, training and scoring) or takes one token at a time
(:meth:`Decoder.start`, :meth:`Decoder.step`, search). Both roads give the same features.

A decoder gives *features*, not logits: the output layer and the loss are shared by all families, so that the loss
need never hold a (B, T, V) tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Decoded", "Decoder", "Encoder", "Encoding", "Memory", "State", "Step"]


@dataclass(frozen=True)
class Encoding:
    """What the encoder says of a batch of sources.

    ``states`` are the annotations h_1 .. h_S, ``final`` is a summary of the whole sentence from which a recurrent
    decoder starts. States behind the end of a sentence are undefined: only ``mask`` says which are real.
    """

    states: Float[Tensor, "B S H"]
    mask: Bool[Tensor, "B S"]
    final: Float[Tensor, "B H"]


@runtime_checkable
class Memory(Protocol):
    """All that a decoder needs to know of the source, worked out once a sentence."""

    def select(self, rows: Int[Tensor, " R"]) -> Memory:
        """The memory of the given rows, in that order: replicates, reorders or drops sentences."""
        ...


@runtime_checkable
class State(Protocol):
    """All that a decoder carries from one target position to the next."""

    def select(self, rows: Int[Tensor, " R"]) -> State:
        """The state of the given rows, in that order: replicates, reorders or drops hypotheses."""
        ...


@dataclass(frozen=True)
class Step:
    """One target position: the features to predict the next token from, the new state, and where it looked.

    Each row of ``attention`` is a distribution over the source: it sums to one and is zero where the mask is False.
    """

    features: Float[Tensor, "B H"]
    state: State
    attention: Float[Tensor, "B S"]


@dataclass(frozen=True)
class Decoded:
    """A forced target: row t of ``features`` predicts target_out[t], row t of ``attention`` is where it looked.

    ``attention`` is None unless it was asked for.
    """

    features: Float[Tensor, "B T H"]
    attention: Float[Tensor, "B T S"] | None


@runtime_checkable
class Encoder(Protocol):
    """Reads a batch of sources. ``width`` is H of the states it gives."""

    width: int

    def __call__(self, source: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Encoding: ...


@runtime_checkable
class Decoder(Protocol):
    """Writes a target, all at once or token by token. ``width`` is H of the features it gives.

    A decoder's own Memory and State stay its own affair (``Any`` here): what it is handed is what it gave.
    """

    width: int

    def remember(self, encoding: Encoding) -> Any:
        """The :class:`Memory` of a batch: everything that depends on the source only."""
        ...

    def start(self, memory: Any) -> Any:
        """The :class:`State` before the first target token."""
        ...

    def step(self, tokens: Int[Tensor, " B"], state: Any, memory: Any) -> Step:
        """One step: ``tokens`` are the previous target tokens (BOS at first)."""
        ...

    def __call__(self, target: Int[Tensor, "B T"], memory: Any, *, attention: bool = False) -> Decoded:
        """All steps at once: equals T calls of :meth:`step`. Target positions behind a sentence's end are undefined."""
        ...
