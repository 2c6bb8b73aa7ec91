"""Pairs a second in preparing a corpus, beside SentencePiece's own speed; what a large corpus costs training.

Preparing and plain SentencePiece take turns on the same lines. Then a training of a few steps is made on a small corpus
and on a large one whose token ids are ready, in the same pieces: its most memory, and the time to its first step. The
corpora are the first pairs of the one that is drawn or named, and the same again where these do not suffice.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sentencepiece

from benchmarks.contest import check_cores
from nmt.config import Recipe, TextCorpus, TokenizerConfig, parse_recipe
from nmt.data.ahead import prepare_ahead
from nmt.data.corpus import describe, read_pairs
from nmt.data.store import prepare
from nmt.data.synthetic import write_corpus
from nmt.data.tokenizer import train_tokenizer, train_tokenizers
from nmt.data.workers import processors

ENDINGS = ("en", "fr")
RECIPE = """
[data]
source = "en"
target = "fr"
train = {{ source = "{folder}/train.en", target = "{folder}/train.fr" }}
valid = {{ source = "{folder}/valid.en", target = "{folder}/valid.fr" }}
[tokenizer]
source_model = "{model}"
target_model = "{model}"
[model]
embedding = 64
encoder = {{ type = "transformer", layers = 1, width = 64, feed_forward = 128, heads = 2 }}
decoder = {{ type = "transformer", layers = 1, width = 64, feed_forward = 128, heads = 2 }}
[training]
batch_tokens = 1024
max_steps = {steps}
validate_every = {steps}
save_every = {steps}
validation_beam = 1
[decoding]
max_ratio = 1
max_extra = 2
"""


@dataclass(frozen=True)
class Took:
    """Seconds by the clock, and of the processors, children counted."""

    clock: float
    processor: float


def main() -> None:
    """Measure what the command line asks for."""
    told = _arguments()
    check_cores(told.cores)
    with tempfile.TemporaryDirectory(dir=told.folder) as name:
        folder = Path(name)
        write_corpus(folder / "drawn", pairs=1 if told.files else told.draw, seed=1, valid=20, test=1)
        files = told.files or [folder / "drawn" / f"train.{ending}" for ending in ENDINGS]
        sample = TextCorpus(source=files[0], target=files[1])
        lines = (
            line for pair in itertools.islice(read_pairs(sample), told.small) for line in (pair.source, pair.target)
        )
        train_tokenizer(lines, TokenizerConfig(vocabulary=told.pieces), seed=1).save(folder / "joint.model")
        recipe = _recipe(_corpus(folder, "sample", sample, told.sample), told)
        for cores in range(1, told.cores + 1):
            _speed(recipe, folder, cores, told)
        if told.pairs:
            _training(folder, sample, told)


def _corpus(folder: Path, name: str, corpus: TextCorpus, pairs: int) -> Path:
    """A folder with so many pairs of a corpus, again from the first where they do not suffice."""
    (folder / name).mkdir()
    with contextlib.ExitStack() as stack:
        sides = []
        for ending in ENDINGS:
            shutil.copy(folder / "drawn" / f"valid.{ending}", folder / name)
            path = folder / name / f"train.{ending}"
            sides.append(stack.enter_context(path.open("w", encoding="utf-8", newline="\n")))
        left = pairs
        while left:
            before = left
            for pair in itertools.islice(read_pairs(corpus), left):
                sides[0].write(f"{pair.source}\n")
                sides[1].write(f"{pair.target}\n")
                left -= 1
            if left == before:
                raise SystemExit(f"{describe(corpus)}: there are no pairs in it")
    return folder / name


def _recipe(folder: Path, told: argparse.Namespace) -> Recipe:
    text = RECIPE.format(folder=folder, model=folder.parent / "joint.model", steps=told.steps)
    (folder / "recipe.toml").write_text(text)
    return parse_recipe(text)


# --------------------------------------------------------------------------------------------------------------- speed


def _speed(recipe: Recipe, folder: Path, cores: int, told: argparse.Namespace) -> None:
    """Prepare and encode in turns on so many cores; says how many pairs a second each does."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[-cores:])
    tokenizers = train_tokenizers(recipe.data, recipe.tokenizer, seed=1)
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizers.source.to_bytes())
    pairs = list(itertools.chain.from_iterable(map(read_pairs, recipe.data.train)))
    sides = [pair.source for pair in pairs], [pair.target for pair in pairs]

    def ours() -> None:
        shutil.rmtree(folder / "speed", ignore_errors=True)
        prepare(recipe.data, tokenizers, folder / "speed", workers=cores)

    def theirs() -> None:
        for side in sides:
            for first in range(0, len(side), 4096):
                processor.encode(side[first : first + 4096], num_threads=cores)

    turns = [(_timed(theirs), _timed(ours)) for _ in range(told.turns)]
    os.sched_setaffinity(0, allowed)
    _say(f"{len(pairs):,} pairs on {cores} core{'s' * (cores > 1)}, pairs a second   by the clock   by processor time")
    for name, number in (("SentencePiece alone", 0), ("preparing", 1)):
        clock = statistics.median(len(pairs) / turn[number].clock for turn in turns)
        processor_time = statistics.median(len(pairs) / turn[number].processor for turn in turns)
        _say(f"{name:<40}{clock:>15,.0f}{processor_time:>20,.0f}")
    ratios = [statistics.median(getattr(a, one) / getattr(b, one) for a, b in turns) for one in ("clock", "processor")]
    _say(f"preparing is {ratios[0]:.2f} x SentencePiece by the clock, {ratios[1]:.2f} x by processor time")


