"""Every recipe that ships trains for a few steps on text that has nothing to do with it, and translates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from nmt.config import DataConfig, TextCorpus, load_recipe
from nmt.decoding.translator import Translator
from nmt.training.report import SilentReporter
from nmt.training.session import Session, train

RECIPES = Path(__file__).parent.parent / "recipes"
ALL = sorted(RECIPES.glob("*/*.toml"))
#: What makes a recipe small; everything else stays as it is written.
SMALL: Sequence[str] = (
    "tokenizer.vocabulary=330",
    "training.max_steps=2",
    "training.validate_every=2",
    "training.save_every=2",
    "training.batch_tokens=128",
    "decoding.beam=1",
    "decoding.max_ratio=1.0",
    "decoding.max_extra=0",
)


def test_every_family_has_a_recipe_for_each_corpus() -> None:
    assert {path.parent.name for path in ALL} >= {"demo", "multi30k-en-de"}
    for folder in {path.parent for path in ALL}:
        assert {"bahdanau", "luong", "transformer", "mixed"} <= {path.stem for path in folder.glob("*.toml")}


@pytest.mark.parametrize("path", ALL, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recipe_trains_and_translates(path: Path, corpus: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path, SMALL)
    halves = {
        split: TextCorpus(source=corpus / f"{split}.en", target=corpus / f"{split}.fr") for split in ("train", "valid")
    }
    data = DataConfig(source="en", target="fr", train=(halves["train"],), valid=halves["valid"])
    recipe = recipe.model_copy(update={"data": data})
    out = tmp_path / "run"
    best = train(recipe, Session(out, device="cpu", store=tmp_path / "store"), SilentReporter())
    assert best.scores["loss"] > 0
    assert len(list(Translator.load(out, device="cpu").translate(["the cat sleeps ."]))) == 1


@pytest.mark.parametrize("path", ALL, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recipe_says_in_its_first_line_what_it_is(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")
