"""The recipe that is chosen for a corpus and a time: what it grows with, and which reason stands by which value."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from nmt.config import DataConfig, Recipe, TextCorpus, TransformerEncoder, TsvCorpus, parse_recipe
from nmt.data.corpus import with_folder
from nmt.data.tokenizer import train_tokenizers
from nmt.errors import ConfigError, DataError, TrainingError
from nmt.export.ctranslate2 import check_model
from nmt.models import build
from nmt.training.lock import alone_in
from nmt.training.preset import SIZES, VOCABULARIES, Choice, Size, Survey, auto, choose, rate_of, survey, to_toml
from nmt.training.report import SilentReporter
from nmt.training.session import Session

FAST, SLOW = 500e9, 50e9
MULTI30K = Survey(29_000, 450_000)


def chosen(seen: Survey, rate: float, budget: float, processes: int = 1) -> Recipe:
    """The choice as the recipe that is read back."""
    return parse_recipe(to_toml(DataConfig(), choose(seen, rate, budget, processes), "why"))


def width(recipe: Recipe) -> int:
    assert isinstance(recipe.model.encoder, TransformerEncoder)
    return recipe.model.encoder.width


@pytest.mark.parametrize("pairs", [10, 1_000, 29_000, 1_000_000, 100_000_000])
@pytest.mark.parametrize("rate", [1e9, SLOW, FAST, 1e14])
@pytest.mark.parametrize("budget", [0.0, 1.0, 600.0, 86_400.0])
def test_whatever_there_is_a_recipe_comes_of_it(pairs: int, rate: float, budget: float) -> None:
    recipe = chosen(Survey(pairs, 15 * pairs), rate, budget)
    assert recipe.training.budget == (budget or 1800)
    assert recipe.model.encoder.dropout == recipe.model.decoder.dropout
    assert isinstance(recipe.model.encoder, TransformerEncoder) and recipe.model.encoder.max_relative_positions == 8
    assert recipe.model.encoder.positions == "none"


def test_more_time_and_more_text_make_larger_models() -> None:
    by_time = [width(chosen(Survey(10**6, 15 * 10**6), FAST, budget)) for budget in (60.0, 600.0, 3600.0, 1e6)]
    by_text = [width(chosen(Survey(pairs, 15 * pairs), FAST, 1e6)) for pairs in (100, 29_000, 100_000, 10**6)]
    for widths in (by_time, by_text):
        assert widths == sorted(widths)
        assert (widths[0], widths[-1]) == (128, 512)


def test_the_more_often_pairs_are_seen_the_more_is_dropped_until_passes_have_to_agree() -> None:
    recipes = [chosen(MULTI30K, SLOW, budget) for budget in (1200.0, 2400.0, 6900.0, 20_000.0, 100_000.0)]
    assert [recipe.model.encoder.dropout for recipe in recipes] == [0.1, 0.2, 0.3, 0.2, 0.25]
    assert [recipe.training.consistency for recipe in recipes] == [0, 0, 0, 2, 2]
    assert [recipe.training.consistency_start for recipe in recipes] == [0, 0, 0, 0.3, 0.3]


def test_what_is_chosen_may_leave_for_ctranslate2() -> None:
    text = to_toml(DataConfig(), choose(MULTI30K, SLOW, 1200.0), "why")
    check_model(parse_recipe(text).model)


def test_muon_is_for_narrow_models() -> None:
    recipes = [chosen(Survey(10**6, 15 * 10**6), FAST, budget) for budget in (60.0, 600.0, 3600.0, 1e5, 1e6)]
    widths = [width(recipe) for recipe in recipes]
    assert min(widths) <= 256 < max(widths)
    by_muon = [one <= 256 for one in widths]
    assert [recipe.training.optimizer == "muon" for recipe in recipes] == by_muon
    assert [recipe.training.embedding_rate > 1 for recipe in recipes] == by_muon


def test_small_corpora_get_small_vocabularies() -> None:
    sizes = [
        chosen(Survey(pairs, 15 * pairs), FAST, 600.0).tokenizer.vocabulary for pairs in (10, 1_000, 10_000, 10**7)
    ]
    assert sizes == [500, 1000, 4000, 32000]


def test_a_vocabulary_has_room_for_every_character(tmp_path: Path) -> None:
    """Which of Chinese there are thousands of, in a corpus as small as may be."""
    signs = [chr(0x4E00 + number) for number in range(2400)]
    for side in ("en", "zh"):
        lines = [
            f"line {number}" if side == "en" else "".join(signs[(7 * number + k) % 2400] for k in range(14))
            for number in range(2000)
        ]
        (tmp_path / f"train.{side}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    corpus = TextCorpus(source=tmp_path / "train.en", target=tmp_path / "train.zh")
    data = DataConfig(source="en", target="zh", train=(corpus,))
    seen = survey(data)
    assert seen.characters > 2400
    text = to_toml(data, choose(seen, FAST, 600.0), "why")
    assert "characters take one each" in text
    recipe = parse_recipe(text)
    assert recipe.tokenizer.vocabulary > next(number for least, number in VOCABULARIES if seen.pieces >= least)
    tokenizers = train_tokenizers(recipe.data, recipe.tokenizer, seed=1)
    assert len(tokenizers.source) == recipe.tokenizer.vocabulary


@pytest.mark.parametrize(
    "sentences",
    [
        pytest.param(["a"], id="one letter"),
        pytest.param(["Guten Morgen!", "Good morning!"], id="one pair"),
        pytest.param(["der Hund schläft", "the dog sleeps", "die Katze schläft", "the cat sleeps"], id="a lesson"),
        pytest.param([f"{number} {number % 7}" for number in range(90)], id="numbers"),
        pytest.param([f"{who} {what} 3.5 l'eau…" for who in "AB" for what in ("trinkt", "drinks")], id="a template"),
        pytest.param(["我爱你。", "I love you."], id="no words between blanks"),
        pytest.param(["Ａ ﬁ Ⅷ ½", "e\u0301 \u3000 x"], id="characters that become others"),
        pytest.param(["x" * 40, "y" * 40], id="words longer than a piece"),
    ],
)
@pytest.mark.parametrize("times", [1, 1000])
def test_a_vocabulary_is_no_larger_than_few_words_can_give(sentences: list[str], times: int, tmp_path: Path) -> None:
    for side in ("en", "de"):
        (tmp_path / f"train.{side}").write_text("".join(f"{line}\n" for line in sentences) * times, encoding="utf-8")
    corpus = TextCorpus(source=tmp_path / "train.en", target=tmp_path / "train.de")
    data = DataConfig(source="en", target="de", train=(corpus,))
    recipe = parse_recipe(to_toml(data, choose(survey(data), FAST, 600.0), "why"))
    tokenizers = train_tokenizers(recipe.data, recipe.tokenizer, seed=1)
    assert len(tokenizers.source) == recipe.tokenizer.vocabulary


def test_words_bound_it_only_where_all_of_them_were_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for side in ("en", "hi"):
        lines = [f"किताब {chr(97 + number)}{chr(98 + number)}" for number in range(20)]
        (tmp_path / f"train.{side}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    data = DataConfig(
        source="en", target="hi", train=(TextCorpus(source=tmp_path / "train.en", target=tmp_path / "train.hi"),)
    )
    assert survey(data).words == 21  # vowels that are marks do not part a word
    monkeypatch.setattr("nmt.training.preset.SAMPLE", 19)
    assert survey(data).words is None
    for side in ("en", "hi"):
        (tmp_path / f"train.{side}").write_text("किताब बड़ी है\n" * 40, encoding="utf-8")
    assert survey(data).words == 2  # of what comes again and again all is known; है is one letter


def test_processes_share_the_batch() -> None:
    alone, shared = chosen(MULTI30K, SLOW, 3600.0), chosen(MULTI30K, SLOW, 3600.0, 2)
    assert 2 * shared.training.batch_tokens == alone.training.batch_tokens
    assert shared.training.learning_rate == alone.training.learning_rate


@pytest.mark.parametrize("size", SIZES)
def test_sizes_have_the_weights_of_the_models_that_are_built(size: Size) -> None:
    part = {"type": "transformer", **vars(size)}
    recipe = Recipe.model_validate({"model": {"encoder": part, "decoder": part, "embedding": part["width"]}})
    with torch.device("meta"):
        model = build(recipe.model, 100, 100)
    weights = sum(one.numel() for name, one in model.named_parameters() if one.ndim == 2 and "embedding" not in name)
    assert size.weights == weights


def test_every_choice_stands_under_its_reason() -> None:
    choices = choose(MULTI30K, FAST, 3600.0)
    lines = to_toml(DataConfig(source="en", target="de"), choices, "Why.").splitlines()
    assert lines[0] == "# Why."
    for choice in choices:
        (at,) = (i for i, line in enumerate(lines) if line.startswith(f"{choice.key.partition('.')[2]} = "))
        assert lines[at - 1] == f"# {choice.reason}"


def test_pieces_are_about_as_many_as_a_tokenizer_makes(corpus: Path, tmp_path: Path) -> None:
    seen = survey(with_folder(DataConfig(source="en", target="fr"), corpus))
    words = [line.split() for line in (corpus / "train.fr").read_text(encoding="utf-8").splitlines()]
    assert seen.pairs == 120
    assert sum(map(len, words)) < seen.pieces < 2 * sum(map(len, words)) + 120
    (tmp_path / "two.tsv").write_text(
        "a\t\u4f60\u597d\u4e16\u754c\u4f60\u597d\u4e16\u754c\u4f60\u597d\u4e16\u754c\u4f60\u597d\u4e16\u754c\nb\t\n",
        encoding="utf-8",
    )
    tsv = TsvCorpus(format="tsv", path=tmp_path / "two.tsv", weight=3)
    assert survey(DataConfig(train=(tsv,))) == Survey(6, round(6 * (1 + 16 / 1.5)), 7, 0)


def test_a_corpus_without_text_is_refused(tmp_path: Path) -> None:
    for side in "ab":
        (tmp_path / side).write_text("\n\n")
    with pytest.raises(DataError, match="no text in it to choose a recipe for"):
        survey(DataConfig(train=(TextCorpus(source=tmp_path / "a", target=tmp_path / "b"),)))


def test_a_stream_is_not_counted() -> None:
    stream = {"format": "datasets", "dataset": "x", "source": "en", "target": "fr", "streaming": True}
    with pytest.raises(ConfigError, match="a stream may have no end of"):
        survey(DataConfig.model_validate({"train": stream}))


def test_the_rate_is_that_of_a_machine() -> None:
    assert 1e8 < rate_of(torch.device("cpu")) < 1e16


def test_settings_go_before_what_is_chosen(corpus: Path, tmp_path: Path) -> None:
    languages = ("data.source=en", "data.target=fr")
    session = Session(tmp_path / "run", device="cpu")
    recipe = auto(None, [*languages, "training.budget=5m", "training.seed=7"], corpus, session, SilentReporter())
    assert (recipe.training.budget, recipe.training.seed) == (300, 7)
    kept = (tmp_path / "run" / "auto.toml").read_text(encoding="utf-8")
    assert parse_recipe(kept, overrides=["training.seed=7"]) == recipe
    with pytest.raises(ConfigError, match=r"width 64 must equal model\.embedding"):
        auto(None, [*languages, "model.encoder.width=64"], corpus, Session(tmp_path / "other"), SilentReporter())
    assert not (tmp_path / "other").exists()


def test_a_recipe_beside_it_says_which_corpora_and_no_more(corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "corpora.toml"
    parts = [
        f'{split} = {{ source = "{corpus}/{split}.en", target = "{corpus}/{split}.fr" }}'
        for split in ("train", "valid")
    ]
    path.write_text("\n".join(["[data]", *parts]), encoding="utf-8")
    recipe = auto(path, [], None, Session(tmp_path / "run", device="cpu"), SilentReporter())
    assert recipe.data.train[0] == TextCorpus(source=corpus / "train.en", target=corpus / "train.fr")
    path.write_text(path.read_text(encoding="utf-8") + "\n[training]\nmax_steps = 5\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="says more than which corpora: training"):
        auto(path, [], None, Session(tmp_path / "other"), SilentReporter())


def test_what_stops_a_training_stops_the_choice(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"end in \.en and \.fr: --set data\.source=... --set data\.target=..."):
        auto(None, [], corpus, Session(tmp_path / "run"), SilentReporter())
    with pytest.raises(ConfigError, match=r"no data\.train"):
        auto(None, [], None, Session(tmp_path / "run"), SilentReporter())
    with pytest.raises(ConfigError, match="leave --preset out"):
        auto(None, [], corpus, Session(tmp_path / "run", resume=True), SilentReporter())


def test_the_time_may_be_said_in_any_way_that_a_recipe_says_it(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets: list[float] = []

    def choose_for(seen: Survey, rate: float, budget: float, processes: int) -> list[Choice]:
        budgets.append(budget)
        return choose(seen, rate, budget, processes)

    monkeypatch.setattr("nmt.training.preset.choose", choose_for)
    sides = ["data.source=en", "data.target=fr"]
    for number, setting in enumerate(("training.budget=5m", " training.budget = 5m", 'training={budget="5m"}')):
        folder = tmp_path / f"run-{number}"
        auto(None, [*sides, setting], corpus, Session(folder, device="cpu"), SilentReporter())
    assert budgets == [300.0] * 3


def test_a_recipe_of_ones_own_is_not_written_over(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "auto.toml").write_text("# mine\n")
    with pytest.raises(ConfigError, match=r"auto\.toml: is no recipe that was chosen, and would be written over"):
        auto(None, ["data.source=en", "data.target=fr"], corpus, Session(tmp_path, device="cpu"), SilentReporter())
    assert (tmp_path / "auto.toml").read_text() == "# mine\n"


def test_the_recipe_of_a_run_that_is_being_prepared_is_not_written_over(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    auto(None, ["data.source=en", "data.target=fr"], corpus, Session(folder, device="cpu"), SilentReporter())
    before = (folder / "auto.toml").read_text()
    with alone_in(folder), pytest.raises(TrainingError, match="another training is running in this folder"):
        auto(
            None,
            ["data.source=en", "data.target=fr", "training.budget=60"],
            corpus,
            Session(folder, device="cpu"),
            SilentReporter(),
        )
    assert (folder / "auto.toml").read_text() == before


def test_all_sizes_differ() -> None:
    assert all(one.weights < other.weights for one, other in itertools.pairwise(SIZES))
