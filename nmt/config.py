"""The recipe: everything that decides a run, typed, frozen and checked before any work starts.

A recipe is TOML in five parts: ``data``, ``tokenizer``, ``model``, ``training`` and ``decoding``. Whatever it leaves
out has the default written here, so the fields below are the reference of what a recipe may say. Paths are relative to
the folder the command is run in.

:func:`load_recipe` reads one, applies ``--set`` overrides and reports all faults in one message, each with its file
and key, and the nearest known name for an unknown one. This module imports no torch.
"""

from __future__ import annotations

import difflib
import inspect
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from nmt.errors import ConfigError

__all__ = [
    "AnyCorpus",
    "AnyDecoder",
    "AnyEncoder",
    "AnySchedule",
    "ConstantSchedule",
    "CosineSchedule",
    "DataConfig",
    "DatasetsCorpus",
    "DecodingConfig",
    "GruDecoder",
    "GruEncoder",
    "InverseSqrtSchedule",
    "JsonlCorpus",
    "LinearSchedule",
    "LstmDecoder",
    "LstmEncoder",
    "ModelConfig",
    "PlateauSchedule",
    "Recipe",
    "TextCorpus",
    "TmxCorpus",
    "TokenizerConfig",
    "TrainingConfig",
    "TransformerDecoder",
    "TransformerEncoder",
    "TsvCorpus",
    "differences",
    "load_recipe",
    "parse_recipe",
    "reshaped",
    "setting",
]

LARGEST = 2**31 - 1
"""The largest whole number that a recipe may have."""

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


class Frozen(BaseModel):
    """A part of the recipe: unknown keys are refused, values cannot be changed.

    Numbers are finite and, but for the seed, at most :data:`LARGEST`, past which libraries overflow; no text has a null
    character, which no path can have.

    What checks a part is put together when that part is first checked: an export asks for one of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True)

    @field_validator("*", mode="after")
    @classmethod
    def _sane(cls, value: Any, field: ValidationInfo) -> Any:
        if isinstance(value, int) and value > LARGEST and field.field_name != "seed":
            raise ValueError(f"a number larger than {LARGEST}")
        if isinstance(value, (str, Path)) and "\0" in str(value):
            raise ValueError("text with a null character")
        return value


# ---------------------------------------------------------------------------------------------------------------- data


class TextCorpus(Frozen):
    """Two parallel text files, one sentence a line; ``.gz .xz .bz2 .zst`` are known by their magic bytes."""

    format: Literal["text"] = "text"
    source: Path
    target: Path
    weight: float = Field(default=1.0, gt=0.0)


class TsvCorpus(Frozen):
    """One file of tab-separated columns. Columns are counted from 1, or named by the file's first line."""

    format: Literal["tsv"]
    path: Path
    source: int | str = 1
    target: int | str = 2
    weight: float = Field(default=1.0, gt=0.0)


class JsonlCorpus(Frozen):
    """One JSON object a line; ``source`` and ``target`` name its fields, dots going down (``translation.en``)."""

    format: Literal["jsonl"]
    path: Path
    source: str = "source"
    target: str = "target"
    weight: float = Field(default=1.0, gt=0.0)


class TmxCorpus(Frozen):
    """A translation memory; ``source`` and ``target`` are languages in it, as ``en`` for any English, or ``en-GB``."""

    format: Literal["tmx"]
    path: Path
    source: str
    target: str
    weight: float = Field(default=1.0, gt=0.0)


class DatasetsCorpus(Frozen):
    """Anything that ``datasets.load_dataset`` loads: a hub id, or a folder of parquet, arrow, csv or json files.

    With ``streaming`` it is read as it comes, pass after pass, and nothing of it is kept on disk: a training corpus
    that is streamed is the only one, its sentences are shuffled within windows of some ten thousand only, and a
    tokenizer is trained on its first pairs.
    """

    format: Literal["datasets"]
    dataset: str = Field(min_length=1)
    name: str | None = None
    split: str = "train"
    source: str
    target: str
    streaming: bool = False
    weight: float = Field(default=1.0, gt=0.0)


AnyCorpus = Annotated[TextCorpus | TsvCorpus | JsonlCorpus | TmxCorpus | DatasetsCorpus, Field(discriminator="format")]


def _default_format(value: Any) -> Any:
    """A corpus without a format is two text files."""
    if isinstance(value, Mapping) and "format" not in value:
        return {"format": "text", **value}
    return value


