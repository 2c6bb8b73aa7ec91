"""``nmt tokenize``: train a tokenizer, cut text into pieces, put pieces together again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from nmt.errors import ConfigError
from nmt.files import check_writable
from nmt_cli import console
from nmt_cli.continuing import refuse_inputs, whole_output
from nmt_cli.options import by_hand
from nmt_cli.streams import STANDARD, InputFile, OnBadBytes, OutputFile, input_lines

__all__ = ["tokenize"]

tokenize = typer.Typer(
    help="Train a SentencePiece tokenizer, cut text into pieces, put pieces together again.",
    add_completion=False,
    rich_markup_mode=None,
)

Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="The tokenizer: a SentencePiece model, or a run folder for its own.")
]
Side = Annotated[
    Literal["source", "target"], typer.Option("--side", help="Which of a run's tokenizers, where they are two.")
]
Numbers = Annotated[bool, typer.Option("--ids", help="Numbers in place of pieces.")]


@tokenize.command()
def train(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="MODEL",
            envvar="NMT_TOKENIZE_OUT",
            help="The file to write the model to; - is standard output.",
        ),
    ],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="Text, a sentence a line; standard input by default."),
    ] = None,
    vocabulary: Annotated[
        int, typer.Option("--vocabulary", metavar="N", min=32, max=1_000_000, help="How many pieces.")
    ] = 8000,
    type_: Annotated[Literal["bpe", "unigram"], typer.Option("--type", help="How pieces are chosen.")] = "bpe",
    byte_fallback: Annotated[
        bool, typer.Option(help="Spell characters that the vocabulary lacks in bytes, so that nothing is unknown.")
    ] = True,
    character_coverage: Annotated[
        float,
        typer.Option(
            "--character-coverage", metavar="SHARE", min=0.01, max=1.0, help="The share of characters that get a piece."
        ),
    ] = 1.0,
    normalization: Annotated[
        Literal["identity", "nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf"],
        typer.Option("--normalization", help="What is done to characters first; _cf folds case."),
    ] = "nmt_nfkc",
    seed: Annotated[int, typer.Option("--seed", help="Draws lines where there are more than can be held.")] = 1,
    on_bad_bytes: OnBadBytes = "error",
) -> None:
    """Train a tokenizer on the lines of some files; several files make one joint tokenizer."""
    from nmt.config import TokenizerConfig
    from nmt.data.tokenizer import train_tokenizer

    if out != STANDARD:
        refuse_inputs([out], files or [])
        check_writable(out)
    config = TokenizerConfig(
        type=type_,
        vocabulary=vocabulary,
        byte_fallback=byte_fallback,
        character_coverage=character_coverage,
        normalization=normalization,
    )
    lines = (line for file in files or [STANDARD] for line in input_lines(file, on_bad_bytes=on_bad_bytes))
    tokenizer = train_tokenizer(console.track(lines, "reading", unit="lines"), config, seed=seed)
    if out == STANDARD:
        sys.stdout.buffer.write(tokenizer.to_bytes())
        sys.stdout.buffer.flush()
    else:
        tokenizer.save(out)
    console.note(f"{'stdout' if out == STANDARD else out}: {tokenizer.name}, {len(tokenizer)} {type_} pieces")


@tokenize.command()
def encode(
    model: Model,
    input: InputFile = STANDARD,
    output: OutputFile = STANDARD,
    side: Side = "source",
    ids: Numbers = False,
    sampling: Annotated[
        float,
        typer.Option(
            "--sampling",
            envvar="NMT_TOKENIZE_SAMPLING",
            min=0.0,
            max=1.0,
            help="Cut at random, as tokenizer.sampling in a recipe does.",
        ),
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Another seed, other cuts; each line's are its own.")] = 1,
    on_bad_bytes: OnBadBytes = "error",
) -> None:
    """Cut lines into pieces, with spaces in between; a line in gives a line out."""
    from nmt.data.tokenizer import Tokenizer, find_model

    if not sampling and by_hand("seed"):
        raise ConfigError("--seed is about what --sampling draws: give that too, such as --sampling 0.1")
    _check_side(model)
    file = find_model(model, side)
    tokenizer = Tokenizer.load(file)
    with whole_output(output, inputs=[input, file], resumable=False) as writer:
        for number, line in enumerate(input_lines(input, on_bad_bytes=on_bad_bytes)):
            found = tokenizer.sample(line, sampling, seed + number)
            writer.write(" ".join(map(str, found) if ids else tokenizer.pieces(found)))


@tokenize.command()
def decode(
    model: Model,
    input: InputFile = STANDARD,
    output: OutputFile = STANDARD,
    side: Side = "target",
    ids: Numbers = False,
    on_bad_bytes: OnBadBytes = "error",
) -> None:
    """Put pieces with spaces in between together again; a line in gives a line out."""
    from nmt.data.tokenizer import Tokenizer, find_model

    _check_side(model)
    file = find_model(model, side)
    tokenizer = Tokenizer.load(file)
    name = "stdin" if input == STANDARD else str(input)
    with whole_output(output, inputs=[input, file], resumable=False) as writer:
        for number, line in enumerate(input_lines(input, on_bad_bytes=on_bad_bytes), 1):
            writer.write(tokenizer.join(line.split(" "), numbers=ids, where=f"{name}:{number}"))


def _check_side(model: Path) -> None:
    """Raise ConfigError for --side where there is one tokenizer."""
    if model.is_file() and by_hand("side"):
        raise ConfigError(f"--side is about a run folder: {model} is one tokenizer; leave it out")
