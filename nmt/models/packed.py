"""A model for search: its weights laid out once, its steps without anything that training needs.

:func:`packed` gives what search asks of a model (:class:`nmt.decoding.search.Searchable`); results are those of the
model itself, the order of sums apart. Weights are taken as they are at the time: a model that has learned since is
packed anew. Memories know that the hypotheses of a sentence share it. A state is used up by the step that takes it and
by ``select``, both of which write over it.
"""

from __future__ import annotations

from typing import Any, TypeAlias, assert_never, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nmt.layers.packing import Precision, pack
from nmt.models import AnyDecoderModule
from nmt.models.bahdanau import BahdanauDecoder
from nmt.models.interface import Encoder, Step
from nmt.models.luong import LuongDecoder
from nmt.models.packed_recurrent import PackedBahdanauDecoder, PackedLuongDecoder
from nmt.models.packed_transformer import PackedTransformerDecoder, PackedTransformerEncoder
from nmt.models.seq2seq import Seq2Seq
from nmt.models.transformer import TransformerDecoder, TransformerEncoder

__all__ = ["Packed", "packed"]

AnyPackedDecoder: TypeAlias = PackedBahdanauDecoder | PackedLuongDecoder | PackedTransformerDecoder


class Packed:
    """A model that only reads and writes."""

    def __init__(self, model: Seq2Seq, precision: Precision) -> None:
        encoder = model.encoder
        self.encoder: Encoder | PackedTransformerEncoder = (
            PackedTransformerEncoder(encoder, precision) if isinstance(encoder, TransformerEncoder) else encoder
        )
        self.decoder = _decoder(model, precision)
        self.output = pack(model.output.weight, model.output.bias, precision)

    def remember(self, source: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Any:
        """The memory of a batch of sources."""
        return self.decoder.remember(self.encoder(source, mask))

    def start(self, memory: Any) -> Any:
        """The state before the first target token."""
        return self.decoder.start(memory)

    def step(self, tokens: Int[Tensor, " R"], state: Any, memory: Any) -> Step:
        """One step: ``tokens`` are the previous target tokens (BOS at first)."""
        return self.decoder.step(tokens, state, memory)

    def logits(self, features: Float[Tensor, "R H"]) -> Float[Tensor, "R V"]:
        """The unnormalised log-probabilities of every target token."""
        return self.output(features)


@torch.no_grad()
def packed(model: Seq2Seq, precision: Precision = "float32") -> Packed:
    """``model``, which is in evaluation mode, as it is now."""
    return Packed(model, precision)


def _decoder(model: Seq2Seq, precision: Precision) -> AnyPackedDecoder:
    decoder = cast(AnyDecoderModule, model.decoder)  # what build makes
    match decoder:
        case TransformerDecoder():
            return PackedTransformerDecoder(decoder, precision)
        case BahdanauDecoder():
            return PackedBahdanauDecoder(decoder, precision)
        case LuongDecoder():
            return PackedLuongDecoder(decoder, precision)
    assert_never(decoder)
