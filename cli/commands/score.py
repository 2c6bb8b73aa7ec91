"""``nmt score``: what a model makes of translations that are there already, its own or anybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from json import dumps
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from nmt.errors import ConfigError, DataError
from nmt_cli import console
from nmt_cli.continuing import whole_output
from nmt_cli.loading import loading
from nmt_cli.options import Checkpoint, Device, Threads, by_hand, use_threads
from nmt_cli.searching import as_given, with_search_flags
from nmt_cli.streaming import WholeLines, input_windows
from nmt_cli.streams import STANDARD, InputFile, OnBadBytes, OutputFile, input_lines

if TYPE_CHECKING:
    from nmt.decoding.nbest import Entry
    from nmt.decoding.scorer import PairScore, Scorer

__all__ = ["score"]

T = TypeVar("T")
Pairs = Iterator[list[tuple[str, str]]]


@with_search_flags("length_penalty", "alpha", "batch_size")
def score(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder whose model scores.")],
    source: Annotated[
        Path | None, typer.Option("--source", metavar="FILE", help="Source sentences, one a line; - is standard input.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--target", metavar="FILE", help="Their translations, a line for a line.")
    ] = None,
    input: InputFile = STANDARD,
    nbest: Annotated[
        Path | None,
        typer.Option(
            "--nbest",
            envvar="NMT_SCORE_NBEST",
            metavar="LIST",
            help="In place of --target, n-best lists in Moses form: each line gets a feature more, logprob= x.",
        ),
    ] = None,
    feature: Annotated[
        str | None, typer.Option("--feature", metavar="NAME", help="With --nbest, the feature's name.")
    ] = None,
    rerank: Annotated[
        bool,
        typer.Option("--rerank", help="With --nbest, each list best first by the normalised score, put as its score."),
    ] = False,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Print the score after length normalisation, as search ranks by it.")
    ] = False,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Add a column for each piece: its log-probability, a space, the piece.")
    ] = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="Print one line instead: perplexity over all tokens, EOS counted.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line, nothing rounded.")] = False,
    output: OutputFile = STANDARD,
    on_long: Annotated[
        Literal["error", "cut"],
        typer.Option(
            "--on-long",
            envvar="NMT_SCORE_ON_LONG",
            help="A pair longer than is read at once: an error, or only its beginning counts.",
        ),
    ] = "error",
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    threads: Threads = 0,
    on_bad_bytes: OnBadBytes = "error",
    **search: Any,
) -> None:
    """Print the log-probability of each translation: natural logarithms added up, that of its end counted.

    With --source and --target two files are scored line by line; without them, lines of standard input, or of --input,
    that hold source, tab, target, each as soon as it is there. Two blank sides score 0. With --nbest, lists of any
    system's hypotheses get our score as a feature, and with --rerank our order.
    """
    if (summary or not (normalize or rerank or json)) and by_hand("length_penalty", "alpha"):
        raise ConfigError(
            "--length-penalty and --alpha are about normalised scores: ask for --normalize or --json, without --summary"
        )
    inputs = [path for path in (source, target, nbest) if path is not None] or [input]
    _check(source, target, nbest, input)
    _check_form(nbest is not None, feature, summary=summary, json=json)
    texts = _Texts(source, target, nbest or input, on_bad_bytes)

    with loading():
        from nmt.checkpoint import Run
        from nmt.decoding.nbest import rescore
        from nmt.decoding.scorer import Scorer

    use_threads(threads)
    opened = Run.open(run)
    chosen = opened.checkpoint(checkpoint)
    with loading():
        scorer = Scorer.load(run, on_long=on_long, which=chosen.name, device=device, **as_given(search))
    if nbest is not None:
        name = feature or "logprob"
        results = rescore(texts.entries(scorer.window, name), scorer, texts.sources, feature=name, rerank=rerank)
    elif summary:
        from nmt.evaluation.signature import sign_model

        results = _summary(texts.pairs(scorer.window), scorer, sign_model(opened, chosen), json=json)
    else:
        render = _render_json if json else _render
        results = (
            [render(one, normalize, tokens) for one in scores] for scores in _scores(texts.pairs(scorer.window), scorer)
        )
    _write(results, inputs, output)
    if scorer.num_cut:
        console.note(f"cut off, being too long: {scorer.num_cut} of {scorer.num_scored} pairs")


def _check(source: Path | None, target: Path | None, nbest: Path | None, input: Path) -> None:
    """Raise ConfigError for files that do not go together."""
    if target is not None and nbest is not None:
        raise ConfigError("--target and --nbest both have the translations: give one of them")
    if (source is None) != (target is None and nbest is None):
        raise ConfigError("--source goes with --target or --nbest; without them, pairs are read from --input")
    if source is not None and input != STANDARD and by_hand("input"):
        raise ConfigError("--input has source and target in one file: leave out --source, or --input")
    if [source, target, nbest].count(STANDARD) > 1:
        raise ConfigError("only one file can be standard input")


def _check_form(nbest: bool, feature: str | None, *, summary: bool, json: bool) -> None:
    """Raise ConfigError for what cannot be printed together."""
    if nbest and (asked := by_hand("normalize", "tokens", "summary", "json")):
        raise ConfigError(f"--nbest writes lists in the form they have: leave out {' and '.join(asked)}")
    if not nbest and by_hand("feature", "rerank"):
        raise ConfigError("--feature and --rerank go with --nbest")
    if nbest and feature is not None and (not feature or any(one.isspace() or one in "=:|" for one in feature)):
        raise ConfigError(f"--feature {feature!r}: a name without spaces, and without =, : and |")
    if (json or summary) and by_hand("normalize"):
        raise ConfigError("--normalize is about plain lines: --json has both scores, and --summary is over tokens")
    if summary and by_hand("tokens"):
        raise ConfigError("--tokens and --summary are two answers: ask for one of them")


# -------------------------------------------------------------------------------------------------------------- reading


class _Texts:
    """What is scored, read as it is asked for; two files are counted before, and have to have as many lines."""

    def __init__(self, source: Path | None, target: Path | None, other: Path, on_bad_bytes: OnBadBytes) -> None:
        self.other = other
        self.on_bad_bytes = on_bad_bytes
        self.sources: Sequence[str] = ()
        self._files: tuple[Iterable[str], Iterable[str]] | None = None
        if source is not None and target is not None:
            (left, lines), (right, others) = self._counted(source), self._counted(target)
            if left != right:
                raise DataError(
                    f"{_called(source)} has {left} lines, {_called(target)} has {right}: they must pair up line by line"
                )
            self._files = lines, others
        elif source is not None:
            self.sources = list(input_lines(source, on_bad_bytes=on_bad_bytes))

    def pairs(self, size: int) -> Pairs:
        """The pairs in windows; raises DataError for a fault after what comes before it."""
        if self._files is not None:
            return _windows(zip(*self._files, strict=True), size)
        return self._read(size, self._pair)

    def entries(self, size: int, feature: str) -> Iterator[list[Entry]]:
        """The lines of the n-best lists in windows, likewise; says so where ``feature`` is there already."""
        from nmt.decoding.nbest import NbestReader

        told = False
        for window in self._read(size, NbestReader(_called(self.other), len(self.sources))):
            if not told and (twice := next((one for one in window if one.has_feature(feature)), None)):
                console.warn(
                    f"{_called(self.other)}:{twice.number}: has a feature {feature}= already: ours stands last; "
                    "--feature gives it another name (said once)"
                )
                told = True
            yield window

    def _counted(self, path: Path) -> tuple[int, Iterable[str]]:
        """The lines of a file and their number; what can be read once only is read whole."""
        from nmt.data.text import count_lines

        lines = input_lines(path, on_bad_bytes=self.on_bad_bytes)
        if path.is_file() and path != STANDARD:
            return count_lines(path), lines
        whole = list(lines)
        return len(whole), whole

    def _read(self, size: int, parse: Callable[[str, int], T]) -> Iterator[list[T]]:
        """The lines of the one file, each parsed; as many at a time as are there."""
        number = 0
        for window in input_windows(self.other, size, on_bad_bytes=self.on_bad_bytes):
            yield from _windows((parse(line, at) for at, line in enumerate(window, number + 1)), len(window))
            number += len(window)

    def _pair(self, line: str, number: int) -> tuple[str, str]:
        """A line of source, tab, target."""
        columns = line.split("\t")
        if len(columns) != 2:
            raise DataError(
                f"{_called(self.other)}:{number}: {len(columns) - 1} tabs: a line is source, one tab, target"
            )
        return columns[0], columns[1]


def _called(path: Path) -> str:
    """What messages call a file."""
    return "stdin" if path == STANDARD else str(path)


def _windows(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items, ``size`` at a time; those before a fault come before it is raised."""
    window: list[T] = []
    try:
        for item in items:
            window.append(item)
            if len(window) == size:
                yield window
                window = []
    except DataError:
        if window:
            yield window
        raise
    if window:
        yield window


