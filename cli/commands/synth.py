"""``nmt synth``: write the embedded corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nmt_cli import console


def synth(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write to; made if need be.")],
    pairs: Annotated[int, typer.Option("--pairs", metavar="N", help="How many pairs to train on.")] = 20000,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Which sentences: the same seed, the same.")] = 1,
    valid: Annotated[int, typer.Option("--valid", metavar="N", help="How many pairs to validate on.")] = 500,
    test: Annotated[int, typer.Option("--test", metavar="N", help="How many pairs to test on.")] = 500,
) -> None:
    """Write a corpus of English and French with gold word links, drawn from a grammar.

    train, valid and test, each as .en, .fr and .align (links in Pharaoh form). No sentence stands in two of them.
    """
    from nmt.data.synthetic import write_corpus

    with console.Progress("drawing", pairs + valid + test, unit="pairs") as progress:
        summary = write_corpus(out, pairs=pairs, seed=seed, valid=valid, test=test, progress=progress)
    sizes = ", ".join(f"{size:,} {split}" for split, size in summary.pairs.items())
    console.note(
        f"{summary.folder}: {sizes} pairs; {summary.source_words:,} English words, {summary.target_words:,} French"
    )
