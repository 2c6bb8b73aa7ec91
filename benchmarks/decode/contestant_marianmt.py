"""transformers' MarianMT, with the same weights, as its users write it: ``generate``."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file
from transformers import MarianConfig, MarianMTModel

from benchmarks.decode import workload


def main() -> None:
    """Build the model and translate as told."""
    task, told = workload.load()
    torch.set_num_threads(told.threads)
    model = built(task).to(getattr(torch, told.dtype)).eval()
    options: dict[str, Any] = {"num_beams": task.beam, "length_penalty": 1.0, "do_sample": False}
    options |= {"max_new_tokens": task.longest}
    if task.forced:
        options |= {"max_new_tokens": task.forced, "min_new_tokens": task.forced}
    special = {task.pad, task.bos, task.eos}

    @torch.inference_mode()
    def translate(sentences: list[list[int]], size: int) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in sentences]
        for rows, batch in task.batches(sentences, size):
            width = max(map(len, batch))
            source = torch.tensor([one + [task.pad] * (width - len(one)) for one in batch])
            made = model.generate(source, attention_mask=(source != task.pad).long(), **options).tolist()
            for row, tokens in zip(rows, made, strict=True):
                found[row] = [token for token in tokens if token not in special]
        return found

    workload.answer(task, told, translate)


def built(task: workload.Task) -> Any:
    """The model with nmt's weights."""
    side = task.model["encoder"]
    model = MarianMTModel(
        MarianConfig(
            vocab_size=task.vocabulary,
            d_model=side["width"],
            encoder_layers=side["layers"],
            decoder_layers=side["layers"],
            encoder_attention_heads=side["heads"],
            decoder_attention_heads=side["heads"],
            encoder_ffn_dim=side["feed_forward"],
            decoder_ffn_dim=side["feed_forward"],
            activation_function="relu",
            scale_embedding=True,
            max_position_embeddings=1024,
            pad_token_id=task.pad,
            bos_token_id=task.bos,
            eos_token_id=task.eos,
            forced_eos_token_id=None,
            decoder_start_token_id=task.bos,
            share_encoder_decoder_embeddings=True,
            tie_word_embeddings=True,
        )
    )
    model.generation_config.forced_eos_token_id = None
    theirs = model.state_dict()
    weights = load_file(task.weights)
    for name in theirs:
        tensor = _ours(name, weights)
        if tensor is not None:
            theirs[name].copy_(tensor)
    half = side["width"] // 2  # nmt's positions: the first is number 1, wavelengths end at 10,000 * 2 pi
    steps = torch.exp(torch.arange(half, dtype=torch.float64) * -(torch.tensor(10000.0).log() / max(half - 1, 1)))
    angles = torch.arange(1, 1025).unsqueeze(1) * steps
    for part in (model.model.encoder, model.model.decoder):
        part.embed_positions.weight.data.copy_(torch.cat([angles.sin(), angles.cos()], dim=1))
    return model


PARTS = {
    "self_attn.q_proj": "self_attention.query",
    "self_attn.out_proj": "self_attention.output",
    "self_attn_layer_norm": "around_self.norm",
    "encoder_attn.q_proj": "cross_attention.query",
    "encoder_attn.out_proj": "cross_attention.output",
    "encoder_attn_layer_norm": "around_cross.norm",
    "fc1": "feed_forward.inner",
    "fc2": "feed_forward.outer",
    "final_layer_norm": "around_feed_forward.norm",
}


def _ours(name: str, weights: dict[str, Any]) -> Any:
    """The tensor of nmt's that stands for one of theirs; None where there is none."""
    if name in ("model.shared.weight", "lm_head.weight") or name.endswith("embed_tokens.weight"):
        return weights["output.weight"]
    if ".layers." not in name:
        return None
    side, _, number, *part, kind = name.removeprefix("model.").split(".")
    key = ".".join(part)
    if key in PARTS:
        return weights[f"{side}.layers.{number}.{PARTS[key]}.{kind}"]
    attention = "self_attention" if part[0] == "self_attn" else "cross_attention"
    both = weights[f"{side}.layers.{number}.{attention}.key_value.{kind}"].chunk(2)
    return both[0] if part[1] == "k_proj" else both[1]


if __name__ == "__main__":
    main()
