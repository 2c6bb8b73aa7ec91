"""Every head of every layer: what each matrix is, that nothing of the model is changed, and what the picture says."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

from nmt.alignment.aligner import Aligner
from nmt.alignment.heads import Heads, as_dict, heads_of
from nmt.alignment.plot import draw_heads
from nmt.checkpoint import Run
from nmt.config import Recipe
from nmt.data.tokenizer import Tokenizers, train_tokenizer
from nmt.decoding.translator import Translator
from nmt.errors import ConfigError
from nmt.layers.attention import MultiHeadAttention
from nmt.models import Seq2Seq
from nmt.models.transformer import TransformerEncoder
from tests.training.recipes import PAIRINGS, small_recipe

SOURCE, TARGET = "the black cat sleeps .", "le chat noir dort ."


def translator(corpus: Path, encoder: str, decoder: str, *settings: str) -> Translator:
    """Of a model with random weights, two layers where it is a Transformer."""
    two = [f"model.{side}.layers=2" for side, kind in (("encoder", encoder), ("decoder", decoder)) if kind[0] == "t"]
    recipe: Recipe = small_recipe(corpus, encoder, decoder, *two, *settings)
    lines = [line for name in ("train.en", "train.fr") for line in (corpus / name).read_text("utf-8").splitlines()]
    joint = train_tokenizer(lines, recipe.tokenizer, seed=1)
    torch.manual_seed(1)
    model = Run(Path("nowhere"), recipe, Tokenizers(joint, joint)).new_model()
    return Translator.of(model, Tokenizers(joint, joint), recipe.decoding)


@pytest.mark.parametrize(("encoder", "decoder"), PAIRINGS)
def test_every_row_of_every_head_adds_up_to_one(encoder: str, decoder: str, corpus: Path) -> None:
    one = translator(corpus, encoder, decoder)
    found = {heads.kind: heads for heads in heads_of(one, SOURCE, TARGET)}
    wanted = {"cross"} | ({"encoder"} if encoder[0] == "t" else set()) | ({"decoder"} if decoder[0] == "t" else set())
    assert set(found) == wanted
    source = (*one.tokenizers.source.pieces(one.tokenizers.source.encode(SOURCE)), "</s>")
    target = one.tokenizers.target.pieces(one.tokenizers.target.encode(TARGET))
    for kind, heads in found.items():
        many = (2, 2) if kind == "encoder" or decoder[0] == "t" else (1, 1)
        assert heads.weights.shape == (*many, len(heads.queries), len(heads.keys))
        np.testing.assert_allclose(heads.weights.sum(axis=-1), 1.0, atol=1e-5)
        assert heads.keys == (("<s>", *target) if kind == "decoder" else source)
        assert heads.queries == ((*target, "</s>") if kind == "cross" else heads.keys)
    if "decoder" in found:  # nothing is seen of what is yet to be written
        assert not np.triu(found["decoder"].weights, k=1).any()


@pytest.mark.parametrize("layer", [1, 2])
def test_the_mean_of_the_layer_that_is_told_is_what_is_told(layer: int, corpus: Path) -> None:
    one = translator(corpus, "transformer", "transformer", f"model.decoder.alignment_layer={layer}")
    (alignment,) = Aligner(one, units="pieces").align([(SOURCE, TARGET)])
    cross = heads_of(one, SOURCE, TARGET)[-1]
    np.testing.assert_allclose(cross.weights[layer - 1].mean(axis=0)[:-1, :-1], alignment.attention, atol=1e-6)


def test_a_head_is_softmax_of_its_scaled_products(corpus: Path) -> None:
    """Of the first layer of the encoder, worked out a second time from its weights (Vaswani et al., equation 1)."""
    one = translator(corpus, "transformer", "gru", "model.encoder.norm=post")
    model = one.model
    ids = [*one.tokenizers.source.encode(SOURCE), one.tokenizers.source.eos_id]
    encoder = model.encoder
    assert isinstance(encoder, TransformerEncoder) and encoder.positions is not None
    attention = next(part for part in encoder.modules() if isinstance(part, MultiHeadAttention))
    with torch.no_grad():
        positions = encoder.positions(0, len(ids))
        x = encoder.embedding(torch.tensor([ids]), positions)[0]
        queries, keys = attention.query(x), attention.key_value(x)[:, :32]
        for head in range(2):
            part = slice(16 * head, 16 * head + 16)
            wanted = (queries[:, part] @ keys[:, part].T / 4.0).softmax(dim=1)
            np.testing.assert_allclose(heads_of(one, SOURCE, TARGET)[0].weights[0, head], wanted, atol=1e-5)


def test_the_model_is_left_as_it_was(corpus: Path) -> None:
    one = translator(corpus, "transformer", "transformer", "model.encoder.dropout=0.5")
    model: Seq2Seq = one.model
    model.train()
    first, again = (heads_of(one, SOURCE, TARGET) for _ in range(2))
    assert model.training
    assert all(np.array_equal(a.weights, b.weights) for a, b in zip(first, again, strict=True))
    assert not any(part._forward_hooks for part in model.modules() if isinstance(part, MultiHeadAttention))


def test_what_has_none_is_refused(corpus: Path) -> None:
    one = translator(corpus, "gru", "gru")
    for source, target in ((" ", TARGET), (SOURCE, "")):
        with pytest.raises(ConfigError, match="a pair with a blank side has no attention: choose another line"):
            heads_of(one, source, target)
    learned = translator(
        corpus, "transformer", "gru", "model.encoder.positions=learned", "model.encoder.max_positions=6"
    )
    with pytest.raises(
        ConfigError, match=r"\d+ source and \d+ target pieces are more than the 5 and \d+ read at once: choose"
    ):
        heads_of(learned, SOURCE * 3, TARGET)


def test_the_picture_has_every_piece_once_a_block_and_the_same_bytes(tmp_path: Path) -> None:
    pieces, weights = ("▁chat", "s", "</s>"), np.full((2, 3, 3, 3), 1 / 3)
    blocks = [Heads("encoder", pieces, pieces, weights), Heads("cross", pieces, pieces, weights[:1, :1])]
    for name in ("a.svg", "b.svg"):
        assert draw_heads(tmp_path / name, blocks, title="demo, line 3") == ""
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    texts = [one.text for one in ElementTree.parse(tmp_path / "a.svg").iter("{http://www.w3.org/2000/svg}text")]
    # Along the top of three heads and of one, down the side of two layers and of one.
    assert [texts.count(label) for label in ("chat", "+s", "</s>")] == [3 + 2 + 1 + 1] * 3
    assert "The encoder's self-attention: a row of pictures a layer, a column a head" in texts
    assert "Attention to the source, from which each piece was predicted" in texts
    assert "demo, line 3" in texts
    with pytest.raises(ConfigError, match="is not that of a picture"):
        draw_heads(tmp_path / "a.txt", blocks)


def test_as_numbers() -> None:
    told = as_dict(Heads("cross", ("a",), ("b", "c"), np.array([[[[1 / 3, 2 / 3]]]])))
    assert told == {"kind": "cross", "queries": ["a"], "keys": ["b", "c"], "weights": [[[[0.3333, 0.6667]]]]}
