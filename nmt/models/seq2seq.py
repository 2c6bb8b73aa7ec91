"""An encoder, a decoder and an output layer make a translation model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nmt.data.batching import Batch
from nmt.models.interface import Decoded, Decoder, Encoder, Encoding, Step

if TYPE_CHECKING:
    from nmt.models import AnyDecoderModule, AnyEncoderModule

__all__ = ["Seq2Seq"]


class Seq2Seq(nn.Module):
    """p(y_t | y_1 .. y_{t-1}, x) = softmax(W features_t), whatever encoder and decoder made the features.

    The output layer W (V, H) has no bias and may be the target embedding itself.
    """

    def __init__(self, encoder: AnyEncoderModule, decoder: AnyDecoderModule, output: nn.Linear) -> None:
        super().__init__()
        self.encoder: Encoder = encoder
        self.decoder: Decoder = decoder
        self.output = output
        #: How often gradients may have been made. Not every optimizer counts what it writes: who keeps what was made of
        #: the weights goes by this as well.
        self.passes = 0

    def encode(self, source: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Encoding:
        """Read a batch of sources."""
        return self.encoder(source, mask)

    def remember(self, source: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Any:
        """The :class:`~nmt.models.interface.Memory` of a batch: all that writing needs to know of the sources."""
        return self.decoder.remember(self.encode(source, mask))

    def start(self, memory: Any) -> Any:
        """The decoder's :class:`~nmt.models.interface.State` before the first target token."""
        return self.decoder.start(memory)

    def step(self, tokens: Int[Tensor, " B"], state: Any, memory: Any) -> Step:
        """One step of the decoder: ``tokens`` are the previous target tokens (BOS at first)."""
        return self.decoder.step(tokens, state, memory)

    def logits(self, features: Float[Tensor, "*batch H"]) -> Float[Tensor, "*batch V"]:
        """The unnormalised log-probabilities of every target token."""
        logits: Tensor = self.output(features)
        return logits

    def forward(self, batch: Batch, *, attention: bool = False) -> Decoded:
        """The features that predict ``batch.target_out``, the target being forced."""
        self.passes += torch.is_grad_enabled()
        memory = self.remember(batch.source, batch.source_mask)
        return self.decoder(batch.target_in, memory, attention=attention)
