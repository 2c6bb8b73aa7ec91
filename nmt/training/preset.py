"""A recipe for a corpus and a budget: what one would try first on it, with the reasons beside every choice.

What decides is how much there is to learn from (pieces of target text) and how often the time is enough to see it
(passes, from the rate of matrix products of this machine). The rules come from runs on Multi30k, of which
``docs/multi30k.md`` tells, and where those say nothing from the papers; they give a good first recipe, not the best.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import tomli_w
import torch

from nmt.config import DataConfig, Recipe, TokenizerConfig, load_recipe, parse_recipe
from nmt.data.corpus import Pair, read_pairs, with_folder
from nmt.data.text import count_lines
from nmt.decoding.torch_engine import pick_device
from nmt.distributed import ALONE, Ranks
from nmt.errors import ConfigError, DataError, NmtError
from nmt.training.allocator import keep_few_kernels
from nmt.training.lock import alone_in
from nmt.training.precision import resolve_precision
from nmt.training.report import Reporter
from nmt.training.session import Session, check

__all__ = ["Choice", "Survey", "auto", "choose", "rate_of", "survey", "to_toml"]

#: What a recipe that was chosen is called in its run folder.
NAME = "auto.toml"

CHOSEN = "Chosen by nmt train --preset auto"
"""How a recipe that was chosen begins."""

#: Seconds to train for where nobody says how long.
DEFAULT_BUDGET = 1800.0
#: Pairs of each corpus that are looked at to tell how long sentences are.
SAMPLE = 10_000
#: Characters of a piece, blanks not counted: where words stand apart, and where a sentence is written in one.
LETTERS_A_PIECE, SIGNS_A_PIECE = 4.2, 1.5
#: The share of the rate of large products that training has of it, and seconds of a step that go by whatever its size.
EFFICIENCY, OVERHEAD = 0.5, 0.02


@dataclass(frozen=True)
class Survey:
    """How much there is to learn from: sentence pairs, and about how many pieces their targets have, EOS counted.

    ``characters`` is how many there are, in what was looked at of both sides: each has a piece of its own. ``words``
    are the different runs of two letters or more on both sides, each of which can become one; None where there seem to
    be many more than in what was looked at.
    """

    pairs: int
    pieces: int
    characters: int = 0
    words: int | None = None


@dataclass(frozen=True)
class Choice:
    """A key of the recipe, its value, and why."""

    key: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Size:
    """A Transformer of so many layers a side."""

    layers: int
    width: int
    feed_forward: int
    heads: int

    @property
    def weights(self) -> int:
        """Weights of both sides, embeddings not counted."""
        attention, inner = 4 * self.width**2, 2 * self.width * self.feed_forward
        return self.layers * (3 * attention + 2 * inner)

    def operations(self, vocabulary: int) -> float:
        """Floating-point operations of a training step, a target piece: two a weight, in three products."""
        return 6.0 * (self.weights + self.width * vocabulary)


SIZES = (
    Size(2, 128, 256, 4),
    Size(4, 128, 256, 4),
    Size(3, 192, 384, 4),
    Size(3, 256, 512, 4),
    Size(4, 384, 1024, 6),
    Size(6, 512, 2048, 8),
)
#: Weights of a model that a corpus can teach, a piece of it; a model of 4 million learns Multi30k's 450,000 well.
WEIGHTS_A_PIECE = 15
#: Pieces that a model has to see, a weight, to have come as far as a smaller one in the same time: on Multi30k, in
#: about one and the same hour, the one of 2.2 million that sees 5 of them is ahead of that of 1.3 million (BLEU 40.7
#: and 40.1), the one of 3.9 million that sees 2 is behind both (39.4).
PIECES_A_WEIGHT = 3.5
#: Vocabularies, and the pieces of a corpus from which on each is worth its cost.
VOCABULARIES = ((20_000_000, 32000), (3_000_000, 16000), (250_000, 8000), (80_000, 4000), (25_000, 2000), (8_000, 1000))
#: Pieces for each character, itself and what it is part of, and those that are there in any case: bytes and marks.
ROOM_A_CHARACTER, SPECIAL = 1.25, 260
#: The share of words that the second half of what is looked at may bring, if all the text is to have hardly more.
NEWS = 0.02
#: A word, marks left out, which SentencePiece makes one piece of in the end if it is let: of no more letters, and of
#: nothing else.
WORD = re.compile(r"(?<![^\W\d_])[^\W\d_]{2,15}(?![^\W\d_])")
#: Passes over the corpus from which on units are dropped with each probability.
DROPOUTS = ((60, 0.35), (22, 0.3), (8, 0.2))
#: Passes from which on it is better to send every batch through twice, half as often (R-Drop, Liang et al. 2021), in a
#: model that has room for what is learnt so: BLEU 41.1 for 40.7 at width 192 with 25 passes, 39.7 for 40.1 at 128
#: with 36.
CONSISTENT_FROM, CONSISTENT_WIDTH = 22, 192
#: The share of the time that goes before that: on Multi30k, at width 192, an hour with it ends at perplexity 4.91, BLEU
#: 41.1, without it at 5.04 and 40.9 (docs/multi30k.md).
CONSISTENCY_START = 0.3
#: The width up to which Muon's products are little beside a step's own, even where they are in single precision.
MUON_WIDTH = 256
#: How many times the rate of Muon's matrices embeddings and the output layer move at.
EMBEDDING_RATE = 4.0
#: Distances up to this have numbers of their own in the encoder's attention. On Multi30k 20 minutes without them end at
#: perplexity 6.99 and BLEU 34.5, with them, beside sinusoids and from 0 on, at 6.22 and 36.9. As they begin now they
#: are further after 500 steps by a ninth of the perplexity, with sinusoids beside them or without: docs/multi30k.md.
RELATIVE = 8
#: Learning rates for batches of 4,096 tokens, by width.
RATES = {128: 3e-3, 192: 3e-3, 256: 2e-3, 384: 1.5e-3, 512: 1e-3}


def auto(
    path: Path | None,
    settings: Sequence[str],
    folder: Path | None,
    session: Session,
    reporter: Reporter,
    ranks: Ranks = ALONE,
) -> Recipe:
    """Choose a recipe for the corpora in ``folder`` or in the recipe at ``path``, and keep it as ``auto.toml``.

    ``settings`` as of ``--set`` go before what is chosen; ``training.budget`` among them is the time. With several
    processes the first chooses for all. Raises ConfigError where the recipe at ``path`` says more than which corpora,
    and for settings that do not fit what is chosen; DataError for corpora that break their contract.
    """
    keep_few_kernels()  # before the first product, which the rate is measured by
    if session.resume:
        raise ConfigError("--preset begins a run; one that is gone on with has its recipe: leave --preset out")
    given = [one for one in settings if _decides(one.partition("=")[0].strip())]
    base = load_recipe(path, given) if path else parse_recipe("", name="--set", overrides=given)
    if path and (more := load_recipe(path).model_fields_set - {"data"}):
        raise ConfigError(
            f"{path}: says more than which corpora: {', '.join(sorted(more))}; leave that out, or --preset, which "
            f"chooses it; --set changes single keys of what is chosen"
        )
    data = base.data if folder is None else with_folder(base.data, folder)
    check(base.model_copy(update={"data": data}), session)
    if ranks.is_first:
        _refuse_another(session.folder / NAME)
    text = ""
    if ranks.is_first:
        seen, device = survey(data), pick_device(session.device)
        rate = rate_of(device) * ranks.size
        heading = f"{CHOSEN} for {seen.pairs:,} sentence pairs, on {device.type} at {rate / 1e9:,.0f} GFLOP/s."
        text = to_toml(data, choose(seen, rate, base.training.budget, ranks.size), heading)
    text = ranks.tell(text)
    recipe = parse_recipe(text, name="--preset auto", overrides=settings)
    if ranks.is_first:
        with alone_in(session.folder, reporter.warn):
            _keep(text, session.folder / NAME)
        reporter.note(f"{session.folder / NAME}: the recipe that was chosen, with reasons")
    return recipe


def _decides(key: str) -> bool:
    """Whether what is chosen hangs on the setting of this key: which corpora, how much time; or a table with that."""
    return key in ("data", "training", "training.budget") or key.startswith("data.")


def survey(data: DataConfig) -> Survey:
    """Count the pairs of the training corpora, weights included, and estimate the pieces of their targets.

    Raises ConfigError for a corpus that is streamed, which may have no end, DataError for corpora that cannot be read
    or have no text.
    """
    if data.stream is not None:
        raise ConfigError("--preset counts the pairs of data.train, which a stream may have no end of: give a recipe")
    normalizer = sentencepiece.SentencePieceNormalizer(rule_name=TokenizerConfig().normalization)
    pairs, pieces = 0.0, 0.0
    characters: set[str] = set()
    words: set[str] = set()
    is_known = True
    for corpus in data.train:
        reader = read_pairs(corpus)
        sample = list(itertools.islice(reader, SAMPLE))
        number = count_lines(corpus.source) if corpus.format == "text" else len(sample) + sum(1 for _ in reader)
        pairs += corpus.weight * number
        pieces += corpus.weight * number * _mean(map(_pieces, sample))
        texts = normalizer.normalize([side for pair in sample for side in (pair.source, pair.target)])
        known = 0
        for place, text in enumerate(texts):
            if place == len(texts) // 2:
                known = len(words)
            characters.update(text)
            words.update(WORD.findall(text.translate(_WITHOUT_MARKS)))
        is_known = is_known and (number <= len(sample) or len(words) - known <= NEWS * len(words))
    if not pieces:
        raise DataError("data.train: there is no text in it to choose a recipe for")
    return Survey(round(pairs), round(pieces), len(characters), len(words) if is_known else None)


class _Marks(dict[int, int | None]):
    """A table of ``str.translate`` that leaves out marks that stand on letters, some scripts' vowels among them."""

    def __missing__(self, character: int) -> int | None:
        found = None if unicodedata.category(chr(character)) in ("Mn", "Mc") else character
        self[character] = found
        return found


