"""Scoring a run: translate a held-out set, score it, and keep the translations beside the score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from nmt.checkpoint import Run
from nmt.config import DecodingConfig, Recipe
from nmt.data.text import LineWriter, OnBadBytes, read_lines
from nmt.errors import ConfigError, DataError, NmtError
from nmt.evaluation.metrics import (
    ALL_METRICS,
    Comparison,
    MetricName,
    Score,
    Tokenization,
    check_tokenization,
    compare,
    default_tokenization,
    evaluate,
)
from nmt.evaluation.signature import sign, sign_model, sign_search
from nmt.files import place_of, written_whole

__all__ = [
    "Evaluation",
    "HeldOut",
    "Scoring",
    "Split",
    "evaluate_files",
    "evaluate_run",
    "held_out_files",
    "held_out_split",
    "scores_of",
]

Split = Literal["test", "valid"]


@dataclass(frozen=True)
class HeldOut:
    """Sentences and what they should become: ``source[i]`` has the translation ``references[j][i]`` for every j.

    ``files`` are the local files that it was read from, ``split`` says which of the recipe's own sets it is, if it is.
    """

    name: str
    source: Sequence[str]
    references: Sequence[Sequence[str]]
    files: Sequence[Path] = ()
    split: Split | None = None

    @cached_property
    def digest(self) -> str:
        """Tells sets of one name apart: of all lines."""
        return hashlib.sha256(json.dumps([self.source, self.references]).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Evaluation:
    """Scores and what they are scores of: ``hypotheses`` for the set ``name``.

    ``model`` and ``search`` are empty where the hypotheses came from a file. ``tokenize`` is how BLEU cut words where
    nobody said how.
    """

    scores: Sequence[Score]
    held_out: HeldOut
    hypotheses: Sequence[str]
    model: dict[str, str] = field(default_factory=dict)
    search: dict[str, str] = field(default_factory=dict)
    translations: Path | None = None
    tokenize: Tokenization = "13a"

    def text(self, width: int = 2) -> str:
        """A line a score, as sacreBLEU prints it, then the signatures of the model and of the search."""
        signatures = [sign(name, parts) for name, parts in (("model", self.model), ("search", self.search)) if parts]
        return "\n".join([score.line(width) for score in self.scores] + signatures)

    def as_dict(self) -> dict[str, object]:
        """All of it, ready for JSON."""
        made = {"model": self.model, "search": self.search} if self.model else {}
        kept = {"translations": str(self.translations)} if self.translations is not None else {}
        scores = [score.as_dict() for score in self.scores]
        of = {"set": self.held_out.name, "split": self.held_out.split, "digest": self.held_out.digest}
        return {"scores": scores, **of, "lines": len(self.hypotheses), **made, **kept}


def held_out_split(
    recipe: Recipe, split: Split, folder: Path | None = None, *, on_bad_bytes: OnBadBytes = "error"
) -> HeldOut:
    """The recipe's test or validation set, or that of a folder of files as ``nmt train --data`` takes it.

    One that is not the recipe's has the folder's name behind its own. ``on_bad_bytes`` is as for files that are named.
    Raises ConfigError where there is none, DataError for text that breaks its contract.
    """
    from nmt.data.corpus import files_of, read_eval_pairs, with_folder

    data = with_folder(recipe.data, folder) if folder is not None else recipe.data
    corpus, own = (one.test if split == "test" else one.valid for one in (data, recipe.data))
    if corpus is None and folder is not None:
        languages = f".{recipe.data.source} and .{recipe.data.target}"
        raise ConfigError(f"--data {folder}: has no {split} files ending in {languages}")
    if corpus is None:
        raise ConfigError(
            f"the recipe has no [data.{split}]: name the text with --source and --reference, or a folder with --data"
        )
    pairs = read_eval_pairs(corpus, on_bad_bytes=on_bad_bytes)
    is_own = folder is None or corpus == own
    return HeldOut(
        split if folder is None or is_own else f"{split}-{folder.resolve().name}",
        [pair.source for pair in pairs],
        [[pair.target for pair in pairs]],
        files_of(corpus),
        split if is_own else None,
    )


def held_out_files(source: Path, references: Sequence[Path], read: Callable[[Path], Iterable[str]]) -> HeldOut:
    """A set of text files. Raises DataError, with both numbers, where they do not have the same number of lines."""
    lines = list(read(source))
    others = [list(read(path)) for path in references]
    for path, other in zip(references, others, strict=True):
        if len(other) != len(lines):
            raise DataError(f"{source} has {len(lines)} lines, {path} has {len(other)}: they must pair up line by line")
    if not lines:
        raise DataError(f"{source}: there are no lines to score")
    return HeldOut(source.name, lines, others, (source, *references))


@dataclass(frozen=True)
class Scoring:
    """What to compute, under :func:`~nmt.evaluation.metrics.evaluate`'s names; ``tokenize`` None is the run's own."""

    metrics: Sequence[MetricName] = ALL_METRICS
    tokenize: Tokenization | None = None
    lowercase: bool = False
    chrf_lowercase: bool = False
    ter_case_sensitive: bool = False

    def __call__(
        self, hypotheses: Sequence[str], references: Sequence[Sequence[str]], default: Tokenization = "13a"
    ) -> list[Score]:
        """The scores, with BLEU's tokenisation being ``default`` where none was asked for."""
        return evaluate(hypotheses, references, metrics=self.metrics, **self._options(default))

    def compare(
        self,
        hypotheses: Sequence[str],
        baseline: Sequence[str],
        references: Sequence[Sequence[str]],
        default: Tokenization = "13a",
    ) -> list[Comparison]:
        """The same scores beside those of a baseline (:func:`~nmt.evaluation.metrics.compare`)."""
        return compare(hypotheses, baseline, references, metrics=self.metrics, **self._options(default))

    def _options(self, default: Tokenization) -> dict[str, Any]:
        return {
            "tokenize": self.tokenize or default,
            "lowercase": self.lowercase,
            "chrf_lowercase": self.chrf_lowercase,
            "ter_case_sensitive": self.ter_case_sensitive,
        }


