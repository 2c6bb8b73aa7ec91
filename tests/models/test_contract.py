"""What every encoder and every decoder promises, for all nine pairings and every variant (interface.py)."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from nmt.config import AnyDecoder, AnyEncoder, ModelConfig, Score, TransformerDecoder
from nmt.data.batching import Batch
from nmt.models import Decoder, Encoder, Memory, Seq2Seq, State, Step
from tests.models.pairings import (
    BOS,
    EOS,
    NINE,
    PAD,
    PAIRINGS,
    SENTENCES,
    TARGET_VOCABULARY,
    UNK,
    default_dtype,
    kinds,
    new_batch,
    new_model,
)
from tests.training.recipes import PAIRINGS as TRAINED

every = pytest.mark.parametrize("name", PAIRINGS)
each_of_nine = pytest.mark.parametrize("name", NINE)


def same(left: Tensor | None, right: Tensor | None) -> None:
    assert left is not None
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-11)


def remember(model: Seq2Seq, batch: Batch) -> Any:
    return model.remember(batch.source, batch.source_mask)


def walk(model: Seq2Seq, target: Tensor, state: Any, memory: Any) -> tuple[Tensor, Tensor, Any]:
    """Step by step over a forced target: features, attention and the last state."""
    steps: list[Step] = []
    for tokens in target.unbind(1):
        steps.append(model.decoder.step(tokens, state, memory))
        state = steps[-1].state
    return torch.stack([step.features for step in steps], 1), torch.stack([step.attention for step in steps], 1), state


def test_every_encoder_and_every_decoder_is_among_the_pairings() -> None:
    every_pairing = set(itertools.product(kinds(AnyEncoder), kinds(AnyDecoder)))
    assert {(config.encoder.type, config.decoder.type) for config in NINE.values()} == every_pairing
    assert set(TRAINED) >= every_pairing


def test_every_score_is_under_either_recurrent_decoder() -> None:
    decoders = [config.decoder for config in PAIRINGS.values()]
    tried = {(one.type, one.attention) for one in decoders if not isinstance(one, TransformerDecoder)}
    assert tried == set(itertools.product(kinds(AnyDecoder) - {"transformer"}, get_args(Score)))


# ------------------------------------------------------------------------------------------------ two roads, one answer


@every
def test_forward_equals_iterated_steps(name: str) -> None:
    model, batch = new_model(name), new_batch()
    decoded = model(batch, attention=True)
    memory = remember(model, batch)
    features, attention, _ = walk(model, batch.target_in, model.decoder.start(memory), memory)
    same(decoded.features, features)
    same(decoded.attention, attention)


@every
def test_a_batch_of_n_equals_n_singles(name: str) -> None:
    model = new_model(name)
    encoding = model.encode(new_batch().source, new_batch().source_mask)
    together = model(new_batch(), attention=True)
    for row, pair in enumerate(SENTENCES):
        single = new_batch([pair])
        read, written = single.source.shape[1], single.target_in.shape[1]
        alone_encoding, alone = model.encode(single.source, single.source_mask), model(single, attention=True)
        same(encoding.states[row, :read], alone_encoding.states[0])
        same(encoding.final[row], alone_encoding.final[0])
        same(together.features[row, :written], alone.features[0])
        same(together.attention[row, :written, :read], alone.attention[0])


@every
def test_the_order_of_a_batch_does_not_matter(name: str) -> None:
    model = new_model(name)
    order = [3, 0, 4, 2, 1]
    same(model(new_batch([SENTENCES[row] for row in order])).features, model(new_batch()).features[order])


@every
def test_padding_changes_nothing(name: str) -> None:
    """Neither more columns of it nor what its ids are, on either side."""
    model, batch = new_model(name), new_batch()
    plain = model(batch, attention=True)
    extra = 2 if "learned" in name else 4
    wider = torch.nn.functional.pad
    source_mask, target_mask = wider(batch.source_mask, (0, extra)), wider(batch.target_mask, (0, extra))
    for fill in (PAD, 9):
        source = wider(batch.source, (0, extra)).masked_fill(~source_mask, fill)
        target = wider(batch.target_in, (0, extra)).masked_fill(~target_mask, fill)
        padded = Batch(source, source_mask, target, wider(batch.target_out, (0, extra)), target_mask, batch.rows)
        decoded = model(padded, attention=True)
        same(decoded.features[target_mask], plain.features[batch.target_mask])
        same(decoded.attention[..., :-extra][target_mask], plain.attention[batch.target_mask])
        assert (decoded.attention[..., -extra:] == 0).all()
        same(model.encode(source, source_mask).final, model.encode(batch.source, batch.source_mask).final)


@every
def test_attention_is_a_distribution_over_the_real_source(name: str) -> None:
    model, batch = new_model(name), new_batch()
    attention = model(batch, attention=True).attention
    assert attention.shape == (*batch.target_in.shape, batch.source.shape[1])
    same(attention.sum(-1), torch.ones(batch.target_in.shape, dtype=torch.float64))
    real = batch.source_mask[:, None, :].expand_as(attention)
    assert (attention[~real] == 0).all()
    assert (attention[real] > 0).all()
    assert model(batch).attention is None


@every
def test_no_word_is_written_with_knowledge_of_what_follows(name: str) -> None:
    model, batch = new_model(name), new_batch()
    plain = model(batch, attention=True)
    for position in range(1, batch.target_in.shape[1]):
        other = batch.target_in.clone()
        other[:, position] = (other[:, position] + 1) % TARGET_VOCABULARY
        changed = model(dataclasses.replace(batch, target_in=other), attention=True)
        same(changed.features[:, :position], plain.features[:, :position])
        same(changed.attention[:, :position], plain.attention[:, :position])
        difference = (changed.features[:, position:] - plain.features[:, position:]).abs().amax(-1)
        assert (difference[batch.target_mask[:, position:]] > 1e-9).all(), "every later word knows of the change"


@every
def test_every_source_word_matters(name: str) -> None:
    model, batch = new_model(name), new_batch()
    plain = model(batch).features
    for position in range(batch.source.shape[1]):
        other = batch.source.clone()
        other[:, position] = (other[:, position] + 1) % 16
        changed = (model(dataclasses.replace(batch, source=other)).features - plain).abs().amax((1, 2))
        assert ((changed > 1e-9) == batch.source_mask[:, position]).all()


# ----------------------------------------------------------------------------------------------------- memory and state


@every
def test_parts_are_what_they_say(name: str) -> None:
    model, batch = new_model(name), new_batch()
    encoding = model.encode(batch.source, batch.source_mask)
    memory = model.decoder.remember(encoding)
    state = model.decoder.start(memory)
    assert isinstance(model.encoder, Encoder)
    assert isinstance(model.decoder, Decoder)
    assert isinstance(memory, Memory)
    assert isinstance(state, State)
    assert encoding.states.shape[-1] == encoding.final.shape[-1] == model.encoder.width
    step = model.decoder.step(batch.target_in[:, 0], state, memory)
    assert step.features.shape == (len(batch), model.decoder.width)
    assert model.decoder.width == PAIRINGS[name].feature_width == model.output.in_features
    assert model.logits(step.features).shape == (len(batch), TARGET_VOCABULARY)
    parts: tuple[Any, ...] = (encoding, memory, state, step)
    for part in parts:
        field = dataclasses.fields(part)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, field, None)


@every
def test_a_step_after_select_is_select_after_a_step(name: str) -> None:
    """Replicating to beams, reordering and dropping, in the middle of a sentence, memory and state alike."""
    model, batch = new_model(name), new_batch()
    memory = remember(model, batch)
    _, _, state = walk(model, batch.target_in[:, :3], model.decoder.start(memory), memory)
    features, attention, _ = walk(model, batch.target_in[:, 3:5], state, memory)
    for rows in ([4, 2, 0, 3, 1], [1, 1, 1, 3, 3, 3, 0], [2]):
        index = torch.tensor(rows)
        chosen = memory.select(index)
        chosen_features, chosen_attention, _ = walk(model, batch.target_in[rows, 3:5], state.select(index), chosen)
        same(chosen_features, features[rows])
        same(chosen_attention, attention[rows])
        first = model.decoder.step(batch.target_in[:, 0], model.decoder.start(memory), memory)
        chosen_first = model.decoder.step(batch.target_in[rows, 0], model.decoder.start(chosen), chosen)
        same(chosen_first.features, first.features[rows])


@every
def test_select_again_and_again(name: str) -> None:
    """A beam's life: three beams a sentence, reordered at each step, sentences dropped as they end."""
    model, batch = new_model(name), new_batch()
    generator = torch.Generator().manual_seed(7)
    memory = remember(model, batch)
    spread = torch.arange(len(batch)).repeat_interleave(3)
    memory, state = memory.select(spread), model.decoder.start(memory).select(spread)
    sources, prefixes = spread.tolist(), [[BOS] for _ in spread]
    for length in range(1, 6):
        step = model.decoder.step(torch.tensor([prefix[-1] for prefix in prefixes]), state, memory)
        again = new_batch(
            [(SENTENCES[source][0], prefix[1:]) for source, prefix in zip(sources, prefixes, strict=True)]
        )
        decoded = model(again, attention=True)
        same(step.features, decoded.features[:, length - 1])
        width = decoded.attention.shape[-1]
        same(step.attention[:, :width], decoded.attention[:, length - 1])
        if length == 2:
            keep = torch.tensor([row for row, source in enumerate(sources) if source not in (0, 3)])
        else:
            keep = torch.randint(len(sources), (len(sources),), generator=generator)
        memory, state = memory.select(keep), step.state.select(keep)
        sources = [sources[row] for row in keep.tolist()]
        words = torch.randint(4, TARGET_VOCABULARY, (len(sources),), generator=generator).tolist()
        prefixes = [[*prefixes[row], word] for row, word in zip(keep.tolist(), words, strict=True)]


