"""Every encoder under every decoder, and the variants of each, small enough to try hundreds of times.

``NINE`` names the pairings, ``VARIANTS`` what a recipe can turn on and off besides, ``PAIRINGS`` both. Use them as::

    @pytest.mark.parametrize("name", PAIRINGS)
    def test_something(name: str) -> None:
        model = new_model(name)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import torch

from nmt.config import ModelConfig
from nmt.data.batching import Batch, collate
from nmt.models import Seq2Seq, build

PAD, UNK, BOS, EOS = 0, 1, 2, 3
SOURCE_VOCABULARY = 17
TARGET_VOCABULARY = 19
JOINT_VOCABULARY = 19

Pair = tuple[Sequence[int], Sequence[int]]

#: Lengths differ on both sides, and not in step; one source has EOS only, one target too.
SENTENCES: tuple[Pair, ...] = (
    ([5, 6, 7, 8], [9, 10]),
    ([4], [5, 6, 7, 8, 9]),
    ([], [11]),
    ([12, 13, 14, 15, 16, 4, 5], []),
    ([7, 7], [18, 17, 16]),
)

GRU: dict[str, Any] = {"type": "gru", "width": 8, "dropout": 0.2}
LSTM: dict[str, Any] = {"type": "lstm", "width": 8, "dropout": 0.2}
TRANSFORMER: dict[str, Any] = {
    "type": "transformer",
    "layers": 2,
    "width": 8,
    "heads": 2,
    "feed_forward": 12,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "feed_forward_dropout": 0.1,
}

RELATIVE: dict[str, Any] = {**TRANSFORMER, "positions": "none", "max_relative_positions": 2}

ENCODERS: dict[str, dict[str, Any]] = {"gru": GRU, "lstm": LSTM, "transformer": TRANSFORMER}
#: Widths that differ from the encoders', so that nothing fits by accident.
DECODERS: dict[str, dict[str, Any]] = {
    "gru": {**GRU, "width": 6, "attention_width": 5},
    "lstm": {**LSTM, "width": 6, "attention": "general"},
    "transformer": TRANSFORMER,
}


def kinds(union: Any) -> set[str]:
    """What the members of a recipe's union, such as ``AnyEncoder``, are called there."""
    return {get_args(member.model_fields["type"].annotation)[0] for member in get_args(union)}


def _config(encoder: Mapping[str, Any], decoder: Mapping[str, Any], **rest: Any) -> ModelConfig:
    return ModelConfig.model_validate(
        {"encoder": encoder, "decoder": decoder, "embedding": 8, "tied_embeddings": 0, **rest}
    )


NINE: dict[str, ModelConfig] = {
    f"{encoder}-{decoder}": _config(ENCODERS[encoder], DECODERS[decoder])
    for encoder, decoder in itertools.product(ENCODERS, DECODERS)
}

