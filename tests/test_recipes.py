"""Every recipe that ships is whole: it loads, says what it is, and trains a few steps on a corpus of its languages."""

from __future__ import annotations

from pathlib import Path

import pytest

from nmt.checkpoint import Run
from nmt.config import load_recipe, parse_recipe
from nmt.data.corpus import with_folder
from nmt.data.synthetic import write_corpus
from nmt.decoding.translator import Translator
from nmt.training.report import SilentReporter
from nmt.training.session import Session, train

RECIPES = Path(__file__).parent.parent / "recipes"
ALL = sorted(RECIPES.glob("*/*.toml"))
SMALL = (
    "tokenizer.vocabulary=500",
    "training.max_steps=2",
    "training.validate_every=2",
    "training.save_every=2",
    "training.batch_tokens=200",
    "decoding.max_ratio=1",
    "decoding.max_extra=1",
)


def name_of(path: Path) -> str:
    return str(path.relative_to(RECIPES))


def test_both_corpora_have_the_families_and_a_mixed_pairing() -> None:
    families = {"bahdanau": ("gru", "gru"), "luong": ("lstm", "lstm"), "transformer": ("transformer", "transformer")}
    for corpus in ("demo", "multi30k-en-de"):
        for name, pairing in {**families, "mixed": ("transformer", "gru")}.items():
            model = load_recipe(RECIPES / corpus / f"{name}.toml").model
            assert (model.encoder.type, model.decoder.type) == pairing, (corpus, name)


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_a_recipe_opens_with_what_it_is_and_has_all_its_corpora(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")
    data = load_recipe(path).data
    assert data.train
    assert data.valid is not None
    assert data.test is not None


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_a_recipe_trains_and_translates(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path, SMALL)
    corpus = tmp_path / "corpus"
    write_corpus(corpus, pairs=60, seed=1, valid=3, test=3)
    for split in ("train", "valid", "test"):
        (corpus / f"{split}.fr").rename(corpus / f"{split}.{recipe.data.target}")
    recipe = recipe.model_copy(update={"data": with_folder(recipe.data, corpus)})
    train(recipe, Session(tmp_path / "run", device="cpu", store=tmp_path / "store"), SilentReporter())
    assert parse_recipe((tmp_path / "run" / "recipe.toml").read_text(encoding="utf-8")) == recipe
    assert Run.open(tmp_path / "run").best().scores
    translated = list(Translator.load(tmp_path / "run", device="cpu").translate(["The women see the house.", ""]))
    assert [bool(one.hypotheses) for one in translated] == [True, False]