@every
def test_a_step_changes_neither_its_state_nor_its_model(name: str) -> None:
    """Two hypotheses may go on from one state, and two sentences may be decoded in turns."""
    model, batch = new_model(name), new_batch()
    other = new_batch([([6, 6, 6], [7, 7]), ([5], [9])])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    memory, other_memory = remember(model, batch), remember(model, other)
    _, _, state = walk(model, batch.target_in[:, :2], model.decoder.start(memory), memory)
    first = model.decoder.step(batch.target_in[:, 2], state, memory)
    walk(model, other.target_in, model.decoder.start(other_memory), other_memory)
    model.decoder.step(batch.target_in[:, 1], state, memory)
    again = model.decoder.step(batch.target_in[:, 2], state, memory)
    torch.testing.assert_close(first.features, again.features, rtol=0, atol=0)
    torch.testing.assert_close(first.attention, again.attention, rtol=0, atol=0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# ----------------------------------------------------------------------------------------------------------- hard edges


@every
def test_shortest_source_and_target_alone(name: str) -> None:
    """A blank line: EOS is all there is to read, and it is looked at with weight one."""
    model, batch = new_model(name), new_batch([([], [])])
    assert batch.source.tolist() == [[EOS]]
    assert batch.target_in.tolist() == [[BOS]]
    decoded = model(batch, attention=True)
    assert decoded.attention.tolist() == [[[1.0]]]
    assert decoded.features.isfinite().all()


@pytest.mark.parametrize("name", ["gru-gru", "lstm-lstm", "transformer-transformer", "transformer-window"])
def test_a_sentence_longer_than_any_table(name: str) -> None:
    """300 tokens a side: the table of sinusoids holds 256 at first, and short sentences do not notice that it grew."""
    model = new_model(name)
    short = model(new_batch()).features
    words = [4 + i % 12 for i in range(299)]
    long = new_batch([(words, words), ([5], [6])])
    decoded = model(long, attention=True)
    assert decoded.features.isfinite().all()
    same(decoded.attention.sum(-1), torch.ones(2, 300, dtype=torch.float64))
    same(decoded.features[1, :2], model(new_batch([([5], [6])])).features[0])
    same(model(new_batch()).features, short)


def test_steps_go_past_the_table_too() -> None:
    model, batch = new_model("transformer-transformer"), new_batch([([5, 6], [4 + i for i in range(11)])])
    expected = model(batch).features
    decoder: Any = model.decoder
    decoder.positions.table = decoder.positions.table[:4]
    memory = remember(model, batch)
    same(walk(model, batch.target_in, decoder.start(memory), memory)[0], expected)
    assert len(decoder.positions.table) == 16


@pytest.mark.parametrize(("source", "target"), [(11, 9), (0, 9), (11, 0)])
def test_the_longest_learned_sentence_is_translated(source: int, target: int) -> None:
    """12 positions for the source and its EOS, 10 for BOS and the target."""
    model = new_model("transformer-learned")
    assert model(new_batch([([5] * source, [6] * target)])).features.isfinite().all()


# ---------------------------------------------------------------------------------------- training, numbers and devices


@every
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model, batch = new_model(name).train(), new_batch()
    torch.manual_seed(1)
    (model.logits(model(batch).features)[batch.target_mask] ** 2).sum().backward()  # type: ignore[no-untyped-call]
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max() > 0, key


@each_of_nine
def test_padding_gets_no_gradient(name: str) -> None:
    """Training may pad with anything: ids that stand in padding only leave no trace in the loss or its gradient."""
    model, batch = new_model(name), new_batch()
    results = []
    for fill in (PAD, UNK):
        source = batch.source.masked_fill(~batch.source_mask, fill)
        target = batch.target_in.masked_fill(~batch.target_mask, fill)
        padded = dataclasses.replace(batch, source=source, target_in=target)
        model.zero_grad()
        (model.logits(model(padded).features)[batch.target_mask] ** 2).sum().backward()  # type: ignore[no-untyped-call]
        results.append({key: parameter.grad for key, parameter in model.named_parameters()})
    for key, gradient in results[0].items():
        same(gradient, results[1][key])
    assert PAD not in batch.source[batch.source_mask]


@every
def test_eval_is_deterministic_and_training_drops_out(name: str) -> None:
    model, batch = new_model(name), new_batch()
    state = torch.get_rng_state()
    first, second = model(batch).features, model(batch).features
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state), "eval draws no random numbers"
    model.train()
    torch.manual_seed(3)
    dropped, other = model(batch).features, model(batch).features
    assert not torch.equal(dropped, other)
    assert not torch.equal(dropped, first)
    torch.manual_seed(3)
    assert torch.equal(model(batch).features, dropped), "the same seed drops the same"
    assert torch.equal(model.eval()(batch).features, first)