def _one_or_more(value: Any) -> Any:
    """Allow ``[data.train]`` where there is one corpus and ``[[data.train]]`` where there are several."""
    return [value] if isinstance(value, Mapping) else value


Corpus = Annotated[AnyCorpus, BeforeValidator(_default_format)]
Corpora = Annotated[tuple[Corpus, ...], BeforeValidator(_one_or_more)]


class DataConfig(Frozen):
    """Which corpora, and which of their pairs are kept.

    ``source`` and ``target`` are language codes: names for reports, and the endings of the files ``--data`` looks for.
    A filter set to 0 is off. ``max_length`` counts subword tokens of the longer side, ``max_ratio`` is the longer
    length over the shorter, ``drop_held_out`` leaves out pairs that share a line, source or target, with ``valid`` or
    ``test``. Pairs with a blank side are always dropped as pairs. The weight of a corpus is the number of times its
    pairs are seen per epoch, fractions drawn anew each epoch.
    """

    source: str = "source"
    target: str = "target"
    train: Corpora = ()
    valid: Corpus | None = None
    test: Corpus | None = None
    max_length: int = Field(default=250, ge=0)
    max_ratio: float = Field(default=0.0, ge=0.0)
    drop_duplicates: bool = False
    drop_held_out: bool = False

    @model_validator(mode="after")
    def _stream(self) -> DataConfig:
        if self.stream is None:
            return self
        if len(self.train) > 1 or self.train[0].weight != 1:
            raise ValueError(
                "a streamed training corpus is the only one, of weight 1: what is read as it comes cannot be mixed; "
                "set streaming = false, or have datasets interleave them"
            )
        if self.drop_duplicates:
            raise ValueError(
                "drop_duplicates needs streaming = false: of a stream nothing is kept to tell a duplicate by"
            )
        return self

    @property
    def stream(self) -> DatasetsCorpus | None:
        """The training corpus that is read as it comes, if there is one."""
        found = (corpus for corpus in self.train if isinstance(corpus, DatasetsCorpus) and corpus.streaming)
        return next(found, None)


# ----------------------------------------------------------------------------------------------------------- tokenizer


class TokenizerConfig(Frozen):
    """SentencePiece: one joint model or one a side (Kudo and Richardson 2018).

    With ``source_model`` and ``target_model`` the named models are used as they are; without, they are trained on the
    training corpora. ``sampling`` is subword regularisation in training: for ``bpe`` the probability of dropping a
    merge (BPE-dropout, Provilkov et al. 2020), for ``unigram`` the smoothing alpha of sampled segmentations (Kudo 2018,
    smaller is wilder); 0 is off. ``vocabulary`` is the number of pieces a model, of which every character takes one
    that is among the share ``character_coverage`` of the text; others are spelt in bytes with ``byte_fallback``, and
    are unknown without. ``normalization`` is SentencePiece's rule for characters that are written in several ways.
    """

    type: Literal["bpe", "unigram"] = "bpe"
    vocabulary: int = Field(default=8000, ge=32, le=1_000_000)
    joint: bool = True
    byte_fallback: bool = True
    character_coverage: float = Field(default=1.0, gt=0.0, le=1.0)
    normalization: Literal["identity", "nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf"] = "nmt_nfkc"
    sampling: Probability = 0.0
    source_model: Path | None = None
    target_model: Path | None = None

    @model_validator(mode="after")
    def _both_models(self) -> TokenizerConfig:
        if (self.source_model is None) != (self.target_model is None):
            raise ValueError("source_model and target_model go together; name the same file twice for a joint model")
        if self.source_model is not None and self.joint != (self.source_model == self.target_model):
            raise ValueError("joint = true takes the same file as source_model and target_model, joint = false two")
        return self


# --------------------------------------------------------------------------------------------------------------- model


class GruEncoder(Frozen):
    """A stack of GRU layers, bidirectional as in Bahdanau et al. 2015; ``width`` counts both directions together.

    With ``bridging`` an annotation is a state and the embedding of its word side by side, so that attention leads to
    the word itself as well (Kuang et al. 2018). In training ``recurrent_dropout`` drops weights between a state and the
    next, the same for all sentences of a batch (Merity et al. 2018, section 2).
    """

    type: Literal["gru"]
    layers: int = Field(default=1, ge=1, le=1000)
    width: int = Field(default=512, ge=1)
    bidirectional: bool = True
    bridging: bool = False
    dropout: Probability = 0.2
    recurrent_dropout: Probability = 0.0

    @model_validator(mode="after")
    def _halves(self) -> GruEncoder:
        if self.bidirectional and self.width % 2:
            raise ValueError(f"width {self.width} cannot be halved between the two directions: make it even")
        return self


