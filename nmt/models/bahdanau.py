"""Neural Machine Translation by Jointly Learning to Align and Translate (Bahdanau, Cho and Bengio 2015, 1409.0473).

The encoder reads the source in both directions; the annotation of word j is what both say there (section 3.2):

    h_j = [forward h_j ; backward h_j]

The decoder looks back at all annotations before every word it writes (section 3.1):

    e_ij = a(s_{i-1}, h_j)                       how well word j fits what comes next
    alpha_ij = exp(e_ij) / sum_k exp(e_ik)       the alignment                                     (equation 6)
    c_i = sum_j alpha_ij h_j                     the context, new at every step                    (equation 5)
    s_i = GRU(s_{i-1}, [E y_{i-1} ; c_i])        the state
    t_i = maxout(U_o s_i + V_o E y_{i-1} + C_o c_i)   the readout, from which the output layer predicts y_i  (A.2.2)

The state starts from s_0 = tanh(W_s summary), the summary being the last state of each direction: the paper takes
the backward one alone. The readout sees s_i, as equation 4 has it, where the appendix writes s_{i-1}.

What s_{i-1} has not seen is y_{i-1}: the word is there, and the alignment that follows it is made without it. The
conditional GRU (Sennrich et al. 2017, 1703.04357, section 2) moves twice a step and looks in between:

    s'_i = GRU_1(s_{i-1}, E y_{i-1}),   e_ij = a(s'_i, h_j),   s_i = GRU_2(s'_i, c_i)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nmt.config import GruDecoder, GruEncoder
from nmt.layers.attention import AnyScore, attend
from nmt.layers.dropout import Dropout, DroppedLinear
from nmt.layers.embedding import TokenEmbedding
from nmt.layers.products import PLAIN, LoopProducts, Products
from nmt.layers.recurrent import GruCell, gru_move, initialize_hidden
from nmt.layers.stack import Stack
from nmt.models.interface import Decoded, Encoding, Step
from nmt.models.recurrent import RecurrentEncoder, RecurrentMemory

__all__ = ["BahdanauDecoder", "BahdanauEncoder", "GruState"]


class BahdanauEncoder(RecurrentEncoder):
    """A stack of (bidirectional) GRU layers."""

    def __init__(self, config: GruEncoder, embedding: TokenEmbedding) -> None:
        super().__init__(nn.GRU, config, embedding)


@dataclass(frozen=True)
class GruState:
    """s_{i-1} of every layer."""

    hidden: tuple[Float[Tensor, "B H"], ...]

    def select(self, rows: Int[Tensor, " R"]) -> GruState:
        return GruState(tuple(hidden.index_select(0, rows) for hidden in self.hidden))


class BahdanauDecoder(nn.Module):
    """A stack of GRU layers that attends before it moves, or half-way; the context enters the first layer."""

    def __init__(self, config: GruDecoder, embedding: TokenEmbedding, score: AnyScore, state_width: int) -> None:
        super().__init__()
        #: See nmt.layers.attention.MultiHeadAttention.
        self.stacked = {"context": 3, "bridge": config.layers, "second": 3}
        self.width = config.readout or embedding.width
        self.embedding = embedding
        self.score = score
        self.bridge = nn.Linear(state_width, config.layers * config.width)
        self.first = GruCell(embedding.width, config.width, config.recurrent_dropout)
        self.context = nn.Linear(state_width, 3 * config.width, bias=False)
        self.second = (
            DroppedLinear(config.width, 3 * config.width, config.recurrent_dropout) if config.conditional else None
        )
        self.above = Stack(
            GruCell(config.width, config.width, config.recurrent_dropout) for _ in range(config.layers - 1)
        )
        self.readout = nn.Linear(config.width + embedding.width + state_width, 2 * self.width)
        self.dropout = Dropout(config.dropout)
        for layer in (self.bridge, self.context, self.readout):
            nn.init.xavier_uniform_(layer.weight)
        for biased in (self.bridge, self.readout):
            nn.init.zeros_(biased.bias)
        if self.second is not None:
            initialize_hidden(self.second, gates=3)

    def remember(self, encoding: Encoding) -> RecurrentMemory:
        """U h_j is worked out here, once a sentence."""
        return RecurrentMemory.of(encoding, self.score)

    def start(self, memory: RecurrentMemory) -> GruState:
        """s_0 = tanh(W_s summary) of every layer."""
        return GruState(torch.tanh(self.bridge(memory.final)).chunk(1 + len(self.above), dim=-1))

    def step(self, tokens: Int[Tensor, " B"], state: GruState, memory: RecurrentMemory) -> Step:
        embedded = self.embedding(tokens)
        state, context, attention = self._move(self.first.project(embedded), state, memory)
        return Step(self._read(state.hidden[-1], embedded, context), state, attention)

    def forward(self, target: Int[Tensor, "B T"], memory: RecurrentMemory, *, attention: bool = False) -> Decoded:
        embedded = self.embedding(target)
        projected = self.first.project(embedded)
        state = self.start(memory)
        hidden, contexts, weights = [], [], []
        products = LoopProducts()
        for one in projected.unbind(dim=1):
            state, context, alpha = self._move(one, state, memory, products)
            hidden.append(state.hidden[-1])
            contexts.append(context)
            weights.append(alpha)
        features = self._read(torch.stack(hidden, dim=1), embedded, torch.stack(contexts, dim=1))
        return Decoded(features, torch.stack(weights, dim=1) if attention else None)

    def _move(
        self, projected: Float[Tensor, "B G"], state: GruState, memory: RecurrentMemory, products: Products = PLAIN
    ) -> tuple[GruState, Float[Tensor, "B H"], Float[Tensor, "B S"]]:
        """From s_{i-1} to s_i, by way of alpha_i and c_i."""
        asks = state.hidden[-1] if self.second is None else self.first(projected, state.hidden[0], products)
        context, alpha = attend(
            self.score(asks.unsqueeze(1), memory.keys, products), memory.states, memory.mask.unsqueeze(1), products
        )
        context = context.squeeze(1)
        of_context = products.linear(self.context, context)
        if self.second is None:
            below = self.first(projected + of_context, state.hidden[0], products)
        else:
            below = gru_move(of_context, products.linear(self.second, asks), asks)
        hidden = [below]
        for cell, previous in zip(self.above, state.hidden[1:], strict=True):
            below = cell(cell.project(self.dropout(below), products), previous, products)
            hidden.append(below)
        return GruState(tuple(hidden)), context, alpha.squeeze(1)

    def _read(
        self, hidden: Float[Tensor, "*batch H"], embedded: Float[Tensor, "*batch E"], context: Float[Tensor, "*batch C"]
    ) -> Float[Tensor, "*batch R"]:
        """t_i: of every pair of units the larger one."""
        pairs = self.readout(torch.cat([hidden, embedded, context], dim=-1)).unflatten(-1, (2, -1))
        features: Tensor = self.dropout(pairs.amax(dim=-2))
        return features
