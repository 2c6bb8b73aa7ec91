"""Attention: how well a query fits each key, and the sum of values that follows from it.

The step all papers share is written once, in :func:`attend`: mask, softmax, weighted sum. What tells them apart is the
score e between a query q (a decoder state) and a key k (an annotation of the source):

=============  =======================================  ==========================================
additive       v . tanh(W q + U k)                      Bahdanau et al. 2015, appendix A.1.2
dot            q . k                                    Luong et al. 2015, section 3.1
general        q . W k                                  Luong et al. 2015, section 3.1
scaled-dot     q . k / sqrt(H)                          Vaswani et al. 2017, equation 1
=============  =======================================  ==========================================

Each is a class with :meth:`~Score.prepare`, the part that depends on the source only, worked out once a sentence, and
``forward``, the score. :class:`MultiHeadAttention` is many scaled dots side by side.
"""

from __future__ import annotations

import math
from typing import ClassVar, TypeAlias, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nmt.config import GruDecoder, LstmDecoder
from nmt.layers.dropout import Dropout
from nmt.layers.products import PLAIN, Products

__all__ = [
    "AdditiveScore",
    "AnyScore",
    "DotScore",
    "GeneralScore",
    "MultiHeadAttention",
    "ScaledDotScore",
    "Score",
    "attend",
    "build_score",
]


def attend(
    scores: Float[Tensor, "B T S"],
    values: Float[Tensor, "B S H"],
    mask: Bool[Tensor, "#B #T S"],
    products: Products = PLAIN,
) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B T S"]]:
    """Context vectors and attention weights from scores.

    alpha_ij = exp(e_ij) / sum_k exp(e_ik) over the real positions, c_i = sum_j alpha_ij h_j (Bahdanau et al. 2015,
    equations 5 and 6).
    """
    weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
    return products.weigh(weights, values), weights


class Score(nn.Module):
    """The interface of a score: keys are prepared once, then scored against any number of queries."""

    def prepare(self, states: Float[Tensor, "B S H"]) -> Float[Tensor, "B S K"]:
        """The keys of a sentence: everything in the score that does not depend on the query."""
        return states

    def forward(
        self, query: Float[Tensor, "B T Q"], keys: Float[Tensor, "B S K"], products: Products = PLAIN
    ) -> Float[Tensor, "B T S"]:
        """e_ij of every query i with every key j."""
        raise NotImplementedError


class AdditiveScore(Score):
    """e_ij = v . tanh(W s_{i-1} + U h_j), a network of one hidden layer (Bahdanau et al. 2015, appendix A.1.2)."""

    def __init__(self, query_width: int, state_width: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_width, width)
        self.key = nn.Linear(state_width, width, bias=False)
        self.energy = nn.Linear(width, 1, bias=False)

    def prepare(self, states: Float[Tensor, "B S H"]) -> Float[Tensor, "B S K"]:
        keys: Tensor = self.key(states)
        return keys

    def forward(
        self, query: Float[Tensor, "B T Q"], keys: Float[Tensor, "B S K"], products: Products = PLAIN
    ) -> Float[Tensor, "B T S"]:
        return products.additive(products.linear(self.query, query), keys, self.energy)


class DotScore(Score):
    """e_ij = h_i . h_j; queries and states are of one width (Luong et al. 2015, section 3.1, dot)."""

    def forward(
        self, query: Float[Tensor, "B T Q"], keys: Float[Tensor, "B S Q"], products: Products = PLAIN
    ) -> Float[Tensor, "B T S"]:
        return products.dot(query, keys)


class ScaledDotScore(Score):
    """e_ij = h_i . h_j / sqrt(H): the dot product of unit variance (Vaswani et al. 2017, equation 1)."""

    def forward(
        self, query: Float[Tensor, "B T Q"], keys: Float[Tensor, "B S Q"], products: Products = PLAIN
    ) -> Float[Tensor, "B T S"]:
        return products.dot(query / math.sqrt(query.shape[-1]), keys)


class GeneralScore(Score):
    """e_ij = h_i . W h_j, W h_j being the prepared key (Luong et al. 2015, section 3.1, general)."""

    def __init__(self, query_width: int, state_width: int) -> None:
        super().__init__()
        self.key = nn.Linear(state_width, query_width, bias=False)

    def prepare(self, states: Float[Tensor, "B S H"]) -> Float[Tensor, "B S K"]:
        keys: Tensor = self.key(states)
        return keys

    def forward(
        self, query: Float[Tensor, "B T Q"], keys: Float[Tensor, "B S Q"], products: Products = PLAIN
    ) -> Float[Tensor, "B T S"]:
        return products.dot(query, keys)


AnyScore: TypeAlias = AdditiveScore | DotScore | ScaledDotScore | GeneralScore


def build_score(config: GruDecoder | LstmDecoder, state_width: int) -> AnyScore:
    """The score a recurrent decoder's recipe names, between its own state and encoder states of ``state_width``."""
    match config.attention:
        case "additive":
            return AdditiveScore(config.width, state_width, config.attention_width or config.width)
        case "dot":
            return DotScore()
        case "scaled-dot":
            return ScaledDotScore()
        case "general":
            return GeneralScore(config.width, state_width)
    assert_never(config.attention)


class MultiHeadAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V in A subspaces side by side (Vaswani et al. 2017, section 3.2.2).

    Keys and values are made by one product and stay split into heads, so that a decoder can keep them: ``project``
    gives them, ``forward`` attends to them.
    """

    #: Layers whose weight holds so many matrices one below the other: nmt.training.muon moves each for itself.
    stacked: ClassVar[dict[str, int]] = {"key_value": 2}

    def __init__(self, width: int, heads: int, state_width: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(state_width, 2 * width)
        self.output = nn.Linear(width, width)
        self.dropout = Dropout(dropout)

    def split(self, x: Float[Tensor, "B L H"]) -> Float[Tensor, "B A L D"]:
        """The width cut into heads."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def project(self, states: Float[Tensor, "B S H"]) -> tuple[Float[Tensor, "B A S D"], Float[Tensor, "B A S D"]]:
        """K W^K and V W^V of every head."""
        keys, values = self.key_value(states).chunk(2, dim=-1)
        return self.split(keys), self.split(values)

    def forward(
        self,
        query: Float[Tensor, "B T H"],
        keys: Float[Tensor, "B A S D"],
        values: Float[Tensor, "B A S D"],
        mask: Bool[Tensor, "#B 1 #T S"],
        bias: Float[Tensor, "A T S"] | None = None,
    ) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B A T S"]]:
        """The attended values, and where each head looked; ``bias`` is added to the scores."""
        queries = self.split(self.query(query)) / math.sqrt(query.shape[-1] // self.heads)
        scores = torch.matmul(queries, keys.transpose(-1, -2))
        if bias is not None:
            scores = scores + bias
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
        context = torch.matmul(self.dropout(weights).to(values.dtype), values)
        attended: Tensor = self.output(context.transpose(1, 2).flatten(2))
        return attended, weights