def _timed(act: Callable[[], object]) -> Took:
    def used() -> float:
        both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in both)

    clock, processor = time.perf_counter(), used()
    act()
    return Took(time.perf_counter() - clock, used() - processor)


# ------------------------------------------------------------------------------------------------------------ training


def _training(folder: Path, corpus: TextCorpus, told: argparse.Namespace) -> None:
    """Train for a few steps on a small and on a large corpus; says what each took."""
    figures = []
    for name, pairs in (("small", told.small), ("large", told.pairs)):
        _say("")
        recipe = _recipe(_corpus(folder, name, corpus, pairs), told)
        took = _timed(lambda: prepare_ahead(recipe, folder / "store", workers=told.cores))  # noqa: B023
        _say(f"{name}: {pairs:,} pairs made ready in {took.clock:.0f} s, {took.processor:.0f} s of processor time")
        command = [sys.executable, "-m", "benchmarks.prepare.training"]
        where = [folder / name / "recipe.toml", folder / "store", folder / name / "run"]
        for again in range(2):
            shutil.rmtree(where[-1], ignore_errors=True)
            done = subprocess.run(
                [*command, *map(str, where)],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},  # threads that wait for each other measure the neighbours
            )
            if again:  # the files are in the system's cache, for either
                figures.append(json.loads(done.stdout.splitlines()[-1]))
        one = figures[-1]
        _say(
            f"{name}: peak memory {one['memory'] / 2**20:,.0f} MiB, first step after {one['clock']:.1f} s "
            f"({one['processor']:.1f} s of processor time), the middle of an epoch in {one['middle']:.2f} s"
        )
    small, large = figures
    _say("")
    _say(
        f"{large['rows']:,} pairs take {(large['memory'] - small['memory']) / 2**20:+,.0f} MiB and "
        f"{large['clock'] - small['clock']:+.1f} s to the first step "
        f"({large['processor'] - small['processor']:+.1f} s of processor time), beside {small['rows']:,} pairs"
    )


def _say(text: str) -> None:
    print(text, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare", description=__doc__)
    parser.add_argument(
        "--files", nargs=2, type=Path, metavar=("SOURCE", "TARGET"), help="a corpus; default: the embedded one"
    )
    parser.add_argument("--draw", type=int, default=1_000_000, help="pairs of the embedded corpus (default: 1000000)")
    parser.add_argument(
        "--sample", type=int, default=1_000_000, help="pairs whose preparing is timed (default: 1000000)"
    )
    parser.add_argument("--small", type=int, default=100_000, help="pairs of the small corpus (default: 100000)")
    parser.add_argument(
        "--pairs", type=int, default=10_000_000, help="of the large one; 0 for none (default: 10000000)"
    )
    parser.add_argument("--pieces", type=int, default=8000, help="the corpora are cut into (default: %(default)s)")
    parser.add_argument(
        "--cores", type=int, default=min(2, processors()), help="to prepare on at most (default: %(default)s)"
    )
    parser.add_argument("--turns", type=int, default=3, help="of either, whose median is said (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="of each training (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the corpora go meanwhile (default: the temporary folder)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
