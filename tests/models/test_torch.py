"""The models against torch's own layers with the same weights, in float64: values and, where it is telling, gradients.

torch has no attention of Bahdanau's or Luong's kind: there its recurrent layers are stepped, with the attention spelled
out between.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nmt.config import TransformerDecoder as DecoderConfig
from nmt.config import TransformerEncoder as EncoderConfig
from nmt.layers.attention import MultiHeadAttention
from nmt.models.transformer import DecoderLayer, EncoderLayer, KeysValues
from tests.models.pairings import new_batch, new_model

WIDTH, HEADS, INNER, ROWS, SOURCE, TARGET = 8, 2, 12, 3, 6, 5
REAL = torch.arange(SOURCE)[None, :] < torch.tensor([6, 3, 1])[:, None]


def lively(module: nn.Module) -> nn.Module:
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.double()


# --------------------------------------------------------------------------------------------------- transformer layers


def copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    assert theirs.in_proj_weight is not None
    assert theirs.in_proj_bias is not None
    theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
    theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


def copy_encoder_layer(ours: EncoderLayer, theirs: nn.TransformerEncoderLayer) -> None:
    with torch.no_grad():
        copy_attention(ours.self_attention, theirs.self_attn)
        theirs.linear1.load_state_dict(ours.feed_forward.inner.state_dict())
        theirs.linear2.load_state_dict(ours.feed_forward.outer.state_dict())
        theirs.norm1.load_state_dict(ours.around_self.norm.state_dict())
        theirs.norm2.load_state_dict(ours.around_feed_forward.norm.state_dict())


def copy_decoder_layer(ours: DecoderLayer, theirs: nn.TransformerDecoderLayer) -> None:
    with torch.no_grad():
        copy_attention(ours.self_attention, theirs.self_attn)
        copy_attention(ours.cross_attention, theirs.multihead_attn)
        theirs.linear1.load_state_dict(ours.feed_forward.inner.state_dict())
        theirs.linear2.load_state_dict(ours.feed_forward.outer.state_dict())
        theirs.norm1.load_state_dict(ours.around_self.norm.state_dict())
        theirs.norm2.load_state_dict(ours.around_cross.norm.state_dict())
        theirs.norm3.load_state_dict(ours.around_feed_forward.norm.state_dict())


def torchs_encoder_layer(norm: str) -> nn.TransformerEncoderLayer:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, 0.0, batch_first=True, norm_first=norm == "pre")
    return layer.double()


def torchs_decoder_layer(norm: str) -> nn.TransformerDecoderLayer:
    layer = nn.TransformerDecoderLayer(WIDTH, HEADS, INNER, 0.0, batch_first=True, norm_first=norm == "pre")
    return layer.double()


def recipe(norm: str) -> dict[str, Any]:
    sizes = {"width": WIDTH, "heads": HEADS, "feed_forward": INNER, "layers": 2}
    return {"type": "transformer", "dropout": 0.0, "norm": norm, **sizes}


def gradients(of: Tensor, real: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    torch.manual_seed(6)
    return torch.autograd.grad((of * torch.randn_like(of))[real].sum(), inputs)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_encoder_layer_is_torchs(norm: str) -> None:
    ours = EncoderLayer(EncoderConfig.model_validate(recipe(norm)))
    lively(ours)
    theirs = torchs_encoder_layer(norm)
    copy_encoder_layer(ours, theirs)
    x = torch.randn(ROWS, SOURCE, WIDTH).double().requires_grad_()
    mine = ours(x, REAL[:, None, None, :])
    torchs = theirs(x, src_key_padding_mask=~REAL)
    torch.testing.assert_close(mine[REAL], torchs[REAL])
    torch.testing.assert_close(gradients(mine, REAL, [x]), gradients(torchs, REAL, [x]))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_decoder_layer_is_torchs(norm: str) -> None:
    ours = DecoderLayer(DecoderConfig.model_validate(recipe(norm)), WIDTH)
    lively(ours)
    theirs = torchs_decoder_layer(norm)
    copy_decoder_layer(ours, theirs)
    y = torch.randn(ROWS, TARGET, WIDTH).double().requires_grad_()
    states = torch.randn(ROWS, SOURCE, WIDTH).double().requires_grad_()
    seen = torch.ones(TARGET, TARGET, dtype=torch.bool).tril()
    source = KeysValues(*ours.cross_attention.project(states))
    mine, _, _ = ours(y, None, seen[None, None], source, REAL[:, None, None, :])
    torchs = theirs(y, states, tgt_mask=~seen, memory_key_padding_mask=~REAL)
    torch.testing.assert_close(mine, torchs)
    everything = torch.ones(ROWS, TARGET, dtype=torch.bool)
    torch.testing.assert_close(gradients(mine, everything, [y, states]), gradients(torchs, everything, [y, states]))


@pytest.mark.parametrize(("name", "norm"), [("transformer-transformer", "pre"), ("transformer-post", "post")])
def test_transformer_is_torchs(name: str, norm: str) -> None:
    """From embeddings to features: stacks, final norms, masks and all."""
    model, batch = new_model(name), new_batch()
    parts: Any = model
    encoder = nn.TransformerEncoder(
        torchs_encoder_layer(norm),
        2,
        norm=nn.LayerNorm(WIDTH).double() if norm == "pre" else None,
        enable_nested_tensor=False,
    ).eval()
    decoder = nn.TransformerDecoder(
        torchs_decoder_layer(norm), 2, norm=nn.LayerNorm(WIDTH).double() if norm == "pre" else None
    ).eval()
    for number in range(2):
        copy_encoder_layer(parts.encoder.layers[number], encoder.layers[number])
        copy_decoder_layer(parts.decoder.layers[number], decoder.layers[number])
    for side, stack in ((parts.encoder, encoder), (parts.decoder, decoder)):
        if stack.norm is not None:
            stack.norm.load_state_dict(side.norm.state_dict())
    length = batch.target_in.shape[1]
    source = parts.encoder.embedding(batch.source, parts.encoder.positions(0, batch.source.shape[1]))
    target = parts.decoder.embedding(batch.target_in, parts.decoder.positions(0, length))
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    states = encoder(source, src_key_padding_mask=~batch.source_mask)
    features = decoder(target, states, tgt_mask=later, memory_key_padding_mask=~batch.source_mask)
    encoding = model.encode(batch.source, batch.source_mask)
    torch.testing.assert_close(encoding.states[batch.source_mask], states[batch.source_mask])
    torch.testing.assert_close(model(batch).features[batch.target_mask], features[batch.target_mask])


# --------------------------------------------------------------------------------------------------- recurrent families


@pytest.mark.parametrize("name", ["gru-gru", "gru-deep", "gru-left-to-right", "lstm-lstm", "lstm-deep"])
def test_recurrent_encoder_is_torchs_one_sentence_at_a_time(name: str) -> None:
    """No packing, no padding: the layer reads each sentence alone."""
    model, batch = new_model(name), new_batch()
    parts: Any = model
    encoding = model.encode(batch.source, batch.source_mask)
    for row, length in enumerate(batch.source_mask.sum(1).tolist()):
        embedded = parts.encoder.embedding(batch.source[row : row + 1, :length])
        states, last = parts.encoder.rnn(embedded)
        hidden = last[0] if isinstance(last, tuple) else last
        directions = 2 if parts.encoder.rnn.bidirectional else 1
        torch.testing.assert_close(encoding.states[row, :length], states[0])
        torch.testing.assert_close(encoding.final[row], hidden[-directions:, 0].flatten())


def attended(parts: Any, query: Tensor, states: Tensor, mask: Tensor) -> Tensor:
    """The context of (B, T, Q) queries."""
    scores = parts.score(query, parts.score.prepare(states)).masked_fill(~mask[:, None, :], -torch.inf)
    return torch.softmax(scores, dim=-1) @ states


def torchs_lstm(decoder: Any, input_width: int) -> nn.LSTM:
    """Our cells as one nn.LSTM: with input feeding the fed vector is the right part of the input."""
    cells = [decoder.first, *decoder.above]
    theirs = nn.LSTM(input_width, decoder.width, num_layers=len(cells), batch_first=True).double()
    parameters = dict(theirs.named_parameters())
    with torch.no_grad():
        for layer, cell in enumerate(cells):
            weight = cell.input.weight
            if layer == 0 and decoder.feed is not None:
                weight = torch.cat([weight, decoder.feed.weight], dim=1)
            parameters[f"weight_ih_l{layer}"].copy_(weight)
            parameters[f"weight_hh_l{layer}"].copy_(cell.hidden.weight)
            parameters[f"bias_ih_l{layer}"].copy_(cell.input.bias)
            parameters[f"bias_hh_l{layer}"].copy_(cell.hidden.bias)
    return theirs


@pytest.mark.parametrize("name", ["lstm-without-feeding", "lstm-deep-without-feeding"])
def test_luong_decoder_without_feeding_is_torchs_lstm(name: str) -> None:
    """The whole target through nn.LSTM in one call, attention after it."""
    model, batch = new_model(name), new_batch()
    decoder: Any = model.decoder
    encoding = model.encode(batch.source, batch.source_mask)
    state = decoder.start(decoder.remember(encoding))
    embedded = decoder.embedding(batch.target_in)
    theirs = torchs_lstm(decoder, embedded.shape[-1])
    hidden, _ = theirs(embedded, (torch.stack(state.hidden), torch.stack(state.cell)))
    context = attended(decoder, hidden, encoding.states, encoding.mask)
    expected = torch.tanh(decoder.attentional(torch.cat([context, hidden], dim=-1)))
    torch.testing.assert_close(model(batch).features, expected)


@pytest.mark.parametrize("name", ["lstm-lstm", "lstm-deep", "lstm-dot", "transformer-lstm"])
def test_luong_decoder_with_feeding_is_torchs_lstm_a_step_at_a_time(name: str) -> None:
    model, batch = new_model(name), new_batch()
    decoder: Any = model.decoder
    encoding = model.encode(batch.source, batch.source_mask)
    state = decoder.start(decoder.remember(encoding))
    embedded = decoder.embedding(batch.target_in)
    theirs = torchs_lstm(decoder, embedded.shape[-1] + decoder.width)
    both = torch.stack(state.hidden), torch.stack(state.cell)
    attentional = torch.zeros(len(batch), 1, decoder.width).double()
    features = []
    for word in embedded.unbind(1):
        hidden, both = theirs(torch.cat([word.unsqueeze(1), attentional], dim=-1), both)
        context = attended(decoder, hidden, encoding.states, encoding.mask)
        attentional = torch.tanh(decoder.attentional(torch.cat([context, hidden], dim=-1)))
        features.append(attentional)
    torch.testing.assert_close(model(batch).features, torch.cat(features, dim=1))


@pytest.mark.parametrize("name", ["gru-gru", "gru-deep", "gru-general", "transformer-gru"])
def test_bahdanau_decoder_is_torchs_gru_a_step_at_a_time(name: str) -> None:
    """The context as the right part of the input of nn.GRU."""
    model, batch = new_model(name), new_batch()
    decoder: Any = model.decoder
    encoding = model.encode(batch.source, batch.source_mask)
    cells = [decoder.first, *decoder.above]
    width, state_width = decoder.first.width, encoding.states.shape[-1]
    embedded = decoder.embedding(batch.target_in)
    theirs = nn.GRU(embedded.shape[-1] + state_width, width, num_layers=len(cells), batch_first=True).double()
    parameters = dict(theirs.named_parameters())
    with torch.no_grad():
        for layer, cell in enumerate(cells):
            weight = cell.input.weight
            if layer == 0:
                weight = torch.cat([weight, decoder.context.weight], dim=1)
            parameters[f"weight_ih_l{layer}"].copy_(weight)
            parameters[f"weight_hh_l{layer}"].copy_(cell.hidden.weight)
            parameters[f"bias_ih_l{layer}"].copy_(cell.input.bias)
            parameters[f"bias_hh_l{layer}"].copy_(cell.hidden.bias)
    state = torch.stack(decoder.start(decoder.remember(encoding)).hidden)
    features = []
    for word in embedded.unbind(1):
        context = attended(decoder, state[-1].unsqueeze(1), encoding.states, encoding.mask)
        hidden, state = theirs(torch.cat([word.unsqueeze(1), context], dim=-1), state)
        readout = decoder.readout(torch.cat([hidden, word.unsqueeze(1), context], dim=-1))
        features.append(torch.maximum(*readout.chunk(2, dim=-1)))
    torch.testing.assert_close(model(batch).features, torch.cat(features, dim=1))