class LstmEncoder(Frozen):
    """A stack of LSTM layers (Luong et al. 2015 read left to right only); ``width`` counts both directions together.

    With ``bridging`` an annotation is a state and the embedding of its word side by side, so that attention leads to
    the word itself as well (Kuang et al. 2018). In training ``recurrent_dropout`` drops weights between a state and the
    next, the same for all sentences of a batch (Merity et al. 2018, section 2).
    """

    type: Literal["lstm"]
    layers: int = Field(default=1, ge=1, le=1000)
    width: int = Field(default=512, ge=1)
    bidirectional: bool = True
    bridging: bool = False
    dropout: Probability = 0.2
    recurrent_dropout: Probability = 0.0

    @model_validator(mode="after")
    def _halves(self) -> LstmEncoder:
        if self.bidirectional and self.width % 2:
            raise ValueError(f"width {self.width} cannot be halved between the two directions: make it even")
        return self


class _Transformer(Frozen):
    """What both sides have. ``dropout`` stands after every part (Vaswani et al. 2017, 5.4), the others within parts.

    With ``zero_init_residual`` the last matrix of every part starts at zero, and so a layer as the identity (Goyal et
    al. 2017, section 5.1): training gets under way sooner.

    ``positions`` are added to embeddings; ``max_positions`` bounds learned ones. With ``max_relative_positions`` > 0
    self-attention learns, beside them or in their place, what to add to a score for how far apart two tokens are
    (Raffel et al. 2020, section 2.1), distances beyond that counting as that. With neither an encoder cannot tell the
    order of words.
    """

    type: Literal["transformer"]
    layers: int = Field(default=6, ge=1, le=1000)
    width: int = Field(default=512, ge=2)
    feed_forward: int = Field(default=2048, ge=1)
    heads: int = Field(default=8, ge=1)
    norm: Literal["pre", "post"] = "pre"
    zero_init_residual: bool = False
    positions: Literal["sinusoidal", "learned", "none"] = "sinusoidal"
    max_positions: int = Field(default=1024, ge=1)
    max_relative_positions: int = Field(default=0, ge=0)
    dropout: Probability = 0.1
    attention_dropout: Probability = 0.0
    feed_forward_dropout: Probability = 0.0

    @model_validator(mode="after")
    def _heads(self) -> _Transformer:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(f"width {self.width} must be even for sinusoidal positions")
        return self


class TransformerEncoder(_Transformer):
    """Vaswani et al. 2017, section 3.1.

    ``window`` > 0 lets every position attend to that many neighbours on either side only (truncated self-attention);
    0 attends to the whole sentence.
    """

    window: int = Field(default=0, ge=0)


Score = Literal["additive", "dot", "scaled-dot", "general"]


class GruDecoder(Frozen):
    """The decoder of Bahdanau et al. 2015: attends with s_{i-1}, the context enters the recurrence.

    ``attention`` is the score between a query and the annotations; its hidden layer has ``attention_width`` units
    (additive only). A ``conditional`` GRU moves twice a step and attends in between, so that its query has seen the
    last target token (Sennrich et al. 2017, section 2). ``readout`` is the width of the maxout layer before the output
    layer; 0 makes it the embedding's. In training ``recurrent_dropout`` drops weights between a state and the next, the
    same for all sentences of a batch (Merity et al. 2018, section 2).
    """

    type: Literal["gru"]
    layers: int = Field(default=1, ge=1, le=1000)
    width: int = Field(default=512, ge=1)
    attention: Score = "additive"
    attention_width: int = Field(default=0, ge=0)
    conditional: bool = False
    readout: int = Field(default=0, ge=0)
    dropout: Probability = 0.2
    recurrent_dropout: Probability = 0.0


