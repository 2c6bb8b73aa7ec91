"""BLEU, chrF2, chrF++ and TER, each with the signature that says which one it is.

The figures are sacreBLEU's own (Post 2018), to the last digit of its command line; what is added here is what its
Python interface leaves out: it does not compare the number of hypotheses with the number of references (two
hypotheses against three references can score 100), and takes a flat list of references for many one-letter ones.

sacreBLEU is imported when the first score is computed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from nmt.errors import ConfigError, DataError, check_choice

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

__all__ = [
    "ALL_METRICS",
    "Comparison",
    "MetricName",
    "Score",
    "Tokenization",
    "check_tokenization",
    "compare",
    "default_tokenization",
    "evaluate",
    "looks_tokenized",
    "tokenizations",
]

MetricName = Literal["bleu", "chrf", "chrf++", "ter"]
"""BLEU (Papineni et al. 2002), chrF2 and chrF++ (Popović 2015, 2017), TER (Snover et al. 2006)."""

ALL_METRICS: tuple[MetricName, ...] = get_args(MetricName)

Tokenization = Literal[
    "none", "zh", "13a", "intl", "char", "ja-mecab", "ko-mecab", "spm", "flores101", "flores200", "spBLEU-1K"
]
"""How BLEU cuts text into words, under sacreBLEU's names."""

_BY_LANGUAGE: Mapping[str, Tokenization] = {
    **dict.fromkeys(("zh", "zho", "chi", "cmn", "yue"), "zh"),
    **dict.fromkeys(("ja", "jpn"), "ja-mecab"),
    **dict.fromkeys(("ko", "kor"), "ko-mecab"),
}
"""By the language's code in two letters or in three (ISO 639), as FLORES has them before the script."""

_TOKENIZED_LINES = 100
"""From this many lines ending in `` .`` on, sacreBLEU takes a text for tokenised."""


@dataclass(frozen=True)
class Score:
    """One figure and its signature.

    ``name`` is sacreBLEU's (BLEU, chrF2, chrF2++, TER), ``value`` is in percent and not rounded, ``detail`` is what
    belongs beside it (BLEU's n-gram precisions and brevity penalty; empty for the others).
    """

    name: str
    value: float
    signature: str
    detail: str = ""

    def line(self, width: int = 2) -> str:
        """The line sacreBLEU's command prints (``--format text``), with ``width`` digits after the point."""
        return f"{self.name}|{self.signature} = {self.value:.{width}f} {self.detail}".rstrip()

    def as_dict(self) -> dict[str, object]:
        """The score under the keys of sacreBLEU's own JSON, not rounded."""
        detail = {"verbose_score": self.detail} if self.detail else {}
        return {"name": self.name, "score": self.value, "signature": self.signature, **detail}


def evaluate(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    metrics: Sequence[MetricName] = ALL_METRICS,
    tokenize: Tokenization = "13a",
    lowercase: bool = False,
    chrf_lowercase: bool = False,
    ter_case_sensitive: bool = False,
) -> list[Score]:
    """Score ``hypotheses`` against one or more whole sets of ``references``, in the order of ``metrics``.

    The options are sacreBLEU's: ``tokenize`` and ``lowercase`` concern BLEU alone, and TER ignores case unless told
    otherwise. Raises DataError where the number of lines differs or is zero, ConfigError for a metric or tokenisation
    that is none, and where a tokenisation needs what is not installed.
    """
    _check_names(metrics, tokenize)
    _check(hypotheses, references)
    scores = []
    for name in metrics:
        with _quiet():
            metric = _metric(
                name,
                tokenize=tokenize,
                lowercase=lowercase,
                chrf_lowercase=chrf_lowercase,
                ter_case_sensitive=ter_case_sensitive,
            )
            result = metric.corpus_score(hypotheses, references)
        scores.append(Score(result.name, float(result.score), str(metric.get_signature()), result._verbose))
    return scores


@dataclass(frozen=True)
class Comparison:
    """A score beside that of a baseline on the same sentences, by paired bootstrap resampling (Koehn 2004).

    Had the baseline's and the system's sentences been others, drawn from these with replacement, the system's score
    would be ``mean``, in 95 of 100 draws within ``interval`` of it. ``p_value`` is how likely a difference as large is
    by chance alone; of what differs between two trainings of one recipe it says nothing.
    """

    name: str
    value: float
    baseline: float
    p_value: float
    mean: float
    interval: float
    signature: str

    def as_dict(self) -> dict[str, object]:
        """The comparison for JSON, not rounded."""
        return {"difference": self.value - self.baseline, **asdict(self)}

    def line(self, width: int = 2) -> str:
        """The comparison as a line that signs itself."""
        figures = f"{self.value:.{width}f} against {self.baseline:.{width}f}: {self.value - self.baseline:+.{width}f}"
        return (
            f"{self.name}|{self.signature} = {figures}, p = {self.p_value:.4f}, "
            f"{self.mean:.{width}f} ± {self.interval:.{width}f}"
        )


