"""The whole road in one call: make the embedded corpus, train a family on it, translate, score, align, draw.

This is what ``nmt demo`` does, and an example of the library at work: each step is the one call a user would make.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal, TypeAlias

from nmt.alignment.aligner import Aligner, LinkRule
from nmt.alignment.links import AlignmentScore, Gold, aer, parse_gold
from nmt.alignment.plot import draw_attention
from nmt.checkpoint import Run, has_checkpoint
from nmt.config import Recipe, differences, load_recipe
from nmt.data.corpus import with_folder
from nmt.data.synthetic import write_corpus
from nmt.data.text import count_lines, read_lines
from nmt.errors import ConfigError, Interrupted
from nmt.evaluation.metrics import Score
from nmt.evaluation.runs import Scoring, evaluate_run, held_out_split
from nmt.training.report import Reporter
from nmt.training.session import Session, train
from nmt.training.signals import StopRequest

__all__ = ["FAMILIES", "Demonstration", "Family", "Sample", "demonstrate", "make_corpus", "recipe_of"]

Family: TypeAlias = Literal["transformer", "bahdanau", "luong"]
FAMILIES: tuple[Family, ...] = ("transformer", "bahdanau", "luong")

PAIRS, SEED, SAMPLES = 20000, 1, 10
PICTURED = range(7, 12)
"""The picture is of a sentence of so many words: enough to see something, few enough to read it."""


@dataclass(frozen=True)
class Sample:
    """A held-out sentence, what the model made of it, and what it should have been."""

    source: str
    translation: str
    reference: str


@dataclass(frozen=True)
class Demonstration:
    """What came of one family on ``sentences`` unseen sentences.

    ``alignment`` is the forced attention's word links against the gold links.
    """

    family: Family
    run: Path
    parameters: int
    sentences: int
    scores: Sequence[Score]
    alignment: AlignmentScore
    samples: Sequence[Sample]
    picture: Path


def make_corpus(folder: Path, *, pairs: int | None = None) -> Path:
    """The demo's corpus, of :data:`PAIRS` training pairs or so many: made where it is not there yet, else left alone.

    Raises ConfigError where something else stands in the folder, a corpus that has not so many ``pairs`` too.
    """
    if not (folder / "test.align").exists():
        write_corpus(folder, pairs=PAIRS if pairs is None else pairs, seed=SEED)
    elif pairs not in (None, found := count_lines(folder / "train.en")):
        raise ConfigError(
            f"{folder}: has {found:,} training pairs, not {pairs:,}: give --pairs {found}, or another folder with --out"
        )
    return folder


def recipe_of(family: Family, overrides: Sequence[str] = ()) -> Recipe:
    """The shipped recipe of a family for the embedded corpus. Raises ConfigError for a wrong override."""
    with as_file(files("nmt_recipes") / "demo" / f"{family}.toml") as path:
        return load_recipe(path, overrides)


def demonstrate(
    family: Family, *, corpus: Path, run: Path, reporter: Reporter, overrides: Sequence[str] = ()
) -> Demonstration:
    """Train a family on a corpus that :func:`make_corpus` made, and measure it on the held-out sentences.

    A run that is there already is gone on with, or used as it is if it is finished. Raises ConfigError where that has
    another recipe, Interrupted where a signal came while it was trained, and what
    :func:`~nmt.training.session.train` raises.
    """
    recipe = recipe_of(family, overrides)
    recipe = recipe.model_copy(update={"data": with_folder(recipe.data, corpus)})
    begun, moved = has_checkpoint(run), False
    if begun:
        before = Run.open(run).recipe
        if changed := differences(before.model_copy(update={"data": recipe.data}), recipe):
            raise ConfigError(
                f"{run}: was begun with another recipe: {'; '.join(changed)}; remove the folder, or name another with "
                f"--out"
            )
        moved = before != recipe  # the corpus lies beside the run, by whatever name
    stop = StopRequest()
    train(recipe, Session(run, resume=begun, force=moved), reporter, stop=stop)
    if stop:
        raise Interrupted(f"{run}: trained, and stopped by {stop.name}; nmt demo again goes on", stop.ending)
    opened = Run.open(run)
    held_out = held_out_split(recipe, "test")
    scored = evaluate_run(opened, held_out, Scoring(metrics=("bleu", "chrf")))
    triples = list(zip(held_out.source, scored.hypotheses, held_out.references[0], strict=True))
    alignment, picture = _align(run, corpus)
    return Demonstration(
        family=family,
        run=run,
        parameters=sum(parameter.numel() for parameter in opened.load_model().parameters()),
        sentences=len(held_out.source),
        scores=scored.scores,
        alignment=alignment,
        samples=[Sample(*triple) for triple in triples[:SAMPLES]],
        picture=picture,
    )


def _align(run: Path, corpus: Path) -> tuple[AlignmentScore, Path]:
    """The test set's links against the gold links, and a picture of a sentence whose words change places."""
    source, target, gold = (list(read_lines(corpus / f"test.{ending}")) for ending in ("en", "fr", "align"))
    answers = [parse_gold(line, f"{corpus / 'test.align'}:{number}") for number, line in enumerate(gold, 1)]
    linked = list(Aligner.load(run).link(source, target, rule=LinkRule()))
    score = sum(map(aer, (one.links for one in linked), answers), AlignmentScore())
    pictured = max(range(len(source)), key=lambda row: (len(source[row].split()) in PICTURED, crossings(answers[row])))
    one, path = linked[pictured], run / "attention.svg"
    draw_attention(
        path,
        one.alignment.source,
        one.alignment.target,
        one.alignment.attention,
        links=one.links,
        gold=answers[pictured],
        title=f"test sentence {pictured + 1}",
    )
    return score, path


def crossings(gold: Gold) -> int:
    """How many pairs of links cross: how far the two languages are from having the same order of words."""
    return sum(one[0] < other[0] and one[1] > other[1] for one in gold.sure for other in gold.sure)
