"""Sentences a second in translation, ours and the peers', in one run.

All contestants of a shape are started at once and translate shares of the same sentences in turns, while the others
wait: what slows the machine slows all of them. Ratios are taken turn by turn, and their median is what is said.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks import profiling, start
from benchmarks.contest import Contestant, keep_to, machine, progress, say, started
from benchmarks.decode import contestant_nmt, trained
from benchmarks.decode.workload import Task
from benchmarks.train import workload as training
from benchmarks.train.contestant_nmt import recipe
from nmt.checkpoint import Run
from nmt.config import ModelConfig, TransformerDecoder, TransformerEncoder
from nmt.data.synthetic import write_corpus
from nmt.data.text import read_lines
from nmt.layers.packing import gains_by_bfloat16, has_fbgemm
from nmt.memory import keep_freed_memory
from nmt.models import Seq2Seq, build

HERE = Path(__file__).parent
#: Which toolkits run a family's models; of the recurrent ones JoeyNMT has its own weights.
PEERS = {"transformer": ("ctranslate2", "marianmt"), "bahdanau": ("joeynmt",), "luong": ("joeynmt",)}
TOOLKITS = ("ctranslate2", "marianmt", "joeynmt")
SHAPES = ("tiny", "base", "bahdanau", "luong")
#: Tokens that a model with random weights is made to write.
FORCED = 15
#: Sources of more pieces are left out.
LONGEST = 100


@dataclass
class Entry:
    """A contestant, its best batch size, and what its turns took a sentence, in seconds."""

    contestant: Contestant
    translations: Path
    batch_size: int = 0
    took: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {"many": [], "one": []})

    @property
    def name(self) -> str:
        """Toolkit and type."""
        return self.contestant.name

    def median(self, kind: str, clock: int) -> float:
        """Seconds a sentence, by the clock (0) or of the processors (1)."""
        return statistics.median(one[clock] for one in self.took[kind])


def main() -> None:
    """Measure what the command line asks for; the last lines are one ratio a shape, way and peer."""
    told = _arguments()
    keep_to(told.cores)
    torch.set_num_threads(told.cores)
    say(f"{machine('cpu')}, {told.cores} of its cores, torch {torch.__version__}")
    last = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = {"pairs": told.pairs, "pieces": told.pieces, "threads": told.cores}
        run = Run.open(told.run or trained.train(folder, told.train_steps, **sizes))
        if not run.recipe.tokenizer.joint:
            raise SystemExit(f"--run {told.run}: it has two tokenizers, and contestants are told of one")
        files = told.file or _embedded(folder)
        sentences = list(_sentences(files, run, told.sentences))
        for shape in told.shapes:
            task = _task(shape, run, sentences, folder, told)
            if told.profile:
                say_profile(task, told.profile)
            else:
                last += measure(task, folder, told)
        if told.start and not told.profile:
            last += start.measure(run.folder, next(read_lines(files)), told.start, start.exported(run.folder, folder))
    say("")
    for line in last:
        say(line)


def measure(task: Task, folder: Path, told: argparse.Namespace) -> list[str]:
    """Let the contestants of a shape translate in turns; gives a line a peer and way."""
    path = folder / f"{task.shape}.json"
    task.save(path)
    for peer in _peers(task, told):
        if reason := unable(peer, ModelConfig.model_validate(task.model)):
            say(f"{task.shape}: {peer} is left out: here it runs no model with {reason}")
    with contextlib.ExitStack() as stack:
        entries = [stack.enter_context(one) for one in _entries(task, path, told)]
        for entry in entries:
            entry.batch_size = entry.contestant.hear()["batch_size"]
        for turn in range(task.turns):
            for entry in entries[turn % len(entries) :] + entries[: turn % len(entries)]:
                for kind, took in entry.took.items():
                    if kind == "many" or task.singles:
                        took.append(entry.contestant.ask(f"{kind} {turn}"))
            progress(f"{task.shape}: turn {turn + 1} of {task.turns}")
        for entry in entries:
            entry.contestant.dismiss()
    _table(task, entries)
    return [*_ratios(task, entries), *_equal(task, entries)]


def say_profile(task: Task, dtype: str) -> None:
    """Say what our own translating is made of: a turn's share in batches, and some of it one at a time."""
    keep_freed_memory()
    translate, sentences, size = contestant_nmt.translating(task, dtype), task.share(0), max(task.batch_sizes)
    singles = sentences[: task.singles]
    translate(sentences[:size], size)
    for title, some, rows in ((f"in batches of {size}", sentences, size), ("one at a time", singles, 1)):
        found = profiling.profiled(functools.partial(translate, some, rows))
        say("")
        for line in profiling.lines(f"{task.shape} in {dtype}, a sentence {title}", found, max(1, len(some))):
            say(line)


