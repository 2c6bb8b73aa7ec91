"""Sampled segmentations: the distributions of the papers, SentencePiece's own cuts at the end of the scale."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.data import segmentation
from nmt.data.segmentation import Sampler

WORDS = "banana bandana cabana panama an a band nana manana cabaret bar ban".split(" ")  # noqa: SIM905
LINES = [" ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 9)) for i in range(100)]


def train(**options: Any) -> sentencepiece.SentencePieceProcessor:
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=writer, minloglevel=2, hard_vocab_limit=False, **options
    )
    return sentencepiece.SentencePieceProcessor(model_proto=writer.getvalue())


BPE = train(model_type="bpe", vocab_size=290, byte_fallback=True)
UNIGRAM = train(model_type="unigram", vocab_size=300, byte_fallback=True)
SPANNING = train(model_type="bpe", vocab_size=60, split_by_whitespace=False)
SUFFIX = train(model_type="bpe", vocab_size=40, treat_whitespace_as_suffix=True)
RAW = train(model_type="bpe", vocab_size=40, normalization_rule_name="identity", remove_extra_whitespaces=False)

ANY_TEXT = st.text(
    alphabet=st.one_of(st.sampled_from("ban cdm\u3000\u2581日"), st.characters(codec="utf-8")), max_size=20
)


@settings(max_examples=200)
@given(ANY_TEXT)
def test_bpe_without_dropout_is_sentencepiece(text: str) -> None:
    for processor in (BPE, SPANNING, SUFFIX, RAW):
        assert Sampler(processor, 0.0)(text, 1) == processor.encode(text)


@settings(max_examples=200)
@given(ANY_TEXT)
def test_a_very_sharp_unigram_sample_is_the_best_segmentation(text: str) -> None:
    def likelihood(ids: list[int]) -> float:
        return sum(UNIGRAM.get_score(i) for i in ids)

    sampled, best = Sampler(UNIGRAM, 1000.0)(text, 1), UNIGRAM.encode(text)
    assert UNIGRAM.decode(sampled) == UNIGRAM.decode(best)
    assert likelihood(sampled) == pytest.approx(likelihood(best), abs=0.02)


@pytest.mark.parametrize("processor", [BPE, UNIGRAM], ids=["bpe", "unigram"])
def test_a_sample_is_a_function_of_text_and_seed(processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [(line, seed) for line in LINES[:10] for seed in (1, 2, 1 << 40)]
    sampler = Sampler(processor, 0.2)
    wanted = [sampler(*key) for key in keys]
    assert len({tuple(sampler(LINES[1], seed)) for seed in range(30)}) > 20
    assert [Sampler(processor, 0.2)(*key) for key in reversed(keys)] == wanted[::-1]
    monkeypatch.setattr(segmentation, "REMEMBERED", 2)
    forgetful = Sampler(processor, 0.2)
    assert [forgetful(*key) for key in keys] == wanted
    assert len(forgetful._cuts) <= 2


def test_a_sample_is_the_same_in_another_process(tmp_path: Path) -> None:
    """What SentencePiece's own sampling is not."""
    (tmp_path / "x.model").write_bytes(BPE.serialized_model_proto())
    code = (
        "import sys; from pathlib import Path; from nmt.data.tokenizer import Tokenizer;"
        "tokenizer = Tokenizer.load(Path(sys.argv[1]));"
        f"print([tokenizer.sample(line, 0.3, n) for n, line in enumerate({LINES[:20]!r})])"
    )
    done = [
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "x.model")], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert done[0] == done[1] == f"{[Sampler(BPE, 0.3)(line, n) for n, line in enumerate(LINES[:20])]}\n"


