"""CTranslate2: the same weights by way of its converter's specification, translated as its users write it."""

from __future__ import annotations

import tempfile
from typing import Any

import ctranslate2
import numpy as np
from ctranslate2.specs.transformer_spec import TransformerDecoderSpec, TransformerEncoderSpec, TransformerSpec
from safetensors.numpy import load_file

from benchmarks.decode import workload


def main() -> None:
    """Convert the model and translate as told."""
    task, told = workload.load()
    workload.answer(task, told, translating(task, told.dtype, told.threads))


def translating(task: workload.Task, dtype: str, threads: int) -> workload.Translate:
    """The model, converted, as what translates."""
    with tempfile.TemporaryDirectory() as folder:
        specification(task).save(folder)
        translator = ctranslate2.Translator(folder, compute_type=dtype, inter_threads=1, intra_threads=threads)
    names = pieces(task)
    numbers = {name: number for number, name in enumerate(names)}
    options: dict[str, Any] = {"beam_size": task.beam, "length_penalty": 1.0, "max_decoding_length": task.longest}
    if task.forced:
        options |= {"min_decoding_length": task.forced, "max_decoding_length": task.forced}

    def translate(sentences: list[list[int]], size: int) -> list[list[int]]:
        found = translator.translate_batch(
            [[names[token] for token in sentence] for sentence in sentences], max_batch_size=size, **options
        )
        return [[numbers[token] for token in one.hypotheses[0]] for one in found]

    return translate


def pieces(task: workload.Task) -> list[str]:
    """Every token by its number; the special ones by the names that CTranslate2 knows."""
    names = [str(number) for number in range(task.vocabulary)]
    names[task.pad], names[task.unk], names[task.bos], names[task.eos] = "<blank>", "<unk>", "<s>", "</s>"
    return names


def specification(task: workload.Task) -> Any:
    """The model as CTranslate2 takes it."""
    weights = load_file(task.weights)
    encoder, decoder = task.model["encoder"], task.model["decoder"]
    stacks = [
        spec(
            side["layers"],
            side["heads"],
            pre_norm=side["norm"] == "pre",
            relative_attention_bias=bool(side["max_relative_positions"]),
        )
        for spec, side in ((TransformerEncoderSpec, encoder), (TransformerDecoderSpec, decoder))
    ]
    made = TransformerSpec(*stacks)
    made.encoder.embeddings[0].weight = weights["encoder.embedding.table.weight"]
    made.decoder.embeddings.weight = weights["decoder.embedding.table.weight"]
    made.decoder.projection.weight = weights["output.weight"]
    made.decoder.start_from_zero_embedding = False
    for side, layers in (("encoder", made.encoder), ("decoder", made.decoder)):
        for number, layer in enumerate(layers.layer):
            _layer(layer, weights, f"{side}.layers.{number}")
            if f"{side}.relative.table.weight" in weights:
                _relative(layer.self_attention, weights[f"{side}.relative.table.weight"], ahead=side == "encoder")
        if encoder["norm"] == "pre":
            _norm(layers.layer_norm, weights, f"{side}.norm")
    made.register_source_vocabulary(pieces(task))
    made.register_target_vocabulary(pieces(task))
    made.config.decoder_start_token = "<s>"
    made.config.add_source_eos = False  # the sentences have it
    made.validate()
    made.optimize(quantization=None)
    return made


def _layer(layer: Any, weights: dict[str, Any], prefix: str) -> None:
    attention = f"{prefix}.self_attention"
    _linear(layer.self_attention.linear[0], weights, f"{attention}.query", f"{attention}.key_value")
    _linear(layer.self_attention.linear[1], weights, f"{attention}.output")
    _norm(layer.self_attention.layer_norm, weights, f"{prefix}.around_self.norm")
    if prefix.startswith("decoder"):
        for part, name in zip(layer.attention.linear, ("query", "key_value", "output"), strict=True):
            _linear(part, weights, f"{prefix}.cross_attention.{name}")
        _norm(layer.attention.layer_norm, weights, f"{prefix}.around_cross.norm")
    _linear(layer.ffn.linear_0, weights, f"{prefix}.feed_forward.inner")
    _linear(layer.ffn.linear_1, weights, f"{prefix}.feed_forward.outer")
    _norm(layer.ffn.layer_norm, weights, f"{prefix}.around_feed_forward.norm")


def _relative(attention: Any, table: Any, *, ahead: bool) -> None:
    """Distances in T5's buckets: one each for those up to the largest of ours, whose worth the farther ones have."""
    most = len(table) // 2
    numbers = np.minimum(np.arange(2 * (most + 1)), most)
    buckets = [table[most - numbers], *([table[most + numbers]] if ahead else [])]
    attention.relative_attention_bias = np.concatenate(buckets)
    attention.relative_attention_max_distance = np.dtype("int32").type(2 * (most + 1))


def _linear(part: Any, weights: dict[str, Any], *prefixes: str) -> None:
    part.weight = np.concatenate([weights[f"{prefix}.weight"] for prefix in prefixes])
    part.bias = np.concatenate([weights[f"{prefix}.bias"] for prefix in prefixes])


def _norm(part: Any, weights: dict[str, Any], prefix: str) -> None:
    part.gamma, part.beta = weights[f"{prefix}.weight"], weights[f"{prefix}.bias"]


if __name__ == "__main__":
    main()
