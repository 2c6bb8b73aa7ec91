"""The benchmarks run, and count what they say they count."""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import io
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jaxtyping
import pytest
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import contest, start
from benchmarks.decode import contestant_nmt
from benchmarks.decode import workload as translating
from benchmarks.decode.__main__ import unable
from benchmarks.prepare.__main__ import _corpus
from benchmarks.profiling import Part
from benchmarks.train import workload
from benchmarks.train.contestant_nmt import made, recipe
from nmt.config import ModelConfig, TextCorpus
from nmt.data.synthetic import draw
from nmt.decoding.lengths import longest_target
from nmt.demo import SEED
from nmt.models import build
from nmt.models.packed import Packed
from nmt.training.loss import token_loss

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["tiny", "base"])
def test_the_operations_of_a_step_are_those_that_torch_counts(name: str) -> None:
    batch: list[workload.Pair] = [([5] * 9, [6] * 12)] * 2
    shape = workload.SHAPES[name]
    model = build(recipe(shape, "float32").model, workload.VOCABULARY, workload.VOCABULARY)
    with FlopCounterMode(display=False) as counter:
        one = made(batch)
        features = model(one).features
        token_loss(features, model.output.weight, one.target_out, one.target_mask).loss.backward()  # type: ignore[no-untyped-call]
    assert counter.get_total_flops() == pytest.approx(workload.operations(shape, batch), rel=0.01)


@pytest.mark.parametrize("name", ["bahdanau", "luong", "luong-plain"])
def test_the_operations_of_recurrent_shapes_go_by_their_weights(name: str) -> None:
    """Every weight that multiplies does so once a token, and three products come of it, of two operations each."""
    shape = workload.SHAPES[name]
    model = build(recipe(shape, "float32").model, workload.VOCABULARY, workload.VOCABULARY)
    weights = {name: one.numel() for name, one in model.named_parameters() if one.ndim == 2}
    products = sum(count for name, count in weights.items() if not name.endswith("embedding.table.weight"))
    by_weights = 6.0 * 1000 * products
    counted = workload.operations(shape, [([5], [6])] * 1000)
    assert counted == pytest.approx(by_weights, rel=0.15)  # bridges run once a sentence, maxout is twice as wide


