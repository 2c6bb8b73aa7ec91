"""``nmt align``: which source word a target word comes from, as links, numbers and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, groupby, repeat
from json import dumps
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nmt.alignment.links import Gold, Method, Symmetrization, parse_gold
from nmt.errors import ConfigError, DataError, NmtError
from nmt_cli import console
from nmt_cli.continuing import Output, refuse_inputs, whole_output
from nmt_cli.loading import loading
from nmt_cli.options import Checkpoint, Device, Threads, by_hand, use_threads
from nmt_cli.searching import as_given, with_search_flags
from nmt_cli.streaming import input_windows
from nmt_cli.streams import STANDARD, OnBadBytes, OutputFile, input_lines

if TYPE_CHECKING:
    from nmt.alignment.aligner import Aligner, Linked
    from nmt.alignment.report import Pictures

__all__ = ["align"]


@with_search_flags("beam", "length_penalty", "alpha", "coverage_penalty", "max_ratio", "max_extra", "batch_size")
def align(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder whose model aligns.")],
    source: Annotated[
        Path, typer.Option("--source", metavar="FILE", help="Source sentences, one a line; - is standard input.")
    ] = STANDARD,
    target: Annotated[
        Path | None,
        typer.Option("--target", metavar="FILE", help="Their translations; the model's own where this is left out."),
    ] = None,
    gold: Annotated[
        Path | None,
        typer.Option("--gold", metavar="FILE", help="Links by hand, sure 0-1 and possible 0?1: print AER instead."),
    ] = None,
    format_: Annotated[
        Literal["pharaoh", "soft", "json"],
        typer.Option(
            "--format",
            envvar="NMT_ALIGN_FORMAT",
            help="Links (0-0 1-2), the matrix (a target word after the other), or JSON lines.",
        ),
    ] = "pharaoh",
    method: Annotated[
        Method,
        typer.Option(
            "--method",
            help="argmax: the best of each target word; mutual: and of the source word too; grow-diag: both, joined; "
            "threshold: all from --threshold on.",
        ),
    ] = "grow-diag",
    threshold: Annotated[
        float, typer.Option("--threshold", min=0.0, max=1.0, help="The least attention of a link, with threshold.")
    ] = 0.3,
    reverse: Annotated[
        Path | None,
        typer.Option(
            "--reverse", metavar="RUN", help="A run that translates the other way, with its best model: join both."
        ),
    ] = None,
    symmetrize: Annotated[
        Symmetrization, typer.Option("--symmetrize", help="How the links of both directions are joined.")
    ] = "grow-diag-final-and",
    units: Annotated[
        Literal["words", "pieces"], typer.Option("--units", help="Align words, or the model's subword pieces.")
    ] = "words",
    line: Annotated[
        list[int] | None,
        typer.Option("--line", min=1, metavar="N", help="Only this line, from 1; may be given several times."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="PATH", help="Draw: a .png, .svg or .pdf file for one line, or a folder."),
    ] = None,
    plot_format: Annotated[
        Literal["png", "svg", "pdf"], typer.Option("--plot-format", help="What is drawn in a folder.")
    ] = "png",
    heads: Annotated[
        Path | None,
        typer.Option(
            "--heads",
            metavar="PATH",
            help="Draw every head of every layer over one line: a .png, .svg or .pdf file, or .json for the numbers.",
        ),
    ] = None,
    font: Annotated[
        str | None, typer.Option("--font", help="The font of pictures: an installed family, or a font file.")
    ] = None,
    translations: Annotated[
        Path | None,
        typer.Option("--translations", metavar="FILE", help="Write the model's own translations here."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    output: OutputFile = STANDARD,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    threads: Threads = 0,
    on_bad_bytes: OnBadBytes = "error",
    **search: Any,
) -> None:
    """Print, for each sentence pair, which words the model's attention links.

    With --target the given translations are forced, without it the model translates. A line in gives a line out: links
    in Pharaoh form, source-target, words counted from 0. With --gold, standard output has the alignment error rate,
    precision and recall instead, and the links are only written where --output says.
    """
    _check(source, target, gold, units, reverse, translations, output, json=json)
    _check_idle(
        {"threshold": method == "threshold", "symmetrize": reverse is not None, "plot_format": plot is not None}
        | {
            "font": plot is not None or (heads is not None and heads.suffix.lower() != ".json"),
            "format_": output != STANDARD or (gold is None and not json),
        }
        | {name: target is None for name in search if name != "batch_size"}  # which forced ones are read by, too
    )
    texts = _read(source, target, gold, line or [], on_bad_bytes, whole=plot is not None or heads is not None)

    with loading():
        from nmt.alignment.aligner import Aligner, LinkRule
        from nmt.alignment.report import Pictures, Report
        from nmt.checkpoint import Run
        from nmt.evaluation.signature import sign_model

    pictures = None if plot is None else Pictures(plot, plot_format, font=font)
    if pictures is not None and not pictures.is_folder and by_hand("plot_format"):
        raise ConfigError(f"--plot-format goes with a folder of pictures: what {plot} is, its ending says")
    if pictures is not None and not pictures.is_folder and len(texts.numbers) != 1:
        raise ConfigError(f"--plot {plot} is a picture of one line: name it with --line, or give a folder for several")
    if heads is not None and len(texts.numbers) != 1:
        if by_hand("heads"):
            raise ConfigError(f"--heads {heads} is of one line: name it with --line")
        heads = None
    if heads is not None:
        _check_heads(heads, [source, target, gold], [plot, output, translations], font)

    use_threads(threads)
    opened = Run.open(run)
    chosen = opened.checkpoint(checkpoint)
    if reverse is not None:
        Run.open(reverse)  # what is none is told by its name, and before the first model is loaded
    with loading():
        asked = as_given(search)
        if target is not None:
            asked["precision"] = "auto"  # the recipe's is for search, which forced translations need none of
        aligner = Aligner.load(run, units=units, which=chosen.name, device=device, **asked)
        backward = None if reverse is None else Aligner.load(reverse, device=device, precision="auto")
    rule = LinkRule(method, threshold, symmetrize)
    report = Report(
        links=rule.sign(both=reverse is not None),
        model=sign_model(opened, chosen),
        form=format_,
        keep=json and gold is None and output == STANDARD,
    )

    def all_linked() -> Iterator[Linked]:
        arriving = input_windows(source, aligner.translator.window, on_bad_bytes=on_bad_bytes)
        for part in texts.parts if texts.parts is not None else _counted(arriving):
            yield from aligner.link(part.source, part.target, rule=rule, reverse=backward, first=part.first)

    linked = console.track(all_linked(), "aligning", len(texts.numbers) or None, unit="sentences")
    with ExitStack() as files:
        silent = (json or gold is not None) and output == STANDARD
        read = [path for path in (source, target, gold) if path is not None]

        def opened_output(path: Path) -> Output:
            return files.enter_context(whole_output(path, inputs=read, resumable=False))

        links = None if silent else opened_output(output)
        own = None if translations is None else opened_output(translations)
        for number, answer, one in zip(texts.numbers or count(1), texts.gold or repeat(None), linked, strict=False):
            rendered = report.add(one, answer)
            if links is not None:
                links.write(rendered)
            if own is not None:
                own.write(one.translation)
            if pictures is not None:
                pictures.draw(number, one, answer, report.caption(number, one, answer))
            if heads is not None and texts.parts is not None:
                _all_heads(heads, aligner, texts.parts[0].source[0], one, report.caption(number, one, None), font)
    if aligner.num_skipped:
        console.note(f"without links, being too long: {aligner.num_skipped}")
    if json:
        typer.echo(report.as_json(pictures.drawn if pictures is not None else ()))
    elif gold is not None:
        typer.echo(report.text())
    if pictures is not None:
        _say(pictures)


def _check_heads(path: Path, inputs: Sequence[Path | None], outputs: Sequence[Path | None], font: str | None) -> None:
    """Find what would keep the heads from being written: before the work. The folder is made."""
    from nmt.alignment.fonts import choose_fonts
    from nmt.alignment.plot import PICTURE_FORMATS
    from nmt.files import check_writable

    if path.suffix.lower() not in (*PICTURE_FORMATS, ".json"):
        known = ", ".join(PICTURE_FORMATS)
        raise ConfigError(f"--heads {path}: {known} are drawn, and .json has the numbers, but not {path.suffix!r}")
    for other in outputs:
        if other not in (None, STANDARD) and realpath(other) == realpath(path):
            raise ConfigError(f"--heads {path} is written for something else too: name another file for one of them")
    refuse_inputs([path], [one for one in inputs if one is not None])
    if font is not None:
        choose_fonts((), font)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NmtError(f"{path}: cannot be written: {error.strerror}") from error
    check_writable(path)


def _all_heads(path: Path, aligner: Aligner, source: str, one: Linked, title: str, font: str | None) -> None:
    """Write every head over a line and its translation, as a picture or as numbers."""
    from nmt.alignment.heads import as_dict, heads_of
    from nmt.alignment.plot import draw_heads

    found = heads_of(aligner.translator, source, one.translation)
    if path.suffix.lower() != ".json":
        missing = draw_heads(path, found, title=title, font=font)
        if missing:
            console.warn(f"{path}: no installed font has {missing[:10]}: give one with --font")
    else:
        with whole_output(path, resumable=False) as output:
            output.write(dumps([as_dict(kind) for kind in found], ensure_ascii=False))
    number = sum(kind.weights.shape[0] * kind.weights.shape[1] for kind in found)
    console.note(f"{path}: {number} head{'s' if number > 1 else ''}")


@dataclass(frozen=True)
class _Part:
    """Lines that stand one below the other, from number ``first`` on, and their translations if those are given."""

    first: int
    source: list[str]
    target: list[str] | None = None


@dataclass(frozen=True)
class _Texts:
    """What is aligned: the chosen lines, and their numbers; no ``parts`` where they are read as they come."""

    parts: list[_Part] | None
    gold: list[Gold] | None
    numbers: list[int]


def _counted(windows: Iterator[list[str]]) -> Iterator[_Part]:
    """Lines as they come."""
    first = 1
    for window in windows:
        yield _Part(first, window)
        first += len(window)


def _read(
    source: Path, target: Path | None, gold: Path | None, chosen: list[int], on_bad_bytes: OnBadBytes, *, whole: bool
) -> _Texts:
    """The texts, checked to pair up line by line; the source alone is left unread where nothing is asked of it."""

    def read(path: Path) -> list[str]:
        return list(input_lines(path, on_bad_bytes=on_bad_bytes))

    if target is None and not chosen and not whole:
        return _Texts(None, None, [])
    sources = read(source)
    targets = None if target is None else read(target)
    golds = None if gold is None else read(gold)
    if gold is not None and not sources:
        raise DataError(f"{source}: there are no lines to score")
    for path, lines in ((target, targets), (gold, golds)):
        if lines is not None and len(lines) != len(sources):
            raise DataError(
                f"{source} has {len(sources)} lines, {path} has {len(lines)}: they must pair up line by line"
            )
    numbers = list(dict.fromkeys(chosen)) or list(range(1, len(sources) + 1))
    if numbers and max(numbers) > len(sources):
        raise ConfigError(f"--line {max(numbers)}: {source} has {len(sources)} lines")
    rows = [number - 1 for number in numbers]
    answers = None
    if golds is not None and targets is not None:
        answers = [
            parse_gold(
                golds[row],
                f"{gold}:{row + 1}",
                num_source=len(sources[row].split()),
                num_target=len(targets[row].split()),
            )
            for row in rows
        ]
    parts = []
    for _, run in groupby(enumerate(rows), lambda pair: pair[1] - pair[0]):
        some = [row for _, row in run]
        parts.append(_Part(some[0] + 1, [sources[row] for row in some], targets and [targets[row] for row in some]))
    return _Texts(parts, answers, numbers)


def _check(
    source: Path,
    target: Path | None,
    gold: Path | None,
    units: str,
    reverse: Path | None,
    translations: Path | None,
    output: Path,
    *,
    json: bool,
) -> None:
    """Raise ConfigError for options that do not go together."""
    if [source, target, gold].count(STANDARD) > 1:
        raise ConfigError("only one file can be standard input: name --source")
    if gold is not None and target is None:
        raise ConfigError("--gold needs the --target whose words its links name")
    if translations is not None and target is not None:
        raise ConfigError("--translations are the model's own: leave out --target")
    if translations == STANDARD and (output == STANDARD or json):
        raise ConfigError("--translations - is standard output, where something else is written: name a file for one")
    if translations is not None and output != STANDARD and realpath(translations) == realpath(output):
        raise ConfigError(f"--translations and --output are both {output}: name another file for one of them")
    if units == "pieces" and (gold is not None or reverse is not None):
        raise ConfigError("--units pieces has no gold links, and two models have no pieces in common: align words")


def _check_idle(has_say: dict[str, bool]) -> None:
    """Raise ConfigError for an option that was given and has no say."""
    needs = {
        "threshold": "--method threshold",
        "symmetrize": "--reverse",
        "plot_format": "--plot",
        "font": "--plot or --heads",
    }
    needs["format_"] = "links that are written: with --gold, name a file by --output"
    for name in has_say:
        if not has_say[name] and (flags := by_hand(name)):
            needed = needs.get(name, "the model's own translations: leave out --target")
            raise ConfigError(f"{flags[0]} goes with {needed}")


def _say(pictures: Pictures) -> None:
    """Where the pictures are, and what they could not show."""
    where = pictures.drawn[0] if len(pictures.drawn) == 1 else f"{len(pictures.drawn)} in {pictures.path}"
    console.note(f"pictures: {where}")
    if complaint := pictures.complaint():
        console.warn(complaint)