# -------------------------------------------------------------------------------------------------------------- writing


def _scores(windows: Pairs, scorer: Scorer) -> Iterator[list[PairScore]]:
    """The scores of every window; where a pair cannot be scored, those of the pairs before it."""
    from nmt.decoding.sharing import up_to_a_fault

    done = 0
    for window in windows:
        yield from up_to_a_fault(lambda some, first: scorer.score_window(some, first=first), window, done + 1)
        done += len(window)


def _render(one: PairScore, normalize: bool, tokens: bool) -> str:
    """A score, and behind tabs the logarithm of each piece, a space, and the piece, whatever is in it."""
    columns = [f"{one.score if normalize else one.log_probability:z.4f}"]
    if tokens:
        logs = zip(one.token_log_probabilities, one.pieces, strict=True)
        columns += [f"{value:z.4f} {_plain(piece)}" for value, piece in logs]
    return "\t".join(columns)


def _plain(piece: str) -> str:
    """A piece without what would end a column or a line: that is spelt as the pieces of single bytes are."""
    return piece.replace("\t", "<0x09>").replace("\n", "<0x0A>").replace("\r", "<0x0D>")


def _render_json(one: PairScore, normalize: bool, tokens: bool) -> str:
    content: dict[str, object] = {
        "logprob": one.log_probability,
        "score": one.score,
        "tokens": len(one.pieces),
    }
    if tokens:
        content |= {"pieces": list(one.pieces), "piece_logprobs": list(one.token_log_probabilities)}
    return dumps(content, ensure_ascii=False)