def test_preparing_is_measured(warm_python: str, corpus: Path) -> None:
    command = [warm_python, "-m", "benchmarks.prepare", "--files", corpus / "train.en", corpus / "train.fr"]
    small = {"--sample": 200, "--small": 50, "--pairs": 300, "--pieces": 330, "--cores": 1, "--turns": 1, "--steps": 1}
    options = [str(part) for option in small.items() for part in option]
    done = subprocess.run([*map(str, command), *options], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^preparing is [\d.]+ x SentencePiece by the clock", done.stdout, re.MULTILINE)
    assert re.search(r"^300 pairs take [+-][\d,]+ MiB and [+-][\d.]+ s to the first step", done.stdout, re.MULTILINE)


def test_the_pairs_of_a_corpus_are_taken_again_where_they_do_not_suffice(tmp_path: Path) -> None:
    """Compressed, and without an end of its last line: lines are what the reader of corpora makes of them."""
    (tmp_path / "drawn").mkdir()
    for ending in ("en", "fr"):
        (tmp_path / "drawn" / f"valid.{ending}").touch()
    files = TextCorpus(source=tmp_path / "a.gz", target=tmp_path / "b")
    files.source.write_bytes(gzip.compress(b"one\ntwo"))
    files.target.write_bytes(b"un\r\ndeux")
    folder = _corpus(tmp_path, "made", files, 5)
    assert (folder / "train.en").read_bytes() == b"one\ntwo\none\ntwo\none\n"
    assert (folder / "train.fr").read_bytes() == b"un\ndeux\nun\ndeux\nun\n"
    for path in (files.source, files.target):
        path.write_bytes(b"")
    with pytest.raises(SystemExit, match="there are no pairs in it"):
        _corpus(tmp_path, "nothing", files, 5)


def test_training_is_measured(warm_python: str, corpus: Path) -> None:
    command = [warm_python, "-m", "benchmarks.train", "--shapes", "tiny", "luong-plain", "--pieces", "300"]
    small = ["--files", corpus / "train.en", corpus / "train.fr", "--tokens", "64", "--turns", "2", "--steps", "1"]
    done = subprocess.run(
        [*command, *map(str, small), "--warm", "1"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for shape in ("tiny", "luong-plain"):
        found = re.search(rf"^{shape}, tokens a second .*\n(.*)$", done.stdout, re.MULTILINE)
        assert found is not None
        row = re.fullmatch(r"nmt +([\d,]+) +([\d,]+) +\d+% +([\d.]+) GiB", found[1])
        assert row is not None
        assert all(float(figure.replace(",", "")) > 0 for figure in row.groups())
    assert re.search(r"products of at best [\d,]+ GFLOP/s in torch.float32", done.stdout)


def test_translating_is_measured(warm_python: str, corpus: Path) -> None:
    command = [warm_python, "-m", "benchmarks.decode", "--shapes", "tiny", "luong", "--file", corpus / "train.en"]
    small = {"--train-steps": 2, "--pairs": 200, "--pieces": 330, "--batch-sizes": 3}
    short = {"--sentences": 6, "--turns": 2, "--singles": 1, "--start": 1}
    options = [str(part) for option in {**small, **short}.items() for part in option]
    done = subprocess.run([*map(str, command), *options], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for shape, ending in (("tiny", "trained, ending by itself"), ("luong", "15 tokens forced")):
        assert re.search(rf"^{shape} \({ending}\)", done.stdout, re.MULTILINE)
    rows = re.findall(
        r"^nmt (?:float32|int8|bfloat16) +batches of 3 +([\d.,]+ +){4}[\d.]+ GiB$", done.stdout, re.MULTILINE
    )
    assert len(rows) == 4
    assert re.search(r"^tiny +\d of 6 lines of nmt \w+ are those of nmt in float32$", done.stdout, re.MULTILINE)
    assert re.search(r"^start +nmt translate RUN: first line after -?[\d.]+ s by the clock", done.stdout, re.MULTILINE)


def task_of(folder: Path, side: dict[str, Any] | None = None, **settings: Any) -> translating.Task:
    """Six sentences for a small model in two turns."""
    side = {"type": "transformer", "layers": 1, "width": 8, "heads": 2, "feed_forward": 8} | (side or {})
    model = ModelConfig.model_validate({"encoder": side, "decoder": side, "embedding": 8})
    save_file({name: tensor.clone() for name, tensor in build(model, 20, 20).state_dict().items()}, folder / "weights")
    ids: dict[str, Any] = {"pad": 0, "unk": 1, "bos": 2, "eos": 3}
    given: dict[str, Any] = {"turns": 2, "singles": 0, "batch_sizes": [64], "beam": 2, "forced": 0, "longest": 70}
    return translating.Task(
        shape="tiny",
        model=model.model_dump(mode="json"),
        weights=str(folder / "weights"),
        vocabulary=20,
        **{"sentences": [[5, 6, 3]] * 6, **ids, **given, **settings},
    )


def test_the_batch_size_that_is_told_is_the_one_that_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    told = argparse.Namespace(translations=tmp_path / "found")
    translating.answer(task_of(tmp_path), told, lambda sentences, size: sentences)
    assert json.loads(capsys.readouterr().out.splitlines()[0]) == {"batch_size": 3}


@pytest.mark.parametrize("forced, most", [(0, 70), (15, 15)])
def test_translations_end_where_those_of_the_peers_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forced: int, most: int
) -> None:
    limits: list[int] = []

    class Engine:
        def __init__(self, *_: object) -> None: ...

        def search(self, sources: list[Any], config: Any, **_: object) -> list[list[Any]]:
            limits.extend(longest_target(length, config) for length in (1, 100))
            return [[SimpleNamespace(tokens=())] for _ in sources]

    monkeypatch.setattr(contestant_nmt, "TorchEngine", Engine)
    monkeypatch.setattr(Packed, "logits", contestant_nmt.LOGITS)  # which forcing changes
    contestant_nmt.translating(task_of(tmp_path, forced=forced), "float32")([[5, 3]], 1)
    assert limits == [most, most]


@pytest.mark.parametrize("side", [{}, {"positions": "none", "max_relative_positions": 3}])
def test_ctranslate2_translates_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: dict[str, Any]
) -> None:
    pytest.importorskip("ctranslate2")
    from benchmarks.decode import contestant_ctranslate2

    monkeypatch.setattr(Packed, "logits", contestant_nmt.LOGITS)  # which forcing changes
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the benchmark's tokenizers are numbers alone
    sentences = [[5 + (7 * length * place) % 15 for place in range(length)] + [3] for length in range(1, 13)]
    task = task_of(tmp_path, {"layers": 2, **side}, sentences=sentences, forced=6, beam=1)
    weights = {name: one if one.ndim < 2 else 4 * one for name, one in load_file(task.weights).items()}
    for name in ("encoder.embedding.table.weight", "decoder.embedding.table.weight", "output.weight"):
        weights[name] /= 4
        weights[name][[task.pad, task.unk, task.bos]] = 0  # nmt writes none of these, CTranslate2 where they are likely
    save_file(weights, task.weights)
    ours = contestant_nmt.translating(task, "float32")(sentences, 4)
    theirs = contestant_ctranslate2.translating(task, "float32", 1)(sentences, 4)
    assert [one[:5] for one in theirs] == ours  # whose sixth token is EOS
    assert len(set(map(tuple, ours))) > 1


SIDE = {"type": "transformer", "layers": 1, "width": 8, "heads": 2, "feed_forward": 8, "norm": "post"}


@pytest.mark.parametrize("encoder, decoder, tied, ctranslate2, marianmt", [
    ({}, {}, 3, "", ""),
    ({"norm": "pre"}, {"norm": "pre"}, 3, "", "normalised before their parts"),
    ({}, {}, 2, "", "not tied three ways"),
    ({"layers": 2}, {}, 3, "", "sides of different sizes"),
    ({"norm": "pre"}, {}, 3, "heads or norms", "heads or norms"),
    ({"window": 3}, {}, 3, "a window of 3", "a window of 3"),
    ({"max_relative_positions": 4}, {}, 3, "relative positions beside others", "relative positions"),
    ({"max_relative_positions": 4, "positions": "none"}, {}, 3, "", "relative positions"),
    ({"positions": "none"}, {}, 3, "no positions", "no positions"),
    ({}, {"positions": "learned"}, 3, "that are learned", "that are learned"),
])  # fmt: skip
def test_peers_run_the_models_that_they_can_hold(
    encoder: dict[str, Any], decoder: dict[str, Any], tied: int, ctranslate2: str, marianmt: str
) -> None:
    sides = {"encoder": SIDE | encoder, "decoder": SIDE | decoder}
    model = ModelConfig.model_validate({**sides, "embedding": 8, "tied_embeddings": tied})
    for peer, reason in (("ctranslate2", ctranslate2), ("marianmt", marianmt)):
        assert bool(unable(peer, model)) == bool(reason)
        assert reason in unable(peer, model)


def test_peers_for_transformers_run_no_recurrent_model() -> None:
    model = ModelConfig.model_validate({"encoder": {"type": "gru"}, "decoder": {"type": "gru"}})
    assert unable("marianmt", model) == unable("ctranslate2", model) == "a gru encoder and a gru decoder"
    assert unable("joeynmt", model) == ""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the benchmarks need Linux")
def test_what_cannot_be_measured_is_said_in_one_line(
    warm_python: str, corpus: Path, untrained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [warm_python, "-m", "benchmarks.decode", "--shapes", "tiny", "--run", untrained_run]
    few = ["--file", corpus / "train.en", "--sentences", "3", "--turns", "4"]
    done = subprocess.run([*map(str, command + few)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, "--turns 4: tiny has 3 sentences to share out among them\n")
    there = len(os.sched_getaffinity(0))
    for cores in (0, there + 1):
        with pytest.raises(SystemExit, match=f"--cores {cores}: there are {there} here"):
            contest.keep_to(cores)
    monkeypatch.delattr(os, "sched_setaffinity")
    with pytest.raises(SystemExit, match="the benchmarks need Linux"):
        contest.keep_to(1)


def test_a_step_of_training_is_taken_apart(warm_python: str, corpus: Path) -> None:
    command = [warm_python, "-m", "benchmarks.train", "--shapes", "luong", "--pieces", "300", "--profile"]
    small = ["--files", corpus / "train.en", corpus / "train.fr", "--tokens", "64", "--steps", "1", "--warm", "1"]
    done = subprocess.run([*command, *map(str, small)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_taken_apart(done.stdout, ["luong, a step"])
    assert " nmt is " not in done.stdout


def test_translating_is_taken_apart(warm_python: str, corpus: Path, untrained_run: Path) -> None:
    command = [warm_python, "-m", "benchmarks.decode", "--shapes", "tiny", "--run", untrained_run]
    small = [
        "--file",
        str(corpus / "train.en"),
        "--sentences",
        "6",
        "--batch-sizes",
        "3",
        "--turns",
        "2",
        "--singles",
        "1",
    ]
    done = subprocess.run(
        [*map(str, command), *small, "--profile", "float32"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    titles = [f"tiny in float32, a sentence {way}" for way in ("in batches of 3", "one at a time")]
    assert_taken_apart(done.stdout, titles)


def assert_taken_apart(said: str, titles: list[str]) -> None:
    """Every table names products and operators by their shares, and no operator is counted twice."""
    tables = said.strip().split("\n\n")[1:]
    assert [table.partition(":")[0] for table in tables] == titles
    for table in tables:
        rows = {
            name: float(share) for share, name in re.findall(r"^ *([-\d.]+)%  (.+?)(?:  +[\d,.]+ times)?$", table, re.M)
        }
        products, rest = rows.pop("products of matrices"), rows.pop("in no operator: Python and the profiler")
        assert 0 < products < 100
        assert rest > -1
        assert sum(rows.values()) + rest <= 101
        assert len(rows) > 5


def test_products_are_told_from_what_is_around_them() -> None:
    names = [
        "aten::mm",
        "aten::baddbmm",
        "mkldnn::_linear_pointwise",
        "aten::_int_mm",
        "aten::fbgemm_linear_fp16_weight",
    ]
    others = ["aten::mul", "aten::_softmax", "aten::add", "aten::copy_", "aten::amax", "nmt::summed"]
    assert all(Part(name, 1.0, 1).multiplies for name in names)
    assert not any(Part(name, 1.0, 1).multiplies for name in others)


@pytest.mark.parametrize("exported", [True, False])
def test_starting_is_measured(untrained_run: Path, exported: bool) -> None:
    """In the export's place stands a run: the one here is recurrent, and CTranslate2 takes Transformers."""
    command = [sys.executable, "-m", "benchmarks.start", "--run", untrained_run, "--times", "1"]
    export = ["--export", untrained_run] if exported else []
    done = subprocess.run(list(map(str, command + export)), cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(import torch|nmt .+?)  +[\d.]+ +[\d.]+$", done.stdout, re.MULTILINE)
    names = ["import torch", "nmt --version", "nmt --help", "nmt translate RUN"]
    assert rows == names + ["nmt translate EXPORT"] * exported
    assert ("CTranslate2 cannot run a gru encoder" in done.stderr) != exported


def test_an_export_that_cannot_be_made_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert start.exported(tmp_path, tmp_path) is None
    assert "nmt translate EXPORT is left out: ctranslate2 is not installed" in capsys.readouterr().out


def test_the_line_to_start_with_is_of_the_demo() -> None:
    assert start.LINE in [pair.source for pair in itertools.islice(draw(SEED), 500)]
