"""What is read and written line by line, against forms worked out by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.request import Request
from nmt.decoding.translator import Translation
from nmt.errors import DataError
from nmt.formats import Record, Style, read, render

LOGS = (math.log(0.5), math.log(0.25), math.log(0.8), math.log(0.5))
LOOKS = np.array([[0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0]], dtype=np.float32)


def translation(**changes: Any) -> Translation:
    """Two source words, three target pieces that make two words, a second-best of one word."""
    best = Hypothesis((7, 8, 9), -2.3025851, -0.57564627, LOOKS, "le chat", LOGS)
    second = Hypothesis((7,), -3.0, -1.5, LOOKS[[0, 3]], "le", (-1.0, -2.0))
    settings: dict[str, Any] = {
        "source": "the cat",
        "source_tokens": (4, 5),
        "source_pieces": ("▁the", "▁cat"),
        "hypotheses": (best, second),
        "source_words": (0, 1),
        "target_words": ((0, 1, 1), (0,)),
        "target_pieces": (("▁le", "▁ch", "at"), ("▁le",)),
        **changes,
    }
    return Translation(**settings)


BLANK = Translation("", (), (), ())


def written(style: Style, record: Record | None = None, found: Translation | None = None, number: int = 3) -> str:
    return render(record or Record(Request("the cat")), found or translation(), number, style)


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        (Style(), "le chat"),
        (Style(scores=True), "le chat ||| logprob= -2.3026 ||| -0.5756"),
        (Style(align="hard"), "le chat ||| 0-0 1-1"),
        (Style(align=0.1), "le chat ||| 0-0 0-1 1-1"),
        (Style(align=0.8), "le chat ||| 0-0"),
        (Style(align="soft"), "le chat ||| 0.9000,0.0500 0.1500,0.7500"),
        (Style(align="hard", units="pieces"), "le chat ||| 0-0 1-1 1-2"),
        (Style(align="soft", units="pieces"), "le chat ||| 0.9000,0.0500 0.2000,0.7000 0.1000,0.8000"),
        (Style(confidence=True), "le chat ||| confidence= 0.5000 0.2000"),
        (
            Style(align="hard", confidence=True, scores=True),
            "le chat ||| 0-0 1-1 ||| confidence= 0.5000 0.2000 ||| logprob= -2.3026 ||| -0.5756",
        ),
        (
            Style("moses", nbest=2),
            "3 ||| le chat ||| logprob= -2.3026 ||| -0.5756\n3 ||| le ||| logprob= -3.0000 ||| -1.5000",
        ),
        (Style("tsv"), "le chat"),
        (Style("tsv", scores=True, confidence=True), "le chat\t-2.3026\t-0.5756\t0.5000 0.2000"),
        (Style("tsv", nbest=2, align="hard"), "3\t1\tle chat\t0-0 1-1\n3\t2\tle\t0-0 1-0"),
    ],
)
def test_by_hand(style: Style, expected: str) -> None:
    assert written(style) == expected


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        (Style(), ""),
        (Style(align="soft", confidence=True, scores=True), " |||  ||| confidence= ||| logprob= 0.0000 ||| 0.0000"),
        (Style("moses", nbest=2), "3 |||  ||| logprob= 0.0000 ||| 0.0000"),
        (Style("tsv", nbest=2, scores=True), "3\t1\t\t0.0000\t0.0000"),
        (Style("jsonl", nbest=2, scores=True), ""),
    ],
)
def test_a_blank_line_has_one_blank_translation(style: Style, expected: str) -> None:
    assert written(style, Record(Request("")), BLANK) == expected


def test_a_tab_in_a_translation_makes_no_column() -> None:
    hypothesis = Hypothesis((7,), -1.0, -1.0, text="le\tchat")
    assert (
        written(Style("tsv", scores=True), found=translation(hypotheses=(hypothesis,))) == "le chat\t-1.0000\t-1.0000"
    )


def test_json_keeps_what_it_does_not_know() -> None:
    line = '{"id": 12, "source": "the cat", "nested": {"ä": [1, null, 2.5]}, "translation": "old"}'
    style = Style("jsonl", scores=True, align="hard", confidence=True)
    answer = json.loads(written(style, read(line, style, "stdin:1")))
    assert answer == {
        "id": 12,
        "source": "the cat",
        "nested": {"ä": [1, None, 2.5]},
        "translation": "le chat",
        "logprob": -2.3025851,
        "score": -0.57564627,
        "confidence": [0.5, 0.2],
        "alignment": [[0, 0], [1, 1]],
    }


@pytest.mark.parametrize("number", ["1e400", "-1e999", "9" * 5000])
def test_a_number_that_could_not_be_written_again_is_refused(number: str) -> None:
    with pytest.raises(DataError, match=r"^stdin:1: not JSON \("):
        read(f'{{"source": "the cat", "x": {number}}}', Style("jsonl"), "stdin:1")


def test_phrases_that_an_earlier_translation_lacked_are_not_told_again() -> None:
    line = '{"source": "the cat", "use": ["chat"], "unmet": ["chat"]}'
    told = {
        constraints: json.loads(written(style, read(line, style, "stdin:1"), translation(unmet=((), ()))))
        for constraints in (False, True)
        for style in [Style("jsonl", constraints=constraints)]
    }
    assert "unmet" not in told[True]
    assert told[False]["unmet"] == ["chat"]  # a field like any other


def test_a_blank_line_uses_no_phrase_and_says_so() -> None:
    style = Style("jsonl", constraints=True)
    answer = json.loads(written(style, read('{"source": " ", "use": ["chat"]}', style, "stdin:1"), BLANK))
    assert (answer["translation"], answer["unmet"]) == ("", ["chat"])


def test_json_with_n_best_and_pieces() -> None:
    style = Style("jsonl", nbest=2, align="soft", units="pieces")
    record = read('{"source": "the cat"}', style, "stdin:1")
    answer = json.loads(written(style, record, translation(unmet=((), ("chien",)))))
    assert answer["translation"] == "le chat"
    assert answer["source_pieces"] == ["▁the", "▁cat"]
    assert [one["translation"] for one in answer["nbest"]] == ["le chat", "le"]
    assert [one["target_pieces"] for one in answer["nbest"]] == [["▁le", "▁ch", "at"], ["▁le"]]
    assert [len(one["attention"]) for one in answer["nbest"]] == [3, 1]
    assert [one.get("unmet") for one in answer["nbest"]] == [None, ["chien"]]


def test_json_that_was_an_answer_before_keeps_no_old_report() -> None:
    style = Style("jsonl", constraints=True)
    line = '{"source": "the cat", "use": ["chat"], "unmet": ["chat"]}'
    assert "unmet" not in json.loads(written(style, read(line, style, "stdin:1")))
    found = translation(unmet=(("chat",), ()))
    assert json.loads(written(style, read(line, style, "stdin:1"), found))["unmet"] == ["chat"]
    assert json.loads(written(Style("jsonl"), read(line, Style("jsonl"), "stdin:1")))["unmet"] == ["chat"]


def test_a_score_that_rounds_to_nothing_has_no_sign() -> None:
    found = translation(hypotheses=(Hypothesis((7,), -1e-9, -1e-9, text="le"),))
    assert written(Style(scores=True), found=found) == "le ||| logprob= 0.0000 ||| 0.0000"
    assert written(Style("tsv", scores=True), found=found) == "le\t0.0000\t0.0000"


def test_half_a_character_in_json_is_passed_through_as_it_was_spelt() -> None:
    style = Style("jsonl")
    record = read('{"source": "a \\ud800 cat", "other": "\\udfff"}', style, "stdin:1")
    assert record.request.text == "a \ufffd cat"
    line = written(style, record)
    assert line.encode("utf-8")
    assert json.loads(line)["other"] == "\udfff"


def test_constraints_in_columns_and_in_fields() -> None:
    columns, fields = Style(constraints=True), Style("jsonl", constraints=True)
    expected = Request("the cat", "le", ("chat noir", "dort"), ("chien",))
    assert read("the cat\tchat noir ||| dort\tchien\tle", columns, "stdin:1").request == expected
    assert read("the cat\t|||\t", columns, "stdin:1").request == Request("the cat")
    line = json.dumps({"source": "the cat", "use": ["chat noir", "dort"], "avoid": ["chien"], "prefix": "le"})
    assert read(line, fields, "stdin:1").request == expected
    assert read(line, Style("jsonl"), "stdin:1").request == Request("the cat")  # fields like any other
    assert read("a\tb", Style(), "stdin:1").request == Request("a\tb")  # a tab like any other character


@pytest.mark.parametrize(
    ("line", "style", "message"),
    [
        ("{", Style("jsonl"), r"in:7: not JSON \("),
        ("[1]", Style("jsonl"), 'in:7: not a JSON object with the text to translate as "source"'),
        ('{"source": 5}', Style("jsonl"), 'in:7: not a JSON object with the text to translate as "source"'),
        ("[" * 99999, Style("jsonl"), r"in:7: not JSON \("),
        ('{"source": "", "n": NaN}', Style("jsonl"), r"in:7: not JSON \(NaN is no number in JSON\)"),
        ('{"source": "", "n": -1e999}', Style("jsonl"), r"in:7: not JSON \(-1e999 is a number out of range\)"),
        ('{"source": ' + "9" * 5000 + "}", Style("jsonl"), r"in:7: not JSON \("),
        ('{"source": "", "use": "x"}', Style("jsonl", constraints=True), 'in:7: "use" is not a list of phrases'),
        ('{"source": "", "avoid": [1]}', Style("jsonl", constraints=True), 'in:7: "avoid" is not a list of phrases'),
        ('{"source": "", "prefix": 1}', Style("jsonl", constraints=True), 'in:7: "prefix" is not text'),
        ("a\tb\tc\td\te", Style(constraints=True), "in:7: 5 columns: there are source, phrases to use"),
    ],
)
def test_what_cannot_be_read_is_told(line: str, style: Style, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(line, style, "in:7")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4), st.text())
def test_any_object_keeps_its_fields(fields: dict[str, Any], text: str) -> None:
    style = Style("jsonl")
    content = {**fields, "source": text}
    line = written(style, read(json.dumps(content), style, "stdin:1"))
    assert "\n" not in line
    assert json.loads(line) == {**content, "translation": "le chat"}
