"""Numbers in words, against numerals spelt out by rules of their own."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from nmt.data.grammar import Grammar

words = str.split

ENGLISH = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
ENGLISH_TENS = words("- - twenty thirty forty fifty sixty seventy eighty ninety")
FRENCH = words(
    "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept dix-huit "
    "dix-neuf"
)
FRENCH_TENS = words("- - vingt trente quarante cinquante soixante soixante quatre-vingt quatre-vingt")


def in_english(number: int) -> str:
    thousands, rest = divmod(number, 1000)
    hundreds, below = divmod(rest, 100)
    tens, units = divmod(below, 10)
    small = ENGLISH[below] if below < 20 else ENGLISH_TENS[tens] + (f"-{ENGLISH[units]}" if units else "")
    parts = [f"{in_english(thousands)} thousand"] if thousands else []
    parts += [f"{ENGLISH[hundreds]} hundred"] if hundreds else []
    parts += ["and", small] if below and parts else [small] if below else []
    return " ".join(parts)


def in_french(number: int, *, feminine: bool = False, last: bool = True) -> str:
    thousands, rest = divmod(number, 1000)
    hundreds, below = divmod(rest, 100)
    parts = [in_french(thousands, last=False)] if thousands > 1 else []
    parts += ["mille"] if thousands else []
    if hundreds:
        parts += [FRENCH[hundreds]] if hundreds > 1 else []
        parts += ["cents" if hundreds > 1 and not below and last else "cent"]
    if below:
        parts.append(french_below_100(below, feminine, last))
    return " ".join(parts)


def french_below_100(number: int, feminine: bool, last: bool) -> str:
    one = "une" if feminine else "un"
    if number == 80:
        return "quatre-vingts" if last else "quatre-vingt"
    tens = number // 10
    rest = number % 20 if number >= 60 else number % 10
    if number < 20:
        return one if number == 1 else FRENCH[number]
    if rest == 0:
        return FRENCH_TENS[tens]
    unit = one if rest == 1 else FRENCH[rest]
    and_ = rest == 1 or number == 71
    return f"{FRENCH_TENS[tens]} et {unit}" if and_ and number < 80 else f"{FRENCH_TENS[tens]}-{unit}"


KNOWN = {
    2: ("two", "deux"),
    16: ("sixteen", "seize"),
    17: ("seventeen", "dix-sept"),
    20: ("twenty", "vingt"),
    21: ("twenty-one", "vingt et un"),
    22: ("twenty-two", "vingt-deux"),
    60: ("sixty", "soixante"),
    61: ("sixty-one", "soixante et un"),
    70: ("seventy", "soixante-dix"),
    71: ("seventy-one", "soixante et onze"),
    72: ("seventy-two", "soixante-douze"),
    77: ("seventy-seven", "soixante-dix-sept"),
    80: ("eighty", "quatre-vingts"),
    81: ("eighty-one", "quatre-vingt-un"),
    90: ("ninety", "quatre-vingt-dix"),
    91: ("ninety-one", "quatre-vingt-onze"),
    99: ("ninety-nine", "quatre-vingt-dix-neuf"),
    100: ("one hundred", "cent"),
    101: ("one hundred and one", "cent un"),
    200: ("two hundred", "deux cents"),
    201: ("two hundred and one", "deux cent un"),
    280: ("two hundred and eighty", "deux cent quatre-vingts"),
    1000: ("one thousand", "mille"),
    1001: ("one thousand and one", "mille un"),
    2000: ("two thousand", "deux mille"),
    1999: ("one thousand nine hundred and ninety-nine", "mille neuf cent quatre-vingt-dix-neuf"),
    80_000: ("eighty thousand", "quatre-vingt mille"),
    200_000: ("two hundred thousand", "deux cent mille"),
    200_300: ("two hundred thousand three hundred", "deux cent mille trois cents"),
    999_999: (
        "nine hundred and ninety-nine thousand nine hundred and ninety-nine",
        "neuf cent quatre-vingt-dix-neuf mille neuf cent quatre-vingt-dix-neuf",
    ),
}


@pytest.mark.parametrize("number", KNOWN)
def test_the_numerals_to_compare_with_are_right(number: int) -> None:
    assert (in_english(number), in_french(number)) == KNOWN[number]


def numbers(symbol: str, count: int) -> Iterator[tuple[int, str]]:
    """Drawn numbers: their value, read off the English, and the French."""
    values = {in_english(number): number for number in range(1, 1000)}
    sample = Grammar.load().sampler(random.Random(3).random, symbol)
    for _ in range(count):
        pair = sample()
        thousands, word, rest = pair.source.lower().rpartition(" thousand")
        value = 1000 * values[thousands] if word else 0
        rest = rest.strip().removeprefix("and ")
        yield value + (values[rest] if rest else 0), pair.target.lower()


@pytest.mark.parametrize("form", ["m", "f"])
def test_numbers_are_right(form: str) -> None:
    drawn = dict(numbers(f"Number {form}", 20_000))
    assert set(range(2, 102)) | {200, 201, 1000, 80_000} <= set(drawn)
    assert max(drawn) > 900_000 and min(drawn) == 2
    for number, french in drawn.items():
        assert french == in_french(number, feminine=form == "f"), number


@pytest.mark.parametrize("symbol", ["FromTwo k", "FromHundred k", "Thousands"])
def test_numbers_before_mille_and_as_labels_are_right(symbol: str) -> None:
    for number, french in numbers(symbol, 5000):
        assert french == in_french(number, last=False), number


def test_a_number_is_derived_in_one_way() -> None:
    """Each of the 98 numbers from 2 has one derivation, so as many derivations as numbers are found."""
    drawn = list(numbers("FromTwo m", 5000))
    assert len(set(drawn)) == len({number for number, _ in drawn}) == 98
