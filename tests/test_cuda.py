"""On a GPU: what holds on a processor holds there too, for every pairing. Without a GPU these tests are skipped."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

from nmt.config import DecodingConfig
from nmt.decoding.beam import beam_search
from nmt.decoding.ensemble import Ensemble
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.request import Source
from nmt.decoding.sampling import sample
from nmt.decoding.search import Searchable
from nmt.decoding.translator import Translator
from nmt.errors import Interrupted
from nmt.layers.dropout import Dropout
from nmt.models import Seq2Seq
from nmt.models.packed import packed
from nmt.training.gradients import Objective
from nmt.training.report import SilentReporter, StepReport, read_log
from nmt.training.session import Session, train
from tests.models.pairings import BOS, EOS, NINE, PAD, PAIRINGS, SENTENCES, UNK, new_batch, new_model
from tests.training.recipes import PAIRINGS as TRAINED
from tests.training.recipes import newest, small_recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

if torch.cuda.is_available():  # read once, when a process first multiplies on the GPU
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
DROPPING = ("model.encoder.dropout=0.2", "model.decoder.dropout=0.2", "tokenizer.sampling=0.1")


class Stopping(SilentReporter):
    """Sends this process SIGTERM when a step is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, report: StepReport, total: int | None) -> None:
        if report.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Shapes are checked elsewhere."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Sums in one order: cuDNN and the gradients of tables would else take any."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def session(folder: Path, device: str = "cuda", *, resume: bool = False) -> Session:
    return Session(folder, resume=resume, device=device, store=folder.parent / "store")


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder) if line["type"] == "train"]


def weights(folder: Path) -> str:
    return hashlib.sha256((newest(folder) / "weights.safetensors").read_bytes()).hexdigest()


def without_dropout(model: Seq2Seq) -> Seq2Seq:
    """A model in training mode, outside of which cuDNN makes no gradients, that drops nothing."""
    for module in model.train().modules():
        if isinstance(module, Dropout):
            module.eval()
        elif isinstance(module, torch.nn.RNNBase):
            module.dropout = 0.0
    return model


@pytest.mark.parametrize("name", PAIRINGS)
def test_loss_and_gradients_are_those_of_the_processor(name: str) -> None:
    batch = new_batch()
    model, moved = without_dropout(new_model(name)), without_dropout(new_model(name)).to(CUDA)
    here, there = Objective(model, 0.1)(batch), Objective(moved, 0.1)(batch.to(CUDA))
    here.backward()
    there.backward()
    torch.testing.assert_close(there.cpu(), here, rtol=1e-9, atol=1e-9)
    for (parameter_name, one), other in zip(model.named_parameters(), moved.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        difference = float((other.grad.cpu() - one.grad).abs().max())
        assert difference <= 1e-9 + 1e-7 * float(one.grad.abs().max()), parameter_name


def found(
    model: Searchable, device: torch.device, settings: DecodingConfig, sources: list[Source]
) -> list[list[Hypothesis]]:
    """What search, or sampling, finds for the usual batch on ``device``."""
    batch, search = new_batch().to(device), sample if settings.sampling else beam_search
    return search(
        model,
        batch.source,
        batch.source_mask,
        config=settings,
        bos_id=BOS,
        eos_id=EOS,
        forbidden=(PAD, UNK),
        sources=sources,
        nbest=3,
        attention=True,
    )


def assert_same(there: list[list[Hypothesis]], here: list[list[Hypothesis]]) -> None:
    for ours, theirs in zip(there, here, strict=True):
        assert [one.tokens for one in ours] == [one.tokens for one in theirs]
        assert [one.score for one in ours] == pytest.approx([one.score for one in theirs], abs=1e-6)
        for one, other in zip(ours, theirs, strict=True):
            assert one.attention == pytest.approx(other.attention, abs=1e-6)


@pytest.mark.parametrize("name", PAIRINGS)
def test_search_finds_what_it_finds_on_the_processor(name: str) -> None:
    settings, sources = DecodingConfig(beam=3, max_ratio=1.0, max_extra=1), [Source(()) for _ in SENTENCES]
    there = found(new_model(name).to(CUDA), CUDA, settings, sources)
    assert_same(there, found(new_model(name), CPU, settings, sources))


@pytest.mark.parametrize(
    "settings",
    [
        {"coverage_penalty": 0.3, "stopping": "exact"},
        {"groups": 3, "diversity": 0.7},
        {"no_repeat_ngram": 2},
        {"sampling": True, "temperature": 0.8, "top_p": 0.9, "top_k": 12, "epsilon": 0.01},
    ],
    ids="-".join,
)
@pytest.mark.parametrize("name", NINE)
@torch.inference_mode()
def test_features_of_search_are_those_of_the_processor(name: str, settings: dict[str, Any]) -> None:
    """As a translator searches: the model laid out, phrases to use and to avoid, beginnings that are given."""
    config = DecodingConfig(beam=6, max_ratio=1.0, max_extra=4, **settings)
    sources = [
        Source((), avoid=((7,), (9, 10))),
        Source((), prefix=(12, 5)),
        Source((), use=((13, 14),), continuing=frozenset({15})),
        Source((), use=((6,), (18, 4))),
        Source(()),
    ]
    there = found(packed(new_model(name).to(CUDA)), CUDA, config, sources)
    assert_same(there, found(packed(new_model(name)), CPU, config, sources))


@torch.inference_mode()
def test_an_ensemble_finds_what_it_finds_on_the_processor() -> None:
    def members(device: torch.device) -> Ensemble:
        return Ensemble([packed(new_model(name).to(device)) for name in ("gru-lstm", "transformer-transformer")])

    settings, sources = DecodingConfig(beam=3, max_ratio=1.0, max_extra=1), [Source(()) for _ in SENTENCES]
    assert_same(found(members(CUDA), CUDA, settings, sources), found(members(CPU), CPU, settings, sources))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("encoder", "decoder"), TRAINED)
