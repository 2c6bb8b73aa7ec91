"""The CTranslate2 engine against nmt's own: lines, scores, attention; and a word for everything that it cannot do."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmt.checkpoint import write_folder
from nmt.decoding.request import Request
from nmt.decoding.translator import Translation, Translator
from nmt.errors import CheckpointError, ConfigError
from nmt.export.ctranslate2 import convert
from nmt.layers.packing import Precision
from tests.export.tiny import LINES, SHAPES, export_of, model_of, recipe_of, tokenizers

Both = tuple[Translator, Path]


def write(folder: Path, shape: str, **decoding: Any) -> Both:
    """nmt's own translator of a random model, and the folder of its export."""
    encoder, decoder, tied = SHAPES[shape]
    pair, recipe = tokenizers(joint=tied == 3), recipe_of(encoder, decoder, tied, **decoding)
    model = model_of(recipe.model, pair)
    files = export_of(recipe, "ctranslate2", pair).files() | convert(model, recipe.model, pair, "none")
    write_folder(folder, files)
    return Translator.of(model, pair, recipe.decoding), folder


@pytest.fixture(scope="module", params=SHAPES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return write(tmp_path_factory.mktemp("export") / "x", request.param)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """One shape, for what the shape has no say in."""
    return write(tmp_path_factory.mktemp("export") / "x", "uneven")


def load(folder: Path, **decoding: Any) -> Translator:
    return Translator.load(folder, device="cpu", threads=1, **decoding)


def assert_same(ours: list[Translation], theirs: list[Translation]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert other.text == one.text
        assert len(other.hypotheses) == len(one.hypotheses)
        for mine, its in zip(one.hypotheses, other.hypotheses, strict=True):
            assert its.tokens == mine.tokens
            assert its.score == pytest.approx(mine.score, abs=1e-4)
            assert its.log_probability == pytest.approx(mine.log_probability, abs=1e-3)
            assert its.token_log_probabilities == pytest.approx(mine.token_log_probabilities, abs=1e-3)
            assert (its.attention is None) == (mine.attention is None)
            if mine.attention is not None and its.attention is not None:
                np.testing.assert_allclose(its.attention, mine.attention, atol=1e-4)


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_lines_and_scores_are_those_of_torch(both: Both, beam: int, batch_size: int) -> None:
    ours, folder = both
    settings = ours.decoding.model_copy(update={"beam": beam, "batch_size": batch_size})
    expected = list(Translator(ours.engine, ours.tokenizers, settings).translate(LINES, attention=True))
    assert any(one.hypotheses and one.hypotheses[0].tokens for one in expected)
    assert_same(expected, list(load(folder, beam=beam, batch_size=batch_size).translate(LINES, attention=True)))


@pytest.mark.parametrize("how", [{"length_penalty": "none"}, {"length_penalty": "gnmt", "alpha": 0.6}, {"alpha": 0.5}])
def test_scores_are_normalised_as_ours(one: Both, how: dict[str, Any]) -> None:
    ours, folder = one
    settings = ours.decoding.model_copy(update=how)
    expected = list(Translator(ours.engine, ours.tokenizers, settings).translate(LINES))
    assert_same(expected, list(load(folder, **how).translate(LINES)))


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_the_longest_translation_is_each_sentences_own(one: Both, limit: int) -> None:
    """The longest counts EOS, which is forced on it; with a limit of one token nothing else is written."""
    ours, folder = one
    how = {"max_ratio": 0.2 if limit else 0.01, "max_extra": limit}
    settings = ours.decoding.model_copy(update=how)
    expected = list(Translator(ours.engine, ours.tokenizers, settings).translate(LINES, attention=True))
    assert_same(expected, list(load(folder, **how).translate(LINES, attention=True)))


def test_several_translations_are_distinct_and_in_order(one: Both) -> None:
    _, folder = one
    for found, best in zip(load(folder).translate(LINES, nbest=3), load(folder).translate(LINES), strict=True):
        scores = [hypothesis.score for hypothesis in found.hypotheses]
        assert scores == sorted(scores, reverse=True)
        assert len({hypothesis.tokens for hypothesis in found.hypotheses}) == len(scores)
        assert len(scores) == (3 if found.source.strip() else 0)
        assert [one.tokens for one in found.hypotheses[:1]] == [one.tokens for one in best.hypotheses]


def test_prefixes_and_phrases_to_avoid(one: Both) -> None:
    """Each line has its own, and those without are translated as if alone."""
    ours, folder = one
    ours = Translator(ours.engine, ours.tokenizers, ours.decoding.model_copy(update={"beam": 1}))
    (plain,) = ours.translate([LINES[0]])
    avoided = ours.tokenizers.target.decode(plain.hypotheses[0].tokens[:2])
    lines = [Request(LINES[0], prefix="le chat"), Request(LINES[0], avoid=(avoided,)), Request(LINES[0])]
    expected = list(ours.translate(lines))
    assert expected[0].text.startswith("le chat") and expected[2].text == plain.text
    assert_same(expected, list(load(folder, beam=1).translate(lines)))


def test_no_tokens_in_a_row_twice(one: Both) -> None:
    ours, folder = one

    def repeats(found: Translation) -> bool:
        pairs = list(itertools.pairwise(found.hypotheses[0].tokens if found.hypotheses else ()))
        return len(pairs) > len(set(pairs))

    assert any(map(repeats, load(folder, beam=1).translate(LINES)))
    blocked = list(load(folder, no_repeat_ngram=2, beam=1).translate(LINES))
    assert not any(map(repeats, blocked))
    settings = ours.decoding.model_copy(update={"no_repeat_ngram": 2, "beam": 1})
    assert_same(list(Translator(ours.engine, ours.tokenizers, settings).translate(LINES)), blocked)


@pytest.mark.parametrize(
    "how, flag",
    [
        ({"coverage_penalty": 0.2}, "--coverage-penalty"),
        ({"stopping": "exact"}, "--stopping exact"),
        ({"groups": 2}, "--groups"),
        ({"sampling": True}, "--sampling"),
        ({"mbr": "chrf"}, "--mbr"),
    ],
)
def test_what_it_cannot_do_is_said(one: Both, how: dict[str, Any], flag: str) -> None:
    with pytest.raises(ConfigError, match=f"{flag}: CTranslate2 cannot; use the run itself"):
        load(one[1], **how).check()
    wished = load(one[1], wishes={**how, "precision": "float16", "beam": 2})
    wished.check()
    assert wished.decoding == load(one[1], beam=2).decoding


@pytest.mark.parametrize(("written", "refused"), [("none", "int8"), ("int8", "float32"), ("int8_float32", "int8")])
def test_an_export_is_of_the_precision_that_it_was_written_in(tmp_path: Path, written: str, refused: Precision) -> None:
    encoder, decoder, tied = SHAPES["pre"]
    pair, recipe = tokenizers(joint=True), recipe_of(encoder, decoder, tied)
    export = replace(export_of(recipe, "ctranslate2", pair), quantization=written)
    write_folder(tmp_path / "x", export.files() | convert(model_of(recipe.model, pair), recipe.model, pair, written))
    load(tmp_path / "x").check()
    if written != "int8_float32":
        load(tmp_path / "x", precision="float32" if written == "none" else written).check()
    of = "float32" if written == "none" else written
    with pytest.raises(ConfigError, match=f"--precision {refused}: this export is of {of}; leave it out"):
        load(tmp_path / "x", precision=refused).check()


def test_phrases_to_use_and_more_than_the_beam_are_refused(one: Both) -> None:
    with pytest.raises(ConfigError, match="phrases to use: CTranslate2 cannot"):
        list(load(one[1]).translate([Request(LINES[0], use=("chat",))]))
    with pytest.raises(ConfigError, match="nbest 5 needs a beam of at least 5, not 4"):
        list(load(one[1]).translate(LINES, nbest=5))


@pytest.mark.parametrize("extra", [1, 12])
def test_a_prefix_has_room_however_short_translations_are_to_be(one: Both, extra: int) -> None:
    ours, folder = one
    how: dict[str, Any] = {"max_ratio": 0.01, "max_extra": extra, "beam": 1}
    lines = [Request(LINES[0], prefix="le chat noir dort"), Request(LINES[1], prefix="le chien"), Request(LINES[0])]
    ours = Translator(ours.engine, ours.tokenizers, ours.decoding.model_copy(update=how))
    expected = list(ours.translate(lines))
    assert expected[0].text.startswith("le chat noir dort")
    assert_same(expected, list(load(folder, **how).translate(lines)))


def test_devices_models_and_checkpoints_that_are_not_there(one: Both) -> None:
    _, folder = one
    with pytest.raises(ConfigError, match="device 'cpu:foo' cannot be used: what follows cpu: is a number"):
        Translator.load(folder, device="cpu:foo")
    with pytest.raises(ConfigError, match="device 'abacus' cannot be used"):
        Translator.load(folder, device="abacus")
    with pytest.raises(ConfigError, match="an export holds one model, and no checkpoint 'step-1'"):
        Translator.load(folder, which="step-1")
    with pytest.raises(ConfigError, match="an export translates alone"):
        Translator.load(folder, folder)
    with pytest.raises(ConfigError, match="this needs the run folder of one model"):
        print(load(folder).model)


def test_a_model_of_another_shape_is_found(tmp_path: Path) -> None:
    """The manifest vouches for it, CTranslate2 does not."""
    encoder, decoder, tied = SHAPES["pre"]
    pair, recipe = tokenizers(joint=False), recipe_of(encoder, decoder, tied)
    write_folder(tmp_path / "x", export_of(recipe, "ctranslate2", pair).files() | {"model.bin": b"\x06\0\0\0"})
    with pytest.raises(CheckpointError, match="x: CTranslate2 cannot read it"):
        load(tmp_path / "x")


def test_learned_positions_bound_what_is_read(tmp_path: Path) -> None:
    encoder, decoder, tied = SHAPES["learned"]
    pair, recipe = tokenizers(joint=True), recipe_of({**encoder, "max_positions": 12}, decoder, tied)
    model = model_of(recipe.model, pair)
    export = export_of(recipe, "ctranslate2", pair)
    bounded = type(export)(**{**vars(export), "longest_source": 12})
    write_folder(tmp_path / "x", bounded.files() | convert(model, recipe.model, pair, "none"))
    (one,), (other,) = (
        load(tmp_path / "x").translate([LINES[1]]),
        Translator.of(model, pair, recipe.decoding).translate([LINES[1]]),
    )
    assert one.parts == other.parts > 1 and one.text == other.text


def test_translating_imports_little(tmp_path: Path) -> None:
    """What took longest was torch, then numpy, jaxtyping and reading what packages say of themselves for plugins."""
    _, folder = write(tmp_path / "x", "pre")
    (expected,) = load(folder).translate([LINES[0]])
    heavy = {"torch", "numpy", "jaxtyping", "rich", "sacrebleu", "datasets", "matplotlib"}
    ours = {"nmt.alignment", "nmt.data.corpus", "nmt.evaluation", "nmt.layers", "nmt.models", "nmt.training"}
    program = (
        "import sys, importlib.metadata; from nmt_cli.main import main; "
        "importlib.metadata.distributions = importlib.metadata.entry_points = None; "
        f"code = main(); print(sorted({heavy | ours} & set(sys.modules)), code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "translate", str(folder), "--threads", "1", "--scores", "--format", "tsv"],
        input=f"{LINES[0]}\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith(expected.text) and done.stdout.endswith("\n[] 0\n")
