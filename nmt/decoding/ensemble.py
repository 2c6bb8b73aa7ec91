"""Several models as one: they write one translation together, each having its say in every token.

The next token's probability is the mean of the models' probabilities: the ensemble is a mixture of its members with
equal weights (Lakshminarayanan et al. 2017, section 2.4). Such a mean is a distribution as it stands, and no member can
rule a token out by itself, as it can where logarithms are averaged. The logarithm being concave, the likelihood of any
token is at least what the members reach on average.

Members may be of any family: each keeps its own memory and its own state, and search sees a single model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nmt.data.tokenizer import Tokenizers
from nmt.decoding.search import Searchable, wide
from nmt.errors import ConfigError
from nmt.models.interface import Step
from nmt.models.seq2seq import Seq2Seq

__all__ = ["Ensemble", "check_tokenizers"]


@dataclass(frozen=True)
class _Each:
    """The memories, or the states, of the members, in their order."""

    parts: tuple[Any, ...]

    def select(self, rows: Int[Tensor, " R"]) -> _Each:
        """Those of the given rows."""
        return _Each(tuple(part.select(rows) for part in self.parts))


class _Mixed(Step):
    """A step whose ``attention``, the mean of where its members looked, is worked out when it is asked for."""

    steps: Sequence[Step]

    def __init__(self, features: Float[Tensor, "R V"], state: _Each, steps: Sequence[Step]) -> None:
        vars(self).update(features=features, state=state, steps=steps)

    @cached_property
    def attention(self) -> Float[Tensor, "R S"]:
        """A distribution over the source a row."""
        looks = [step.attention for step in self.steps]
        return sum(looks[1:], looks[0]) / len(looks)


class Ensemble(nn.Module):
    """A :class:`~nmt.decoding.search.Searchable` made of several that read and write the same tokens.

    Its features are the logarithms of the mean probabilities, its attention is the mean of the members'. ``models`` are
    the members that have parameters, ``encoder`` and ``decoder`` hold theirs.

    Raises ConfigError for no members, or for members with vocabularies of other sizes.
    """

    def __init__(self, members: Sequence[Searchable]) -> None:
        super().__init__()
        if not members:
            raise ConfigError("an ensemble needs a model at least")
        modules = [member for member in members if isinstance(member, Seq2Seq)]
        _check_sizes(modules)
        self.members = tuple(members)
        self.models = tuple(modules)
        for number, module in enumerate(modules):
            self.add_module(f"member_{number}", module)
        self.encoder = nn.ModuleList(module.get_submodule("encoder") for module in modules)
        self.decoder = nn.ModuleList(module.get_submodule("decoder") for module in modules)

    def remember(self, source: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> _Each:
        """What every member has to remember of a batch of sources."""
        return _Each(tuple(member.remember(source, mask) for member in self.members))

    def start(self, memory: _Each) -> _Each:
        """Every member's state before the first target token."""
        return _Each(tuple(member.start(part) for member, part in zip(self.members, memory.parts, strict=True)))

    def step(self, tokens: Int[Tensor, " B"], state: _Each, memory: _Each) -> Step:
        """One step of every member: log((p_1 + .. + p_n) / n), worked out without leaving logarithms."""
        steps = [
            member.step(tokens, before, part)
            for member, before, part in zip(self.members, state.parts, memory.parts, strict=True)
        ]
        mixed: Tensor | None = None
        for member, step in zip(self.members, steps, strict=True):
            own = wide(member.logits(step.features)).log_softmax(dim=-1)
            mixed = own if mixed is None else torch.logaddexp(mixed, own)
        assert mixed is not None, "an ensemble has members"
        return _Mixed(mixed - math.log(len(steps)), _Each(tuple(step.state for step in steps)), steps)

    def logits(self, features: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
        """The log-probabilities of the next token, in a tensor of their own."""
        return features.clone()


def check_tokenizers(runs: Sequence[tuple[str, Tokenizers]]) -> None:
    """Raise ConfigError, naming the run, unless all of the named tokenizers are those of the first.

    Models that number their pieces differently have nothing to vote on.
    """
    first, expected = runs[0]
    for name, tokenizers in runs[1:]:
        for side in ("source", "target"):
            own, wanted = getattr(tokenizers, side), getattr(expected, side)
            if own != wanted:
                raise ConfigError(
                    f"{name}: its {side} tokenizer, {own.name} of {len(own)} pieces, is not that of {first}, "
                    f"{wanted.name} of {len(wanted)} pieces: runs that translate together are trained with the same "
                    f"tokenizer.source_model and tokenizer.target_model"
                )


def _check_sizes(models: Sequence[Seq2Seq]) -> None:
    """Raise ConfigError where the vocabularies of two models are of other sizes."""
    for number, model in enumerate(models[1:], start=2):
        for side, size, expected in zip(("source", "target"), _sizes(model), _sizes(models[0]), strict=True):
            if size != expected:
                raise ConfigError(
                    f"model {number} of the ensemble has a {side} vocabulary of {size} pieces, the first one of "
                    f"{expected}: they must share their tokenizers"
                )


def _sizes(model: Seq2Seq) -> tuple[int, int]:
    """The sizes of the source's and the target's vocabulary."""
    table = model.get_submodule("encoder.embedding.table")
    assert isinstance(table, nn.Embedding), "every encoder embeds its tokens"
    return table.num_embeddings, model.output.out_features
