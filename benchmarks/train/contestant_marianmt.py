"""The training step of transformers' MarianMT, as its users write it: model, torch's cross-entropy, Adam."""

from __future__ import annotations

import torch
from transformers import MarianConfig, MarianMTModel

from benchmarks.train import workload

IGNORED = -100


def main() -> None:
    """Build the model and take the steps that are asked for."""
    told = workload.arguments()
    shape = workload.SHAPES[told.shape]
    torch.set_num_threads(told.threads)
    torch.manual_seed(1)
    model = (
        MarianMTModel(
            MarianConfig(
                vocab_size=workload.VOCABULARY,
                d_model=shape.width,
                encoder_layers=shape.layers,
                decoder_layers=shape.layers,
                encoder_attention_heads=shape.heads,
                decoder_attention_heads=shape.heads,
                encoder_ffn_dim=shape.feed_forward,
                decoder_ffn_dim=shape.feed_forward,
                activation_function="relu",
                dropout=workload.DROPOUT,
                attention_dropout=0.0,
                activation_dropout=0.0,
                scale_embedding=True,
                max_position_embeddings=512,
                pad_token_id=workload.PAD,
                bos_token_id=workload.BOS,
                eos_token_id=workload.EOS,
                forced_eos_token_id=None,
                decoder_start_token_id=workload.BOS,
                share_encoder_decoder_embeddings=True,
                tie_word_embeddings=True,
            )
        )
        .to(told.device)
        .train()
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=workload.RATE, betas=workload.BETAS, eps=1e-9, fused=True)
    autocast = torch.autocast(told.device, dtype=torch.bfloat16, enabled=told.dtype == "bfloat16")

    def step(batch: list[workload.Pair]) -> float:
        source = torch.from_numpy(workload.padded([source for source, _ in batch])).to(told.device)
        target = torch.from_numpy(workload.padded([target for _, target in batch], IGNORED)).to(told.device)
        read = torch.from_numpy(workload.padded([[workload.BOS, *target[:-1]] for _, target in batch])).to(told.device)
        with autocast:
            answer = model(
                input_ids=source,
                attention_mask=(source != workload.PAD).long(),
                decoder_input_ids=read,
                use_cache=False,  # as it has it itself where it is given labels
            )
            loss = torch.nn.functional.cross_entropy(
                answer.logits.flatten(0, 1),
                target.flatten(),
                ignore_index=IGNORED,
                label_smoothing=workload.SMOOTHING,
            )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), workload.CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    workload.answer(workload.load(told.batches), step, told.device)


if __name__ == "__main__":
    main()