def test_training_has_the_losses_of_the_processor(encoder: str, decoder: str, corpus: Path, tmp_path: Path) -> None:
    wanted = small_recipe(corpus, encoder, decoder)
    for device in ("cpu", "cuda"):
        train(wanted, session(tmp_path / device, device), SilentReporter())
    assert losses(tmp_path / "cuda") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-3)
    # what was trained on a GPU translates on a processor
    lines = (corpus / "valid.en").read_text(encoding="utf-8").splitlines()
    there, here = (
        [one.text for one in Translator.load(tmp_path / "cuda", device=device).translate(lines)]
        for device in ("cuda", "cpu")
    )
    assert sum(one == other for one, other in zip(there, here, strict=True)) >= len(lines) - 1  # a close call


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("family", "optimizer"), [("gru", "adam"), ("lstm", "adam"), ("transformer", "adam"), ("transformer", "muon")]
)
def test_a_run_that_was_stopped_goes_on_as_one_that_was_not(
    family: str, optimizer: str, precision: str, corpus: Path, tmp_path: Path, deterministic: None
) -> None:
    settings = (f"training.precision={precision}", f"training.optimizer={optimizer}")
    wanted = small_recipe(corpus, family, family, *DROPPING, *settings)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(wanted, session(straight), SilentReporter())
    with pytest.raises(Interrupted, match="stopped by SIGTERM after step 7"):
        train(wanted, session(stopped), Stopping(7))
    torch.cuda.manual_seed(12345)  # what the process drew meanwhile must not matter
    train(wanted, session(stopped, resume=True), SilentReporter())
    assert losses(stopped) == losses(straight)
    assert weights(stopped) == weights(straight)


@pytest.mark.usefixtures("unchecked")
def test_a_batch_that_the_memory_has_no_room_for_is_halved(corpus: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.mkdir()
    for split, times in (("train", 30), ("valid", 1)):
        for language in ("en", "fr"):
            text = (corpus / f"{split}.{language}").read_text(encoding="utf-8")
            (large / f"{split}.{language}").write_text(text * times, encoding="utf-8")
    settings = ("training.batch_tokens=65536", "training.max_steps=2", "training.log_every=1")
    torch.ones(64, 64, device=CUDA) @ torch.ones(64, 64, device=CUDA)  # what products keep is there
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + 128 * 2**20
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    try:
        train(small_recipe(large, "transformer", "transformer", *settings), session(tmp_path / "run"), SilentReporter())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    steps = [line for line in read_log(tmp_path / "run") if line["type"] == "train"]
    assert steps[-1]["halved"] > 0
    assert 0 < steps[-1]["memory"] <= room


def test_torchrun_trains_on_the_gpu(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(small_recipe(corpus, "transformer", "gru").to_toml(), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "gpu", "-m", "nmt"]
    done = subprocess.run(
        [*command, "train", "recipe.toml", "--out", "run", "--store", "store"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "products on cuda" in done.stderr
    train(small_recipe(corpus, "transformer", "gru"), session(tmp_path / "alone"), SilentReporter())
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "alone"), rel=1e-3)