class LstmDecoder(Frozen):
    """The decoder of Luong et al. 2015: attends with h_t, after the recurrence.

    With ``input_feeding`` the attentional vector of one step is part of the next step's input (section 3.3). In
    training ``recurrent_dropout`` drops weights between a state and the next, none of those of input feeding, the same
    for all sentences of a batch (Merity et al. 2018, section 2).
    """

    type: Literal["lstm"]
    layers: int = Field(default=1, ge=1, le=1000)
    width: int = Field(default=512, ge=1)
    attention: Score = "dot"
    attention_width: int = Field(default=0, ge=0)
    input_feeding: bool = True
    dropout: Probability = 0.2
    recurrent_dropout: Probability = 0.0


class TransformerDecoder(_Transformer):
    """Vaswani et al. 2017, section 3.1.

    ``alignment_layer`` (from 1) is the layer whose cross-attention, averaged over heads, is shown and aligned with;
    0 is the last but one, which aligns best (Garg et al. 2019, section 4.1).
    """

    alignment_layer: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _layer(self) -> TransformerDecoder:
        if self.alignment_layer > self.layers:
            raise ValueError(f"alignment_layer {self.alignment_layer} is past the last of {self.layers} layers")
        return self


def _by_name(default: str) -> BeforeValidator:
    """``encoder = "gru"`` is short for ``encoder = { type = "gru" }``; without a type it is of the ``default`` one."""

    def named(value: Any) -> Any:
        if isinstance(value, str):
            return {"type": value}
        return {"type": default, **value} if isinstance(value, Mapping) else value

    return BeforeValidator(named)


AnyEncoder = GruEncoder | LstmEncoder | TransformerEncoder
AnyDecoder = GruDecoder | LstmDecoder | TransformerDecoder


class ModelConfig(Frozen):
    """An encoder, a decoder and the embeddings they share.

    ``tied_embeddings``: 0 ties none, 2 the target embedding and the output layer (Press and Wolf 2017), 3 the source
    embedding as well (a joint tokenizer is needed). ``embedding`` is E. In training ``embedding_dropout`` drops units
    of embeddings, as ``dropout`` of encoder and decoder does between their layers, and ``word_dropout`` whole words.
    """

    encoder: Annotated[Annotated[AnyEncoder, Field(discriminator="type")], _by_name("transformer")] = Field(
        default_factory=lambda: TransformerEncoder(type="transformer")
    )
    decoder: Annotated[Annotated[AnyDecoder, Field(discriminator="type")], _by_name("transformer")] = Field(
        default_factory=lambda: TransformerDecoder(type="transformer")
    )
    embedding: int = Field(default=512, ge=1)
    embedding_dropout: Probability = 0.1
    word_dropout: Probability = 0.0
    tied_embeddings: Literal[0, 2, 3] = 3

    @model_validator(mode="after")
    def _widths(self) -> ModelConfig:
        for name, part in (("encoder", self.encoder), ("decoder", self.decoder)):
            if isinstance(part, _Transformer) and part.width != self.embedding:
                raise ValueError(
                    f"the transformer {name}'s width {part.width} must equal model.embedding {self.embedding}"
                )
        if not isinstance(self.decoder, TransformerDecoder):
            decoder = self.decoder
            if decoder.attention in ("dot", "scaled-dot") and decoder.width != self.state_width:
                beside = " and the embedding beside it" if self.state_width != self.encoder.width else ""
                raise ValueError(
                    f"attention {decoder.attention!r} needs decoder.width {decoder.width} equal to encoder.width"
                    f"{beside}, {self.state_width}; make them equal or use 'general' or 'additive'"
                )
            if decoder.attention != "additive" and decoder.attention_width:
                raise ValueError("attention_width belongs to attention = 'additive' only")
        if self.tied_embeddings and self.feature_width != self.embedding:
            raise ValueError(
                f"tied_embeddings = {self.tied_embeddings} needs features as wide as model.embedding "
                f"{self.embedding}, the decoder gives {self.feature_width}; set tied_embeddings = 0 or change the width"
            )
        return self

    @property
    def state_width(self) -> int:
        """H of the annotations that the decoder looks at."""
        bridging = not isinstance(self.encoder, TransformerEncoder) and self.encoder.bridging
        return self.encoder.width + (self.embedding if bridging else 0)

    @property
    def feature_width(self) -> int:
        """H of the features that the output layer reads."""
        if isinstance(self.decoder, GruDecoder):
            return self.decoder.readout or self.embedding
        return self.decoder.width


# ------------------------------------------------------------------------------------------------------------ training


