"""A Transformer for CTranslate2: its parameters under the names and in the layout that engine reads.

CTranslate2 (https://github.com/OpenNMT/CTranslate2) runs the models of Vaswani et al. 2017, pre-norm and post-norm,
with sinusoids laid out as ours are (:mod:`nmt.layers.positions`), a table of positions, or what distances are worth.
It knows no recurrent layers and no window on the encoder's attention. What is written is a model folder as its own
converters write them, so that its own tools read it as well; sources end with EOS, which is for the caller to append.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from nmt.config import ModelConfig, TransformerDecoder, TransformerEncoder
from nmt.data.tokenizer import Tokenizer, Tokenizers
from nmt.errors import ConfigError
from nmt.layers.attention import MultiHeadAttention
from nmt.layers.positions import LearnedPositions, RelativePositions
from nmt.models import Seq2Seq
from nmt.models import transformer as ours

if TYPE_CHECKING:
    from ctranslate2.specs.transformer_spec import TransformerSpec

__all__ = ["QUANTIZATIONS", "check_model", "convert"]

QUANTIZATIONS = ("none", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16", "float16", "bfloat16")
"""How CTranslate2 keeps weights. What a processor cannot compute with is widened where the model is loaded."""


def check_model(config: ModelConfig) -> None:
    """Raise ConfigError, with what to do instead, for a model that CTranslate2 cannot run."""
    parts = (("encoder", config.encoder), ("decoder", config.decoder))
    reason = next((f"a {part.type} {name}" for name, part in parts if part.type != "transformer"), "")
    if isinstance(config.encoder, TransformerEncoder) and config.encoder.window:
        reason = f"an encoder whose attention has a window of {config.encoder.window}"
    for name, part in parts:
        if not reason and isinstance(part, TransformerEncoder | TransformerDecoder):
            kind, relative = part.positions, part.max_relative_positions
            if relative and kind != "none":
                reason = f"{name}s with relative positions beside {kind} ones"
            elif not relative and kind == "none":
                reason = f"{name}s without any positions"
    if not reason and config.embedding < 4:
        reason = f"a width of {config.embedding}"
    if reason:
        raise ConfigError(f"CTranslate2 cannot run {reason}: export it with --to onnx")


def convert(model: Seq2Seq, config: ModelConfig, tokenizers: Tokenizers, quantization: str) -> dict[str, bytes]:
    """The files of a CTranslate2 model, by name. ``model`` is left as it is.

    Raises ConfigError for a model that CTranslate2 cannot run, and for an unknown ``quantization``.
    """
    check_model(config)
    if quantization not in QUANTIZATIONS:
        raise ConfigError(f"--quantize {quantization}: for ctranslate2 it is one of {', '.join(QUANTIZATIONS)}")
    specification = _specification(model, config, tokenizers)
    specification.validate()
    specification.optimize(None if quantization == "none" else quantization)
    with tempfile.TemporaryDirectory(prefix="nmt-export-") as folder:
        specification.save(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def _specification(model: Seq2Seq, config: ModelConfig, tokenizers: Tokenizers) -> TransformerSpec:
    """The whole model in CTranslate2's terms."""
    from ctranslate2.specs import transformer_spec as theirs

    encoder, decoder = model.encoder, model.decoder
    assert isinstance(config.encoder, TransformerEncoder), "checked before"
    assert isinstance(config.decoder, TransformerDecoder), "checked before"
    assert isinstance(encoder, ours.TransformerEncoder)
    assert isinstance(decoder, ours.TransformerDecoder)
    specification = theirs.TransformerSpec(
        theirs.TransformerEncoderSpec(
            config.encoder.layers,
            config.encoder.heads,
            pre_norm=config.encoder.norm == "pre",
            relative_attention_bias=encoder.relative is not None,
        ),
        theirs.TransformerDecoderSpec(
            config.decoder.layers,
            config.decoder.heads,
            pre_norm=config.decoder.norm == "pre",
            relative_attention_bias=decoder.relative is not None,
            alignment_layer=decoder.alignment_layer,
            alignment_heads=config.decoder.heads,
        ),
    )
    _ends(specification.encoder, specification.encoder.embeddings[0], encoder)
    _ends(specification.decoder, specification.decoder.embeddings, decoder)
    _relative(specification.encoder, encoder.relative, backwards_only=False)
    _relative(specification.decoder, decoder.relative, backwards_only=True)
    _linear(specification.decoder.projection, model.output)
    for layer, source in zip(specification.encoder.layer, encoder.layers, strict=True):
        _attention(layer.self_attention, source.self_attention, source.around_self)
        _feed_forward(layer.ffn, source.feed_forward, source.around_feed_forward)
    for layer, target in zip(specification.decoder.layer, decoder.layers, strict=True):
        _attention(layer.self_attention, target.self_attention, target.around_self)
        _attention(layer.attention, target.cross_attention, target.around_cross)
        _feed_forward(layer.ffn, target.feed_forward, target.around_feed_forward)
    _vocabularies(specification, tokenizers)
    return specification


