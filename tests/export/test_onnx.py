"""ONNX graphs against the models they were written from, step by step, for every pairing and every variant."""

from __future__ import annotations

import pytest
import torch

from nmt.decoding.onnx import OnnxModel
from nmt.decoding.search import Searchable
from nmt.errors import ConfigError
from nmt.export.onnx import convert
from nmt.models import Seq2Seq, build
from tests.models.pairings import NINE, PAIRINGS, VARIANTS, new_batch, new_model


def graphs(model: Seq2Seq, quantization: str = "none") -> OnnxModel:
    files = convert(model, quantization)
    assert sorted(files) == ["remember.onnx", "step.onnx"]
    return OnnxModel(files["remember.onnx"], files["step.onnx"])


def walk(model: Searchable) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Logits and attention of some forced steps, rows being turned round and one of them dropped on the way."""
    batch = new_batch()
    rows = torch.arange(len(batch.target_in))
    logits, attention = [], []
    with torch.inference_mode():
        memory = model.remember(batch.source, batch.source_mask)
        state = model.start(memory)
        for position in range(4):
            step = model.step(batch.target_in[rows, position], state, memory)
            logits.append(model.logits(step.features))
            attention.append(step.attention)
            state = step.state
            if position == 1:
                kept = torch.tensor([4, 0, 0, 2])
                rows, state, memory = rows[kept], state.select(kept), memory.select(kept)
    return logits, attention


@pytest.mark.parametrize("name", PAIRINGS)
def test_graphs_compute_what_the_model_computes(name: str) -> None:
    model = new_model(name, dtype=torch.float32)
    for ours, theirs in zip(walk(model), walk(graphs(model)), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(other, one, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NINE)
def test_in_eight_bits_little_changes(name: str) -> None:
    """One in a hundred of the largest number, which is what a byte leaves."""
    model = new_model(name, dtype=torch.float32)
    (ours, _), (theirs, _) = walk(model), walk(graphs(model, "int8"))
    for one, other in zip(ours, theirs, strict=True):
        assert 0 < float((one - other).abs().max()) < 0.1 * float(one.abs().max())


def test_in_eight_bits_no_row_depends_on_the_others() -> None:
    model = graphs(new_model("transformer-transformer", dtype=torch.float32), "int8")
    batch = new_batch()
    with torch.inference_mode():
        together = model.remember(batch.source, batch.source_mask)
        first = model.step(batch.target_in[:, 0], model.start(together), together)
        for row in range(len(batch.source)):
            length = int(batch.source_mask[row].sum())
            alone = model.remember(batch.source[row : row + 1, :length], batch.source_mask[row : row + 1, :length])
            step = model.step(batch.target_in[row : row + 1, 0], model.start(alone), alone)
            torch.testing.assert_close(step.features[0], first.features[row], atol=1e-5, rtol=1e-5)


def test_eight_bits_make_smaller_files_and_no_table_is_kept_twice() -> None:
    config = VARIANTS["tied-3-transformer"]
    model = build(config, 8000, 8000)
    table = model.output.weight.numel()
    large, small = (convert(model, quantization) for quantization in ("none", "int8"))
    for name, tables in (("remember.onnx", 1), ("step.onnx", 2)):
        assert 4 * table < len(large[name]) < 6 * table
        assert tables * table < len(small[name]) - 4 * 8000 * tables < (tables + 1) * table


def test_an_unknown_quantization_is_refused() -> None:
    with pytest.raises(ConfigError, match="--quantize int4: for onnx it is one of none, int8"):
        convert(new_model("gru-gru", dtype=torch.float32), "int4")


def test_the_model_is_left_as_it_was() -> None:
    model = new_model("gru-transformer", dtype=torch.float32)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    convert(model, "int8")
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
