"""Pieces: nothing unknown, nothing lost, the same everywhere, and at home in the words they come from."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.config import DataConfig, TextCorpus, TokenizerConfig
from nmt.data import tokenizer as module
from nmt.data.tokenizer import Tokenizer, Tokenizers, find_model, train_tokenizer, train_tokenizers
from nmt.errors import CheckpointError, ConfigError, DataError

WORDS = "the a cat dog house garden sees walks sleeps under behind quickly red green old young and or not".split(" ")  # noqa: SIM905
LINES = [" ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 9)) for i in range(200)]
SMALL = TokenizerConfig(vocabulary=340)
CONFIGS = {"bpe": SMALL, "unigram": TokenizerConfig(type="unigram", vocabulary=300)}


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(LINES, CONFIGS[request.param], seed=1)


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_tokenizer(LINES, SMALL, seed=1)


def test_special_pieces_come_first(tokenizer: Tokenizer) -> None:
    assert tokenizer.pieces(range(5)) == ["<pad>", "<unk>", "<s>", "</s>", "<0x00>"]
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2, 3)
    assert len(tokenizer) in (340, 300)


def test_text_comes_back(tokenizer: Tokenizer) -> None:
    for line in LINES[:20]:
        ids = tokenizer.encode(line)
        assert tokenizer.decode(ids) == line
        assert all(3 < i < len(tokenizer) for i in ids)
    batch = tokenizer.encode_batch(LINES)
    assert [batch[row].tolist() for row in range(len(LINES))] == [tokenizer.encode(line) for line in LINES]


@settings(max_examples=200)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=30))
def test_no_input_is_unknown_and_no_output_breaks_a_line(text: str) -> None:
    tokenizer = train_once()
    ids = tokenizer.encode(text)
    assert not {tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id} & set(ids)
    decoded = tokenizer.decode(ids)
    assert "\n" not in decoded and "\r" not in decoded
    found, words = tokenizer.encode_words(text)
    assert found == ids and words == sorted(words)
    assert all(0 <= word < len(text.split()) for word in words) or not text.split()


@settings(max_examples=200)
@given(st.lists(st.integers(0, 339), max_size=20))
def test_whatever_a_model_says_is_one_line_whose_words_are_known(ids: list[int]) -> None:
    tokenizer = train_once()
    text = tokenizer.decode(ids)
    assert "\n" not in text and "\r" not in text
    words = tokenizer.words(ids)
    assert len(words) == len(ids) and words == sorted(words)
    assert all(0 <= word < max(1, len(text.split())) for word in words)


def train_once(memory: list[Tokenizer] = []) -> Tokenizer:  # noqa: B006
    if not memory:
        memory.append(train_tokenizer(LINES, SMALL, seed=1))
    return memory[0]


def test_without_byte_fallback_the_unknown_is_unknown() -> None:
    small = train_tokenizer(LINES, TokenizerConfig(vocabulary=60, byte_fallback=False), seed=1)
    assert small.unk_id in small.encode("日本")


def test_a_line_break_spelt_in_bytes_becomes_a_space(bpe: Tokenizer) -> None:
    ids = [*bpe.encode("cat"), 4 + 0x0A, 4 + 0x0D, *bpe.encode("dog")]
    assert bpe.decode(ids).split() == ["cat", "dog"]
    assert set(bpe.words(ids)) == {0, 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the cat", {"▁the": 0, "▁cat": 1}),
        ("  the   cat  ", {"▁the": 0, "▁cat": 1}),
        ("the\u00a0cat\u3000not", {"▁the": 0, "▁cat": 1, "▁not": 2}),
        # SentencePiece takes a zero-width space for a space, Python takes it for part of the word.
        ("the\u200bcat not", {"▁the": 0, "▁cat": 0, "▁not": 1}),
        ("日 the 日", {"▁the": 1, "<0xE6>": 0}),
        ("ﬀ the", {"▁the": 1}),
    ],
)
def test_pieces_know_the_word_of_the_raw_line(bpe: Tokenizer, text: str, words: dict[str, int]) -> None:
    ids, found = bpe.encode_words(text)
    first = dict(reversed(list(zip(bpe.pieces(ids), found, strict=True))))
    assert {piece: first[piece] for piece in words} == words


def test_each_word_is_spelt_by_its_pieces(tokenizer: Tokenizer) -> None:
    text = "walks thecat 日本, gardens! x"
    ids, words = tokenizer.encode_words(text)
    spelt = [tokenizer.decode([i for i, word in zip(ids, words, strict=True) if word == n]) for n in range(5)]
    assert spelt == text.split()
    assert tokenizer.words(ids) == words


def test_special_pieces_in_what_a_model_says_have_no_word_of_their_own(bpe: Tokenizer) -> None:
    the, cat = bpe.encode("the"), bpe.encode("cat")
    assert len(the) == len(cat) == 1
    assert bpe.words([2, *the, *cat, 3]) == [0, 0, 1, 1]
    assert bpe.words([]) == []


def test_the_same_text_gives_the_same_model_in_another_process(tokenizer: Tokenizer, tmp_path: Path) -> None:
    code = (
        "import os, sys; getattr(os, 'sched_setaffinity', lambda *_: 0)(0, {0}); sys.path.insert(0, sys.argv[1]);"
        "from nmt.config import TokenizerConfig;"
        "from nmt.data.tokenizer import train_tokenizer; lines = open(sys.argv[2]).read().split('\\n')[:-1];"
        "print([train_tokenizer(lines, TokenizerConfig(vocabulary=v, type=t), seed=1).digest"
        " for t, v in (('bpe', 340), ('unigram', 300))])"
    )
    (tmp_path / "lines").write_text("".join(f"{line}\n" for line in LINES))
    root = str(Path(module.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code, root, str(tmp_path / "lines")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert tokenizer.digest in done.stdout


# ------------------------------------------------------------------------------------------------------------ sampling


def test_sampling_depends_on_text_and_seed_only(tokenizer: Tokenizer) -> None:
    wanted = {(line, seed): tokenizer.sample(line, 0.2, seed) for line in LINES[:20] for seed in (1, 2)}
    tokenizer.sample(LINES[30], 0.2, 99)
    assert {key: tokenizer.sample(key[0], 0.2, key[1]) for key in reversed(wanted)} == wanted

    found: list[bool] = []

    def elsewhere() -> None:
        found.append({key: tokenizer.sample(key[0], 0.2, key[1]) for key in wanted} == wanted)

    threads = [threading.Thread(target=elsewhere) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 3


def test_sampling_cuts_in_many_ways_and_loses_nothing(tokenizer: Tokenizer) -> None:
    cuts = Counter(tuple(tokenizer.sample(LINES[1], 0.2, seed)) for seed in range(50))
    assert len(cuts) > 10
    assert {tokenizer.decode(ids) for ids in cuts} == {LINES[1]}
    assert tokenizer.sample(LINES[1], 0.0, 5) == tokenizer.encode(LINES[1])


def test_a_stronger_bpe_dropout_cuts_smaller(bpe: Tokenizer) -> None:
    def mean(strength: float) -> float:
        return sum(len(bpe.sample(LINES[1], strength, seed)) for seed in range(100)) / 100

    assert len(bpe.encode(LINES[1])) < mean(0.1) < mean(0.4)


# ------------------------------------------------------------------------------------------------------------- on disk


def test_a_model_survives_the_disk(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "x.model")
    loaded = Tokenizer.load(tmp_path / "x.model")
    assert loaded == tokenizer and loaded.digest == tokenizer.digest and loaded.name == tokenizer.digest[:8]
    assert loaded.encode(LINES[0]) == tokenizer.encode(LINES[0])
    assert [path.name for path in tmp_path.iterdir()] == ["x.model"]


def test_what_is_no_model_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "x.model"
    with pytest.raises(CheckpointError, match=r"x\.model: the tokenizer cannot be read: No such file"):
        Tokenizer.load(path)
    for content, words in [(b"", "is empty"), (b"nonsense", "damaged"), (tokenizer.to_bytes()[:-9], "damaged")]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"x\.model: .*{words}"):
            Tokenizer.load(path)


def test_a_flipped_bit_changes_the_digest(bpe: Tokenizer) -> None:
    model = bytearray(bpe.to_bytes())
    model[model.index(b"garden")] ^= 1  # which SentencePiece loads without a word
    assert Tokenizer(bytes(model)).digest != bpe.digest


def test_the_model_of_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "source.model").touch()
    assert find_model(tmp_path, "target") == tmp_path / "source.model"
    (tmp_path / "target.model").touch()
    assert find_model(tmp_path, "target") == tmp_path / "target.model"
    assert find_model(tmp_path / "source.model", "target") == tmp_path / "source.model"


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_vocabulary_the_text_cannot_give_is_refused_with_what_to_set(kind: str) -> None:
    config = TokenizerConfig.model_validate({"type": kind, "vocabulary": 8000})
    with pytest.raises(
        ConfigError, match=r"tokenizer.vocabulary: 8000 pieces are more than .*; set it to \d+ or less"
    ) as e:
        train_tokenizer(LINES, config, seed=1)
    largest = int(str(e.value).split()[-3])
    assert len(train_tokenizer(LINES, config.model_copy(update={"vocabulary": largest}), seed=1)) == largest


def test_a_vocabulary_smaller_than_the_alphabet_is_refused_with_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"100 pieces are too few .*; set it to \d+ or more") as e:
        train_tokenizer(LINES, TokenizerConfig(vocabulary=100), seed=1)
    smallest = int(str(e.value).split("set it to ")[1].split()[0])
    assert len(train_tokenizer(LINES, TokenizerConfig(vocabulary=smallest), seed=1)) == smallest


@pytest.mark.parametrize("lines", [[], [""], ["", " \u3000", "\0"]])
def test_blank_text_trains_nothing(lines: list[str]) -> None:
    with pytest.raises(DataError, match="every line is blank"):
        train_tokenizer(lines, SMALL, seed=1)


def test_long_lines_and_null_characters_are_not_left_out() -> None:
    """SentencePiece by itself drops lines over 4,192 bytes, and lines with U+0000, and says nothing."""
    long = "zebra " * 2000 + "\0 yak" * 2000
    pieces = train_tokenizer([*LINES, long], SMALL, seed=1)
    assert "▁zebra" in pieces.pieces(range(340)) and "▁yak" in pieces.pieces(range(340))


def test_more_lines_than_can_be_held_are_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Counter(n for seed in range(300) for n in module._draw(range(20), 5, seed))
    assert sum(drawn.values()) == 1500 and min(drawn.values()) > 40 and max(drawn.values()) < 115
    assert module._draw(range(20), 5, 3) == module._draw(range(20), 5, 3)
    assert module._draw(range(4), 5, 3) == [0, 1, 2, 3]


def test_a_joint_tokenizer_is_one_object_and_separate_ones_are_two(corpus: Path) -> None:
    data = DataConfig(train=(TextCorpus(source=corpus / "train.en", target=corpus / "train.fr"),))
    joint = train_tokenizers(data, SMALL, 1)
    assert joint.joint and joint.source is joint.target
    apart = train_tokenizers(data, SMALL.model_copy(update={"joint": False, "vocabulary": 290}), 1)
    assert not apart.joint and apart.source != apart.target
    assert len(apart.target.encode("le chat dort")) < len(apart.source.encode("le chat dort"))
    with pytest.raises(ConfigError, match="no training corpus"):
        train_tokenizers(DataConfig(), SMALL, 1)


def test_named_models_are_used_as_they_are(tmp_path: Path, bpe: Tokenizer) -> None:
    path = tmp_path / "mine.model"
    bpe.save(path)
    config = TokenizerConfig(source_model=path, target_model=path)
    tokenizers = train_tokenizers(DataConfig(), config, 1)
    assert tokenizers.joint and tokenizers.source == bpe


def test_models_with_other_special_ids_do_not_go_together(bpe: Tokenizer) -> None:
    import io

    import sentencepiece

    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=writer, vocab_size=60, model_type="bpe", minloglevel=2
    )
    foreign = Tokenizer(writer.getvalue())  # of SentencePiece's own defaults: no padding, <unk> <s> </s>
    assert (foreign.pad_id, foreign.unk_id, foreign.bos_id, foreign.eos_id) == (0, 0, 1, 2)
    with pytest.raises(ConfigError, match=r"other ids for padding, begin and end of sentence: 0, 2, 3 and 0, 1, 2"):
        Tokenizers(bpe, foreign)


def test_pieces_that_go_on_with_a_word() -> None:
    lines = ["le chaton chasse chats et chat2 !", "机器翻译", "แมว"] * 9
    made = train_tokenizer(lines, TokenizerConfig(vocabulary=310), seed=1)
    going_on = {piece for number, piece in enumerate(made.pieces(range(len(made)))) if number in made.continuing}
    assert {"a", "t", "2", "<0x41>", "<0xC3>"} <= going_on
    assert not {"▁", "!", "▁le", "<unk>", "</s>", "<0x21>", "<0xE4>", "机", "แ"} & going_on