def compare(
    hypotheses: Sequence[str],
    baseline: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    samples: int = 1000,
    metrics: Sequence[MetricName] = ALL_METRICS,
    **options: Any,
) -> list[Comparison]:
    """Compare two systems' translations of one text, by sacreBLEU's own test and its random numbers.

    ``samples`` is how often sentences are drawn; metrics and ``options`` are those of :func:`evaluate`, as is what is
    raised. The baseline has to have as many lines.
    """
    from sacrebleu.significance import PairedTest

    _check_names(metrics, options.get("tokenize", "13a"))
    _check(baseline, references)
    _check(hypotheses, references)
    with _quiet():
        objects: dict[str, Metric] = {name: _metric(name, **options) for name in metrics}
        systems: list[tuple[str, Sequence[str]]] = [("baseline", baseline), ("system", hypotheses)]
        signatures, results = PairedTest(systems, objects, references, test_type="bs", n_samples=samples)()
    found = []
    for name, signature in signatures.items():
        first, second = cast("list[Any]", results[name])
        # sacreBLEU counts draws that differ by more than the scores do, which of two that are the same none does.
        chance = 1.0 if first.score == second.score else float(second.p_value)
        figures = float(second.score), float(first.score), chance, float(second.mean), float(second.ci)
        found.append(Comparison(name, *figures, str(signature)))
    return found


def default_tokenization(language: str) -> Tokenization:
    """The tokenisation of BLEU for a target language: 13a, and what sacreBLEU prefers for Chinese, Japanese and Korean.

    Where the morphological analyser for Japanese or Korean is not installed (``pip install 'sacrebleu[ja]'``,
    ``'sacrebleu[ko]'``), characters are counted; the signature tells which it was.
    """
    first, *others = tokenizations(language)
    try:
        check_tokenization(first)
    except ConfigError:
        return others[0]
    return first


def tokenizations(language: str) -> tuple[Tokenization, ...]:
    """What :func:`default_tokenization` may come to; nothing is imported to tell."""
    name = _BY_LANGUAGE.get(language.lower().replace("_", "-").partition("-")[0], "13a")
    return (name, "char") if name.endswith("-mecab") else (name,)


def check_tokenization(name: Tokenization) -> None:
    """Raise ConfigError for a tokenisation that needs what is not installed, or cannot be fetched."""
    with _quiet():
        _metric("bleu", tokenize=name)


def looks_tokenized(hypotheses: Sequence[str]) -> bool:
    """Whether so many lines end in a free-standing full stop that somebody forgot to detokenise them."""
    return sum(line.endswith(" .") for line in hypotheses) >= _TOKENIZED_LINES


def _check_names(metrics: Sequence[str], tokenize: str) -> None:
    """Raise ConfigError for a metric or a tokenisation that is none."""
    if isinstance(metrics, str):
        raise ConfigError(f"metrics takes names, and {metrics!r} is one: put it into a list")
    for name in metrics:
        check_choice("metric", name, ALL_METRICS)
    check_choice("tokenize", tokenize, get_args(Tokenization))


def _check(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """As many lines everywhere, and at least one."""
    if isinstance(references, str) or any(isinstance(lines, str) for lines in references):
        raise TypeError("references is a list of whole reference sets: write [references] for a single one")
    if not references:
        raise DataError("there is no reference to score against")
    for number, lines in enumerate(references, start=1):
        if len(lines) != len(hypotheses):
            which = "the reference has" if len(references) == 1 else f"reference {number} has"
            raise DataError(
                f"{len(hypotheses)} hypotheses, but {which} {len(lines)} lines: they must pair up line by line"
            )
    if not hypotheses:
        raise DataError("there are no lines to score")


def _metric(
    name: MetricName,
    *,
    tokenize: Tokenization = "13a",
    lowercase: bool = False,
    chrf_lowercase: bool = False,
    ter_case_sensitive: bool = False,
) -> Metric:
    """One metric as sacreBLEU's object. Raises ConfigError where BLEU's tokenisation cannot be had."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.ter import TER

    match name:
        case "bleu":
            try:
                # force: whether the text looks tokenised is asked by looks_tokenized, not told on a logger.
                return BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
            except (ImportError, RuntimeError, OSError) as error:
                raise ConfigError(_missing(tokenize, error)) from error
        case "chrf":
            return CHRF(lowercase=chrf_lowercase)
        case "chrf++":
            return CHRF(word_order=2, lowercase=chrf_lowercase)
        case "ter":
            return TER(case_sensitive=ter_case_sensitive)


def _missing(tokenize: Tokenization, error: Exception) -> str:
    """Why a tokenisation cannot be had, and what to do about it."""
    language, _, analyser = tokenize.partition("-")
    if analyser == "mecab":
        return f"tokenisation {tokenize!r} is not installed: pip install 'sacrebleu[{language}]', or take 'char'"
    reason = str(error).strip().partition("\n")[0]
    return f"tokenisation {tokenize!r} needs a model that sacreBLEU could not fetch or read: {reason}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep sacreBLEU's notes about downloads and old names off stderr: what matters is raised or in the signature."""
    logger = logging.getLogger("sacrebleu")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
