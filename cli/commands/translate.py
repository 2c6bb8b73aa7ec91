"""``nmt translate``: lines in, their translations out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nmt_cli import console
from nmt_cli.options import Device, Threads, use_threads
from nmt_cli.streaming import WholeLines, input_windows, obeying_the_first
from nmt_cli.streams import STANDARD, InputFile, OnBadBytes, OutputFile, output_lines

if TYPE_CHECKING:
    from nmt.decoding.translator import Translation

__all__ = ["translate"]


def translate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder whose model translates.")],
    input: InputFile = STANDARD,
    output: OutputFile = STANDARD,
    nbest: Annotated[
        int | None,
        typer.Option("--nbest", min=1, metavar="N", help="Write the N best: id ||| text ||| logprob= x ||| score."),
    ] = None,
    align: Annotated[bool, typer.Option("--align", help="Append word links: text ||| 0-0 1-2.")] = False,
    checkpoint: Annotated[str, typer.Option("--checkpoint", metavar="NAME", help="best, average or step-N.")] = "best",
    beam: Annotated[int | None, typer.Option("--beam", min=1, help="Hypotheses kept in search; 1 is greedy.")] = None,
    length_penalty: Annotated[
        Literal["none", "average", "gnmt"] | None,
        typer.Option("--length-penalty", help="How the length of a hypothesis weighs in its score."),
    ] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", min=0.0, help="The strength of the length penalty.")] = None,
    max_ratio: Annotated[
        float | None, typer.Option("--max-ratio", help="A translation has at most this times the source's tokens,")
    ] = None,
    max_extra: Annotated[int | None, typer.Option("--max-extra", min=0, help="and so many more.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Sentences searched together.")] = None,
    device: Device = "auto",
    threads: Threads = 0,
    on_bad_bytes: OnBadBytes = "error",
) -> None:
    """Translate text, one sentence a line: a line in gives a line out, in order, as soon as it is ready.

    A blank line stays blank. What --beam and the other options of search are not given as, the run's recipe says.
    """
    from nmt.decoding.sharing import Sharing
    from nmt.decoding.translator import Translator
    from nmt.distributed import joined

    use_threads(threads)
    search = {
        "beam": beam,
        "length_penalty": length_penalty,
        "alpha": alpha,
        "max_ratio": max_ratio,
        "max_extra": max_extra,
        "batch_size": batch_size,
    }
    given = {name: value for name, value in search.items() if value is not None}
    with joined() as ranks:
        translator = Translator.load(run, which=checkpoint, device=device, **given)
        translator.check(nbest or 1)

        parted = 0

        def work(window: list[str], first: int) -> list[str]:
            nonlocal parted
            found = translator.translate_window(window, nbest=nbest or 1, attention=align, first=first)
            parted = int(*ranks.total(translator.counts.split))
            return [_render(one, number, nbest is not None, align) for number, one in enumerate(found, first - 1)]

        with Sharing(ranks) as sharing:
            if not ranks.is_first:
                with obeying_the_first():
                    for _ in sharing.out((), work):
                        pass
                return
            windows = input_windows(input, translator.window * ranks.size, on_bad_bytes=on_bad_bytes)
            done = _write(sharing.out(windows, work), input, output)
    if parted:
        console.note(f"translated in parts, being too long: {parted} of {done} lines")


def _write(results: Iterator[list[str]], input: Path, output: Path) -> int:
    """Write lines as they come; gives how many there were."""
    done = 0
    with (
        WholeLines() as lines,
        output_lines(output, inputs=[input]) as writer,
        console.Progress("translating", unit="lines") as progress,
    ):
        for texts in results:
            for text in texts:
                with lines.whole():
                    writer.write(text)
            done += len(texts)
            if output != STANDARD:
                progress(done)
    return done


def _render(translation: Translation, number: int, is_nbest: bool, align: bool) -> str:
    """The translation of line ``number`` (from 0) as it is written."""
    from nmt.decoding.formats import moses_lines, plain_line

    links = _links(translation) if align else None
    if is_nbest:
        return "\n".join(moses_lines(number, translation.hypotheses, links))
    return plain_line(translation.text, None if links is None else (links or [""])[0])


def _links(translation: Translation) -> list[str]:
    """For each hypothesis the links of its words, from the attention of its pieces."""
    from nmt.alignment.links import extract, format_links, to_words

    num_source = len(translation.source.split())
    links = []
    for hypothesis, words in zip(translation.hypotheses, translation.target_words, strict=True):
        assert hypothesis.attention is not None, "search was asked for attention"
        num_target = len(hypothesis.text.split())
        if not num_target:
            links.append("")
            continue
        attention = hypothesis.attention.astype("float64")
        matrix = to_words(attention, translation.source_words, words, num_source, num_target)
        links.append(format_links(extract(matrix)))
    return links
