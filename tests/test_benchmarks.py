"""The benchmarks run, and count what they say they count."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.profiling import Part
from benchmarks.train import workload
from benchmarks.train.contestant_nmt import made, recipe
from nmt.models import build
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