def _summary(windows: Pairs, scorer: Scorer, model: dict[str, str], *, json: bool) -> Iterator[list[str]]:
    """One line, at the end: perplexity and what it is over."""
    from nmt.decoding.scorer import Summary
    from nmt.evaluation.signature import sign

    total = Summary()
    for scores in _scores(windows, scorer):
        total.add(scores)
        yield []
    if json:
        found = {
            "perplexity": total.perplexity if isfinite(total.perplexity) else None,
            "lines": total.lines,
            "tokens": total.tokens,
            "logprob": total.mean_log_probability,
            "model": model,
        }
        yield [dumps(found)]
        return
    over = sign("perplexity", {"lines": f"{total.lines}", "tokens": f"{total.tokens}", "eos": "counted", **model})
    yield [f"{over} = {total.perplexity:.4f} logprob {total.mean_log_probability:z.4f} a line"]


def _write(results: Iterable[list[str]], inputs: Sequence[Path], output: Path) -> None:
    """Write lines as they come."""
    done = 0
    with (
        WholeLines() as lines,
        whole_output(output, inputs=inputs, resumable=False) as writer,
        console.Progress("scoring", unit="lines") as progress,
    ):
        for texts in results:
            for text in texts:
                with lines.whole():
                    writer.write(text)
            done += len(texts)
            if output != STANDARD:
                progress(done)