def _ends(spec: Any, embeddings: Any, module: ours.TransformerEncoder | ours.TransformerDecoder) -> None:
    """What stands before and behind a stack of layers: embeddings, learned positions, the last norm of pre-norm."""
    embeddings.weight = _copy(module.embedding.table.weight)
    if isinstance(module.positions, LearnedPositions):
        spec.position_encodings.encodings = _copy(module.positions.weight)
    if isinstance(module.norm, nn.LayerNorm):
        _norm(spec.layer_norm, module.norm)


def _relative(spec: Any, module: RelativePositions | None, *, backwards_only: bool) -> None:
    """Every layer's share of what distances are worth, in T5's buckets (Raffel et al. 2020, section 2.1).

    Half the buckets of a direction are for a distance each, from 0 on; there are so many that ours end among these. The
    other half, for distances by their logarithms, all have what the largest of ours has.
    """
    if module is None:
        return
    table, most = _copy(module.table.weight), module.most
    back = table[most::-1][np.minimum(np.arange(2 * (most + 1)), most)]
    ahead = table[most:][np.minimum(np.arange(2 * (most + 1)), most)]
    buckets = back if backwards_only else np.concatenate([back, ahead])
    for layer in spec.layer:
        layer.self_attention.relative_attention_bias = buckets.copy()
        layer.self_attention.relative_attention_max_distance = np.dtype("int32").type(2 * (most + 1))


def _attention(spec: Any, module: MultiHeadAttention, around: ours.Residual) -> None:
    """Self-attention makes queries, keys and values by one product there, attention to the source by two."""
    if len(spec.linear) == 2:
        for name in ("weight", "bias"):
            both = [_copy(getattr(product, name)) for product in (module.query, module.key_value)]
            setattr(spec.linear[0], name, np.concatenate(both))
    else:
        _linear(spec.linear[0], module.query)
        _linear(spec.linear[1], module.key_value)
    _linear(spec.linear[-1], module.output)
    _norm(spec.layer_norm, around.norm)


def _feed_forward(spec: Any, module: ours.FeedForward, around: ours.Residual) -> None:
    _linear(spec.linear_0, module.inner)
    _linear(spec.linear_1, module.outer)
    _norm(spec.layer_norm, around.norm)


def _linear(spec: Any, module: nn.Linear) -> None:
    spec.weight = _copy(module.weight)
    if module.bias is not None:
        spec.bias = _copy(module.bias)


def _norm(spec: Any, module: nn.LayerNorm) -> None:
    spec.gamma, spec.beta = _copy(module.weight), _copy(module.bias)


def _copy(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The values of a parameter in memory of their own: quantisation writes over what it is given."""
    return np.array(tensor.detach().float().cpu().numpy(), copy=True)


def _vocabularies(specification: TransformerSpec, tokenizers: Tokenizers) -> None:
    """Pieces in the order of their ids, and which of them are special."""
    target = tokenizers.target
    specification.register_source_vocabulary(_pieces(tokenizers.source))
    specification.register_target_vocabulary(_pieces(target))
    unknown, begin, end = target.pieces([target.unk_id, target.bos_id, target.eos_id])
    settings = specification.config
    settings.unk_token, settings.bos_token, settings.eos_token = unknown, begin, end
    settings.decoder_start_token = begin
    settings.layer_norm_epsilon = 1e-5  # torch's


def _pieces(tokenizer: Tokenizer) -> list[str]:
    return tokenizer.pieces(range(len(tokenizer)))
