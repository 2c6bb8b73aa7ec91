"""``nmt evaluate``: how good translations are, in figures that say which they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nmt.errors import ConfigError, DataError
from nmt.evaluation.metrics import ALL_METRICS, MetricName, Tokenization
from nmt_cli import console
from nmt_cli.continuing import refuse_inputs
from nmt_cli.loading import loading
from nmt_cli.options import Checkpoint, Device, Threads, by_hand, use_threads
from nmt_cli.searching import as_given, with_search_flags
from nmt_cli.streaming import WholeLines
from nmt_cli.streams import STANDARD, OnBadBytes, input_lines

if TYPE_CHECKING:
    from nmt.evaluation.runs import HeldOut

__all__ = ["evaluate"]

MOST_COMPARED = 20_000
"""Lines that ``--against`` compares at most: sacreBLEU holds all draws at once, some 100 kB a line."""


@with_search_flags()
def evaluate(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="The run folder whose model translates.")] = None,
    source: Annotated[
        Path | None, typer.Option("--source", metavar="FILE", help="Text to translate, in place of the test set.")
    ] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option("--reference", "-r", metavar="FILE", help="What it should become; may be given several times."),
    ] = None,
    hypotheses: Annotated[
        Path | None,
        typer.Option("--hypotheses", metavar="FILE", help="Score these translations; no model is needed."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="FILE|RUN",
            help="Compare with other translations of the same, or those of another run's best model: is the difference "
            "one of chance?",
        ),
    ] = None,
    split: Annotated[
        Literal["test", "valid"], typer.Option("--split", help="Which set of the recipe, or of --data.")
    ] = "test",
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="A folder with test and valid files ending in the languages."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", "-m", help="bleu, chrf, chrf++, ter; may be given several times. All, by default."),
    ] = None,
    tokenize: Annotated[
        Tokenization | None,
        typer.Option("--tokenize", help="How BLEU cuts words, as in sacreBLEU; 13a, or what suits the language."),
    ] = None,
    lowercase: Annotated[bool, typer.Option("--lowercase", help="BLEU without regard to case.")] = False,
    chrf_lowercase: Annotated[bool, typer.Option("--chrf-lowercase", help="The same for chrF.")] = False,
    ter_case_sensitive: Annotated[
        bool, typer.Option("--ter-case-sensitive", help="TER with regard to case, which it has not by default.")
    ] = False,
    width: Annotated[int, typer.Option("--width", "-w", min=0, help="Digits after the point.")] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing rounded.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Keep the translations here, the scores beside them as FILE.json; in the run folder, by default.",
        ),
    ] = None,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    threads: Threads = 0,
    on_bad_bytes: OnBadBytes = "error",
    **search: Any,
) -> None:
    """Print BLEU, chrF2, chrF++ and TER with their signatures.

    With RUN, its model translates the recipe's test set, or --source, and is scored against the references. With
    --hypotheses and --reference, a file is scored, as sacreBLEU's own command would.

    With --against each score has a second line: the other's score, the difference, and how likely one as large is by
    chance alone (p, of a paired bootstrap over sentences); the mean of the draws and its 95 % interval. That is about
    sentences. What another seed does to a training is told by nmt race.
    """
    from nmt.evaluation.metrics import looks_tokenized
    from nmt.evaluation.runs import Scoring, evaluate_files, evaluate_run, held_out_files, held_out_split

    def read(path: Path) -> list[str]:
        return list(input_lines(path, on_bad_bytes=on_bad_bytes))

    references = reference or []
    _check(run, source, references, hypotheses, data, output, against)
    if against is not None and against.is_dir() and run is None:
        if not by_hand("against"):
            against = None
        else:
            raise ConfigError(
                f"--against {against}: a run translates, and there is nothing to translate: give a RUN too"
            )
    if run is None and (flags := by_hand(*search, "checkpoint", "device", "threads")):
        raise ConfigError(
            f"{' and '.join(flags)}: about translating, which --hypotheses are already: leave it out, or give a RUN"
        )
    if (run is None or source is not None) and by_hand("split"):
        raise ConfigError("--split names a set of the recipe: leave it out where files are named")
    scoring = Scoring(_metrics(metric or []), tokenize, lowercase, chrf_lowercase, ter_case_sensitive)
    _check_idle(scoring.metrics, json)
    baseline: Sequence[str] | None = None if against is None or against.is_dir() else read(against)
    if run is None:
        assert hypotheses is not None, "checked above"
        held_out = held_out_files(hypotheses, references, read)
        _check_pairs(against, baseline, held_out)
        result = evaluate_files(held_out, scoring)
    else:
        with loading():
            from nmt.checkpoint import Run

        use_threads(threads)
        opened = Run.open(run)
        if source is None:
            held_out = held_out_split(opened.recipe, split, data, on_bad_bytes=on_bad_bytes)
            if output is not None:
                refuse_inputs(_written(output), held_out.files)
        else:
            held_out = held_out_files(source, references, read)
        _check_pairs(against, baseline, held_out)

        def track(items: Iterable[Any], total: int) -> Iterable[Any]:
            return console.track(items, "translating", total, unit="sentences")

        search = as_given(search)
        other = None
        if against is not None and baseline is None:  # before the work: what is no run is told now
            with loading():
                from nmt.decoding.translator import Translator

            _check_number(len(held_out.source))
            other = Translator.load(against, device=device, **search)
        with WholeLines(left="there are no scores"):
            result = evaluate_run(
                opened, held_out, scoring, which=checkpoint, device=device, output=output, track=track, **search
            )
            if other is not None:
                baseline = [one.text for one in track(other.translate(held_out.source), len(held_out.source))]
        console.note(f"translations: {result.translations}")
    cuts_words = any(score.name == "BLEU" and "|tok:none|" not in score.signature for score in result.scores)
    if cuts_words and looks_tokenized(result.hypotheses):
        console.warn(
            "many lines end in ' .': text that was tokenised before has no comparable BLEU; see --tokenize none"
        )
    compared = (
        []
        if baseline is None
        else scoring.compare(result.hypotheses, baseline, result.held_out.references, result.tokenize)
    )
    if json:
        beside = {"against": str(against), "comparisons": [one.as_dict() for one in compared]} if compared else {}
        typer.echo(dumps({**result.as_dict(), **beside}, ensure_ascii=False))
    else:
        typer.echo("\n".join([result.text(width), *(one.line(width) for one in compared)]))


def _check_pairs(against: Path | None, baseline: Sequence[str] | None, held_out: HeldOut) -> None:
    """Raise DataError for a baseline that is of another text."""
    if baseline is None:
        return
    _check_number(len(baseline))
    if len(baseline) != len(held_out.source):
        raise DataError(
            f"{against} has {len(baseline)} lines, and {len(held_out.source)} are to be compared with it: they must "
            f"pair up line by line"
        )


def _check_number(lines: int) -> None:
    """Raise DataError for more lines than are drawn a thousand times in the memory of a small machine."""
    if lines > MOST_COMPARED:
        raise DataError(f"{lines:,} lines are more than the {MOST_COMPARED:,} that are compared at once: take a part")


def _metrics(names: Sequence[str]) -> tuple[MetricName, ...]:
    """The metrics of those names, or all. Raises ConfigError for a name that is none."""
    for name in names:
        if name.lower() not in ALL_METRICS:
            raise ConfigError(f"--metric {name}: the metrics are {', '.join(ALL_METRICS)}")
    asked = {name.lower() for name in names} or set(ALL_METRICS)
    return tuple(metric for metric in ALL_METRICS if metric in asked)


def _check_idle(metrics: Sequence[MetricName], json: bool) -> None:
    """Raise ConfigError for an option of a metric that is not asked for, or of what is not printed."""
    about: dict[str, tuple[MetricName, ...]] = {
        "tokenize": ("bleu",),
        "lowercase": ("bleu",),
        "chrf_lowercase": ("chrf", "chrf++"),
        "ter_case_sensitive": ("ter",),
    }
    for name, some in about.items():
        if not set(some) & set(metrics) and (flags := by_hand(name)):
            raise ConfigError(f"{flags[0]} is about {' and '.join(some)}, which --metric leaves out")
    if json and by_hand("width"):
        raise ConfigError("--width is about figures in lines: --json rounds nothing")


def _check(
    run: Path | None,
    source: Path | None,
    references: list[Path],
    hypotheses: Path | None,
    data: Path | None,
    output: Path | None,
    against: Path | None,
) -> None:
    """Raise ConfigError for files that do not go together."""
    if (run is None) == (hypotheses is None):
        raise ConfigError("give a RUN to translate with, or --hypotheses to score: one of them")
    if hypotheses is not None and not references:
        raise ConfigError("--hypotheses needs a --reference to be compared with")
    if hypotheses is not None and by_hand("source", "data", "output"):
        raise ConfigError("--source, --data and --output go with a RUN, not with --hypotheses")
    if run is not None and (source is None) != (not references):
        raise ConfigError("--source and --reference go together; without them the recipe's test set is taken")
    if source is not None and by_hand("data"):
        raise ConfigError("--source and --data both name what to translate: give one of them")
    inputs = [path for path in (source if hypotheses is None else hypotheses, *references, against) if path is not None]
    if inputs.count(STANDARD) > 1:
        raise ConfigError("only one file can be standard input")
    if hypotheses is not None or output is None:
        return
    if output.suffix == ".json":
        raise ConfigError(
            f"--output {output}: name the file of the translations; the scores are kept beside it as .json"
        )
    if output == STANDARD:
        raise ConfigError("--output names a file: standard output is for the scores")
    refuse_inputs(_written(output), inputs)


def _written(output: Path) -> tuple[Path, Path]:
    """What is kept: translations, and beside them their scores."""
    from nmt.evaluation.runs import scores_of

    return output, scores_of(output)
