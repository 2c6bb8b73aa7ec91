"""Attention between words, worked out a second time by hand from the model's attention between pieces."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nmt.alignment.aligner import Aligner, Alignment, LinkRule
from nmt.alignment.links import Links, parse_links
from nmt.data.batching import Batch, collate
from nmt.decoding.translator import Translator
from nmt.models.interface import Decoded

PAIRS = [
    ("the black cat sleeps .", "le chat noir dort ."),
    ("the lion runs .", "le lion court ."),
    ("", "le chat"),
    ("the cat", "  "),
    ("", ""),
    ("unheard-of  words,\u00a0here\u3000and\tthere ", " mots inouïs \u2028 ici ﬁn"),
    ("a", "b c d e f g h i j k l m n o p"),
]


@pytest.fixture(scope="module")
def translator(untrained_run: Path) -> Translator:
    return Translator.load(untrained_run, device="cpu")


def by_hand(translator: Translator, source: str, target: str) -> np.ndarray:
    """One pair on its own through the model, and plain loops over its pieces."""
    tokenizers = translator.tokenizers
    source_ids, source_words = tokenizers.source.encode_words(source)
    target_ids, target_words = tokenizers.target.encode_words(target)
    matrix = np.zeros((len(target.split()), len(source.split())))
    if not source_ids or not target_ids:
        return matrix
    batch = collate([(source_ids, target_ids)], [0], pad_id=0, bos_id=2, eos_id=3)
    with torch.no_grad():
        attention = translator.model(batch, attention=True).attention
    assert attention is not None
    for t, target_word in enumerate(target_words):
        for s, source_word in enumerate(source_words):
            matrix[target_word, source_word] += float(attention[0, t, s]) / target_words.count(target_word)
    return matrix


def test_equals_the_sum_by_hand_in_any_batch(translator: Translator) -> None:
    for (source, target), alignment in zip(PAIRS, Aligner(translator).align(PAIRS), strict=True):
        assert alignment.source == tuple(source.split())
        assert alignment.target == tuple(target.split())
        np.testing.assert_allclose(alignment.attention, by_hand(translator, source, target), atol=1e-6)


def test_what_went_to_the_end_of_sentence_is_left_out(translator: Translator) -> None:
    (alignment,) = Aligner(translator).align(PAIRS[:1])
    assert (alignment.attention.sum(axis=1) < 1).all()
    assert (alignment.attention.sum(axis=1) > 0.5).all()


def test_many_windows_come_back_in_order(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(Aligner(translator).align(PAIRS * 3))
    monkeypatch.setattr("nmt.alignment.aligner.WINDOW", 4)
    monkeypatch.setattr("nmt.alignment.aligner.BATCH_TOKENS", 40)
    for one, other in zip(whole, Aligner(translator).align(iter(PAIRS * 3)), strict=True):
        assert one.target == other.target
        np.testing.assert_allclose(one.attention, other.attention, atol=1e-6)


def test_a_blank_side_is_not_shown_to_the_model(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translator.model, "forward", None)  # would fail if it were called
    blank = [pair for pair in PAIRS if not pair[0].strip() or not pair[1].strip()]
    shapes = [alignment.attention.shape for alignment in Aligner(translator).align(blank)]
    assert shapes == [(2, 0), (0, 2), (0, 0)]


def test_the_model_stays_in_its_mode(translator: Translator) -> None:
    translator.model.train()
    try:
        first, second = (list(Aligner(translator).align(PAIRS[:2])) for _ in range(2))
        assert translator.model.training
    finally:
        translator.model.eval()
    np.testing.assert_array_equal(first[0].attention, second[0].attention)  # no dropout meanwhile


def test_pieces(translator: Translator) -> None:
    (alignment,) = Aligner(translator, units="pieces").align([("the lion runs .", "le lion court .")])
    assert "".join(alignment.source).replace("▁", " ").strip() == "the lion runs ."
    assert alignment.attention.shape == (len(alignment.target), len(alignment.source))
    assert len(alignment.target) > 4, "words of several pieces"


def test_own_translation_has_the_attention_of_the_forced_one(translator: Translator) -> None:
    """What search attended to while it wrote equals what the model attends to when it is made to write the same."""
    lines = [source for source, _ in PAIRS if source]
    for translation, alignment in Aligner(translator, units="pieces").translate(lines):
        tokens = translation.hypotheses[0].tokens
        batch = collate([(translation.source_tokens, tokens)], [0], pad_id=0, bos_id=2, eos_id=3)
        with torch.no_grad():
            forced = translator.model(batch, attention=True).attention
        assert forced is not None
        np.testing.assert_allclose(alignment.attention, forced[0, :-1, :-1].numpy(), atol=1e-5)


def test_own_translation_is_in_words(translator: Translator) -> None:
    lines = ["the black cat sleeps .", "", "the lion runs ."]
    for line, (translation, alignment) in zip(lines, Aligner(translator).translate(lines), strict=True):
        assert alignment.source == tuple(line.split())
        assert alignment.target == tuple(translation.text.split())
        assert alignment.attention.shape == (len(alignment.target), len(alignment.source))


def test_a_line_that_was_cut_is_aligned_whole(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translator, "longest_source", 12)
    line = "the black cat sleeps . the lion runs . the bird sings ."
    ((translation, alignment),) = Aligner(translator).translate([line])
    assert translation.parts > 1
    assert alignment.source == tuple(line.split())
    assert alignment.target == tuple(translation.text.split())
    assert (alignment.attention.sum(axis=1) <= 1 + 1e-6).all()


def test_a_pair_too_long_for_the_model_gets_no_links(
    translator: Translator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(translator, "longest_source", 20)
    monkeypatch.setattr("nmt.alignment.aligner.WINDOW", 1)
    aligner = Aligner(translator)
    with caplog.at_level(logging.WARNING, logger="nmt"):
        found = list(aligner.align([PAIRS[1], ("cat " * 40, "chat"), ("cat " * 50, "chat"), PAIRS[1]]))
    assert [bool(alignment.links()) for alignment in map(Plain, found)] == [True, False, False, True]
    assert found[1].attention.shape == (1, 40)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("line 2 has ")
    assert "more than the 19 and 1023 read at once: it gets no links (said once)" in message
    assert aligner.num_skipped == 2


class Plain:
    """An alignment with its argmax links."""

    def __init__(self, alignment: Alignment) -> None:
        self.alignment = alignment

    def links(self) -> Links:
        return LinkRule()(self.alignment)


# ----------------------------------------------------------------------------------------------------------- directions


class Looks(nn.Module):
    """A model that looks, from target piece t, at source piece ``place(t)``, or at the last one past the end."""

    def __init__(self, reverse: bool = False) -> None:
        super().__init__()
        self.reverse = reverse

    def forward(self, batch: Batch, *, attention: bool = False) -> Decoded:
        attended = torch.zeros(*batch.target_in.shape, batch.source.shape[1])
        lengths: Tensor = batch.source_mask.sum(dim=1) - 1
        for row, length in enumerate(lengths.tolist()):
            for t in range(attended.shape[1]):
                place = min(t, length - 1)
                attended[row, t, length - 1 - place if self.reverse else place] = 1.0
        return Decoded(features=torch.zeros(*batch.target_in.shape, 1), attention=attended)


@pytest.fixture
def looking(translator: Translator) -> Aligner:
    """An aligner that goes along the diagonal."""
    aligner = Aligner(Translator.of(translator.model, translator.tokenizers, translator.decoding))
    aligner.translator.engine.model = Looks()  # type: ignore[attr-defined]
    return aligner


def test_link_forced(looking: Aligner) -> None:
    (linked,) = looking.link(["le lion court ."], ["le lion court ."])
    assert linked.links == parse_links("0-0 1-1 2-2 3-3", "test:1")
    assert linked.translation == "le lion court ."


def test_link_joins_the_direction_back(looking: Aligner, translator: Translator) -> None:
    backward = Aligner(Translator.of(translator.model, translator.tokenizers, translator.decoding))
    backward.translator.engine.model = Looks(reverse=True)  # type: ignore[attr-defined]
    line = ["le le le"]  # a piece a word
    for symmetrization, expected in (("intersection", "1-1"), ("union", "0-0 1-1 2-2 0-2 2-0")):
        rule = LinkRule(symmetrization=symmetrization)  # type: ignore[arg-type]
        (linked,) = looking.link(line, line, rule=rule, reverse=backward)
        assert linked.links == parse_links(expected, "test:1"), symmetrization


def test_links_of_the_direction_back_are_turned_round(looking: Aligner) -> None:
    """Both go along the diagonal, from a long to a short sentence and back: only what is turned round can agree."""
    rule = LinkRule(symmetrization="intersection")
    (linked,) = looking.link(["le lion court . ."], ["le lion"], rule=rule, reverse=looking)
    assert parse_links("0-0", "test:1") <= linked.links <= parse_links("0-0 1-1", "test:1")
    (other,) = looking.link(["le lion court . ."], ["le lion"], rule=LinkRule(symmetrization="union"), reverse=looking)
    assert max(source for source, _ in other.links) > 1
    assert max(target for _, target in other.links) == 1


def test_link_own_translations_both_ways(translator: Translator) -> None:
    aligner = Aligner(translator)
    lines = ["the black cat sleeps .", "", "the lion runs ."]
    for line, linked in zip(lines, aligner.link(lines, reverse=aligner), strict=True):
        sources, targets = len(line.split()), len(linked.translation.split())
        assert all(source < sources and target < targets for source, target in linked.links)
    assert [one.translation for one in aligner.link(lines)] == [one.text for one in translator.translate(lines)]


def test_unequal_lengths_are_a_fault_of_the_caller(looking: Aligner) -> None:
    with pytest.raises(ValueError, match="zip"):
        list(looking.link(["a", "b"], ["a"]))


def test_rules_sign_themselves() -> None:
    assert LinkRule().sign() == "grow-diag"
    assert LinkRule("threshold", 0.25).sign() == "threshold[0.25]"
    assert LinkRule("mutual", symmetrization="union").sign(both=True) == "mutual+union"
