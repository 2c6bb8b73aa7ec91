"""Effective Approaches to Attention-based Neural Machine Translation (Luong, Pham and Manning 2015, 1508.04025).

Global attention. The decoder moves first and looks after:

    h_t = LSTM(h_{t-1}, x_t)                          the state
    a_t(s) = exp(score(h_t, h_s)) / sum_s' exp(score(h_t, h_s'))     the alignment                 (equation 7)
    c_t = sum_s a_t(s) h_s                            the context
    h~_t = tanh(W_c [c_t ; h_t])                      the attentional vector, the features         (equation 5)

With input feeding (section 3.3), x_t = [E y_{t-1} ; h~_{t-1}], so that a step knows what the step before looked at;
without, x_t = E y_{t-1}, no step waits for another's attention, and a forced target needs no loop of ours at all.

The encoder may read in both directions; the paper's reads left to right. Every layer of the decoder starts from
h_0 = tanh(W summary), c_0 = W' summary of the encoder's last states, where the paper hands them over layer by layer:
so the decoder goes with any encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nmt.config import LstmDecoder, LstmEncoder
from nmt.layers.attention import AnyScore, attend
from nmt.layers.dropout import Dropout
from nmt.layers.embedding import TokenEmbedding
from nmt.layers.products import PLAIN, LoopProducts, Products
from nmt.layers.recurrent import LstmCell
from nmt.layers.stack import Stack
from nmt.models.interface import Decoded, Encoding, Step
from nmt.models.recurrent import RecurrentEncoder, RecurrentMemory

__all__ = ["LstmState", "LuongDecoder", "LuongEncoder"]


class LuongEncoder(RecurrentEncoder):
    """A stack of LSTM layers, in one direction or both."""

    def __init__(self, config: LstmEncoder, embedding: TokenEmbedding) -> None:
        super().__init__(nn.LSTM, config, embedding)


@dataclass(frozen=True)
class LstmState:
    """h and c of every layer, and the attentional vector h~ of the step before."""

    hidden: tuple[Float[Tensor, "B H"], ...]
    cell: tuple[Float[Tensor, "B H"], ...]
    attentional: Float[Tensor, "B H"]

    def select(self, rows: Int[Tensor, " R"]) -> LstmState:
        return LstmState(
            tuple(hidden.index_select(0, rows) for hidden in self.hidden),
            tuple(cell.index_select(0, rows) for cell in self.cell),
            self.attentional.index_select(0, rows),
        )


class LuongDecoder(nn.Module):
    """A stack of LSTM layers that attends after it has moved, with or without input feeding."""

    def __init__(self, config: LstmDecoder, embedding: TokenEmbedding, score: AnyScore, state_width: int) -> None:
        super().__init__()
        #: See nmt.layers.attention.MultiHeadAttention.
        self.stacked = {"feed": 4, "bridge": 2 * config.layers}
        self.width = config.width
        self.embedding = embedding
        self.score = score
        self.input_feeding = config.input_feeding
        self.bridge = nn.Linear(state_width, 2 * config.layers * config.width)
        self.first = LstmCell(embedding.width, config.width, config.recurrent_dropout)
        self.feed = nn.Linear(config.width, 4 * config.width, bias=False) if config.input_feeding else None
        self.above = Stack(
            LstmCell(config.width, config.width, config.recurrent_dropout) for _ in range(config.layers - 1)
        )
        self.attentional = nn.Linear(state_width + config.width, config.width, bias=False)
        self.dropout = Dropout(config.dropout)
        nn.init.xavier_uniform_(self.bridge.weight)
        nn.init.zeros_(self.bridge.bias)
        nn.init.xavier_uniform_(self.attentional.weight)
        if self.feed is not None:
            nn.init.xavier_uniform_(self.feed.weight)

    def remember(self, encoding: Encoding) -> RecurrentMemory:
        """W h_s of the general score is worked out here, once a sentence."""
        return RecurrentMemory.of(encoding, self.score)

    def start(self, memory: RecurrentMemory) -> LstmState:
        """h_0 = tanh(W summary), c_0 = W' summary of every layer; nothing has been looked at yet."""
        layers = 1 + len(self.above)
        parts = self.bridge(memory.final).chunk(2 * layers, dim=-1)
        hidden = tuple(torch.tanh(part) for part in parts[:layers])
        return LstmState(hidden, parts[layers:], torch.zeros_like(hidden[-1]))

    def step(self, tokens: Int[Tensor, " B"], state: LstmState, memory: RecurrentMemory) -> Step:
        projected = self.first.project(self.embedding(tokens))
        hidden, cell = self._move(projected, state)
        attentional, alpha = self._look(hidden[-1].unsqueeze(1), memory)
        attentional = attentional.squeeze(1)
        return Step(self.dropout(attentional), LstmState(hidden, cell, attentional), alpha.squeeze(1))

    def forward(self, target: Int[Tensor, "B T"], memory: RecurrentMemory, *, attention: bool = False) -> Decoded:
        projected = self.first.project(self.embedding(target))
        state = self.start(memory)
        if self.input_feeding:
            attentional, alpha = self._feed(projected, state, memory)
        else:
            attentional, alpha = self._look(self._run(projected, state), memory)
        return Decoded(self.dropout(attentional), alpha if attention else None)

    def _feed(
        self, projected: Float[Tensor, "B T G"], state: LstmState, memory: RecurrentMemory
    ) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B T S"]]:
        """With input feeding every step waits for the attention of the one before."""
        attended, weights = [], []
        products = LoopProducts()
        for one in projected.unbind(dim=1):
            hidden, cell = self._move(one, state, products)
            attentional, alpha = self._look(hidden[-1].unsqueeze(1), memory, products)
            state = LstmState(hidden, cell, attentional.squeeze(1))
            attended.append(attentional)
            weights.append(alpha)
        return torch.cat(attended, dim=1), torch.cat(weights, dim=1)

    def _run(self, projected: Float[Tensor, "B T G"], state: LstmState) -> Float[Tensor, "B T H"]:
        """Without input feeding the recurrence knows nothing of the attention, which follows for all steps at once."""
        tops = []
        products = LoopProducts()
        for one in projected.unbind(dim=1):
            hidden, cell = self._move(one, state, products)
            state = LstmState(hidden, cell, state.attentional)
            tops.append(hidden[-1])
        return torch.stack(tops, dim=1)

    def _move(
        self, projected: Float[Tensor, "B G"], state: LstmState, products: Products = PLAIN
    ) -> tuple[tuple[Float[Tensor, "B H"], ...], tuple[Float[Tensor, "B H"], ...]]:
        """From h_{t-1} to h_t in every layer."""
        if self.feed is not None:
            projected = projected + products.linear(self.feed, state.attentional)
        below, cell = self.first(projected, state.hidden[0], state.cell[0], products)
        hidden, cells = [below], [cell]
        for layer, previous, previous_cell in zip(self.above, state.hidden[1:], state.cell[1:], strict=True):
            below, cell = layer(layer.project(self.dropout(below), products), previous, previous_cell, products)
            hidden.append(below)
            cells.append(cell)
        return tuple(hidden), tuple(cells)

    def _look(
        self, hidden: Float[Tensor, "B T H"], memory: RecurrentMemory, products: Products = PLAIN
    ) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B T S"]]:
        """h~_t and a_t of every given h_t."""
        scores = self.score(hidden, memory.keys, products)
        context, alpha = attend(scores, memory.states, memory.mask.unsqueeze(1), products)
        return torch.tanh(products.linear(self.attentional, torch.cat([context, hidden], dim=-1))), alpha