def _table(task: Task, entries: list[Entry]) -> None:
    ending = f"{task.forced} tokens forced" if task.forced else "trained, ending by itself"
    say("")
    say(f"{task.shape} ({ending}): sentences a second of processor time, by the clock; ms of both for one; memory")
    for entry in entries:
        many = f"{1 / entry.median('many', 1):>10,.1f}{1 / entry.median('many', 0):>10,.1f}"
        one = ""
        if task.singles:
            one = f"{1000 * entry.median('one', 1):>10,.1f}{1000 * entry.median('one', 0):>10,.1f}"
        size = f"batches of {entry.batch_size}"
        say(f"{entry.name:<24}{size:<16}{many}{one}{entry.contestant.memory / 2**30:>10.2f} GiB")


def _ratios(task: Task, entries: list[Entry]) -> Iterator[str]:
    """Ours over each peer, each in the type that is quicker."""
    ours = [entry for entry in entries if entry.contestant.toolkit == "nmt"]
    for peer in dict.fromkeys(entry.contestant.toolkit for entry in entries if entry not in ours):
        theirs = [entry for entry in entries if entry.contestant.toolkit == peer]
        for kind, way in (("many", "in batches"), ("one", "one at a time")):
            if kind == "one" and not task.singles:
                continue
            said = []
            for clock, measure in ((1, "by processor time"), (0, "by the clock")):
                a, b = (min(group, key=lambda entry: entry.median(kind, clock)) for group in (ours, theirs))
                pairs = zip(a.took[kind], b.took[kind], strict=True)
                ratio = statistics.median(other[clock] / own[clock] for own, other in pairs)
                said.append(f"{ratio:.2f} x {measure} ({_type(a)} to {_type(b)})")
            yield f"{task.shape:<9} {way:<14} nmt is of {peer}'s speed " + ", ".join(said)


def _equal(task: Task, entries: list[Entry]) -> Iterator[str]:
    """How many translations are the same as ours in float32; of random weights nobody asks."""
    if task.forced:
        return
    ours = next((entry for entry in entries if entry.name == "nmt float32"), None)
    for entry in entries:
        if ours is not None and entry is not ours:
            left, right = (json.loads(one.translations.read_text(encoding="utf-8")) for one in (ours, entry))
            same = sum(left[number] == right[number] for number in left)
            yield f"{task.shape:<9} {same} of {len(left)} lines of {entry.name} are those of nmt in float32"


def _type(entry: Entry) -> str:
    return entry.name.partition(" ")[2]


def _entries(task: Task, path: Path, told: argparse.Namespace) -> Iterator[contextlib.AbstractContextManager[Entry]]:
    """Ours in each type, then the peers in each of theirs."""
    processor = torch.device("cpu")
    narrow = "bfloat16" if gains_by_bfloat16(processor) else "int8"
    for dtype in ("float32", "float16", narrow) if has_fbgemm(processor) else ("float32", "bfloat16"):
        yield _entry("nmt", Path(sys.executable), dtype, path, told)
    theirs = told.peers / "bin" / "python" if told.peers else None
    for peer in _peers(task, told):
        if unable(peer, ModelConfig.model_validate(task.model)):
            continue
        for dtype in ("float32", "int8") if peer == "ctranslate2" else ("float32", "bfloat16"):
            if dtype != "bfloat16" or narrow == "bfloat16":
                yield _entry(peer, theirs, dtype, path, told)


def _peers(task: Task, told: argparse.Namespace) -> list[str]:
    """Who is asked for, and has models of the shape's family."""
    family = PEERS[training.SHAPES[task.shape].family]
    return [peer for peer in family if peer in told.against] if told.peers else []


def unable(peer: str, model: ModelConfig) -> str:
    """What a model has that a peer cannot hold as it is set up here; nothing where it can."""
    encoder, decoder = model.encoder, model.decoder
    if peer == "joeynmt":  # which has weights of its own
        return ""
    if not isinstance(encoder, TransformerEncoder) or not isinstance(decoder, TransformerDecoder):
        return f"a {encoder.type} encoder and a {decoder.type} decoder"
    sides = (encoder, decoder)
    wishes = {
        f"a window of {encoder.window}": encoder.window > 0,
        "relative positions beside others": any(
            side.max_relative_positions and side.positions != "none" for side in sides
        ),
        "positions that are learned": any(side.positions == "learned" for side in sides),
        "no positions": any(side.positions == "none" and not side.max_relative_positions for side in sides),
        "sides of different heads or norms": (encoder.heads, encoder.norm) != (decoder.heads, decoder.norm),
    }
    if peer == "marianmt":
        sizes = [(side.layers, side.feed_forward) for side in sides]
        wishes |= {
            "layers that are normalised before their parts": any(side.norm == "pre" for side in sides),
            "relative positions": any(side.max_relative_positions for side in sides),
            "sides of different sizes": sizes[0] != sizes[1],
            "embeddings that are not tied three ways": model.tied_embeddings != 3,
        }
    return ", ".join(name for name, there in wishes.items() if there)


