"""Lines encoded word by word, against SentencePiece on whole lines: the same ids for whatever is in them."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sentencepiece

from nmt.config import TokenizerConfig
from nmt.data import words
from nmt.data.tokenizer import Tokenizer, train_tokenizer
from nmt.data.words import Encoder

TEXT = [
    f"the {i} small cats of {i % 7} cafés déjà vus, aren't they? {chr(0x4E00 + i)}{chr(0x3B1 + i % 24)}"
    for i in range(300)
]
ODD = "\u00a8\u00af\u00b4\u2017\ufdfa\ufdfb\u200b\u200d\u2028\t\x00\x0b\x85\xa0\u3000\u2581\u0345\ufeff\xad\u0301\r"


def strange_lines(seed: int, number: int) -> list[str]:
    """Lines of words that are in TEXT and characters of every kind."""
    draw = random.Random(seed)
    kinds: list[Callable[[], str]] = [
        lambda: " ",
        lambda: draw.choice("abé'. "),
        lambda: draw.choice(ODD),
        lambda: chr(draw.randrange(32, 0xD7FF)),
    ]
    kinds.append(lambda: f" {draw.choice(draw.choice(TEXT).split())} ")
    return ["".join(draw.choice(kinds)() for _ in range(draw.randrange(25))) for _ in range(number)]


@pytest.mark.parametrize("normalization", ["identity", "nmt_nfkc", "nfkc_cf"])
@pytest.mark.parametrize("byte_fallback", [True, False])
def test_every_line_is_cut_as_it_would_be_whole(normalization: str, byte_fallback: bool) -> None:
    options = {"normalization": normalization, "byte_fallback": byte_fallback, "character_coverage": 0.99}
    tokenizer = train_tokenizer(TEXT, TokenizerConfig.model_validate({"vocabulary": 700, **options}), seed=1)
    encoder = processor_and_encoder(tokenizer)[1]
    assert encoder._words is not None
    lines = ["", " ", "the the  the", " cats", "cats ", *strange_lines(1, 1500)]
    found = encoder(lines)
    assert found.flat.dtype == np.uint16 and len(found) == len(lines)
    for row, line in enumerate(lines):
        assert found[row].tolist() == tokenizer.encode(line), line
    assert len(encoder._words) > 100


def processor_and_encoder(tokenizer: Tokenizer) -> tuple[sentencepiece.SentencePieceProcessor, Encoder]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.to_bytes())
    return processor, Encoder(processor)


def test_a_word_is_cut_once_and_forgotten_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "REMEMBERED", 5)
    tokenizer = train_tokenizer(TEXT, TokenizerConfig(vocabulary=700), seed=1)
    processor, encoder = processor_and_encoder(tokenizer)
    asked: list[str] = []
    encode = processor.encode

    def noting(word: str) -> list[int]:
        asked.append(word)
        return list(encode(word))

    monkeypatch.setattr(processor, "encode", noting)
    encoder(["cats the cats", "the cats", "x" * (words.LONGEST + 1)])
    assert asked == ["cats", "the", "x" * (words.LONGEST + 1)]
    assert encoder(TEXT)[7].tolist() == encode(TEXT[7])
    assert encoder._words is not None and len(encoder._words) <= 5


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "unigram"},
        {"split_by_whitespace": False},
        {"add_dummy_prefix": False},
        {"treat_whitespace_as_suffix": True},
        {"user_defined_symbols": ["small\u2581cats"]},
    ],
)
def test_a_model_that_cuts_no_words_gets_whole_lines(options: dict[str, Any]) -> None:
    model = train(**options)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    encoder = Encoder(processor)
    assert encoder._words is None
    lines = [*TEXT[:40], *strange_lines(2, 100), "a", "two words", "small cats"]
    found = encoder(lines)
    assert [found[row].tolist() for row in range(len(lines))] == [processor.encode(line) for line in lines]


def train(**options: Any) -> bytes:
    """A BPE model with options that recipes do not have."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        **{"model_type": "bpe", "vocab_size": 500, "minloglevel": 2, "num_threads": 1, **options},
        sentence_iterator=iter(TEXT),
        model_writer=model,
        hard_vocab_limit=False,
        max_sentence_length=9999,
    )
    return model.getvalue()
