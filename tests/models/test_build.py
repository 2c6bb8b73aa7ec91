"""From recipe to model: what is built, what is shared, how many parameters it has, how it starts, what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from pydantic import ValidationError

from nmt.config import (
    GruDecoder,
    GruEncoder,
    LstmDecoder,
    LstmEncoder,
    ModelConfig,
    TransformerDecoder,
    TransformerEncoder,
    parse_recipe,
)
from nmt.errors import ConfigError, DataError
from nmt.layers.dropout import Dropout
from nmt.models import Seq2Seq, bahdanau, build, luong, transformer
from nmt.training.muon import Muon
from tests.models.pairings import (
    GRU,
    JOINT_VOCABULARY,
    LSTM,
    NINE,
    PAIRINGS,
    SOURCE_VOCABULARY,
    TARGET_VOCABULARY,
    TRANSFORMER,
    new_batch,
    new_model,
)

CLASSES: dict[str, tuple[type, type]] = {
    "gru": (bahdanau.BahdanauEncoder, bahdanau.BahdanauDecoder),
    "lstm": (luong.LuongEncoder, luong.LuongDecoder),
    "transformer": (transformer.TransformerEncoder, transformer.TransformerDecoder),
}


@pytest.mark.parametrize("name", NINE)
def test_any_encoder_goes_under_any_decoder(name: str) -> None:
    encoder, decoder = name.split("-")
    model = new_model(name)
    assert type(model.encoder) is CLASSES[encoder][0]
    assert type(model.decoder) is CLASSES[decoder][1]


# ---------------------------------------------------------------------------------------------------------------- sizes


def linear(inputs: int, outputs: int, *, bias: bool = True) -> int:
    return (inputs + bias) * outputs


def recurrent(inputs: int, width: int, gates: int) -> int:
    """One direction of one layer, with torch's two biases."""
    return gates * (inputs * width + width * width + 2 * width)


