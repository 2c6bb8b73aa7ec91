"""A model small enough to enumerate: a table of random logits behind the interface that search sees."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from nmt.models.interface import Step

PAD, UNK, BOS, EOS = 0, 1, 2, 3


@dataclass(frozen=True)
class TableMemory:
    """Which table a sentence reads from: its first token."""

    group: Tensor
    mask: Tensor

    def select(self, rows: Tensor) -> TableMemory:
        return TableMemory(self.group[rows], self.mask[rows])


@dataclass(frozen=True)
class TableState:
    """The token before the previous one, and the position."""

    before: Tensor
    position: int

    def select(self, rows: Tensor) -> TableState:
        return TableState(self.before[rows], self.position)


class TableModel:
    """The next token's logits are looked up by source, position and the last two tokens.

    ``log_probability`` and ``attention_of`` read the same tables in plain Python: the reference.
    """

    def __init__(self, *, vocabulary: int = 6, groups: int = 4, positions: int = 3, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (groups, positions, vocabulary, vocabulary)
        self.vocabulary = vocabulary
        self.table = 2.0 * torch.randn(*shape, vocabulary, generator=generator, dtype=torch.float64)
        self.looks = torch.randn(groups, positions, 1, vocabulary, 64, generator=generator, dtype=torch.float64)
        self.steps: list[int] = []

    def remember(self, source: Tensor, mask: Tensor) -> TableMemory:
        return TableMemory(source[:, 0] % len(self.table), mask)

    def start(self, memory: TableMemory) -> TableState:
        return TableState(torch.full_like(memory.group, BOS), 0)

    def step(self, tokens: Tensor, state: TableState, memory: TableMemory) -> Step:
        self.steps.append(len(tokens))
        at = (memory.group, state.position % self.table.shape[1], state.before, tokens)
        looks = self.looks[at[0], at[1], 0, tokens][:, : memory.mask.shape[1]].masked_fill(~memory.mask, -math.inf)
        return Step(self.table[at], TableState(tokens, state.position + 1), looks.softmax(dim=-1))

    def logits(self, features: Tensor) -> Tensor:
        return features.clone()

    def _rows(self, table: Tensor, group: int, tokens: tuple[int, ...]) -> list[list[float]]:
        history = [BOS, BOS, *tokens]
        at = ((group % len(table), t % table.shape[1]) for t in range(len(tokens) + 1))
        return [table[place][history[t] % len(table[place]), history[t + 1]].tolist() for t, place in enumerate(at)]

    def log_probability(self, group: int, tokens: tuple[int, ...], *, eos: bool = True) -> float:
        """The natural logarithm of the probability of ``tokens`` (and then EOS)."""
        total = 0.0
        for row, token in zip(self._rows(self.table, group, tokens), [*tokens, *([EOS] if eos else [])], strict=False):
            total += row[token] - math.log(sum(math.exp(logit) for logit in row))
        return total

    def next_log_probabilities(self, group: int, tokens: tuple[int, ...]) -> list[float]:
        """Of every token, after ``tokens``."""
        row = self._rows(self.table, group, tokens)[-1]
        norm = math.log(sum(map(math.exp, row)))
        return [logit - norm for logit in row]

    def attention_of(self, group: int, tokens: tuple[int, ...], length: int) -> Tensor:
        """Where each of ``tokens`` and EOS looked, for a source of ``length`` tokens."""
        return torch.tensor([row[:length] for row in self._rows(self.looks, group, tokens)]).softmax(dim=-1)

    def every(self, group: int, longest: int) -> dict[tuple[int, ...], float]:
        """Every translation of at most ``longest`` tokens, EOS counted, with its log-probability."""
        words = range(EOS + 1, self.vocabulary)
        return {
            tokens: self.log_probability(group, tokens)
            for length in range(longest)
            for tokens in itertools.product(words, repeat=length)
        }


@pytest.fixture
def table_model() -> type[TableModel]:
    """The class: tests build it with the sizes they want."""
    return TableModel
