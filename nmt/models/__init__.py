"""The three families, and :func:`build`, which puts any encoder under any decoder."""

from __future__ import annotations

import math
from typing import TypeAlias, assert_never

from torch import nn

from nmt.config import GruDecoder, GruEncoder, LstmDecoder, LstmEncoder, ModelConfig
from nmt.config import TransformerDecoder as TransformerDecoderConfig
from nmt.config import TransformerEncoder as TransformerEncoderConfig
from nmt.errors import ConfigError
from nmt.layers.attention import build_score
from nmt.layers.embedding import TokenEmbedding, new_embedding
from nmt.models.bahdanau import BahdanauDecoder, BahdanauEncoder
from nmt.models.interface import Decoded, Decoder, Encoder, Encoding, Memory, State, Step
from nmt.models.luong import LuongDecoder, LuongEncoder
from nmt.models.seq2seq import Seq2Seq
from nmt.models.transformer import TransformerDecoder, TransformerEncoder

__all__ = ["Decoded", "Decoder", "Encoder", "Encoding", "Memory", "Seq2Seq", "State", "Step", "build"]

AnyEncoderModule: TypeAlias = BahdanauEncoder | LuongEncoder | TransformerEncoder
AnyDecoderModule: TypeAlias = BahdanauDecoder | LuongDecoder | TransformerDecoder


def build(config: ModelConfig, source_vocabulary: int, target_vocabulary: int) -> Seq2Seq:
    """The model a recipe describes, its parameters drawn from torch's generator.

    With ``tied_embeddings`` 3 the two vocabularies are one: ConfigError where ``source_vocabulary`` is not
    ``target_vocabulary``.
    """
    if config.tied_embeddings == 3 and source_vocabulary != target_vocabulary:
        raise ConfigError(
            f"model.tied_embeddings = 3 needs one joint vocabulary, the source has {source_vocabulary} pieces and the "
            f"target {target_vocabulary}; use 2 or 0, or a joint tokenizer"
        )
    target_table = new_embedding(target_vocabulary, config.embedding)
    source_table = target_table if config.tied_embeddings == 3 else new_embedding(source_vocabulary, config.embedding)
    encoder = _encoder(config, source_table)
    decoder = _decoder(config, target_table, encoder.width)
    output = nn.Linear(decoder.width, target_vocabulary, bias=False)
    if config.tied_embeddings:
        output.weight = target_table.weight
    else:
        nn.init.normal_(output.weight, std=1.0 / math.sqrt(decoder.width))
    return Seq2Seq(encoder, decoder, output)


def _encoder(config: ModelConfig, table: nn.Embedding) -> AnyEncoderModule:
    plain = _embedding(config, table)
    match config.encoder:
        case GruEncoder():
            return BahdanauEncoder(config.encoder, plain)
        case LstmEncoder():
            return LuongEncoder(config.encoder, plain)
        case TransformerEncoderConfig():
            return TransformerEncoder(config.encoder, _embedding(config, table, math.sqrt(config.embedding)))
    assert_never(config.encoder)


def _decoder(config: ModelConfig, table: nn.Embedding, state_width: int) -> AnyDecoderModule:
    plain = _embedding(config, table)
    match config.decoder:
        case GruDecoder():
            return BahdanauDecoder(config.decoder, plain, build_score(config.decoder, state_width), state_width)
        case LstmDecoder():
            return LuongDecoder(config.decoder, plain, build_score(config.decoder, state_width), state_width)
        case TransformerDecoderConfig():
            scaled = _embedding(config, table, math.sqrt(config.embedding))
            return TransformerDecoder(config.decoder, scaled, state_width)
    assert_never(config.decoder)


def _embedding(config: ModelConfig, table: nn.Embedding, scale: float = 1.0) -> TokenEmbedding:
    return TokenEmbedding(table, scale=scale, dropout=config.embedding_dropout, word_dropout=config.word_dropout)