def without_dropout(config: ModelConfig) -> ModelConfig:
    plain = config.model_dump()
    for part in (plain, plain["encoder"], plain["decoder"]):
        part.update({key: 0.0 for key in part if key.endswith("dropout")})
    return ModelConfig.model_validate(plain)


@every
def test_dropout_is_all_that_training_mode_changes(name: str) -> None:
    model, batch = new_model(without_dropout(PAIRINGS[name])), new_batch()
    expected = model(batch, attention=True)
    trained = model.train()(batch, attention=True)
    same(trained.features, expected.features)
    same(trained.attention, expected.attention)


@every
def test_float32_is_close_to_float64(name: str) -> None:
    single = new_model(name).float()
    features = single(new_batch()).features
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.double(), new_model(name)(new_batch()).features, rtol=1e-4, atol=1e-4)


@every
def test_bfloat16_autocast(name: str) -> None:
    """Forward and back, all at once and step by step, no clash of dtypes; the answer is that of float32, coarsely."""
    model, batch = new_model(name, dtype=torch.float32), new_batch()
    expected = model(batch, attention=True)
    with torch.autocast("cpu", torch.bfloat16):
        decoded = model(batch, attention=True)
        memory = remember(model, batch)
        features, attention, _ = walk(model, batch.target_in, model.decoder.start(memory), memory)
        logits = model.logits(decoded.features)
    assert logits.dtype == torch.bfloat16
    for coarse in (decoded.features, features):
        torch.testing.assert_close(coarse.float(), expected.features, rtol=0.1, atol=0.15)
    for coarse in (decoded.attention, attention):
        torch.testing.assert_close(coarse.float(), expected.attention, rtol=0.1, atol=0.05)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.logits(model(batch).features)
    (logits.float() ** 2).sum().backward()  # type: ignore[no-untyped-call]
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.dtype == torch.float32, key
        assert parameter.grad.isfinite().all(), key


