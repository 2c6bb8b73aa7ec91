"""Subword pieces: SentencePiece (Kudo and Richardson 2018), which is the vocabulary as well.

Text goes in raw and comes out raw. With byte fallback, which is the default, a character that the vocabulary lacks is
spelt in UTF-8 bytes, so that nothing becomes ``<unk>``.

Training depends on the text and the recipe only: unigram training gives other models for other numbers of threads, so
their number is fixed.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import sentencepiece

from nmt.data.text import in_word
from nmt.errors import CheckpointError, ConfigError, DataError, NmtError
from nmt.files import written_whole

if TYPE_CHECKING:  # what encodes a corpus needs numpy, what translates a line does not
    import numpy as np

    from nmt.config import DataConfig, TokenizerConfig
    from nmt.data.corpus import Pair
    from nmt.data.ragged import Ragged
    from nmt.data.segmentation import Sampler
    from nmt.data.words import Encoder

__all__ = ["Tokenizer", "Tokenizers", "find_model", "train_tokenizer", "train_tokenizers"]

TRAINING_LINES = 4_000_000
"""How many lines at most a tokenizer is trained on, drawn evenly from all; SentencePiece holds them in memory."""

TRAINING_LINE = 2000
"""Longer training lines are cut to this many characters: SentencePiece's time goes with the square of their length."""

THREADS = 4
"""Threads in training, whatever the machine: another number gives another unigram model."""

T = TypeVar("T")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_LINE_BREAKS = str.maketrans("\n\r", "  ")


