"""A glossary: which terms a line has, what is asked for then, and what no glossary may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from nmt.decoding.glossary import Glossary
from nmt.errors import ConfigError, DataError

TERMS = {
    "house": "la maison",
    "green house": "la serre",
    "US": "les États-Unis",
    "e-mail": "le courriel",
    "C++": "C++",
    "naïve": "naïf",
    "機械": "machine",
    "機械翻訳": "traduction automatique",
    "दि": "di",
    "กา": "ka",
    "کتاب": "book",
    "Donaudampf": "Danube steam",
    "rock'n'roll": "le rock",
    "ភាសា ខ្មែរ": "khmer",
    "istanbul": "Istanbul",
    "\u0131l\u0131k": "warm",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the house sleeps .", ["la maison"]),
        ("House and House, house", ["la maison"]),  # with a capital in front, and once
        ("HOUSE houses lighthouse house2", []),  # other words
        ("(house)", ["la maison"]),
        ("a green  house by a house", ["la serre", "la maison"]),  # the longest, whatever space there is
        ("Green\u00a0house", ["la serre"]),
        ("green, house", ["la maison"]),
        ("join us in the US", ["les États-Unis"]),  # capitals of a term are its own
        ("an e-mail in C++.", ["le courriel", "C++"]),
        ("naive or nai\u0308ve", ["naïf"]),  # a letter and its mark are one, however they are written
        ("機械翻訳は機械だ", ["traduction automatique", "machine"]),  # no spaces, no words
        ("दिन", []),
        ("दि", ["di"]),
        ("กาก้า", ["ka"]),
        ("กา\u0e49", []),  # another mark on it makes it another character
        ("کتاب\u200cها", []),  # a joiner that is not seen is within a word
        ("کتاب", ["book"]),
        ("die Donau\u00addampf\u00adschiffe", []),
        ("der Donau\u00addampf", ["Danube steam"]),
        ("rock\u2019n\u2019roll and e\u2011mail", ["le rock", "le courriel"]),  # apostrophes and hyphens of all kinds
        ("the \uff35\uff33", ["les États-Unis"]),
        ("\u0130stanbul Il\u0131k", ["Istanbul", "warm"]),  # Turkish capitals
        ("ភាសា\u200bខ្មែរ", ["khmer"]),
        ("", []),
    ],
)
def test_terms_are_found_as_whole_words(text: str, expected: list[str]) -> None:
    assert list(Glossary(TERMS).phrases(text)) == expected


def test_the_search_goes_on_behind_a_term() -> None:
    glossary = Glossary({"a b": "1", "b c": "2", "b": "3"})
    assert glossary.phrases("a b c") == ("1",)
    assert glossary.phrases("b c b a b") == ("2", "3", "1")


def test_a_term_as_it_is_written_goes_before_one_that_begins_small() -> None:
    glossary = Glossary({"may": "peut", "May": "mai", "may be": "peut être"})
    assert glossary.phrases("may May") == ("peut", "mai")
    assert glossary.phrases("May be") == ("peut être",)


def test_a_file_has_a_term_a_line(tmp_path: Path) -> None:
    path = tmp_path / "terms.tsv"
    path.write_text("cat\tchat\n\n dog \t chien \nnmt\ncat\tchat\n", encoding="utf-8")
    assert Glossary.read(path).phrases("a dog, a cat and nmt") == ("chien", "chat", "nmt")


@pytest.mark.parametrize(
    ("keep", "text", "expected"),
    [
        (r"https?://\S+", "a house at https://house.org/house", ["https://house.org/house", "la maison"]),
        (r"\{\w+\}|%s", "{house}: %s, {US}, %s", ["{house}", "%s", "{US}", "%s"]),  # as often as it is there
        (r"\{\w+\}", "green {x} house", ["{x}", "la maison"]),  # no term goes on behind it
        (r"[A-Z]{2,}", "HOUSE house", ["HOUSE", "la maison"]),
        (r"\d+  \w+", "12  km", ["12 km"]),
        (r"\s*|x*", "a house", ["la maison"]),  # matches of nothing
        (r"(?i)house", "House", ["House"]),
        ("nothing", "", []),
    ],
)
def test_what_an_expression_matches_is_kept_as_it_is(keep: str, text: str, expected: list[str]) -> None:
    assert list(Glossary(TERMS, keep=keep).phrases(text)) == expected
    assert list(Glossary(keep=keep).phrases(text)) == [one for one in expected if one in " ".join(text.split())]


def test_what_is_no_expression_is_told() -> None:
    with pytest.raises(ConfigError, match=r"keep: '\(a' is no regular expression: missing \), unterminated"):
        Glossary(keep="(a")


def test_a_glossary_may_ask_for_nothing() -> None:
    assert not Glossary()
    assert Glossary(keep="a")
    assert Glossary({"a": "b"})


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("cat\tchat\nthe cat\tle\tchat\n", "terms.tsv:2: 3 columns: there are a term and its translation"),
        ("cat\t\n", "terms.tsv:1: no translation; without the tab a term is kept as it is"),
        ("\n\tchat\n", "terms.tsv:2: no term; without the tab a term is kept as it is"),
        ("cat\tchat\ncat\tminou\n", 'terms.tsv:2: "cat" is "minou" here and "chat" before: leave one out'),
        ("\n", "terms.tsv: has no terms: a line is a term, a tab and its translation"),
    ],
)
def test_what_is_no_glossary_is_told_with_its_line(lines: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "terms.tsv"
    path.write_text(lines, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        Glossary.read(path)
    assert str(caught.value) == f"{tmp_path}/{told}"
