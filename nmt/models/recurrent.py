"""What the two recurrent papers share: reading a batch of unequal lengths, and what a decoder keeps of the source."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nmt.config import GruEncoder, LstmEncoder
from nmt.layers.attention import Score
from nmt.layers.dropout import Dropout
from nmt.layers.embedding import TokenEmbedding
from nmt.layers.masks import masked_mean
from nmt.layers.packing import multiplies_bfloat16
from nmt.layers.recurrent import initialize_torch_rnn, recurrent_weights_dropped
from nmt.models.interface import Encoding

__all__ = ["RecurrentEncoder", "RecurrentMemory", "read"]


def read(
    rnn: nn.GRU | nn.LSTM, embedded: Float[Tensor, "B S E"], mask: Bool[Tensor, "B S"]
) -> tuple[Float[Tensor, "B S H"], Float[Tensor, "B H"]]:
    """The states of the top layer, and its last one: of each direction the state that has read the whole sentence.

    Sentences are packed, so that the backward direction starts at the last real token and padding is never read.
    """
    lengths = mask.sum(dim=1).cpu()
    packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
    if not isinstance(rnn, nn.LSTM):
        output, last = rnn(packed)
    elif multiplies_bfloat16(embedded.device):
        output, (last, _) = rnn(packed)
    else:  # where the processor does not, oneDNN's LSTM, which torch takes for sentences of one length, has no bfloat16
        with torch.autocast(embedded.device.type, enabled=False):
            output, (last, _) = rnn(packed)
    states, _ = pad_packed_sequence(output, batch_first=True, total_length=embedded.shape[1])
    directions = 2 if rnn.bidirectional else 1
    return states, last[-directions:].transpose(0, 1).flatten(1)


class RecurrentEncoder(nn.Module):
    """Embeddings, a stack of recurrent layers in one direction or both, and dropout on the states that come out.

    Between a state and the next it is entries of the matrices that are dropped. With ``bridging``, [h_j ; E x_j] is the
    annotation of word j (source-side bridging, Kuang et al. 2018, 1711.05380), and their mean E x stands beside the
    last states in the summary.
    """

    def __init__(
        self, kind: type[nn.GRU] | type[nn.LSTM], config: GruEncoder | LstmEncoder, embedding: TokenEmbedding
    ) -> None:
        super().__init__()
        self.bridging = config.bridging
        self.width = config.width + (embedding.width if config.bridging else 0)
        self.embedding = embedding
        self.rnn = kind(
            embedding.width,
            config.width // (2 if config.bidirectional else 1),
            num_layers=config.layers,
            bidirectional=config.bidirectional,
            dropout=config.dropout if config.layers > 1 else 0.0,
            batch_first=True,
        )
        initialize_torch_rnn(self.rnn)
        self.dropout = Dropout(config.dropout)
        self.recurrent_dropout = Dropout(config.recurrent_dropout)

    def forward(self, source: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Encoding:
        embedded = self.embedding(source)
        with recurrent_weights_dropped(self.rnn, self.recurrent_dropout):
            states, final = read(self.rnn, embedded, mask)
        states = self.dropout(states)
        if self.bridging:
            states = torch.cat([states, embedded.to(states.dtype)], dim=-1)
            final = torch.cat([final, masked_mean(embedded, mask).to(final.dtype)], dim=-1)
        return Encoding(states, mask, final)


@dataclass(frozen=True)
class RecurrentMemory:
    """The encoder's states, the keys that the score has prepared from them, and the summary to start from."""

    states: Float[Tensor, "B S H"]
    keys: Float[Tensor, "B S K"]
    mask: Bool[Tensor, "B S"]
    final: Float[Tensor, "B F"]

    @staticmethod
    def of(encoding: Encoding, score: Score) -> RecurrentMemory:
        """The memory of a batch; the keys are worked out here, once a sentence."""
        return RecurrentMemory(encoding.states, score.prepare(encoding.states), encoding.mask, encoding.final)

    def select(self, rows: Int[Tensor, " R"]) -> RecurrentMemory:
        """The memory of the given rows, in that order."""
        parts = (self.states, self.keys, self.mask, self.final)
        return RecurrentMemory(*(part.index_select(0, rows) for part in parts))
