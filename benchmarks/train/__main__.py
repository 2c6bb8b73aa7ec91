"""Target tokens a second in training, ours and the peers', in one run.

All contestants of a shape are started at once and make steps in turns, a few at a time, on the same batches, while the
others wait: what slows the machine slows all of them. Ratios are taken turn by turn, and their median is what is said.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import profiling
from benchmarks.contest import Contestant, keep_to, machine, progress, say, started
from benchmarks.train import contestant_nmt, workload
from nmt.config import DataConfig, TextCorpus, TokenizerConfig
from nmt.data.corpus import read_pairs
from nmt.data.synthetic import write_corpus
from nmt.data.tokenizer import train_tokenizers
from nmt.distributed import ALONE

HERE = Path(__file__).parent
#: Which toolkits have a model of a family's shape.
PEERS = {
    "transformer": ("marianmt", "joeynmt"),
    "bahdanau": ("joeynmt",),
    "luong": ("joeynmt",),
}
#: Sentences of more pieces are left out.
LONGEST = 100
#: Rows, inner width and columns of the products whose rate counts as the machine's best.
PRODUCTS = ((4096, 512, 512), (4096, 512, 2048), (4096, 2048, 512))
GPU_PRODUCTS = ((8192, 8192, 8192),)


def main() -> None:
    """Measure what the command line asks for; the last lines are one ratio a shape and peer."""
    told = _arguments()
    keep_to(told.cores)
    torch.set_num_threads(told.cores)
    say(f"{machine(told.device)}, {told.cores} of its cores, torch {torch.__version__}")
    best = {kind: peak(kind, told.device) for kind in (torch.float32, torch.bfloat16)}
    say("products of at best " + ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {kind}" for kind, rate in best.items()))
    last = []
    with tempfile.TemporaryDirectory() as folder:
        batches = batches_of(told.files or _embedded(Path(folder)), told.tokens, told.pieces, told.cores)
        path = Path(folder) / "batches.json"
        workload.save(batches, path)
        for name in told.shapes:
            if told.profile:
                say_profile(name, batches, told)
            else:
                last += measure(name, batches, path, told, max(best.values()))
    say("")
    for line in last:
        say(line)


def measure(
    name: str, batches: list[list[workload.Pair]], path: Path, told: argparse.Namespace, best: float
) -> list[str]:
    """Let the contestants of a shape make steps in turns; gives a line a peer."""
    shape = workload.SHAPES[name]
    with contextlib.ExitStack() as stack:
        contestants = [stack.enter_context(one) for one in _contestants(name, shape.family, path, told)]
        torches = {}
        for one in contestants:
            torches[one.toolkit] = one.hear()["torch"]
            one.ask(told.warm)
        for turn in range(told.turns):
            for one in contestants[turn % len(contestants) :] + contestants[: turn % len(contestants)]:
                wall, cpu = one.ask(told.steps)
                one.wall.append(wall)
                one.cpu.append(cpu)
            progress(f"{name}: turn {turn + 1} of {told.turns}")
        for one in contestants:
            one.dismiss()
    turns = list(_turns(batches, told))
    tokens = [sum(len(target) for batch in turn for _, target in batch) for turn in turns]
    products = [sum(workload.operations(shape, batch) for batch in turn) for turn in turns]
    say("")
    peers = {toolkit: version for toolkit, version in torches.items() if toolkit != "nmt"}
    if peers:
        say(f"{name}, with torch " + ", ".join(f"{version} ({toolkit})" for toolkit, version in peers.items()))
    say(f"{name}, tokens a second     by processor time     by the clock    share of peak    peak memory")
    for one in contestants:
        by_cpu = statistics.median(a / b for a, b in zip(tokens, one.cpu, strict=True))
        by_clock = statistics.median(a / b for a, b in zip(tokens, one.wall, strict=True))
        share = statistics.median(a / b for a, b in zip(products, one.wall, strict=True)) / best
        say(f"{one.name:<24}{by_cpu:>20,.0f}{by_clock:>17,.0f}{share:>16.0%}{one.memory / 2**30:>12.2f} GiB")
    return list(_ratios(name, contestants))


def say_profile(name: str, batches: list[list[workload.Pair]], told: argparse.Namespace) -> None:
    """Say what our own steps are made of."""
    trainer = contestant_nmt.begun(contestant_nmt.recipe(workload.SHAPES[name], "auto"), batches, told.device, ALONE)

    def steps(number: int) -> None:
        for _ in range(number):
            trainer.step()

    steps(told.warm)
    found = profiling.profiled(lambda: steps(told.steps))
    say("")
    for line in profiling.lines(f"{name}, a step", found, told.steps):
        say(line)


def _turns(batches: list[list[workload.Pair]], told: argparse.Namespace) -> Iterator[list[list[workload.Pair]]]:
    """The batches of each turn that counts."""
    stream = itertools.islice(itertools.cycle(batches), told.warm, None)
    for _ in range(told.turns):
        yield list(itertools.islice(stream, told.steps))


def _ratios(name: str, contestants: list[Contestant]) -> Iterator[str]:
    """Ours over each peer, each in the form that is quicker by the measure."""
    ours = [one for one in contestants if one.toolkit == "nmt"]
    for peer in dict.fromkeys(one.toolkit for one in contestants if one.toolkit != "nmt"):
        theirs = [one for one in contestants if one.toolkit == peer]
        ratios, forms = [], []
        for measure in ("cpu", "wall"):
            a, b = (min(group, key=lambda one: statistics.median(getattr(one, measure))) for group in (ours, theirs))
            pairs = zip(getattr(a, measure), getattr(b, measure), strict=True)
            ratios.append(statistics.median(theirs_took / ours_took for ours_took, theirs_took in pairs))
            forms.append(b.name.removeprefix(peer).strip())
        yield (
            f"{name:<12} nmt is {ratios[0]:.2f} x {peer} by processor time ({forms[0]}), "
            f"{ratios[1]:.2f} x by the clock ({forms[1]})"
        )


def _contestants(
    name: str, family: str, path: Path, told: argparse.Namespace
) -> Iterator[contextlib.AbstractContextManager[Contestant]]:
    """Ours first; where there are two cores and more, ours in one process a core too."""
    ours = Path(sys.executable)
    arguments = (str(told.cores), str(path), told.device)
    yield started("nmt", [ours, HERE / "contestant_nmt.py", name, "auto", *arguments], told.cores)
    if told.cores > 1 and told.device == "cpu":
        many = [ours, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(told.cores)]
        alone = [name, "auto", "1", str(path), told.device]
        yield started(f"nmt {told.cores} processes", [*many, HERE / "contestant_nmt.py", *alone], 1)
    theirs = told.peers / "bin" / "python" if told.peers else None
    for peer in [one for one in PEERS[family] if one in told.against] if theirs else ():
        for dtype in ("float32", "bfloat16"):
            command = [theirs, HERE / f"contestant_{peer}.py", name, dtype, *arguments]
            yield started(f"{peer} {dtype}", command, told.cores)


def batches_of(files: tuple[Path, Path], tokens: int, pieces: int, cores: int) -> list[list[workload.Pair]]:
    """Batches of about so many target tokens, sentences of like length together, cut into so many joint pieces."""
    corpus = TextCorpus(source=files[0], target=files[1])
    config = TokenizerConfig(type="bpe", vocabulary=pieces)
    tokenizers = train_tokenizers(DataConfig(train=(corpus,)), config, seed=1)
    pairs: list[workload.Pair] = []
    for line in read_pairs(corpus):
        source, target = tokenizers.source.encode(line.source), tokenizers.target.encode(line.target)
        if min(len(source), len(target)) > 0 and max(len(source), len(target)) < LONGEST:
            pairs.append(([*source, workload.EOS], [*target, workload.EOS]))
    pairs.sort(key=lambda sides: (len(sides[1]), len(sides[0])))
    batches: list[list[workload.Pair]] = [[]]
    for pair in pairs:
        if sum(len(target) for _, target in batches[-1]) >= tokens:
            batches.append([])
        batches[-1].append(pair)
    whole = len(batches) - 1  # the last one is short
    if not whole or min(map(len, batches[:whole])) < cores:
        raise SystemExit(f"{files[0]}: too little text for batches of {tokens} target tokens")
    return [batches[number] for number in torch.randperm(whole, generator=torch.Generator().manual_seed(1)).tolist()]


def _embedded(folder: Path) -> tuple[Path, Path]:
    write_corpus(folder / "corpus", pairs=20_000, seed=1)
    return folder / "corpus" / "train.en", folder / "corpus" / "train.fr"


def peak(kind: torch.dtype, device: str) -> float:
    """The best rate at which torch multiplies large matrices of a type here, in operations a second."""
    rates = []
    for rows, inner, columns in PRODUCTS if device == "cpu" else GPU_PRODUCTS:
        left, right = (torch.randn(size, inner).to(device, kind) for size in (rows, columns))
        torch.nn.functional.linear(left, right)  # the first one prepares what the others find
        workload.settle(device)
        seconds: list[float] = []
        while len(seconds) < 20 and sum(seconds) < 1.0:  # one takes a second where the processor has not the type
            began = time.perf_counter()
            torch.nn.functional.linear(left, right)
            workload.settle(device)
            seconds.append(time.perf_counter() - began)
        rates.append(2 * rows * inner * columns / statistics.median(seconds))
    return max(rates)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    parser.add_argument(
        "--shapes", nargs="+", choices=workload.SHAPES, default=list(workload.SHAPES), help="default: all"
    )
    parser.add_argument("--peers", type=Path, help="the virtual environment with the peers; without, ours alone")
    parser.add_argument(
        "--against", nargs="+", choices=PEERS["transformer"], default=PEERS["transformer"], help="default: all"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument(
        "--files", nargs=2, type=Path, metavar=("SOURCE", "TARGET"), help="default: the embedded corpus"
    )
    parser.add_argument("--cores", type=int, default=1, help="to run on (default: 1)")
    parser.add_argument("--tokens", type=int, default=4096, help="target tokens a batch (default: 4096)")
    parser.add_argument(
        "--pieces",
        type=int,
        default=workload.VOCABULARY,
        help="the corpus is cut into; the output layer has %(default)s rows in any case (default: %(default)s)",
    )
    parser.add_argument("--turns", type=int, default=12, help="how often each contestant's turn comes (default: 12)")
    parser.add_argument("--steps", type=int, default=2, help="steps a turn (default: 2)")
    parser.add_argument("--warm", type=int, default=4, help="steps before the first turn (default: 4)")
    parser.add_argument(
        "--profile", action="store_true", help="say of what operators our own steps consist, in place of the contest"
    )
    told = parser.parse_args()
    if told.profile and told.device != "cpu":
        parser.error("--profile looks at processors: leave --device out")
    if told.pieces > workload.VOCABULARY:
        parser.error(f"--pieces {told.pieces}: the output layer has {workload.VOCABULARY} rows")
    return told


if __name__ == "__main__":
    main()