_WITHOUT_MARKS = _Marks()


def _pieces(pair: Pair) -> float:
    """About how many pieces a target has."""
    words = pair.target.split()
    letters = sum(map(len, words))
    if not letters:
        return 0.0
    written_apart = letters / len(words) < 15
    return 1.0 + max(len(words), letters / (LETTERS_A_PIECE if written_apart else SIGNS_A_PIECE))


def _mean(values: Iterator[float]) -> float:
    real = [value for value in values if value]
    return sum(real) / len(real) if real else 0.0


def rate_of(device: torch.device) -> float:
    """Floating-point operations a second of matrix products as training makes them here, measured."""
    dtype = resolve_precision("auto", device)
    left, right = (torch.randn(2048, 512, device=device, dtype=dtype) for _ in range(2))
    best = math.inf
    for _ in range(8):
        began = time.perf_counter()
        product = left @ right.t()
        float(product[0, 0])  # waits for a GPU
        best = min(best, time.perf_counter() - began)
    return 2.0 * 2048 * 512 * 2048 / best


def choose(seen: Survey, rate: float, budget: float, processes: int = 1) -> list[Choice]:
    """The recipe for a corpus on a machine of ``rate`` operations a second, in ``budget`` seconds; 0 is half an hour.

    Each of so many ``processes`` takes its share of a step's batch.
    """
    seconds = budget or DEFAULT_BUDGET
    vocabulary, why = next((number for least, number in VOCABULARIES if seen.pieces >= least), 500), ""
    if vocabulary < (least := round(ROOM_A_CHARACTER * seen.characters) + SPECIAL):
        vocabulary, why = 100 * math.ceil(least / 100), f", of which {seen.characters:,} characters take one each"
    if seen.words is not None and vocabulary > (most := SPECIAL + seen.characters + seen.words):
        vocabulary, why = most, f", both sides having {seen.words:,} different words, which may give no more"
    size = _size(seen, vocabulary, rate, seconds)
    passes = _passes(size, seen, vocabulary, rate, seconds)
    consistent = passes >= CONSISTENT_FROM and size.width >= CONSISTENT_WIDTH
    dropout = next((share for least, share in DROPOUTS if passes >= least), 0.1)
    if consistent:  # which holds a model back as well
        dropout -= 0.1
    optimizer, warmup, better = "muon", 400, "a step of it teaches more than one of Adam's and takes little longer"
    if size.width > MUON_WIDTH:
        optimizer, warmup, better = "adam", 600, "at this width a step of Muon takes too much longer"
    batch = min(4096, max(1024, 2 ** round(math.log2(passes * seen.pieces / 2500))))
    learning_rate = round(RATES[size.width] * math.sqrt(batch / 4096), 5)
    part = {"type": "transformer", **vars(size), "dropout": round(dropout, 2)}
    once = CONSISTENCY_START + (1 - CONSISTENCY_START) / 2 if consistent else 1.0
    often = f"each pair is seen about {passes * once:,.0f} times"
    chosen = [
        Choice("tokenizer.vocabulary", vocabulary, f"for about {seen.pieces:,} pieces of target text{why}"),
        Choice("model.embedding", size.width, "a Transformer's is its width"),
        Choice("model.embedding_dropout", min(0.25, round(dropout, 2)), "as between layers, but at most 0.25"),
        Choice(
            "model.encoder",
            {**part, "positions": "none", "max_relative_positions": RELATIVE},
            f"{_reason(size, seen, vocabulary, rate, seconds)}; relative positions, in the place of others, teach much "
            f"sooner in which order words stand",
        ),
        Choice("model.decoder", part, f"dropout: {often}{', later in two passes each' if consistent else ''}"),
        Choice("training.budget", _spoken(seconds), "as asked for" if budget else "nobody said how long"),
        Choice("training.batch_tokens", batch // processes, "small enough for some thousand steps in that time"),
        Choice("training.optimizer", optimizer, better),
        Choice("training.learning_rate", learning_rate, "for this width, less for smaller batches"),
        Choice(
            "training.schedule",
            {"type": "linear", "warmup_steps": warmup},
            "the rate is down to zero as the time ends",
        ),
        Choice("training.validation_beam", 1, "greedy search is quick, and ranks checkpoints as a beam does"),
    ]
    if optimizer == "muon":
        reason = "embeddings move as Adam moves them, for which the rate of Muon's matrices is too low"
        chosen.append(Choice("training.embedding_rate", EMBEDDING_RATE, reason))
    if consistent:
        reason = "both predictions of a batch have to agree (R-Drop): that teaches more than as many epochs again"
        chosen.append(Choice("training.consistency", 2.0, reason))
        reason = "until then there is little that it knows by heart, and a step takes half the time"
        chosen.append(Choice("training.consistency_start", CONSISTENCY_START, reason))
    return chosen


def _spoken(seconds: float) -> str:
    """``30m`` or ``95s``: as one would say it."""
    return f"{seconds / 60:g}m" if seconds % 60 == 0 else f"{seconds:g}s"


def _size(seen: Survey, vocabulary: int, rate: float, seconds: float) -> Size:
    """The largest size that the corpus can teach and the time can train; the smallest where none is."""
    fit = SIZES[0]
    for size in SIZES:
        met = _passes(size, seen, vocabulary, rate, seconds) * seen.pieces
        if size.weights <= WEIGHTS_A_PIECE * seen.pieces and met >= PIECES_A_WEIGHT * size.weights:
            fit = size
    return fit


def _reason(size: Size, seen: Survey, vocabulary: int, rate: float, seconds: float) -> str:
    """Why not the next larger size."""
    here = f"{size.weights / 1e6:.1f} million weights beside the embeddings"
    if size is SIZES[-1]:
        return f"{here}, the size of the paper's base model: there is text and time enough for it"
    larger = SIZES[SIZES.index(size) + 1]
    if larger.weights > WEIGHTS_A_PIECE * seen.pieces:
        return f"{here}: {larger.weights / 1e6:.1f} million would learn this much text by heart"
    met = _passes(larger, seen, vocabulary, rate, seconds) * seen.pieces
    return f"{here}: {larger.weights / 1e6:.1f} million would see {met / 1e6:.1f} million pieces in that time, too few"


def _passes(size: Size, seen: Survey, vocabulary: int, rate: float, seconds: float) -> float:
    """How often the corpus is seen in the time, steps of 2,048 pieces assumed."""
    a_piece = size.operations(vocabulary) / (rate * EFFICIENCY) + OVERHEAD / 2048
    return seconds / a_piece / seen.pieces


# ------------------------------------------------------------------------------------------------------------- writing


def to_toml(data: DataConfig, choices: list[Choice], heading: str) -> str:
    """A recipe as TOML, every choice with its reason above it."""
    lines = [f"# {heading}", ""]
    plain = data.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    lines += tomli_w.dumps({"data": plain}).splitlines()
    for part, group in itertools.groupby(choices, lambda choice: choice.key.partition(".")[0]):
        lines += ["", f"[{part}]"]
        for choice in group:
            lines += [f"# {choice.reason}", f"{choice.key.partition('.')[2]} = {_value(choice.value)}"]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """A value in one line of TOML."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


def _refuse_another(path: Path) -> None:
    """Raise ConfigError where another recipe than one that was chosen lies at ``path``."""
    try:
        with path.open("rb") as file:
            begins = file.readline()
    except OSError:  # not there, or told when it is written
        return
    if not begins.startswith(f"# {CHOSEN}".encode()):
        raise ConfigError(
            f"{path}: is no recipe that was chosen, and would be written over: name another folder with --out"
        )


def _keep(text: str, path: Path) -> None:
    """Write the recipe to a file in a folder that need not be there. Raises NmtError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise NmtError(f"{path}: the recipe cannot be written: {error.strerror}") from error
