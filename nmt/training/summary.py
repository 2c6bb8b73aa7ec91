"""What became of runs: one record a run folder, so that they can be laid side by side."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nmt.checkpoint import Run, latest_folder, read_json
from nmt.config import Recipe
from nmt.errors import CheckpointError, NmtError
from nmt.evaluation.metrics import tokenizations
from nmt.training.report import read_log

__all__ = ["RunSummary", "find_runs", "summarize", "table"]


@dataclass(frozen=True)
class RunSummary:
    """A run in figures; None where there is none yet.

    ``seconds`` and ``cpu_seconds`` are the time the training took so far by the clock and by its processors. ``bleu``,
    ``chrf`` and ``perplexity`` are those of the best validation, ``test_bleu`` that of the latest ``nmt evaluate`` on
    the test set.
    """

    run: str
    encoder: str
    decoder: str
    parameters: int | None
    steps: int
    seconds: float | None
    cpu_seconds: float | None
    perplexity: float | None
    bleu: float | None
    chrf: float | None
    test_bleu: float | None

    def as_dict(self) -> dict[str, object]:
        """All of it, ready for JSON."""
        return asdict(self)


def find_runs(folder: Path) -> Iterator[Path]:
    """Every run folder in ``folder``, which may be one itself, in alphabetical order.

    Raises CheckpointError where there is no such folder.
    """
    if folder.is_file():
        raise CheckpointError(f"{folder}: a file, not a folder of runs or a run folder")
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such folder")
    yield from sorted(path.parent for path in folder.rglob("run.json"))


def summarize(folder: Path) -> RunSummary:
    """The figures of one run. Raises CheckpointError for a folder that is none or is damaged."""
    run = Run.open(folder)
    last = _progress(folder)
    checkpoints = run.checkpoints()
    scores = checkpoints[0].scores if checkpoints else {}
    return RunSummary(
        run=str(folder),
        encoder=run.recipe.model.encoder.type,
        decoder=run.recipe.model.decoder.type,
        parameters=_parameters(checkpoints[0].folder) if checkpoints else None,
        steps=int(last.get("step", 0)),
        seconds=last.get("seconds"),
        cpu_seconds=last.get("cpu_seconds"),
        perplexity=scores.get("perplexity"),
        bleu=scores.get("bleu"),
        chrf=scores.get("chrf"),
        test_bleu=_test_bleu(folder, run.recipe),
    )


def _progress(folder: Path) -> Mapping[str, Any]:
    """``step``, ``seconds`` and ``cpu_seconds`` from the checkpoint or the line of the log that has come further."""
    last: Mapping[str, Any] = {}
    for record in read_log(folder):
        if record.get("type") == "train":
            last = record
    newest, _ = latest_folder(folder / "resume", check=lambda _: None)
    if newest is not None:
        with contextlib.suppress(CheckpointError, KeyError):
            position: Mapping[str, Any] = read_json(newest / "state.json")["position"]
            if position["step"] >= last.get("step", 0):
                return position
    return last


def table(summaries: list[RunSummary]) -> Iterator[str]:
    """The runs as lines of aligned columns under a line of names."""
    names = ("run", "encoder", "decoder", "parameters", "steps", "minutes", "perplexity", "BLEU", "chrF", "test BLEU")
    rows = [names, *map(_cells, summaries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(names))]
    for row in rows:
        words = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        yield "  ".join([*words, *numbers])


def _cells(summary: RunSummary) -> tuple[str, ...]:
    return (
        summary.run,
        summary.encoder,
        summary.decoder,
        _count(summary.parameters),
        f"{summary.steps:,}",
        "-" if summary.seconds is None else f"{summary.seconds / 60:.1f}",
        *(
            "-" if figure is None else f"{figure:.2f}"
            for figure in (summary.perplexity, summary.bleu, summary.chrf, summary.test_bleu)
        ),
    )


def _count(parameters: int | None) -> str:
    if parameters is None:
        return "-"
    return f"{parameters / 1e6:.1f} M" if parameters >= 100_000 else f"{parameters:,}"


def _parameters(checkpoint: Path) -> int:
    """The numbers in a checkpoint's weights, counted without reading them."""
    from safetensors import SafetensorError, safe_open

    path = checkpoint / "weights.safetensors"
    try:
        with safe_open(path, framework="numpy") as weights:
            return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise NmtError(f"{path}: cannot be read: {error}") from error


def _test_bleu(folder: Path, recipe: Recipe) -> float | None:
    """BLEU of the newest evaluation of the recipe's test set, if there was one; words cut as in validation."""
    named = recipe.training.bleu_tokenize
    cuts = tokenizations(recipe.data.target) if named == "auto" else (named,)
    for path in sorted((folder / "evaluations").glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if content.get("split", content["set"]) != "test":  # older ones do not say whether it was the recipe's
                continue
            for score in content["scores"]:
                if score["name"] == "BLEU":
                    cased, _, cut = score["signature"].partition("|tok:")
                    if "|case:mixed|" in f"{cased}|" and cut.startswith(cuts):
                        return float(score["score"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return None
