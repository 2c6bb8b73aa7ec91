"""Expected utilities against a double loop over sacreBLEU's own sentence scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.config import DecodingConfig
from nmt.data.batching import pad
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.mbr import by_expected_utility, minimum_bayes_risk
from nmt.decoding.sampling import sample
from nmt.decoding.utility import UtilityName, agreement
from nmt.errors import ConfigError

PAD, UNK, BOS, EOS = 0, 1, 2, 3
IDS: dict[str, Any] = {"bos_id": BOS, "eos_id": EOS, "forbidden": (PAD, UNK)}
WORDS = ["", "", "", "", "the", "cat", "catches", "a", "mouse", "mice,", "two", "."]
UTILITIES: list[UtilityName] = ["chrf", "bleu"]


def config(**changes: Any) -> DecodingConfig:
    return DecodingConfig.model_validate({"max_ratio": 1.0, "max_extra": 0, "mbr": "chrf", **changes})


def decode(tokens: Sequence[int]) -> str:
    return " ".join(WORDS[token] for token in tokens)


def score(utility: UtilityName, hypothesis: str, reference: str) -> float:
    """sacreBLEU's own."""
    if utility == "chrf":
        return sacrebleu.sentence_chrf(hypothesis, [reference]).score
    return sacrebleu.sentence_bleu(hypothesis, [reference]).score


words = st.text(alphabet="ab éß中.,' \t\u3000\u200b🙂", max_size=12) | st.lists(
    st.sampled_from(["the", "cat", "sat,", "on", "the", "mat.", "3.5", "don't"]), max_size=7
).map(" ".join)


@pytest.mark.parametrize("utility", UTILITIES)
@settings(deadline=None, max_examples=60, derandomize=True)
@given(texts=st.lists(words, min_size=1, max_size=5))
def test_agreement_is_sacrebleus(utility: UtilityName, texts: list[str]) -> None:
    expected = [[score(utility, hypothesis, reference) for reference in texts] for hypothesis in texts]
    np.testing.assert_allclose(agreement(texts, utility), expected, atol=1e-9)


@pytest.mark.parametrize("utility", UTILITIES)
def test_expected_utility_is_the_mean_over_all_samples(table_model: Any, utility: UtilityName) -> None:
    model = table_model(vocabulary=len(WORDS), positions=9, seed=2)
    source, mask = pad([[10] * 9, [11] * 3, [12] * 6], PAD)
    asked = config(mbr=utility, mbr_samples=40, temperature=0.7, top_p=0.95)
    drawn = sample(model, source, mask, config=asked, nbest=40, **IDS)
    found = minimum_bayes_risk(model, source, mask, config=asked, decode=decode, nbest=40, **IDS)
    for samples, ranked in zip(drawn, found, strict=True):
        texts = [decode(one.tokens) for one in samples]
        means = {text: sum(score(utility, text, other) for other in texts) / len(texts) for text in texts}
        assert 1 < len(means) < len(texts)
        assert {one.text: one.score for one in ranked} == pytest.approx(means)
        assert len(ranked) == len(means)
        assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
        for one in ranked:
            assert decode(one.tokens) == one.text
            (own, *_) = [other for other in samples if other.tokens == one.tokens]
            assert one.log_probability == own.log_probability
            assert one.token_log_probabilities == own.token_log_probabilities


def test_what_was_drawn_twice_counts_twice() -> None:
    """Three samples agree on little; the one that was drawn most often wins, and a likelier one does not."""
    texts = ["aaaa bbbb", "cccc dddd", "cccc dddd", "eeee ffff"]
    samples = [Hypothesis((number,), -1.0 - number, -1.0) for number in range(4)]
    ranked = by_expected_utility(samples, "chrf", lambda tokens: texts[tokens[0]])
    assert [one.text for one in ranked] == ["cccc dddd", "aaaa bbbb", "eeee ffff"]
    assert [one.score for one in ranked] == [50.0, 25.0, 25.0]
    assert ranked[0].log_probability == -2.0  # that of the likelier way to write it


def test_the_best_come_first_and_no_more_than_there_are(table_model: Any) -> None:
    model = table_model(vocabulary=len(WORDS), positions=9, seed=2)
    source = torch.full((1, 6), 10)

    def best(nbest: int) -> list[Hypothesis]:
        (found,) = minimum_bayes_risk(
            model, source, source > 0, config=config(), decode=decode, nbest=nbest, attention=True, **IDS
        )
        return found

    everything = best(32)
    assert 3 < len(everything) < 32
    assert [one.tokens for one in best(3)] == [one.tokens for one in everything[:3]]
    for one in everything:
        assert one.attention is not None
        expected = model.attention_of(10, one.tokens, 6)
        np.testing.assert_allclose(one.attention, expected.numpy(), rtol=1e-5)


def test_what_cannot_be_asked_for_is_refused(table_model: Any) -> None:
    source = torch.full((1, 3), 10)
    for changes, nbest, words in (
        ({"mbr": "none"}, 1, "needs a utility: set decoding.mbr to chrf or bleu"),
        ({"mbr_samples": 4}, 5, "nbest 5 of 4 samples"),
    ):
        with pytest.raises(ConfigError, match=words):
            minimum_bayes_risk(
                table_model(), source, source > 0, config=config(**changes), decode=decode, nbest=nbest, **IDS
            )
