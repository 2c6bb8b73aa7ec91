"""``nmt demo``: the whole road on the embedded corpus."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nmt_cli import console
from nmt_cli.options import Settings, Threads, use_threads

if TYPE_CHECKING:
    from nmt.demo import Demonstration


OUT = Path("runs/demo")


def demo(
    family: Annotated[
        Literal["transformer", "bahdanau", "luong", "all"],
        typer.Option("--family", "-f", help="The model to train, or all three to compare them."),
    ] = "transformer",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where corpus and runs go.")] = OUT,
    pairs: Annotated[
        int | None,
        typer.Option(
            "--pairs", metavar="N", min=1, help="How many pairs to train on; 20000, where none are there yet."
        ),
    ] = None,
    threads: Threads = 1,  # models this small are quickest on one
    set_: Settings = None,
) -> None:
    """Train on the embedded English-French corpus, translate unseen sentences, score, and draw what is attended to.

    Takes a few minutes on two cores. Started again, it goes on where it stopped, or shows what is there.
    """
    from nmt.demo import FAMILIES, demonstrate, make_corpus
    from nmt_cli.training import TerminalReporter

    use_threads(threads)
    corpus = make_corpus(out / "corpus", pairs=pairs)
    console.note(f"corpus: {corpus}")
    shown = []
    for name in FAMILIES if family == "all" else (family,):
        with TerminalReporter() as reporter:
            done = demonstrate(name, corpus=corpus, run=out / name, reporter=reporter, overrides=set_ or ())
        typer.echo(_report(done))
        shown.append(done)
    if len(shown) > 1:
        typer.echo(_table(shown))
    typer.echo(_next_commands(corpus, shown[0], out))


def _report(done: Demonstration) -> str:
    """What one family reached, and ten of its translations."""
    alignment = done.alignment
    lines = ["", f"{done.family}: {done.parameters / 1e6:.1f} million parameters, {done.sentences} unseen sentences"]
    lines += [f"  {score.line()}" for score in done.scores]
    lines.append(
        f"  AER = {alignment.error_rate:.3f}, precision {alignment.precision:.3f}, recall {alignment.recall:.3f} "
        "(links of attention against gold links)"
    )
    for sample in done.samples:
        wrong = "" if sample.translation == sample.reference else f"\n  should be  {sample.reference}"
        lines.append(f"\n  source     {sample.source}\n  nmt        {sample.translation}{wrong}")
    lines.append(f"\n  where it looked: {done.picture}")
    return "\n".join(lines)


def _table(shown: list[Demonstration]) -> str:
    """The families side by side."""
    lines = ["", f"{'family':<12} {'parameters':>10} {'BLEU':>6} {'chrF2':>6} {'AER':>6}"]
    for done in shown:
        scores = " ".join(f"{score.value:>6.2f}" for score in done.scores)
        lines.append(f"{done.family:<12} {done.parameters:>10,} {scores} {done.alignment.error_rate:>6.3f}")
    return "\n".join(lines)


def _next_commands(corpus: Path, done: Demonstration, out: Path) -> str:
    """What to try next."""
    run, folder = shlex.quote(str(done.run)), shlex.quote(str(corpus))
    elsewhere = "" if out == OUT else f" --out {shlex.quote(str(out))}"
    return "\n".join(
        [
            "",
            "Try next (where nmt is not found: source .venv/bin/activate):",
            f"  echo 'The old women see the red house.' | nmt translate {run}",
            f"  nmt translate {run} --nbest 3 --align hard < {folder}/valid.en",
            f"  nmt evaluate {run}",
            f"  nmt align {run} --source {folder}/test.en --target {folder}/test.fr --gold {folder}/test.align",
            f"  nmt align {run} --source {folder}/test.en --line 2 --heads {run}/heads.svg",
            f"  nmt demo --family all{elsewhere}",
            "  nmt split YOUR.en YOUR.fr --out YOUR-FOLDER   # says how to train on it",
        ]
    )