VARIANTS: dict[str, ModelConfig] = {
    "gru-deep": _config({**GRU, "layers": 2}, {**DECODERS["gru"], "layers": 3}),
    "gru-left-to-right": _config({**GRU, "bidirectional": False, "width": 7}, DECODERS["gru"]),
    "gru-wide-readout": _config(GRU, {**DECODERS["gru"], "readout": 10}),
    "gru-bridging": _config({**GRU, "bridging": True}, DECODERS["gru"]),
    "gru-conditional": _config(GRU, {**DECODERS["gru"], "conditional": True}),
    "gru-conditional-deep": _config(TRANSFORMER, {**DECODERS["gru"], "conditional": True, "layers": 3}),
    "gru-conditional-general": _config(LSTM, {**GRU, "width": 6, "attention": "general", "conditional": True}),
    "gru-additive-default-width": _config(GRU, {**GRU, "width": 6}),
    "gru-dot": _config(GRU, {**GRU, "attention": "dot"}),
    "gru-scaled-dot": _config(LSTM, {**GRU, "attention": "scaled-dot"}),
    "gru-general": _config(GRU, {**GRU, "width": 6, "attention": "general"}),
    "lstm-deep": _config({**LSTM, "layers": 2}, {**DECODERS["lstm"], "layers": 3}),
    "lstm-left-to-right": _config({**LSTM, "bidirectional": False, "width": 7}, DECODERS["lstm"]),
    "lstm-bridging": _config({**LSTM, "layers": 2, "bidirectional": False, "bridging": True}, {**LSTM, "width": 16}),
    "lstm-dot": _config(LSTM, {**LSTM, "attention": "dot"}),
    "lstm-scaled-dot": _config(LSTM, {**LSTM, "attention": "scaled-dot"}),
    "lstm-additive": _config(LSTM, {**LSTM, "width": 6, "attention": "additive", "attention_width": 5}),
    "lstm-without-feeding": _config(LSTM, {**DECODERS["lstm"], "input_feeding": False}),
    "lstm-deep-without-feeding": _config(LSTM, {**DECODERS["lstm"], "layers": 2, "input_feeding": False}),
    "lstm-additive-without-feeding": _config(LSTM, {**LSTM, "attention": "additive", "input_feeding": False}),
    "transformer-post": _config({**TRANSFORMER, "norm": "post"}, {**TRANSFORMER, "norm": "post"}),
    "transformer-learned": _config(
        {**TRANSFORMER, "positions": "learned", "max_positions": 12},
        {**TRANSFORMER, "positions": "learned", "max_positions": 10},
    ),
    "transformer-one-layer": _config({**TRANSFORMER, "layers": 1}, {**TRANSFORMER, "layers": 1, "heads": 1}),
    "transformer-uneven": _config({**TRANSFORMER, "heads": 4}, {**TRANSFORMER, "layers": 3, "alignment_layer": 3}),
    "transformer-window": _config({**TRANSFORMER, "window": 1}, TRANSFORMER),
    "transformer-window-wide": _config({**TRANSFORMER, "window": 3, "norm": "post"}, DECODERS["gru"]),
    "transformer-relative": _config(RELATIVE, RELATIVE),
    "transformer-relative-window": _config(
        {**TRANSFORMER, "max_relative_positions": 3, "window": 2, "norm": "post"}, DECODERS["gru"]
    ),
    "transformer-no-positions": _config(TRANSFORMER, {**TRANSFORMER, "positions": "none"}),
    "tied-2-gru": _config(GRU, DECODERS["gru"], tied_embeddings=2),
    "tied-2-lstm": _config(LSTM, {**DECODERS["lstm"], "width": 8}, tied_embeddings=2),
    "tied-3-transformer": _config(TRANSFORMER, TRANSFORMER, tied_embeddings=3),
    "tied-3-mixed": _config(TRANSFORMER, DECODERS["gru"], tied_embeddings=3),
}

PAIRINGS: dict[str, ModelConfig] = {**NINE, **VARIANTS}


def new_model(
    pairing: str | ModelConfig, *, dtype: torch.dtype = torch.float64, seed: int = 1, lively: bool = True
) -> Seq2Seq:
    """A model in eval mode. ``lively`` moves every parameter off its initial value, zeros and ones above all: a term
    that is multiplied by a zero bias proves nothing.
    """
    config = PAIRINGS[pairing] if isinstance(pairing, str) else pairing
    source, target = SOURCE_VOCABULARY, TARGET_VOCABULARY
    if config.tied_embeddings == 3:
        source = target = JOINT_VOCABULARY
    with torch.random.fork_rng(devices=[]), default_dtype(dtype):
        torch.manual_seed(seed)
        model = build(config, source, target).eval()
        if lively:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """What is made inside has ``dtype`` from the start, the table of positions too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def new_batch(pairs: Sequence[Pair] = SENTENCES) -> Batch:
    return collate(pairs, range(len(pairs)), pad_id=PAD, bos_id=BOS, eos_id=EOS)