def evaluate_files(held_out: HeldOut, scoring: Scoring = Scoring()) -> Evaluation:
    """Score the lines of ``held_out.source`` as they are."""
    return Evaluation(scoring(held_out.source, held_out.references), held_out, held_out.source)


def evaluate_run(
    run: Run,
    held_out: HeldOut,
    scoring: Scoring = Scoring(),
    *,
    which: str = "best",
    device: str = "auto",
    output: Path | None = None,
    track: Callable[[Iterable[Any], int], Iterable[Any]] = lambda translations, total: translations,
    **decoding: Any,
) -> Evaluation:
    """Translate ``held_out`` with a run's model and score what comes out.

    The translations are kept in ``output``, by default in the run folder's ``evaluations``, and the scores beside them,
    with .json behind the name, unless that is a pipe or a device. Other scores of the same translations stay there.
    ``which`` names the checkpoint, ``decoding`` overrides the recipe's search as in ``Translator.load``, ``track`` may
    watch the translations on their way. Raises CheckpointError for a checkpoint that is not there, ConfigError for a
    tokenisation that is not, NmtError where ``output`` cannot be written.
    """
    from nmt.decoding.translator import Translator

    checkpoint = run.checkpoint(which)
    own = _tokenization(run.recipe)
    if "bleu" in scoring.metrics:
        check_tokenization(scoring.tokenize or own)
    model = sign_model(run, checkpoint)
    translator = Translator.load(run.folder, which=checkpoint.name, device=device, **decoding)
    of = held_out.name if held_out.split is not None else f"{held_out.name}-{held_out.digest}"
    asked = {*decoding, *decoding.get("wishes", ())}
    unlike = _unlike(translator.decoding, run.recipe.decoding, of_precision="precision" in asked)
    name = ".".join([of, checkpoint.name, f"beam{translator.decoding.beam}", *unlike])
    path = output or run.folder / "evaluations" / f"{name}.hyp"
    beside = scores_of(path) if output else path.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    hypotheses: list[str] = []
    earlier = _earlier(path, beside) if place_of(path) is not None else None
    with written_whole(path) as part:
        writer = LineWriter.open(part, name=path)  # before the work, to find now what cannot be written
        try:
            for translation in track(translator.translate(held_out.source), len(held_out.source)):
                hypotheses.append(translation.text)
                writer.write(translation.text)
        finally:
            writer.close()
    if earlier is not None and earlier[0] != hypotheses:
        beside.unlink(missing_ok=True)  # scores of other translations
    scores = scoring(hypotheses, held_out.references, own)
    search = sign_search(translator.decoding)
    evaluation = Evaluation(scores, held_out, hypotheses, model, search, path, own)
    if place_of(path) is not None:
        _keep(evaluation, beside, earlier)
    return evaluation


def scores_of(translations: Path) -> Path:
    """Where the scores of translations are kept that somebody wants in a file of his own."""
    return translations.with_name(f"{translations.name}.json")


def _unlike(search: DecodingConfig, recipe: DecodingConfig, *, of_precision: bool) -> list[str]:
    """How a search differs from the recipe's, in what finds other translations: for the name of a file.

    Its precision, which ``auto`` makes of what processor there is, counts where it was asked for.
    """
    ours, its = search.model_dump(mode="json"), recipe.model_dump(mode="json")
    rest = ours.keys() - {"beam", "batch_size", *(() if of_precision else ("precision",))}
    return [f"{name}={value}" for name, value in ours.items() if name in rest and value != its[name]]


def _tokenization(recipe: Recipe) -> Tokenization:
    """How BLEU cuts words in validation."""
    named = recipe.training.bleu_tokenize
    return default_tokenization(recipe.data.target) if named == "auto" else named


def _earlier(translations: Path, scores: Path) -> tuple[list[str], dict[str, Any]] | None:
    """What an earlier evaluation left in the same place, if it can be read."""
    try:
        found = json.loads(scores.read_text(encoding="utf-8"))
        return list(read_lines(translations)), found if isinstance(found, dict) else {}
    except (OSError, ValueError, DataError):
        return None


def _keep(evaluation: Evaluation, path: Path, earlier: tuple[list[str], dict[str, Any]] | None) -> None:
    """Write an evaluation as JSON, with what other scores an ``earlier`` one has of the same translations."""
    content = evaluation.as_dict()
    if earlier is not None:
        lines, before = earlier
        same = all(before.get(key) == content[key] for key in ("model", "search", "digest"))
        if same and lines == list(evaluation.hypotheses):
            known = {(score.name, score.signature) for score in evaluation.scores}
            others = [one for one in before.get("scores", []) if (one["name"], one["signature"]) not in known]
            content["scores"] = [score.as_dict() for score in evaluation.scores] + others
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    try:
        with written_whole(path) as part:  # of a path that is not UTF-8 this spells bytes as JSON does
            part.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise NmtError(f"{path}: the scores cannot be written: {error.strerror or error}") from error