class Tokenizer:
    """A SentencePiece model: text to ids and back.

    Attributes:
        pad_id, bos_id, eos_id, unk_id: ids of the special pieces, 0, 2, 3 and 1 in models trained here. A model from
            elsewhere that has no padding piece pads with its unknown piece: masks say what is real, ids need not.
        digest: SHA-256 of the model, in hexadecimal.
        name: the first eight digits of it, for people.
    """

    def __init__(self, model: bytes) -> None:
        """Make a tokenizer of a serialized model. Raises CheckpointError for one that is damaged or lacks a piece."""
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except (RuntimeError, OSError) as error:
            raise CheckpointError("not a SentencePiece model, or a damaged one") from error
        self.unk_id, self.bos_id, self.eos_id = (
            self._processor.unk_id(),
            self._processor.bos_id(),
            self._processor.eos_id(),
        )
        if len(self._processor) == 0 or min(self.unk_id, self.bos_id, self.eos_id) < 0:
            raise CheckpointError("the SentencePiece model needs pieces for unknown, begin and end of sentence")
        self._samplers: dict[float, Sampler] = {}
        self.pad_id: int = self._processor.pad_id() if self._processor.pad_id() >= 0 else self.unk_id

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """The tokenizer in ``path``. Raises CheckpointError where it cannot be read or is not one."""
        try:
            model = Path(path).read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path}: the tokenizer cannot be read: {error.strerror}") from error
        if not model:
            raise CheckpointError(f"{path}: the tokenizer's file is empty")
        try:
            return cls(model)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def save(self, path: Path | str) -> None:
        """Write the model to ``path``, whole or not at all."""
        try:
            with written_whole(Path(path)) as part:
                part.write_bytes(self._model)
        except OSError as error:
            raise NmtError(f"{path}: the tokenizer cannot be written: {error.strerror}") from error

    def to_bytes(self) -> bytes:
        """The serialized model, as :meth:`save` writes it."""
        return self._model

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the model: the same for the same tokenizer only."""
        return hashlib.sha256(self._model).hexdigest()

    @property
    def name(self) -> str:
        """A short name: the first digits of :attr:`digest`."""
        return self.digest[:8]

    def __len__(self) -> int:
        """The size of the vocabulary, special pieces counted."""
        return len(self._processor)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self._model == other._model

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Tokenizer({self.name}, {len(self)} pieces)"

    # ------------------------------------------------------------------------------------------------------ encoding

    def encode(self, text: str) -> list[int]:
        """The ids of a line, without BOS and EOS; none for a blank line."""
        ids: list[int] = self._processor.encode(text)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> Ragged:
        """The same for many lines, a good deal faster, as rows of :attr:`id_type`."""
        return self._encoder(texts)

    @property
    def id_type(self) -> np.dtype[Any]:
        """The type of ids on disk: two bytes each where that is enough, else four."""
        return self._encoder.dtype

    @cached_property
    def _encoder(self) -> Encoder:
        from nmt.data.words import Encoder

        return Encoder(self._processor)

    def sample(self, text: str, strength: float, seed: int) -> list[int]:
        """One segmentation drawn at random, a function of the arguments alone (see :mod:`nmt.data.segmentation`).

        ``strength`` is as ``tokenizer.sampling`` in the recipe: the probability of dropping a merge for BPE, the
        smoothing alpha for unigram; 0 draws nothing and gives :meth:`encode`. ``seed`` counts modulo 2**64.
        """
        if not strength:
            return self.encode(text)
        if strength not in self._samplers:
            from nmt.data.segmentation import Sampler

            self._samplers[strength] = Sampler(self._processor, strength)
        return self._samplers[strength](text, seed)

    def encode_words(self, text: str) -> tuple[list[int], list[int]]:
        """The ids of a line, and for each the index in ``text.split()`` of the word it comes from.

        Exact whatever the normalisation makes of the text: SentencePiece says which characters a piece stands for. A
        piece that stands for characters of two words (a line separator in between was dropped) belongs to the first.
        """
        found = self._processor.encode(text, return_type="offset_mapping")
        return found["ids"], _words(text, found["offsets"])

    # ------------------------------------------------------------------------------------------------------ decoding

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, in one line: a line break spelt in bytes becomes a space, broken UTF-8 U+FFFD."""
        text: str = self._processor.decode(list(ids))
        return text.translate(_LINE_BREAKS)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The pieces as SentencePiece writes them, ``▁`` standing for a space."""
        return list(map(self.piece, ids))

    def piece(self, number: int) -> str:
        """One of them."""
        piece: str = self._processor.id_to_piece(number)
        return piece

    def piece_id(self, piece: str) -> int:
        """The id of a piece, the unknown piece's for what is none."""
        number: int = self._processor.piece_to_id(piece)
        return number

    @cached_property
    def continuing(self) -> frozenset[int]:
        """The pieces that go on with the word that stands before them, as ``on`` behind ``chat`` does.

        They begin with a letter or a digit and not with a space. In scripts that write no spaces there are none. Of
        bytes they are those that are or begin a letter of an alphabet.
        """

        def goes_on(piece: str) -> bool:
            if byte := _BYTE.fullmatch(piece):
                value = int(byte[1], 16)
                return chr(value).isalnum() if value < 0x80 else 0xC3 <= value <= 0xDF
            return in_word(piece[:1])

        return frozenset(number for number, piece in enumerate(self.pieces(range(len(self)))) if goes_on(piece))

    def join(self, written: Sequence[str], *, numbers: bool = False, where: str = "") -> str:
        """The text of pieces (an unknown one is ``<unk>``), or with ``numbers`` of ids, as they are written in a file.

        ``where`` is put before messages. Raises DataError for what is no id of this vocabulary.
        """
        ids = []
        for word in filter(None, written):
            if not numbers:
                ids.append(self.piece_id(word))
            elif word.isascii() and word.isdigit() and len(word) < 20 and int(word) < len(self):
                ids.append(int(word))
            else:
                raise DataError(f"{where}: {word[:20]!r} is no id of this vocabulary of {len(self)}")
        return self.decode(ids)

    def words(self, ids: Sequence[int]) -> list[int]:
        """For each id the index in ``decode(ids).split()`` of the word it belongs to.

        Special pieces have no text and count with the word that follows, or the last. For the words of a raw line use
        :meth:`encode_words`: normalisation may have put them together otherwise.
        """
        if not len(ids):
            return []
        found = self._processor.decode(list(ids), return_type="offset_mapping")
        return _words(found["text"], found["offsets"])