@contextlib.contextmanager
def _entry(toolkit: str, python: Path | None, dtype: str, task: Path, told: argparse.Namespace) -> Iterator[Entry]:
    translations = task.with_name(f"{task.stem}.{toolkit}.{dtype}.json")
    command = [python, HERE / f"contestant_{toolkit}.py", task, dtype, told.cores, translations]
    with started(f"{toolkit} {dtype}", command, told.cores) as contestant:
        yield Entry(contestant, translations)


def _task(shape: str, run: Run, sentences: list[list[int]], folder: Path, told: argparse.Namespace) -> Task:
    """``tiny`` is the run's model, trained; the others have random weights, which never end a sentence."""
    trained = shape == "tiny"
    pieces = run.tokenizers.source
    vocabulary = len(pieces) if trained else training.VOCABULARY
    config = run.recipe.model if trained else _model(shape)
    model: Seq2Seq = run.load_model() if trained else build(config, vocabulary, vocabulary)
    some = [sentence for sentence in sentences if max(sentence) < vocabulary]
    if not 0 < told.turns <= len(some):
        raise SystemExit(f"--turns {told.turns}: {shape} has {len(some)} sentences to share out among them")
    weights = folder / f"{shape}.safetensors"
    save_file({name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}, weights)
    return Task(
        shape=shape,
        model=config.model_dump(mode="json"),
        weights=str(weights),
        vocabulary=vocabulary,
        pad=pieces.pad_id,
        unk=pieces.unk_id,
        bos=pieces.bos_id,
        eos=pieces.eos_id,
        sentences=some,
        turns=told.turns,
        singles=told.singles,
        batch_sizes=told.batch_sizes,
        beam=told.beam,
        forced=0 if trained else FORCED,
        longest=2 * max(map(len, some)) + 20,
    )


def _model(shape: str) -> ModelConfig:
    """The shape that training is measured with, normalised behind its parts, as MarianMT has it."""
    torch.manual_seed(1)
    model = recipe(training.SHAPES[shape], "float32").model.model_dump(mode="json")
    if training.SHAPES[shape].family == "transformer":
        for side in ("encoder", "decoder"):
            model[side]["norm"] = "post"
    return ModelConfig.model_validate(model)


def _sentences(file: Path, run: Run, count: int) -> Iterator[list[int]]:
    """The first so many lines of a file as the run's model reads them."""
    pieces = run.tokenizers.source
    for line in read_lines(file):
        tokens = pieces.encode(line.strip())
        if 0 < len(tokens) < LONGEST and count:
            count -= 1
            yield [*tokens, pieces.eos_id]


def _embedded(folder: Path) -> Path:
    write_corpus(folder / "held-out", pairs=1, seed=2, valid=1, test=1000)
    return folder / "held-out" / "test.en"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="default: all")
    parser.add_argument("--peers", type=Path, help="the virtual environment with the peers; without, ours alone")
    parser.add_argument("--against", nargs="+", choices=TOOLKITS, default=TOOLKITS, help="default: all")
    parser.add_argument("--run", type=Path, help="whose model is `tiny` (default: one that is trained on the spot)")
    parser.add_argument("--train-steps", type=int, default=400, help="for how long (default: 400)")
    parser.add_argument("--pairs", type=int, default=20_000, help="of the embedded corpus to train on (default: 20000)")
    parser.add_argument("--pieces", type=int, default=training.VOCABULARY, help="of its vocabulary (default: 8000)")
    parser.add_argument("--file", type=Path, help="with sentences to translate (default: of the embedded corpus)")
    parser.add_argument("--sentences", type=int, default=1000, help="at most (default: 1000)")
    parser.add_argument("--cores", type=int, default=1, help="to run on (default: 1)")
    parser.add_argument("--beam", type=int, default=5, help="default: 5")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 64, 128], help="default: 32 64 128")
    parser.add_argument("--turns", type=int, default=5, help="a share of the sentences each (default: 5)")
    parser.add_argument("--singles", type=int, default=20, help="sentences a turn one at a time (default: 20)")
    parser.add_argument(
        "--profile",
        choices=("float32", "float16", "bfloat16", "int8"),
        help="say of what operators our own translating consists in this type, in place of the contest",
    )
    parser.add_argument("--start", type=int, default=5, help="how often a process is started (default: 5)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