class ConstantSchedule(Frozen):
    """The learning rate as given, after a linear warm-up."""

    type: Literal["constant"]
    warmup_steps: int = Field(default=0, ge=0)


class InverseSqrtSchedule(Frozen):
    """Linear warm-up, then a fall with the inverse square root of the step (Vaswani et al. 2017, section 5.3)."""

    type: Literal["inverse-sqrt"]
    warmup_steps: int = Field(default=4000, ge=1)


class CosineSchedule(Frozen):
    """Linear warm-up, then half a cosine down to ``final`` times the learning rate at ``max_steps``."""

    type: Literal["cosine"]
    warmup_steps: int = Field(default=1000, ge=0)
    final: float = Field(default=0.0, ge=0.0, le=1.0)


class LinearSchedule(Frozen):
    """Linear warm-up, then a straight line down to ``final`` times the learning rate at ``max_steps``."""

    type: Literal["linear"]
    warmup_steps: int = Field(default=1000, ge=0)
    final: float = Field(default=0.0, ge=0.0, le=1.0)


class PlateauSchedule(Frozen):
    """After a warm-up, the rate is multiplied by ``factor`` when ``patience`` validations in a row did not improve."""

    type: Literal["plateau"]
    warmup_steps: int = Field(default=0, ge=0)
    factor: float = Field(default=0.5, gt=0.0, lt=1.0)
    patience: int = Field(default=2, ge=1)


AnySchedule = ConstantSchedule | InverseSqrtSchedule | CosineSchedule | LinearSchedule | PlateauSchedule


BleuTokenize = Literal["auto", "none", "13a", "intl", "char", "zh", "ja-mecab", "ko-mecab", "flores101", "flores200"]


def _seconds(value: Any) -> Any:
    """``"90s"``, ``"30m"``, ``"1.5h"`` or a number of seconds."""
    if isinstance(value, str) and value[-1:] in _UNITS:
        try:
            return float(value[:-1]) * _UNITS[value[-1]]
        except ValueError as error:
            raise ValueError(f"not a time such as '90s', '30m' or '1.5h': {value!r}") from error
    return value


_UNITS = {"s": 1, "m": 60, "h": 3600}


