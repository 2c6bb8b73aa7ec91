"""The training step of JoeyNMT: its model, its batches and the order of calls of its training manager."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from joeynmt.batch import Batch
from joeynmt.model import build_model
from joeynmt.vocabulary import Vocabulary

from benchmarks.train import workload


def recipe(shape: workload.Shape) -> dict[str, Any]:
    """The ``model`` part of a JoeyNMT configuration."""
    starts = {
        "initializer": "xavier_uniform",
        "embed_initializer": "normal",
        "embed_init_weight": 0.05,
        "bias_initializer": "zeros",
    }
    embeddings = {
        "embedding_dim": shape.embedding,
        "scale": shape.family == "transformer",
        "dropout": workload.DROPOUT,
    }
    if shape.family == "transformer":
        side = {
            "type": "transformer",
            "num_layers": shape.layers,
            "num_heads": shape.heads,
            "hidden_size": shape.width,
            "ff_size": shape.feed_forward,
            "dropout": workload.DROPOUT,
            "layer_norm": "pre",
        }
        sides = {"encoder": {**side, "embeddings": dict(embeddings)}, "decoder": {**side, "embeddings": embeddings}}
        return {"tied_embeddings": True, "tied_softmax": True, **sides, **starts}
    cell = {"bahdanau": "gru", "luong": "lstm"}[shape.family]
    side = {"type": "recurrent", "rnn_type": cell, "num_layers": 1, "dropout": workload.DROPOUT}
    encoder = {**side, "hidden_size": shape.width // 2, "bidirectional": True, "embeddings": dict(embeddings)}
    decoder = {
        **side,
        "hidden_size": shape.width,
        "hidden_dropout": workload.DROPOUT,
        "attention": shape.family,
        "input_feeding": shape.input_feeding,
        "init_hidden": "bridge",
        "embeddings": embeddings,
    }
    return {"tied_embeddings": False, "tied_softmax": False, "encoder": encoder, "decoder": decoder, **starts}


def vocabulary() -> Vocabulary:
    """Pieces that have no text of their own; JoeyNMT puts the special ones before them."""
    special = SimpleNamespace(
        unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>", sep_token=None,
        unk_id=workload.UNK, pad_id=workload.PAD, bos_id=workload.BOS, eos_id=workload.EOS, sep_id=None, lang_tags=[],
    )  # fmt: skip
    return Vocabulary([f"piece{number}" for number in range(4, workload.VOCABULARY)], special)


def main() -> None:
    """Build the model and take the steps that are asked for."""
    told = workload.arguments()
    torch.set_num_threads(told.threads)
    torch.manual_seed(1)
    pieces = vocabulary()
    assert len(pieces) == workload.VOCABULARY
    model = build_model(recipe(workload.SHAPES[told.shape]), pieces, pieces).to(told.device).train()
    model.loss_function = ("crossentropy", workload.SMOOTHING)
    optimizer = torch.optim.Adam(model.parameters(), lr=workload.RATE, betas=workload.BETAS, eps=1e-9)
    autocast = {"device_type": told.device, "dtype": torch.bfloat16, "enabled": told.dtype == "bfloat16"}

    def step(pairs: list[workload.Pair]) -> float:
        batch = Batch(
            src=torch.from_numpy(workload.padded([source for source, _ in pairs])),
            src_length=torch.tensor([len(source) for source, _ in pairs]),
            src_prompt_mask=None,
            trg=torch.from_numpy(workload.padded([[workload.BOS, *target] for _, target in pairs])),
            trg_prompt_mask=None,
            indices=torch.arange(len(pairs)),
            device=torch.device(told.device),
            pad_index=workload.PAD,
            eos_index=workload.EOS,
            is_train=True,
        )
        model.train()
        batch.sort_by_src_length()
        with torch.autocast(**autocast):
            loss, _, _, correct = model(return_type="loss", **vars(batch))
        loss = batch.normalize(loss, normalization="tokens")
        loss.backward()
        value = float(loss.item())
        correct.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), workload.CLIP)
        optimizer.step()
        model.zero_grad()
        return value

    workload.answer(workload.load(told.batches), step, told.device)


if __name__ == "__main__":
    main()
