"""The recipe: what it says can be written and read back, and what is wrong with it is said in one message."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nmt.config import (
    CosineSchedule,
    DatasetsCorpus,
    GruDecoder,
    GruEncoder,
    InverseSqrtSchedule,
    JsonlCorpus,
    LstmDecoder,
    Recipe,
    TextCorpus,
    TransformerEncoder,
    TsvCorpus,
    load_recipe,
    parse_recipe,
    setting,
)
from nmt.errors import ConfigError


def message(text: str, *overrides: str) -> str:
    """What is said of a recipe that must be refused."""
    with pytest.raises(ConfigError) as caught:
        parse_recipe(text, name="my.toml", overrides=overrides)
    return str(caught.value)


def test_a_part_without_a_type_is_of_the_default_one() -> None:
    told = parse_recipe("", overrides=["training.schedule.warmup_steps=8000", "model.encoder.layers=2"])
    assert (told.training.schedule.type, told.training.schedule.warmup_steps) == ("inverse-sqrt", 8000)
    assert (told.model.encoder.type, told.model.encoder.layers) == ("transformer", 2)


def test_an_empty_recipe_is_the_defaults() -> None:
    assert parse_recipe("") == Recipe()


def test_a_recipe_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("[training]\nmax_steps = 7\n", encoding="utf-8")
    assert load_recipe(path).training.max_steps == 7
    assert load_recipe(path, ["training.max_steps=8"]).training.max_steps == 8


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "mark.toml").write_bytes(b"\xef\xbb\xbf[training]\r\nmax_steps = 7\r\n")
    assert load_recipe(tmp_path / "mark.toml").training.max_steps == 7


def test_a_recipe_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: the recipe cannot be read: No such file or directory$"):
        load_recipe(tmp_path / "missing.toml")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.toml: the recipe cannot be read: it is not UTF-8$"):
        load_recipe(tmp_path / "latin.toml")
    assert message("[training\n").startswith("my.toml: not TOML: ")


FAMILIES = {
    "bahdanau": '[model]\nencoder = "gru"\ndecoder = "gru"\n',
    "luong": '[model]\nencoder = "lstm"\ndecoder = { type = "lstm", input_feeding = false }\n',
    "transformer": '[model]\nembedding = 64\nencoder = { type = "transformer", width = 64 }\n'
    'decoder = { type = "transformer", width = 64, norm = "post" }\n',
    "mixed": '[model]\nencoder = "transformer"\ndecoder = { type = "gru", attention = "dot" }\n',
    "corpora": '[[data.train]]\nformat = "tsv"\npath = "a.tsv"\nsource = "en"\ntarget = 2\n[[data.train]]\n'
    'format = "jsonl"\npath = "b.jsonl"\nweight = 0.5\n[data.test]\nformat = "datasets"\ndataset = "d"\n'
    'source = "en"\ntarget = "de"\n',
    "schedules": '[training]\nbetas = [0.5, 0.6]\nschedule = { type = "plateau", factor = 0.3 }\n',
}


@pytest.mark.parametrize("text", FAMILIES.values(), ids=FAMILIES)
def test_a_recipe_written_and_read_back_is_equal(text: str) -> None:
    recipe = parse_recipe(text)
    assert parse_recipe(recipe.to_toml()) == recipe
    assert parse_recipe(recipe.to_toml()).to_toml() == recipe.to_toml()


@settings(max_examples=50, deadline=None)
@given(
    rate=st.floats(min_value=1e-12, max_value=1e3),
    name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    seed=st.integers(0, 2**62),
)
def test_any_value_survives_being_written(rate: float, name: str, seed: int) -> None:
    recipe = Recipe.model_validate(
        {"data": {"source": name}, "training": {"learning_rate": rate, "seed": seed}, "tokenizer": {}}
    )
    assert parse_recipe(recipe.to_toml()) == recipe


def test_a_union_is_taken_by_its_type() -> None:
    recipe = parse_recipe('[model]\nencoder = "gru"\ndecoder = { type = "lstm", layers = 2 }\n')
    assert recipe.model.encoder == GruEncoder(type="gru")
    assert recipe.model.decoder == LstmDecoder(type="lstm", layers=2)
    assert isinstance(parse_recipe("").model.encoder, TransformerEncoder)
    assert isinstance(parse_recipe("").training.schedule, InverseSqrtSchedule)
    assert parse_recipe('[training]\nschedule = "cosine"\n').training.schedule == CosineSchedule(type="cosine")


@pytest.mark.parametrize("text", ["en", "nan", "12", "1e5", "true", '"q"', "a b ", "ü 😀", "back\\slash", "[x]", ""])
def test_a_setting_is_read_as_the_text_that_it_was_made_of(text: str) -> None:
    assert parse_recipe("", overrides=[setting("data.source", text)]).data.source == text
    assert setting("data.source", "en") == "data.source=en"


def test_the_format_of_a_corpus_decides_what_it_may_say() -> None:
    assert parse_recipe(FAMILIES["corpora"]).data.train == (
        TsvCorpus(format="tsv", path=Path("a.tsv"), source="en", target=2),
        JsonlCorpus(format="jsonl", path=Path("b.jsonl"), weight=0.5),
    )
    assert isinstance(parse_recipe(FAMILIES["corpora"]).data.test, DatasetsCorpus)
    assert "data.train.0.path: unknown key" in message('[data.train]\nsource="a"\ntarget="b"\npath = "c"\n')


def test_a_corpus_without_a_format_is_two_text_files_and_one_needs_no_array() -> None:
    one = parse_recipe('[data.train]\nsource = "a.en"\ntarget = "a.fr"\n')
    assert one.data.train == (TextCorpus(source=Path("a.en"), target=Path("a.fr")),)
    assert one == parse_recipe('[[data.train]]\nsource = "a.en"\ntarget = "a.fr"\n')


def test_all_faults_come_in_one_line_each_with_its_key() -> None:
    said = message(
        '[training]\nmax_steps = 0\nlearning_rate = "fast"\n[decoding]\nbeem = 5\n'
        '[model.encoder]\ntype = "gru"\nlayers = 0\n'
    )
    assert said.startswith("my.toml: ")
    assert "\n" not in said
    assert said.removeprefix("my.toml: ").split("; ") == [
        "model.encoder.layers: input should be greater than or equal to 1, not 0",
        "training.max_steps: input should be greater than or equal to 1, not 0",
        "training.learning_rate: input should be a valid number, unable to parse string as a number, not 'fast'",
        "decoding.beem: unknown key, did you mean 'beam'?",
    ]


@pytest.mark.parametrize(
    "text, words",
    [
        ("[trianing]\nmax_steps = 1\n", "trianing: unknown key, did you mean 'training'?"),
        ("[training]\nmax_step = 1\n", "training.max_step: unknown key, did you mean 'max_steps'?"),
        ('[model.encoder]\ntype = "gru"\nlayer = 1\n', "model.encoder.layer: unknown key, did you mean 'layers'?"),
        ('[model.encoder]\ntype = "gru"\nheads = 1\n', "model.encoder.heads: unknown key: it belongs to 'transformer'"),
        ("[data]\nbeam = 1\n", "data.beam: unknown key, did you mean 'decoding.beam'?"),
        ("[decoding]\nqqq = 1\n", "decoding.qqq: unknown key; known here: alpha, batch_size, beam,"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(text: str, words: str) -> None:
    assert message(text).startswith(f"my.toml: {words}")


@pytest.mark.parametrize(
    "text, words",
    [
        ('[model]\nencoder = "gruu"\n', "model.encoder: "),
        ("[model]\ntied_embeddings = 1\n", "model.tied_embeddings: input should be 0, 2 or 3, not 1"),
        ("[training]\nlabel_smoothing = 1.0\n", "training.label_smoothing: input should be less than 1, not 1.0"),
        ("[tokenizer]\njoint = false\n", "model.tied_embeddings = 3 needs tokenizer.joint = true"),
        ('[tokenizer]\nsource_model = "a"\n', "tokenizer: source_model and target_model go together"),
        ('[model]\nencoder = { type = "gru", width = 7 }\n', "model.encoder: width 7 cannot be halved"),
        ('[model]\nencoder = { type = "transformer", heads = 3 }\n', "width 512 is not divisible by heads 3"),
        ("[training]\nweight_decay = 0.1\n", "training: weight_decay belongs to optimizer = 'adamw' or 'muon'"),
        ('[data.train]\nsource = "a"\n', "data.train.0.target: Field required"),
        ("[training]\nlearning_rate = inf\n", "training.learning_rate: input should be a finite number, not inf"),
        ("[training]\nseed = 100000000000000000000\n", "training.seed: input should be less than 9223372036854775808"),
        (f"[training]\nseed = {'9' * 5000}\n", "my.toml: not TOML: Exceeds the limit"),
        ("[training]\nmax_steps = 2147483648\n", "training.max_steps: a number larger than 2147483647"),
        ("[decoding]\nalpha = 1e300\n", "decoding.alpha: input should be less than or equal to 10"),
        ('[data.train]\nsource = "a\\u0000b"\ntarget = "b"\n', "data.train.0.source: text with a null character"),
        (f"a = {'[' * 5000}", "my.toml: not TOML: maximum recursion depth exceeded"),
    ],
)
def test_what_does_not_go_together_is_refused_with_its_key(text: str, words: str) -> None:
    said = message(text)
    assert words in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "override, value",
    [
        ("training.max_steps=100", 100),
        ("training.max_steps = 100", 100),
        ("training.learning_rate=1e-3", 1e-3),
        ("training.learning_rate=1", 1.0),
        ("training.metric=chrf", "chrf"),
        ('training.metric="chrf"', "chrf"),
        ("training.betas=[0.5, 0.25]", (0.5, 0.25)),
        ("data.source=no", "no"),
        ("data.source='a=b'", "a=b"),
        ("data.drop_duplicates=true", True),
        ("model.decoder.layers=3", 3),
        ("model.encoder.type=lstm", "lstm"),
    ],
)
def test_an_override_is_typed_by_its_field(override: str, value: object) -> None:
    text = '[model]\nencoder = "gru"\ndecoder = "gru"\n'
    found: object = parse_recipe(text, overrides=[override])
    for part in override.partition("=")[0].strip().split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_later_overrides_win_and_leave_the_rest() -> None:
    recipe = parse_recipe(
        "[training]\nmax_steps = 5\nseed = 3\n", overrides=["training.max_steps=6", "training.max_steps=7"]
    )
    assert (recipe.training.max_steps, recipe.training.seed) == (7, 3)


def test_an_override_goes_into_a_part_given_by_its_name() -> None:
    recipe = parse_recipe(
        '[model]\ndecoder = "gru"\n', overrides=["model.decoder.readout=8", "model.tied_embeddings=0"]
    )
    assert recipe.model.decoder == GruDecoder(type="gru", readout=8)


@pytest.mark.parametrize(
    "override, words",
    [
        ("max_steps", "--set max_steps: write it as part.key=value, such as training.max_steps=100"),
        ("=5", "--set =5: write it as part.key=value"),
        ("training..x=5", "--set training..x=5: write it as"),
        ("training.seed.x=5", "'seed' is not a table that keys can be set in"),
        ("training.max_step=5", "training.max_step: unknown key, did you mean 'max_steps'?"),
        ("training.max_steps=many", "training.max_steps: input should be a valid integer"),
    ],
)
def test_a_wrong_override_is_refused(override: str, words: str) -> None:
    assert words in message("[training]\nseed = 1\n", override)


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().training.max_steps = 3