class TrainingConfig(Frozen):
    """How the model is trained. Counts of steps are optimiser steps, whatever the accumulation.

    ``budget`` is the time for the whole run, seconds or ``"30m"``; 0 is none. With one, ``max_steps``,
    ``validate_every`` and ``save_every`` are not used: the steps are as many as the time is enough for, warm-up takes
    at most a tenth of them, and any schedule but ``linear`` and ``cosine`` becomes ``linear``: it falls to zero.

    ``batch_tokens`` bounds rows times the longest side of a batch, padding counted; ``accumulate`` batches make one
    step, whose gradient is at most ``clip_norm`` long (0: as long as it is). ``label_smoothing`` is the share of
    probability that goes to all tokens alike (Szegedy et al. 2016). ``optimizer`` ``muon`` moves the matrices that
    states are multiplied by along orthogonal ones (Jordan et al. 2024) and all other weights as ``adamw`` does;
    ``weight_decay`` is for these two, and muon leaves ``betas`` and ``epsilon`` to those other weights. Embeddings,
    those of distances too, and the output layer move at ``embedding_rate`` times the learning rate. ``metric`` decides
    which checkpoint is best and when ``patience`` validations without improvement stop the run (0: never). ``average``
    is how many of the best checkpoints are averaged (0 and 1: none are); the mean translates where it is better on the
    validation set than each of them.

    ``consistency`` above 0 sends every batch through the model twice, with other units dropped, and weighs how far the
    two predictions are apart (R-Drop, Liang et al. 2021, where it is 5): a step takes twice the time and memory, and
    with adam a model needs many more steps. ``consistency_start`` is the share of the run that goes before that, of its
    time: a model that has yet to learn its corpus cannot know it by heart. (Without a budget it is told by steps, one
    with two passes counting as two.) What has begun goes on, if a run is resumed, also where the share is raised;
    ``patience`` counts from there; and the loss of a step is another one from there, that of validation is not.

    ``precision`` ``auto`` takes bfloat16 products where they are the quicker ones. Validation translates with a beam of
    ``validation_beam`` (0: that of ``decoding``) and scores with sacreBLEU's tokenisation ``bleu_tokenize`` (``auto``:
    the target language's; ``none`` for text that is tokenised already). ``tensorboard`` writes the figures of
    ``log.jsonl`` as TensorBoard events too.

    ``finetune_from`` is a run that this one begins as: with the weights that translate there, and with its tokenizers,
    which ``tokenizer`` has to name (``nmt train --finetune-from RUN`` sees to that). The weights are validated before
    the first step, and translate where no later ones are better.
    """

    seed: int = Field(default=1, ge=0, lt=2**63)
    max_steps: int = Field(default=20000, ge=1)
    budget: Annotated[float, BeforeValidator(_seconds)] = Field(default=0.0, ge=0.0, le=1e8)
    batch_tokens: int = Field(default=4096, ge=1)
    accumulate: int = Field(default=1, ge=1)
    optimizer: Literal["adam", "adamw", "muon"] = "adam"
    learning_rate: float = Field(default=5e-4, gt=0.0)
    embedding_rate: float = Field(default=1.0, gt=0.0)
    betas: tuple[Probability, Probability] = (0.9, 0.98)
    epsilon: float = Field(default=1e-9, gt=0.0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    schedule: Annotated[Annotated[AnySchedule, Field(discriminator="type")], _by_name("inverse-sqrt")] = Field(
        default_factory=lambda: InverseSqrtSchedule(type="inverse-sqrt")
    )
    label_smoothing: Probability = 0.1
    consistency: float = Field(default=0.0, ge=0.0)
    consistency_start: float = Field(default=0.0, ge=0.0, lt=1.0)
    clip_norm: float = Field(default=1.0, ge=0.0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    validate_every: int = Field(default=1000, ge=1)
    save_every: int = Field(default=1000, ge=1)
    log_every: int = Field(default=50, ge=1)
    validation_beam: int = Field(default=0, ge=0)
    bleu_tokenize: BleuTokenize = "auto"
    metric: Literal["bleu", "chrf", "loss"] = "bleu"
    patience: int = Field(default=0, ge=0)
    average: int = Field(default=0, ge=0)
    tensorboard: bool = False
    finetune_from: Path | None = None

    @model_validator(mode="after")
    def _decay(self) -> TrainingConfig:
        if self.weight_decay and self.optimizer == "adam":
            raise ValueError("weight_decay belongs to optimizer = 'adamw' or 'muon'")
        return self


# ------------------------------------------------------------------------------------------------------------ decoding


class DecodingConfig(Frozen):
    """How the model translates; each field is the default of the flag of the same name.

    The score of a hypothesis of n tokens (EOS counted) is its log-probability over n**alpha (``average``) or over
    ((5 + n) / 6)**alpha (``gnmt``, Wu et al. 2016, equation 14), plus ``coverage_penalty`` times what that equation
    calls cp: the sum over source tokens of log(min(attention received, 1)). A translation ends at ``max_ratio`` times
    the source's tokens plus ``max_extra`` at the latest.

    Beam search stops ``fast``, when as many hypotheses have ended as the beam holds and no live one is better so far,
    or ``exact``, when no live one can become better any more. ``no_repeat_ngram`` n > 0 has no n tokens in a row stand
    twice in a translation. ``groups`` > 1 parts the beam into groups that are kept apart by ``diversity`` (Vijayakumar
    et al. 2018).

    With ``sampling`` translations are drawn instead, from probabilities sharpened by ``temperature`` below 1, of the
    ``top_k`` likeliest tokens (0: all), of the fewest that have ``top_p`` of the probability together (Holtzman et al.
    2020), of those that have at least ``epsilon`` (Hewitt et al. 2022). ``seed`` decides what is drawn for a sentence.
    ``mbr`` takes, of ``mbr_samples`` drawn so, the one that agrees best with the others by chrF or BLEU (Eikema and
    Aziz 2020).

    A line longer than the model reads at once is ``on_long`` split at the ends of sentences, cut off, or an error.

    ``precision`` is the type of the weights in products: float32 is the reference. ``auto`` takes bfloat16 on a CPU
    that gains by it, but for models of up to four million weights: one of two million is no quicker with it, and one
    of its lines in eight changed; float16 for models of up to eight million on other x86 processors, where one line in
    some hundreds may differ; float32 elsewhere. int8 is for other processors: quicker for many lines at once, and more
    of them differ.
    """

    beam: int = Field(default=5, ge=1)
    length_penalty: Literal["none", "average", "gnmt"] = "average"
    alpha: float = Field(default=1.0, ge=0.0, le=10.0)
    coverage_penalty: float = Field(default=0.0, ge=0.0, le=100.0)
    stopping: Literal["fast", "exact"] = "fast"
    no_repeat_ngram: int = Field(default=0, ge=0)
    groups: int = Field(default=1, ge=1)
    diversity: float = Field(default=0.5, ge=0.0, le=1e6)
    sampling: bool = False
    temperature: float = Field(default=1.0, gt=0.0)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    epsilon: Probability = 0.0
    seed: int = Field(default=1, ge=0, lt=2**63)
    mbr: Literal["none", "chrf", "bleu"] = "none"
    mbr_samples: int = Field(default=32, ge=2, le=10_000)
    max_ratio: float = Field(default=2.0, gt=0.0, le=1000.0)
    max_extra: int = Field(default=20, ge=0)
    on_long: Literal["split", "cut", "error"] = "split"
    batch_size: int = Field(default=64, ge=1)
    precision: Literal["auto", "float32", "float16", "bfloat16", "int8"] = "auto"

    @model_validator(mode="after")
    def _groups(self) -> DecodingConfig:
        if self.beam % self.groups:
            raise ValueError(f"groups {self.groups} must divide the beam of {self.beam}")
        if self.groups > 1 and self.draws:
            raise ValueError("groups belong to beam search, sampling and mbr draw instead: set one of them")
        return self

    @property
    def draws(self) -> bool:
        """Whether translations are drawn, to be written or to be compared; if not they are searched for."""
        return self.sampling or self.mbr != "none"

    @property
    def idle(self) -> dict[str, str]:
        """The fields that have no say in what is found, the others being as they are, and under which of these."""
        idle = dict.fromkeys(_SEARCHED, "with sampling or mbr") if self.draws else {}
        idle |= {} if self.draws else dict.fromkeys(_DRAWN, "without sampling or mbr")
        if self.mbr == "none":
            idle["mbr_samples"] = "without mbr"
        else:
            idle |= dict.fromkeys(("length_penalty", "alpha", "sampling"), "with mbr")
        if self.length_penalty == "none":
            idle["alpha"] = "without a length_penalty"
        if self.groups == 1 and not self.draws:
            idle["diversity"] = "in a beam of one group: set groups, such as 2"
        return idle


_SEARCHED = ("beam", "stopping", "coverage_penalty", "groups", "diversity")
_DRAWN = ("temperature", "top_k", "top_p", "epsilon", "seed")


class Recipe(Frozen):
    """One run from text to translator."""

    data: DataConfig = Field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    decoding: DecodingConfig = Field(default_factory=DecodingConfig)

    @model_validator(mode="after")
    def _joint(self) -> Recipe:
        if self.model.tied_embeddings == 3 and not self.tokenizer.joint:
            raise ValueError("model.tied_embeddings = 3 needs tokenizer.joint = true; use 2 or 0 with two tokenizers")
        return self

    def to_toml(self) -> str:
        """The whole recipe, defaults included, as TOML that :func:`parse_recipe` reads back to an equal one."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def setting(key: str, text: str) -> str:
    """``key=text`` as an override, in quotes where it would be read as another thing than this text without."""
    try:
        tomllib.loads(f"value = {text}")
        is_plain = False
    except _NOT_TOML:
        is_plain = text == text.strip()
    return f"{key}={text if is_plain else tomli_w.dumps({'value': text}).partition('= ')[2].strip()}"


def differences(old: Recipe, new: Recipe) -> list[str]:
    """What of a recipe is not as it was: every key whose value differs, as ``key: old -> new``."""
    return _differences(old.model_dump(mode="json"), new.model_dump(mode="json"))


def reshaped(old: Recipe, new: Recipe) -> list[str]:
    """Those :func:`differences` under which the weights of the one are not those of the other.

    Their sizes may be the same, and what is made of them another thing.
    """
    told = [(one.partition(":")[0], one) for one in differences(old, new)]
    return [one for key, one in told if key.startswith("model.") and not key.endswith(_OF_NO_WEIGHT)] + [
        f"model.{side}.max_positions: {before.max_positions} -> {after.max_positions}"
        for side, before, after in (
            ("encoder", old.model.encoder, new.model.encoder),
            ("decoder", old.model.decoder, new.model.decoder),
        )
        if isinstance(before, _Transformer) and isinstance(after, _Transformer)
        if before.positions == after.positions == "learned" and before.max_positions != after.max_positions
    ]


_OF_NO_WEIGHT = ("dropout", ".alignment_layer", ".zero_init_residual", ".max_positions")
"""How keys of ``model`` end that say nothing of what weights are for: what is dropped in training, what is told of
attention, how weights begin, and a number of positions that are not learnt.
"""


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Every key whose value differs, as ``key: old -> new``."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before} -> {after}")
    return found


# ------------------------------------------------------------------------------------------------------------- reading


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in ``path`` with ``key=value`` overrides applied.

    Raises ConfigError for a file that cannot be read, is not TOML, or says something that a recipe cannot say.
    """
    return parse_recipe(recipe_text(path), name=str(path), overrides=overrides)


def recipe_text(path: Path | str) -> str:
    """What is written in a recipe. Raises ConfigError for a file that cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{path}: the recipe cannot be read: {reason}") from error


def parse_recipe(text: str, *, name: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """The recipe written in ``text``; ``name`` stands for it in messages. Raises ConfigError as load_recipe does."""
    try:
        raw = tomllib.loads(text)
    except _NOT_TOML as error:
        raise ConfigError(f"{name}: not TOML: {error}") from error
    for override in overrides:
        _apply(raw, override)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        faults = [_fault(fault) for fault in error.errors()]
        raise ConfigError(f"{name}: " + "; ".join(faults)) from error


_NOT_TOML = (ValueError, RecursionError)
"""What tomllib raises: its own error is a ValueError, and so is that of a number with thousands of digits."""


def _apply(raw: dict[str, Any], override: str) -> None:
    """Put one ``a.b.c=value`` into ``raw``; the value is TOML where it parses as TOML, a plain string where not."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: write it as part.key=value, such as training.max_steps=100")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except _NOT_TOML:
        value = text.strip()
    table = raw
    for part in parts[:-1]:
        inner = table.get(part, {})
        if isinstance(inner, str):
            inner = {"type": inner}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {part!r} is not a table that keys can be set in")
        table[part] = inner
        table = inner
    table[parts[-1]] = value


def _fault(fault: Mapping[str, Any]) -> str:
    """One pydantic fault as ``key: what is wrong``."""
    location = [str(part) for part in fault["loc"]]
    if fault["type"] == "extra_forbidden":
        return f"{_key(location)}: unknown key{_suggest(location)}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    shown = fault.get("input")
    if fault["type"] not in ("value_error", "missing") and isinstance(shown, (str, int, float, bool)):
        message = f"{message[0].lower()}{message[1:]}, not {shown!r}"
    return f"{_key(location)}: {message}" if location else message


def _key(location: Sequence[str]) -> str:
    """The key as the recipe writes it: pydantic names the union's branch as well, the recipe does not."""
    tags = {_tag(part) for part in _models(AnyCorpus | AnyEncoder | AnyDecoder | AnySchedule)}
    return ".".join(part for i, part in enumerate(location) if not (part in tags and i >= 2))


def _suggest(location: Sequence[str]) -> str:
    """The nearest known key to an unknown one, within its own table or, failing that, anywhere in the recipe."""
    known = dict(_fields(Recipe))
    name = location[-1]
    siblings = [key for key in known if key.rpartition(".")[0] == ".".join(location[:-1])]
    names = [key.rpartition(".")[2] for key in siblings]
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.6):
        return f", did you mean {close[0]!r}?"
    for key in known:
        parts = key.split(".")
        if parts[-1] == name:
            here = _key(parts) == _key(location)  # in another branch of the union
            return f": it belongs to {parts[-2]!r}" if here else f", did you mean {_key(parts)!r}?"
    return f"; known here: {', '.join(sorted(names))}" if names else ""


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key a recipe may have, with the union's branches as parts of the key, as pydantic's locations have them."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        yield key, field
        for part in _models(field.annotation):
            tag = _tag(part)
            yield from _fields(part, f"{key}.{tag}." if tag else f"{key}.")


def _tag(part: type[BaseModel]) -> str:
    """What tells a union's branch from the others; nothing where it is in no union."""
    tag = part.model_fields.get("type") or part.model_fields.get("format")
    return typing.get_args(tag.annotation)[0] if tag is not None and part is not TokenizerConfig else ""


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside an annotation, through Annotated and unions."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)