@each_of_nine
def test_bfloat16_autocast_where_sentences_are_of_one_length(name: str) -> None:
    """Which torch's own recurrent layers take another road for."""
    model = new_model(name, dtype=torch.float32)
    batch = new_batch([pair for pair in SENTENCES if len(pair[0]) == len(SENTENCES[0][0])] * 2)
    assert batch.source_mask.all()
    expected = model(batch).features
    with torch.autocast("cpu", torch.bfloat16):
        features = model(batch).features
    torch.testing.assert_close(features.float(), expected, rtol=0.1, atol=0.15)
    (features.float() ** 2).sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@each_of_nine
def test_bfloat16_weights(name: str) -> None:
    with default_dtype(torch.float32):
        model, batch = new_model(name).bfloat16(), new_batch()
        memory = remember(model, batch)
        features, _, _ = walk(model, batch.target_in, model.decoder.start(memory), memory)
    torch.testing.assert_close(
        features.double()[batch.target_mask], new_model(name)(batch).features[batch.target_mask], rtol=0.1, atol=0.2
    )


@each_of_nine
def test_inference_mode_leaves_the_model_fit_for_training(name: str) -> None:
    """A long translation grows tables under inference_mode; validation in the middle of training does just that."""
    model, words = new_model(name), [5] * 260
    with torch.inference_mode():
        model(new_batch([(words, words)]))
    batch = new_batch()
    model.train()
    model(batch).features[batch.target_mask].sum().backward()
    assert all(parameter.grad is not None for key, parameter in model.named_parameters() if key != "output.weight")


@each_of_nine
def test_weights_alone_make_the_model(name: str) -> None:
    """A checkpoint is the state dict and the recipe, nothing else."""
    model = new_model(name)
    other = new_model(name, seed=2)
    assert not torch.equal(model(new_batch()).features, other(new_batch()).features)
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(model(new_batch()).features, other(new_batch()).features)
