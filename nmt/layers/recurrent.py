"""The gated cells of the recurrent decoders, with the input's product taken out of the loop.

Both compute exactly what torch's ``nn.GRUCell`` and ``nn.LSTMCell`` compute with the same parameters. What differs is
the seam: ``project`` maps all inputs of a sentence at once, ``forward`` needs only what the previous state decides.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nmt.layers.dropout import Dropout, DroppedLinear
from nmt.layers.products import PLAIN, Products

__all__ = [
    "GruCell",
    "LstmCell",
    "gru_move",
    "initialize_hidden",
    "initialize_recurrent",
    "initialize_torch_rnn",
    "lstm_move",
    "recurrent_weights_dropped",
]


class GruCell(nn.Module):
    """Gated recurrent unit (Cho et al. 2014; with torch's reset gate, applied after the product).

    r = sigmoid(W_r x + U_r h), z = sigmoid(W_z x + U_z h), n = tanh(W_n x + r * U_n h), h' = (1 - z) * n + z * h,
    each product with its bias. In training entries of U are dropped (``dropout``).
    """

    #: See nmt.layers.attention.MultiHeadAttention.
    stacked: ClassVar[dict[str, int]] = {"input": 3, "hidden": 3}

    def __init__(self, input_width: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.input = nn.Linear(input_width, 3 * width)
        self.hidden = DroppedLinear(width, 3 * width, dropout)
        initialize_recurrent(self.input, self.hidden, gates=3)

    def project(self, x: Float[Tensor, "*batch I"], products: Products = PLAIN) -> Float[Tensor, "*batch G"]:
        """W x + b of all three gates."""
        return products.linear(self.input, x)

    def forward(
        self, projected: Float[Tensor, "B G"], hidden: Float[Tensor, "B H"], products: Products = PLAIN
    ) -> Float[Tensor, "B H"]:
        return gru_move(projected, products.linear(self.hidden, hidden), hidden)


class LstmCell(nn.Module):
    """Long short-term memory (Hochreiter and Schmidhuber 1997, with forget gates).

    i, f, o = sigmoid(W x + U h), g = tanh(W_g x + U_g h), c' = f * c + i * g, h' = o * tanh(c'), each product with its
    bias. In training entries of U are dropped (``dropout``).
    """

    #: See nmt.layers.attention.MultiHeadAttention.
    stacked: ClassVar[dict[str, int]] = {"input": 4, "hidden": 4}

    def __init__(self, input_width: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.input = nn.Linear(input_width, 4 * width)
        self.hidden = DroppedLinear(width, 4 * width, dropout)
        initialize_recurrent(self.input, self.hidden, gates=4)
        with torch.no_grad():  # open forget gates let gradients through from the first step (Jozefowicz et al. 2015)
            self.hidden.bias[width : 2 * width].fill_(1.0)

    def project(self, x: Float[Tensor, "*batch I"], products: Products = PLAIN) -> Float[Tensor, "*batch G"]:
        """W x + b of all four gates."""
        return products.linear(self.input, x)

    def forward(
        self,
        projected: Float[Tensor, "B G"],
        hidden: Float[Tensor, "B H"],
        cell: Float[Tensor, "B H"],
        products: Products = PLAIN,
    ) -> tuple[Float[Tensor, "B H"], Float[Tensor, "B H"]]:
        return lstm_move(projected + products.linear(self.hidden, hidden), cell)


def gru_move(
    projected: Float[Tensor, "B G"], recurrent: Float[Tensor, "B G"], hidden: Float[Tensor, "B H"]
) -> Float[Tensor, "B H"]:
    """The next state, from W x + b and U h + b of all three gates."""
    both = 2 * hidden.shape[-1]
    reset, update = torch.sigmoid(projected[..., :both] + recurrent[..., :both]).chunk(2, dim=-1)
    candidate = torch.tanh(torch.addcmul(projected[..., both:], reset, recurrent[..., both:]))
    return torch.lerp(candidate, hidden, update)


def lstm_move(
    gates: Float[Tensor, "B G"], cell: Float[Tensor, "B H"]
) -> tuple[Float[Tensor, "B H"], Float[Tensor, "B H"]]:
    """The next state and cell, from W x + U h and the biases of all four gates."""
    i, f, g, o = gates.chunk(4, dim=-1)
    cell = torch.addcmul(torch.sigmoid(f) * cell, torch.sigmoid(i), torch.tanh(g))
    return torch.sigmoid(o) * torch.tanh(cell), cell


@contextlib.contextmanager
def recurrent_weights_dropped(rnn: nn.GRU | nn.LSTM, dropout: Dropout) -> Iterator[None]:
    """Within, one draw of what ``dropout`` leaves of its matrices takes ``rnn`` round (Merity et al. 2018, section 2).

    Torch's own stacks have no other place for that than the list of weights which they hand to their kernels.
    """
    if not (dropout.training and dropout.probability):
        yield
        return
    whole: list[Tensor] = rnn._flat_weights  # type: ignore[assignment]
    names: list[str] = rnn._flat_weights_names
    drawn = [
        dropout(weight) if name.startswith("weight_hh") else weight for name, weight in zip(names, whole, strict=True)
    ]
    with contextlib.ExitStack() as stack:
        if whole[0].is_cuda:  # cuDNN gathers weights that do not lie side by side, and says so
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
        stack.callback(setattr, rnn, "_flat_weights", whole)
        rnn._flat_weights = drawn
        yield


def initialize_recurrent(input_product: nn.Linear, hidden_product: nn.Linear, *, gates: int) -> None:
    """Gate by gate: orthogonal for what goes round (Bahdanau et al. 2015, B.1), Xavier for what comes in; no biases."""
    with torch.no_grad():
        for gate in input_product.weight.chunk(gates):
            nn.init.xavier_uniform_(gate)
        nn.init.zeros_(input_product.bias)
    initialize_hidden(hidden_product, gates=gates)


def initialize_hidden(product: nn.Linear, *, gates: int) -> None:
    """Orthogonal gate by gate, as what goes round is; no bias."""
    with torch.no_grad():
        for gate in product.weight.chunk(gates):
            nn.init.orthogonal_(gate)
        nn.init.zeros_(product.bias)


def initialize_torch_rnn(rnn: nn.GRU | nn.LSTM) -> None:
    """The same initialisation for torch's own stacks; forget gates open where there are any."""
    gates = 4 if isinstance(rnn, nn.LSTM) else 3
    width = rnn.hidden_size
    for name, parameter in rnn.named_parameters():
        with torch.no_grad():
            if "bias" in name:
                parameter.zero_()
                if gates == 4 and "bias_hh" in name:
                    parameter[width : 2 * width].fill_(1.0)
            else:
                start = nn.init.orthogonal_ if "weight_hh" in name else nn.init.xavier_uniform_
                for gate in parameter.chunk(gates):
                    start(gate)
