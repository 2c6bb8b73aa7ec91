"""``nmt split``: hold pairs of a corpus out, to validate and to test on."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from nmt.errors import ConfigError
from nmt_cli import console
from nmt_cli.streams import STANDARD

__all__ = ["split"]


def split(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The source side, a sentence a line.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The target side, line for line.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write to; made if need be.")],
    valid: Annotated[
        int | None,
        typer.Option(
            "--valid", metavar="N", min=0, help="Pairs to validate on; by default a twentieth of all, at most 1000."
        ),
    ] = None,
    test: Annotated[
        int | None, typer.Option("--test", metavar="N", min=0, help="Pairs to test on; by default as many.")
    ] = None,
    languages: Annotated[
        str | None,
        typer.Option(
            "--languages", metavar="S-T", help="What files end in, such as en-fr; by default what the two given do."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Which pairs: the same seed, the same.")] = 1,
) -> None:
    """Make a corpus of two text files: train, and valid and test that are held out.

    No line of a pair that is held out stands anywhere else, on its side, so that scores are of what was not learnt by
    heart.
    """
    from nmt.config import TextCorpus, setting
    from nmt.data.held_out import hold_out

    for path in (source, target):
        if path == STANDARD:
            raise ConfigError("a corpus is read more than once, which standard input cannot be: name two files")
    ours = _languages(source, target, languages)
    with console.Progress("reading", unit="pairs") as progress:
        held = hold_out(
            TextCorpus(source=source, target=target), out, ours, valid=valid, test=test, seed=seed, progress=progress
        )
    sizes = ", ".join(f"{held.pairs[name]:,} {name}" for name in held.pairs)
    passed = f" ({held.passed:,} were passed over, a line of theirs stands elsewhere too)" if held.passed else ""
    console.note(f"{out}: {sizes} pairs{passed}")
    if held.pairs["valid"]:
        sides = zip(("data.source", "data.target"), ours, strict=True)
        both = " ".join(f"--set {quote(setting(side, language))}" for side, language in sides)
        console.note(f"train with: nmt train --preset auto --data {quote(str(out))} {both} --budget TIME --out RUN")


def _languages(source: Path, target: Path, said: str | None) -> tuple[str, str]:
    """What the files of the two sides end in. Raises ConfigError where that is not two different things."""
    from nmt.data.held_out import language_of

    if said is not None:
        first, _, second = said.partition("-")
    else:
        first, second = language_of(source), language_of(target)
    if not first or not second or first == second or {"/", "."} & {*first, *second}:
        what = f"{said} are" if said is not None else f"{source.name} and {target.name} end in"
        raise ConfigError(f"--languages: {what} no two languages: give them, such as --languages en-fr")
    return first, second