def encoder_parameters(config: ModelConfig) -> int:
    encoder = config.encoder
    match encoder:
        case GruEncoder() | LstmEncoder():
            gates = 3 if encoder.type == "gru" else 4
            directions = 2 if encoder.bidirectional else 1
            inputs = [config.embedding, *[encoder.width] * (encoder.layers - 1)]
            return sum(directions * recurrent(below, encoder.width // directions, gates) for below in inputs)
        case TransformerEncoder():
            width, norm = encoder.width, 2 * encoder.width
            layer = 4 * linear(width, width) + feed_forward(encoder) + 2 * norm
            return encoder.layers * layer + around(encoder)


def feed_forward(part: TransformerEncoder | TransformerDecoder) -> int:
    return linear(part.width, part.feed_forward) + linear(part.feed_forward, part.width)


def around(part: TransformerEncoder | TransformerDecoder) -> int:
    """The last norm, where norms come first, and the positions, where they are learned or relative."""
    learned = part.max_positions * part.width if part.positions == "learned" else 0
    learned += part.heads * (2 * part.max_relative_positions + 1) if part.max_relative_positions else 0
    return learned + (2 * part.width if part.norm == "pre" else 0)


def decoder_parameters(config: ModelConfig) -> int:
    decoder, states = config.decoder, config.state_width
    match decoder:
        case GruDecoder():
            width, read = decoder.width, decoder.width + config.embedding + states
            move = recurrent(config.embedding + states, width, 3) + (decoder.layers - 1) * recurrent(width, width, 3)
            move += linear(width, 3 * width) if decoder.conditional else 0
            look = score(decoder, states) + linear(states, decoder.layers * width)
            return move + look + linear(read, 2 * config.feature_width)
        case LstmDecoder():
            width = decoder.width
            fed = width if decoder.input_feeding else 0
            move = recurrent(config.embedding + fed, width, 4) + (decoder.layers - 1) * recurrent(width, width, 4)
            look = score(decoder, states) + linear(states, 2 * decoder.layers * width)
            return move + look + linear(states + width, width, bias=False)
        case TransformerDecoder():
            width, norm = decoder.width, 2 * decoder.width
            cross = 2 * linear(width, width) + 2 * linear(states, width)
            layer = 4 * linear(width, width) + cross + feed_forward(decoder) + 3 * norm
            return decoder.layers * layer + around(decoder)


def score(decoder: GruDecoder | LstmDecoder, states: int) -> int:
    match decoder.attention:
        case "additive":
            width = decoder.attention_width or decoder.width
            return linear(decoder.width, width) + linear(states, width, bias=False) + width
        case "general":
            return linear(states, decoder.width, bias=False)
        case "dot" | "scaled-dot":
            return 0


@pytest.mark.parametrize("name", PAIRINGS)
def test_number_of_parameters_is_that_of_the_equations(name: str) -> None:
    config = PAIRINGS[name]
    model = new_model(name)
    embedding = config.embedding
    match config.tied_embeddings:
        case 0:
            tables = (SOURCE_VOCABULARY + TARGET_VOCABULARY) * embedding + config.feature_width * TARGET_VOCABULARY
        case 2:
            tables = (SOURCE_VOCABULARY + TARGET_VOCABULARY) * embedding
        case 3:
            tables = JOINT_VOCABULARY * embedding
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == tables + encoder_parameters(config) + decoder_parameters(config)


def test_the_papers_base_transformer_has_its_size() -> None:
    """Vaswani et al. 2017, table 3: base has 65 million parameters; 44 in the layers, 19 in 37,000 rows of 512 here."""
    with torch.device("meta"):
        model = build(ModelConfig(), 37000, 37000)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(65, rel=0.04)


# ---------------------------------------------------------------------------------------------------------------- tying


def tables(model: Seq2Seq) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    parts: Any = model
    return parts.encoder.embedding.table.weight, parts.decoder.embedding.table.weight, parts.output.weight


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [(GRU, GRU), (LSTM, LSTM), (TRANSFORMER, TRANSFORMER), (TRANSFORMER, GRU), (GRU, TRANSFORMER)],
    ids=["gru", "lstm", "transformer", "transformer-gru", "gru-transformer"],
)
@pytest.mark.parametrize("tied", [0, 2, 3])
def test_tied_embeddings_are_one_tensor_and_stay_one(encoder: Any, decoder: Any, tied: int) -> None:
    config = ModelConfig.model_validate(
        {"encoder": encoder, "decoder": decoder, "embedding": 8, "tied_embeddings": tied}
    )
    model = build(config, 19, 19)
    source, target, output = tables(model)
    assert (target is output) == (tied >= 2)
    assert (source is target) == (tied == 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.logits(model(new_batch()).features).square().sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    for module in (model, model.double()):
        source, target, output = tables(module)
        assert (target is output) == (tied >= 2)
        assert (source is target) == (tied == 3)
        assert torch.equal(target, output) == (tied >= 2)
        assert torch.equal(source, target) == (tied == 3)


@pytest.mark.parametrize("tied", [0, 2])
def test_vocabularies_of_two_sizes(tied: int) -> None:
    model = build(ModelConfig.model_validate({**small(), "tied_embeddings": tied}), 5, 7)
    source, target, output = tables(model)
    assert (len(source), len(target), len(output)) == (5, 7, 7)


def test_one_table_cannot_serve_two_vocabularies() -> None:
    with pytest.raises(ConfigError, match=r"tied_embeddings = 3 needs one joint vocabulary, the source has 5 .* 7;"):
        build(ModelConfig.model_validate({**small(), "tied_embeddings": 3}), 5, 7)


# ---------------------------------------------------------------------------------------------------------------- start


@pytest.mark.parametrize("name", PAIRINGS)
def test_a_seed_decides_every_parameter(name: str) -> None:
    first, again = (new_model(name, seed=5, lively=False).state_dict() for _ in range(2))
    other = new_model(name, seed=6, lively=False).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    matrices = [key for key in first if first[key].ndim > 1]
    assert matrices
    for key in matrices:
        assert torch.equal(first[key], other[key]) == ("relative." in key), key  # which are not drawn


@pytest.mark.parametrize("name", NINE)
def test_an_untrained_model_is_undecided(name: str) -> None:
    """Logits start near the size of a standard normal variable: no word is all but certain before training."""
    logits = new_model(name, lively=False).logits(new_model(name, lively=False)(new_batch()).features)
    assert 0.05 < logits.std() < 2.0
    assert logits.abs().max() < 6.0


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_zero_init_residual_starts_a_stack_as_the_identity(norm: str) -> None:
    """What a stack reads is what it says, but for its norms, which change nothing that has been normalised before."""
    part = {**TRANSFORMER, "norm": norm, "layers": 3, "zero_init_residual": True}
    model: Any = build(ModelConfig.model_validate(small(encoder=part, decoder=part)), 17, 19).double().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-12  # which one norm after the other would let shrink what it reads
    batch = new_batch()
    normalised = torch.nn.LayerNorm(8, eps=1e-12).double()

    def read(side: Any, tokens: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = normalised(side.embedding(tokens, side.positions(0, tokens.shape[1])))
        return states

    memory = model.encoder(batch.source, batch.source_mask)
    features = model.decoder(batch.target_in, model.decoder.remember(memory)).features
    torch.testing.assert_close(memory.states, read(model.encoder, batch.source), rtol=0, atol=1e-8)
    torch.testing.assert_close(features, read(model.decoder, batch.target_in), rtol=0, atol=1e-8)


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_zero_init_residual_leaves_nothing_unmoved(optimizer: str) -> None:
    """The last matrix of each part moves first, the rest of the decoder and the encoder's last next, then all."""
    part = {**TRANSFORMER, "zero_init_residual": True}
    model = build(ModelConfig.model_validate(small(encoder=part, decoder=part)), 17, 19)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    steps: torch.optim.Optimizer = (
        torch.optim.SGD(model.parameters(), lr=0.1)
        if optimizer == "sgd"
        else Muon(model, lr=0.1, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.0)
    )
    batch = new_batch()
    for _ in range(3):
        logits = model.logits(model(batch).features)
        loss = torch.nn.functional.cross_entropy(logits[batch.target_mask], batch.target_out[batch.target_mask])
        steps.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        steps.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, start[name])}
    assert moved == start.keys()


PLACES = {
    "gru": {
        "encoder.dropout": 0.2,
        "encoder.recurrent_dropout": 0.15,
        "decoder.dropout": 0.3,
        "decoder.first.hidden.dropout": 0.25,
        "decoder.second.dropout": 0.25,
        "decoder.above.0.hidden.dropout": 0.25,
    },
    "lstm": {
        "encoder.dropout": 0.2,
        "encoder.recurrent_dropout": 0.15,
        "decoder.dropout": 0.3,
        "decoder.first.hidden.dropout": 0.25,
        "decoder.above.0.hidden.dropout": 0.25,
    },
    "transformer": {
        "encoder.layers.0.self_attention.dropout": 0.25,
        "encoder.layers.0.feed_forward.dropout": 0.15,
        "encoder.layers.0.around_self.dropout": 0.2,
        "encoder.layers.0.around_feed_forward.dropout": 0.2,
        "decoder.layers.0.self_attention.dropout": 0.35,
        "decoder.layers.0.cross_attention.dropout": 0.35,
        "decoder.layers.0.feed_forward.dropout": 0.45,
        "decoder.layers.0.around_self.dropout": 0.3,
        "decoder.layers.0.around_cross.dropout": 0.3,
        "decoder.layers.0.around_feed_forward.dropout": 0.3,
    },
}


@pytest.mark.parametrize("family", PLACES)
def test_each_dropout_has_its_own_probability(family: str) -> None:
    plain = {"gru": GRU, "lstm": LSTM, "transformer": TRANSFORMER}[family]
    attends = family == "transformer"
    encoder = {**plain, "layers": 1, "dropout": 0.2}
    decoder = {**plain, "layers": 1, "dropout": 0.3}
    if attends:
        encoder |= {"attention_dropout": 0.25, "feed_forward_dropout": 0.15}
        decoder |= {"attention_dropout": 0.35, "feed_forward_dropout": 0.45}
    else:
        encoder |= {"recurrent_dropout": 0.15}
        decoder |= {"recurrent_dropout": 0.25, "layers": 2, **({"conditional": True} if family == "gru" else {})}
    both = small(encoder=encoder, decoder=decoder, embedding_dropout=0.4, word_dropout=0.1)
    model = build(ModelConfig.model_validate(both), 17, 19)
    found = {key: part.probability for key, part in model.named_modules() if isinstance(part, Dropout)}
    embeddings = {"encoder.embedding.dropout": 0.4, "decoder.embedding.dropout": 0.4}
    words = {"encoder.embedding.word_dropout": 0.1, "decoder.embedding.word_dropout": 0.1}
    assert found == {**PLACES[family], **embeddings, **words}


@pytest.mark.parametrize("kind", [{**GRU, "conditional": True}, GRU, LSTM], ids=["conditional", "gru", "lstm"])
def test_every_recurrence_goes_round_by_what_is_left_of_its_matrices(
    kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training a model computes what one computes that never had the entries which are dropped."""

    def kept(shape: torch.Size) -> torch.Tensor:
        return (torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape))) > 0.4).double() * 2

    monkeypatch.setattr(Dropout, "forward", lambda self, x: x * kept(x.shape) if self.probability else x)
    plain = {key: value for key, value in kind.items() if key != "conditional"} | {"layers": 2, "dropout": 0.0}
    parts: dict[str, Any] = {"encoder": {**plain, "recurrent_dropout": 0.5}}
    parts["decoder"] = {**kind, "layers": 2, "dropout": 0.0, "recurrent_dropout": 0.5}
    model = build(ModelConfig.model_validate(small(**parts, embedding_dropout=0.0)), 17, 19).double()
    batch = new_batch()
    found = model.train()(batch).features
    changed = set()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if re.search(r"weight_hh|hidden\.weight|second\.weight", name):
                weight.mul_(kept(weight.shape))
                changed.add(name)
    assert len(changed) == (7 if "conditional" in kind else 6)
    for part in model.modules():
        if isinstance(part, Dropout):
            part.probability = 0.0
    torch.testing.assert_close(found, model(batch).features)


@pytest.mark.parametrize("kind", [GRU, LSTM], ids=["gru", "lstm"])
def test_dropout_between_the_layers_of_a_recurrent_encoder_is_torchs(kind: dict[str, Any]) -> None:
    """And none where there is one layer, about which torch would warn."""
    for layers, expected in ((1, 0.0), (2, 0.2)):
        model: Any = build(ModelConfig.model_validate(small(encoder={**kind, "layers": layers})), 17, 19)
        assert model.encoder.rnn.dropout == expected


# -------------------------------------------------------------------------------------------------------------- refused


def small(**changes: Any) -> dict[str, Any]:
    return {"encoder": TRANSFORMER, "decoder": TRANSFORMER, "embedding": 8, "tied_embeddings": 0, **changes}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "odd bidirectional width": (small(encoder={**GRU, "width": 7}), "width 7 cannot be halved"),
    "odd bidirectional width of an LSTM": (small(encoder={**LSTM, "width": 7}), "width 7 cannot be halved"),
    "heads": (small(encoder={**TRANSFORMER, "heads": 3}), "width 8 is not divisible by heads 3"),
    "odd sinusoids": (
        small(encoder={**TRANSFORMER, "width": 7, "heads": 1}, embedding=7),
        "width 7 must be even for sinusoidal positions",
    ),
    "transformer encoder's width": (small(encoder={**TRANSFORMER, "width": 16}), "must equal model.embedding 8"),
    "transformer decoder's width": (small(decoder={**TRANSFORMER, "width": 16}), "must equal model.embedding 8"),
    "dot": (small(decoder={**LSTM, "width": 6, "attention": "dot"}), "attention 'dot' needs decoder.width 6 equal"),
    "dot beside an embedding": (
        small(encoder={**GRU, "bridging": True}, decoder={**LSTM, "attention": "dot"}),
        "needs decoder.width 8 equal to encoder.width and the embedding beside it, 16",
    ),
    "scaled-dot": (small(decoder={**GRU, "width": 6, "attention": "scaled-dot"}), "needs decoder.width 6 equal"),
    "attention width": (
        small(decoder={**LSTM, "attention": "general", "attention_width": 5}),
        "attention_width belongs to attention = 'additive' only",
    ),
    "alignment layer": (
        small(decoder={**TRANSFORMER, "alignment_layer": 3}),
        "alignment_layer 3 is past the last of 2",
    ),
    "tied features": (
        small(decoder={**LSTM, "width": 6, "attention": "general"}, tied_embeddings=2),
        "features as wide",
    ),
    "tied readout": (small(decoder={**GRU, "readout": 6}, tied_embeddings=3), "features as wide"),
    "no layers": (small(encoder={**GRU, "layers": 0}), "greater than or equal to 1"),
    "dropout of one": (small(embedding_dropout=1.0), "less than 1"),
    "window in a decoder": (small(decoder={**TRANSFORMER, "window": 2}), "Extra inputs are not permitted"),
    "tied once": (small(tied_embeddings=1), "should be 0, 2 or 3"),
    "a family nobody knows": (small(encoder={"type": "mamba"}), "does not match any of the expected tags"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_built_is_no_recipe(what: str) -> None:
    plain, words = REFUSED[what]
    with pytest.raises(ValidationError, match=words):
        ModelConfig.model_validate(plain)


def test_what_a_recipe_allows_at_its_edges_can_be_built() -> None:
    """The smallest of everything, and dropout as high as it goes."""
    tiny = {"type": "transformer", "layers": 1, "width": 2, "heads": 1, "feed_forward": 1, "dropout": 0.999}
    for encoder in (tiny, {"type": "gru", "width": 2, "dropout": 0.999}, {"type": "lstm", "width": 2}):
        for decoder in (tiny, {"type": "gru", "width": 1}, {"type": "lstm", "width": 1, "attention": "general"}):
            config = {"encoder": encoder, "decoder": decoder, "embedding": 2, "tied_embeddings": 0}
            model = build(ModelConfig.model_validate(config), SOURCE_VOCABULARY, TARGET_VOCABULARY)
            assert model(new_batch()).features.isfinite().all()


def test_family_names_alone_are_a_recipe() -> None:
    """Three lines apart: the defaults of each pairing fit together once the widths are those of the embedding."""
    for encoder in ("gru", "lstm", "transformer"):
        for decoder in ("gru", "lstm", "transformer"):
            recipe = parse_recipe(f'[model]\nencoder = "{encoder}"\ndecoder = "{decoder}"')
            with torch.device("meta"):
                build(recipe.model, 100, 100)


@pytest.mark.parametrize(("side", "limit", "length"), [("source", 12, 13), ("target", 10, 11)])
def test_a_sentence_past_the_learned_positions_is_refused_in_words(side: str, limit: int, length: int) -> None:
    words = [5] * (length - 1)
    batch = new_batch([(words, [6]) if side == "source" else ([6], words)])
    message = f"^a sentence of {length} tokens is longer than the model's max_positions {limit}$"
    with pytest.raises(DataError, match=message):
        new_model("transformer-learned")(batch)


def test_a_step_past_the_learned_positions_is_refused_in_words() -> None:
    model, batch = new_model("transformer-learned"), new_batch([([5], [6])])
    memory = model.decoder.remember(model.encode(batch.source, batch.source_mask))
    state = model.decoder.start(memory)
    for _ in range(10):
        state = model.decoder.step(torch.tensor([5]), state, memory).state
    with pytest.raises(DataError, match="a sentence of 11 tokens"):
        model.decoder.step(torch.tensor([5]), state, memory)


@pytest.mark.parametrize("name", NINE)
def test_shapes_are_checked_when_tests_run(name: str) -> None:
    """A mask of another shape, ids that are not integers, tokens for another batch: refused by the signatures."""
    model, batch = new_model(name), new_batch()
    with pytest.raises(TypeCheckError):
        model.encode(batch.source, batch.source_mask[:, 1:])
    with pytest.raises(TypeCheckError):
        model.encode(batch.source.double(), batch.source_mask)
    memory = model.decoder.remember(model.encode(batch.source, batch.source_mask))
    with pytest.raises(TypeCheckError):
        model.decoder.step(batch.target_in, model.decoder.start(memory), memory)
