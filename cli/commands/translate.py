"""``nmt translate``: lines in, their translations out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nmt.errors import ConfigError, DataError
from nmt_cli import console
from nmt_cli.continuing import Begun, look_back, whole_output
from nmt_cli.loading import loading
from nmt_cli.options import Checkpoint, Device, Threads, by_hand
from nmt_cli.searching import as_given, with_search_flags
from nmt_cli.streaming import WholeLines, input_windows, obeying_the_first
from nmt_cli.streams import STANDARD, InputFile, OnBadBytes, OutputFile, check_input

if TYPE_CHECKING:
    from nmt.formats import Align, Format

__all__ = ["translate"]


@with_search_flags()
def translate(
    run: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="The run folder, or an export of one, that translates; of several runs the mean."
        ),
    ],
    input: InputFile = STANDARD,
    output: OutputFile = STANDARD,
    format_: Annotated[
        Literal["text", "tsv", "jsonl", "moses"] | None,
        typer.Option("--format", help="What is written; jsonl is read too. By default text, with --nbest moses."),
    ] = None,
    nbest: Annotated[int | None, typer.Option("--nbest", min=1, metavar="N", help="Write the N best.")] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Write the natural logarithm of the probability, and the score.")
    ] = False,
    confidence: Annotated[bool, typer.Option("--confidence", help="Write the probability of each word.")] = False,
    align: Annotated[
        str | None,
        typer.Option(
            "--align", metavar="HOW", help="Write word links: hard, a threshold such as 0.3, or soft for all weights."
        ),
    ] = None,
    align_units: Annotated[
        Literal["words", "pieces"] | None,
        typer.Option("--align-units", help="What is linked: words, or subword pieces; by default words."),
    ] = None,
    constraints: Annotated[
        bool,
        typer.Option(
            "--constraints",
            help="Read phrases to use, phrases to avoid and what the translation begins with, in columns behind the "
            "text or in fields of the JSON.",
        ),
    ] = False,
    glossary: Annotated[
        Path | None,
        typer.Option(
            "--glossary",
            metavar="FILE",
            help="Translate these terms so: a term a line, a tab, its translation; a term alone is kept as it is.",
        ),
    ] = None,
    keep: Annotated[
        str,
        typer.Option(
            "--keep",
            metavar="REGEX",
            help="Have what this regular expression matches in the translation as it is, such as links or {names}.",
            show_default=False,
        ),
    ] = "",
    continue_from: Annotated[
        Path | None,
        typer.Option("--continue-from", metavar="OUT", help="Go on with an interrupted output; names --output too."),
    ] = None,
    line_buffered: Annotated[
        bool, typer.Option("--line-buffered", help="Answer each line before the next is read, out of a file too.")
    ] = False,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    threads: Threads = 0,
    on_bad_bytes: OnBadBytes = "error",
    **search: Any,
) -> None:
    """Translate text, one sentence a line: a line in gives a line out, in order, as soon as it is ready.

    A blank line stays blank. What --beam and the other options of search are not given as, the run's recipe says.
    """
    with loading():
        from nmt.decoding.glossary import Glossary
        from nmt.decoding.sharing import Sharing
        from nmt.decoding.translator import Translator
        from nmt.distributed import joined
        from nmt.formats import Style, is_of, read, render

    if align is None and by_hand("align_units"):
        raise ConfigError("--align-units says what --align links: give that too, such as --align hard")
    units = align_units or "words"
    if glossary == STANDARD:
        raise ConfigError("--glossary -: name a file; standard input has the text")
    terms = Glossary(keep=keep) if glossary is None else Glossary.read(glossary, keep=keep)
    style = Style(_format(format_, nbest), nbest, scores, confidence, _align(align), units, constraints, terms or None)
    output = _output(output, continue_from)
    with joined() as ranks:
        if ranks.is_first and input != STANDARD:
            check_input(input)
        with loading():
            translator = Translator.load(*run, which=checkpoint, device=device, threads=threads, **as_given(search))
        attention, words = style.align is not None, style.confidence
        translator.check(nbest or 1, attention=attention)
        if style.glossary is not None and not translator.engine.takes_phrases:
            if named := by_hand("glossary", "keep"):
                raise ConfigError(
                    f"{named[0]}: CTranslate2 cannot; use the run itself or an export to onnx, or leave it out"
                )
            style = replace(style, glossary=None)
        name = "stdin" if input == STANDARD else str(input)
        met = [0.0, 0.0, 0.0]

        def work(window: Sequence[str], first: int) -> list[str]:
            records = [read(line, style, f"{name}:{number}") for number, line in enumerate(window, first)]
            found = translator.translate_window(
                [record.request for record in records], nbest=nbest or 1, attention=attention, words=words, first=first
            )
            counts = translator.counts
            met[:] = ranks.total(counts.split, counts.cut, counts.unmet)
            pairs = zip(records, found, strict=True)
            return [render(record, one, number, style) for number, (record, one) in enumerate(pairs, first - 1)]

        with Sharing(ranks) as sharing:
            if not ranks.is_first:
                with obeying_the_first():
                    for _ in sharing.out((), work):
                        pass
                return
            size = 1 if line_buffered else translator.window * ranks.size
            begun = Begun() if continue_from is None else look_back(continue_from, size, style)

            def check(lines: list[str]) -> None:
                """That the interrupted output is of these lines, as far as can be told."""
                requests = [read(line, style, name).request for line in lines]
                counts = replace(translator.counts)
                found = translator.translate_window(
                    requests, nbest=nbest or 1, attention=False, words=False, first=begun.lines - len(lines) + 1
                )
                translator.counts = counts
                pairs = [pair for pair in zip(begun.last, found, strict=False) if pair[1].hypotheses]
                if pairs and not any(is_of(line, one.text, style) for line, one in pairs):
                    raise DataError(
                        f"{continue_from}: its last lines are no translations of what stands there in {name}: is it of "
                        f"another text, model, search or glossary? Leave out --continue-from to begin anew"
                    )

            windows = input_windows(
                input, size, on_bad_bytes=on_bad_bytes, skip=begun.lines, skipped=check if begun.last else None
            )
            if style.format == "jsonl" or style.constraints:
                windows = _checked(windows, lambda line, number: read(line, style, f"{name}:{number}"), begun.lines)
            kept = None if continue_from is None else begun.kept
            inputs = [input] if glossary is None else [input, glossary]
            done = _write(sharing.out(windows, work, done=begun.lines), inputs, output, kept, line_buffered)
    for number, what in zip(met, ("translated in parts, being too long", "cut off, being too long"), strict=False):
        if number:
            console.note(f"{what}: {number:.0f} of {done} lines")
    if met[2]:
        console.warn(f"phrases that a translation should use and does not: {met[2]:.0f}; --format jsonl names them")


def _format(format_: Format | None, nbest: int | None) -> Format:
    """What is written. Raises ConfigError for n best as text, which has a line a line."""
    if format_ == "text" and nbest is not None:
        raise ConfigError("--format text has one translation a line: write --nbest as moses, tsv or jsonl")
    return format_ or ("text" if nbest is None else "moses")


def _align(how: str | None) -> Align | None:
    """Which links. Raises ConfigError for what is neither a word nor a number from 0 to 1."""
    match how:
        case None | "hard" | "soft":
            return how
    try:
        threshold = float(how)
    except ValueError:
        threshold = -1.0
    if not 0.0 <= threshold <= 1.0:
        raise ConfigError(f"--align {how}: say hard, soft, or the least attention of a link, such as 0.3")
    return threshold


def _output(output: Path, continue_from: Path | None) -> Path:
    """Where it is written. Raises ConfigError where that is not what is gone on with."""
    if continue_from is None:
        return output
    if output not in (STANDARD, continue_from):
        raise ConfigError(f"--output {output} is not what --continue-from {continue_from} goes on with: leave one out")
    if continue_from.suffix == ".part" and continue_from.exists():
        raise ConfigError(
            f"--continue-from {continue_from}: name it as it will be called when it is whole: "
            f"{continue_from.with_suffix('')}"
        )
    if continue_from == STANDARD or (continue_from.exists() and not continue_from.is_file()):
        raise ConfigError(f"--continue-from {continue_from}: name the file that was being written")
    return continue_from


def _checked(windows: Iterator[list[str]], check: Callable[[str, int], object], done: int) -> Iterator[list[str]]:
    """The windows up to the first line that is not what it should be, which is then told."""
    for window in windows:
        for place, line in enumerate(window):
            try:
                check(line, done + place + 1)
            except DataError:
                if place:
                    yield window[:place]
                raise
        yield window
        done += len(window)


def _write(
    results: Iterator[list[str]], inputs: Sequence[Path], output: Path, kept: int | None, line_buffered: bool
) -> int:
    """Write lines as they come; gives how many there were."""
    done = 0
    with (
        WholeLines() as lines,
        whole_output(output, inputs=inputs, kept=kept) as writer,
        console.Progress("translating", unit="lines") as progress,
    ):
        for texts in results:
            for text in texts:
                with lines.whole():
                    writer.write(text)
            if line_buffered:
                writer.flush()
            done += len(texts)
            if output != STANDARD:
                progress(done)
    return done