def _words(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """For each span of ``text`` the index of its word: the one its first character that is not white stands in."""
    ends = [word.end() for word in re.finditer(r"\S+", text)]  # \S is what str.split() keeps, character for character
    last = max(len(ends) - 1, 0)
    return [min(bisect_left(ends, start + 1), last) for start, _ in offsets]


def find_model(path: Path, side: Literal["source", "target"]) -> Path:
    """The model file at ``path``, or that of one side in a run folder, whose joint model is called source.model."""
    if not path.is_dir():
        return path
    own = path / f"{side}.model"
    return own if own.exists() else path / "source.model"


@dataclass(frozen=True)
class Tokenizers:
    """The tokenizers of the two sides; a joint one is the same object twice."""

    source: Tokenizer
    target: Tokenizer

    def __post_init__(self) -> None:
        ids = [(one.pad_id, one.bos_id, one.eos_id) for one in (self.source, self.target)]
        if ids[0] != ids[1]:
            raise ConfigError(
                "tokenizer: the two models have other ids for padding, begin and end of sentence: "
                f"{', '.join(map(str, ids[0]))} and {', '.join(map(str, ids[1]))}"
            )

    @property
    def joint(self) -> bool:
        """Whether both sides share one vocabulary."""
        return self.source is self.target


# ------------------------------------------------------------------------------------------------------------ training


def train_tokenizers(data: DataConfig, config: TokenizerConfig, seed: int) -> Tokenizers:
    """The recipe's tokenizers: those it names, or else trained on all its training corpora, weights not counted.

    Of a corpus that is streamed the first half million pairs are taken.

    Raises ConfigError for a vocabulary that the text cannot give, DataError for corpora that break their contract,
    CheckpointError for a named model that cannot be loaded.
    """
    from nmt.data.corpus import read_pairs

    if config.source_model is not None and config.target_model is not None:
        source = Tokenizer.load(config.source_model)
        return Tokenizers(source, source if config.joint else Tokenizer.load(config.target_model))
    if not data.train:
        raise ConfigError("data.train: no training corpus is given, and a tokenizer needs one")
    pairs: Iterable[Pair] = (pair for corpus in data.train for pair in read_pairs(corpus))
    if data.stream is not None:
        pairs = itertools.islice(pairs, TRAINING_LINES // 8)  # a stream may have no end
    if config.joint:
        joint = train_tokenizer((line for pair in pairs for line in (pair.source, pair.target)), config, seed=seed)
        return Tokenizers(joint, joint)
    drawn = _draw(pairs, TRAINING_LINES, seed)
    return Tokenizers(
        train_tokenizer((pair.source for pair in drawn), config, seed=seed),
        train_tokenizer((pair.target for pair in drawn), config, seed=seed),
    )


def train_tokenizer(lines: Iterable[str], config: TokenizerConfig, *, seed: int) -> Tokenizer:
    """A tokenizer trained on ``lines``; ``seed`` draws :data:`TRAINING_LINES` of them where there are more.

    The same lines, config and seed give the same model on every machine. Raises ConfigError for a vocabulary too large
    or too small for the text, DataError where there is no text.
    """
    # A null character would make SentencePiece leave the line out.
    drawn = [line.replace("\0", " ") for line in _draw(lines, TRAINING_LINES, seed)]
    if not any(line and not line.isspace() for line in drawn):
        raise DataError("there is no text to train a tokenizer on: every line is blank")
    writer = _Writer()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain.from_iterable(map(_cut, drawn)),
            model_writer=writer,
            model_type=config.type,
            vocab_size=config.vocabulary,
            byte_fallback=config.byte_fallback,
            character_coverage=config.character_coverage,
            normalization_rule_name=config.normalization,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            pad_piece="<pad>",
            max_sentence_length=16 * TRAINING_LINE,
            num_threads=THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explain(error, config) from error
    return Tokenizer(b"".join(writer.chunks))


class _Writer:
    """A stream that SentencePiece can write a model to."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    def write(self, chunk: bytes) -> None:
        self.chunks.append(chunk)


def _explain(error: RuntimeError, config: TokenizerConfig) -> Exception:
    """SentencePiece's words on a vocabulary that cannot be had, as a line that says what to set."""
    message = str(error)
    if found := re.search(r"Vocabulary size too high \(\d+\)\. .*<= (\d+)", message):
        return ConfigError(
            f"tokenizer.vocabulary: {config.vocabulary} pieces are more than this text can give; "
            f"set it to {found[1]} or less"
        )
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return ConfigError(
            f"tokenizer.vocabulary: {config.vocabulary} pieces are too few for the characters of this text; "
            f"set it to {int(found[1]) + 1} or more, or lower tokenizer.character_coverage"
        )
    return DataError(f"the tokenizer cannot be trained on this text: {message}")


def _cut(line: str) -> Iterator[str]:
    """The line in parts of at most TRAINING_LINE characters, cut at spaces where there are any."""
    while len(line) > TRAINING_LINE:
        space = line.rfind(" ", 1, TRAINING_LINE)
        end = space if space > 0 else TRAINING_LINE
        yield line[:end]
        line = line[end:]
    yield line


def _draw(items: Iterable[T], number: int, seed: int) -> list[T]:
    """At most ``number`` of the items, drawn evenly in one pass (Vitter 1985, algorithm R); all if there are fewer."""
    stream = iter(items)
    drawn = list(itertools.islice(stream, number))
    random = Random(seed)
    for seen, item in enumerate(stream, number + 1):
        if (place := random.randrange(seen)) < number:
            drawn[place] = item
    return drawn