def test_unigram_samples_have_the_probabilities_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """P(x)**alpha over its sum, against a list of all segmentations (Kudo 2018, section 3.2)."""
    monkeypatch.setattr(segmentation, "VARIANTS", 20_000)
    score = {UNIGRAM.id_to_piece(i): UNIGRAM.get_score(i) for i in range(260, len(UNIGRAM))}

    def segmentations(word: str) -> Iterator[tuple[str, ...]]:
        if not word:
            yield ()
        for end in range(1, len(word) + 1):
            if word[:end] in score:
                yield from ((word[:end], *rest) for rest in segmentations(word[end:]))

    alpha = 0.3
    weights = {x: math.exp(alpha * sum(score[piece] for piece in x)) for x in segmentations("▁bandana")}
    total = sum(weights.values())
    assert len(weights) > 5
    sampler = Sampler(UNIGRAM, alpha)
    drawn = Counter(tuple(UNIGRAM.id_to_piece(i) for i in sampler._cut("▁bandana", n)) for n in range(20_000))
    assert set(drawn) <= set(weights)
    for x, weight in weights.items():
        share = weight / total
        assert drawn[x] / 20_000 == pytest.approx(share, abs=5 * math.sqrt(share / 20_000) + 1e-4)


def test_bpe_dropout_has_the_probabilities_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """The segmentations of one word, followed merge by merge with their probabilities."""
    monkeypatch.setattr(segmentation, "VARIANTS", 20_000)
    score = {BPE.id_to_piece(i): BPE.get_score(i) for i in range(259, len(BPE))}
    dropout = 0.3
    wanted: dict[tuple[str, ...], float] = defaultdict(float)

    def follow(pieces: tuple[str, ...], left: frozenset[tuple[int, int]], probability: float) -> None:
        """``left`` are the pairs, by the place of their first character, that were left alone."""
        places = [sum(map(len, pieces[:i])) for i in range(len(pieces))]
        able = [
            (-score[pieces[i] + pieces[i + 1]], i)
            for i in range(len(pieces) - 1)
            if pieces[i] + pieces[i + 1] in score and (places[i], len(pieces[i] + pieces[i + 1])) not in left
        ]
        if not able:
            wanted[pieces] += probability
            return
        i = min(able)[1]
        together = pieces[i] + pieces[i + 1]
        follow((*pieces[:i], together, *pieces[i + 2 :]), left, probability * (1 - dropout))
        follow(pieces, left | {(places[i], len(together))}, probability * dropout)

    follow(tuple("▁bandana"), frozenset(), 1.0)
    assert sum(wanted.values()) == pytest.approx(1.0) and len(wanted) > 5
    sampler = Sampler(BPE, dropout)
    drawn = Counter(tuple(BPE.id_to_piece(i) for i in sampler._cut("▁bandana", n)) for n in range(20_000))
    assert set(drawn) <= set(wanted)
    for x, share in wanted.items():
        assert drawn[x] / 20_000 == pytest.approx(share, abs=5 * math.sqrt(share / 20_000) + 1e-4)


@pytest.mark.parametrize("processor", [BPE, UNIGRAM], ids=["bpe", "unigram"])
def test_variants_are_about_as_long_as_sentencepiece_samples_are(processor: Any) -> None:
    sampler = Sampler(processor, 0.2)
    ours = sum(len(sampler(line, n)) for n, line in enumerate(LINES * 5))
    theirs = sum(len(processor.encode(line, enable_sampling=True, nbest_size=-1, alpha=0.2)) for line in LINES * 5)
    assert ours == pytest.approx(theirs, rel=0.1)


def test_unknown_characters_in_a_row_are_unknown_once_without_bytes() -> None:
    small = train(model_type="bpe", vocab_size=40)
    for text in ("日本", "ban日本an 日", "日 日"):
        assert Sampler(small, 0.0)(text, 1) == small.encode(text)
        assert Sampler(small, 0.2)(text, 1).count(small.unk_id()) == small.encode(text).count(small.unk_id())


def test_a_long_text_without_spaces_is_cut_in_good_time() -> None:
    for processor in (BPE, UNIGRAM):
        assert len(Sampler(processor, 0.1)("日本banana" * 300, 1)) > 300 * 7
