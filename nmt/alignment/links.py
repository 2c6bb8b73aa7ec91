"""Word links: from attention over subwords, from two directions, as text, and against a gold standard.

A link is a pair (source word, target word), both counted from 0; words are what ``line.split()`` gives for the raw
line. A file of links is in Pharaoh form, one line a sentence: ``0-0 1-2``. A gold standard may also hold possible
links, ``0?1`` (``0p1`` is read as the same), beside the sure ones (Och and Ney 2003).

Matrices have one row a target word and one column a source word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
from jaxtyping import Float

from nmt.errors import DataError

__all__ = [
    "AlignmentScore",
    "Gold",
    "Link",
    "Links",
    "Method",
    "Symmetrization",
    "aer",
    "extract",
    "format_links",
    "format_soft",
    "parse_gold",
    "parse_links",
    "symmetrize",
    "to_words",
]

Link = tuple[int, int]
"""Source word, target word."""

Links = frozenset[Link]

Method = Literal["grow-diag", "argmax", "mutual", "threshold"]
"""How :func:`extract` reads links off a matrix."""

Symmetrization = Literal["intersection", "union", "grow-diag", "grow-diag-final", "grow-diag-final-and"]
"""How :func:`symmetrize` joins the links of two directions."""


@dataclass(frozen=True)
class Gold:
    """What an annotator says of one sentence pair. Every sure link is also possible."""

    sure: Links
    possible: Links

    def __post_init__(self) -> None:
        object.__setattr__(self, "possible", self.possible | self.sure)


# -------------------------------------------------------------------------------------------------- attention to links


def to_words(
    attention: Float[np.ndarray, "T S"],
    source_words: Sequence[int],
    target_words: Sequence[int],
    num_source: int,
    num_target: int,
) -> Float[np.ndarray, "T_words S_words"]:
    """Attention between words from attention between pieces.

    Row t of ``attention`` is where the model looked when it wrote target piece t, column s is source piece s; the row
    and the column behind the last piece, EOS, may be there or not. ``source_words`` and ``target_words`` say which
    word each piece belongs to, ``num_source`` and ``num_target`` how many words there are. Being looked at adds up
    over the pieces of a source word; looking is averaged over the pieces of a target word (Clark et al. 2019, section
    4.1).

    What was spent on EOS is left out and not made up for, so a row sums to at most 1: the missing part is what the
    word has no source word for. A word without pieces has zeros.
    """
    rows, columns = len(target_words), len(source_words)
    if attention.shape[0] not in (rows, rows + 1) or attention.shape[1] not in (columns, columns + 1):
        raise ValueError(f"attention of shape {attention.shape} for {rows} target and {columns} source pieces")
    source, target = np.asarray(source_words, dtype=np.intp), np.asarray(target_words, dtype=np.intp)
    matrix = np.zeros((num_target, num_source))
    np.add.at(matrix, (target[:, None], source[None, :]), attention[:rows, :columns])
    pieces = np.bincount(target, minlength=num_target)
    return matrix / np.maximum(pieces, 1)[:, None]


def extract(
    matrix: Float[np.ndarray, "T_words S_words"], method: Method = "grow-diag", *, threshold: float = 0.3
) -> Links:
    """The links in a matrix of word attention.

    ``argmax`` links each target word to the source word it looks at most, the first one of equals. ``mutual`` keeps
    of these the ones where that source word is not looked at more by another target word: fewer and surer links.
    ``grow-diag`` reads the matrix both ways, the best source word of each target word and the best target word of each
    source word, and joins the two as those of two models are joined (:func:`symmetrize`): it finds the several source
    words of one target word too, and on the embedded corpus makes some 30 % fewer errors than ``argmax``, with
    recurrent decoders and with Transformers. ``threshold`` takes every link of at least ``threshold``. A word without
    attention gets no link.
    """
    if not matrix.size:
        return frozenset()
    match method:
        case "argmax":
            return frozenset(
                (int(source), target)
                for target, source in enumerate(matrix.argmax(axis=1))
                if matrix[target, source] > 0
            )
        case "mutual":
            return extract(matrix, "argmax") & _best_targets(matrix)
        case "grow-diag":
            return symmetrize(extract(matrix, "argmax"), _best_targets(matrix), "grow-diag")
        case "threshold":
            targets, sources = np.nonzero((matrix >= threshold) & (matrix > 0))
            return frozenset(zip(sources.tolist(), targets.tolist(), strict=True))
    assert_never(method)


def _best_targets(matrix: Float[np.ndarray, "T_words S_words"]) -> Links:
    """Each source word with the target word that looks at it most, the first one of equals."""
    return frozenset((target, source) for source, target in extract(matrix.T, "argmax"))


# ------------------------------------------------------------------------------------------------------ two directions


def symmetrize(forward: Links, backward: Links, method: Symmetrization = "grow-diag-final-and") -> Links:
    """Join the links of a source-to-target and a target-to-source model, both given as (source word, target word).

    ``grow-diag`` starts from the intersection and adds links of the union that touch one already there, diagonally
    too, while they reach a word that has none; ``final`` adds whatever else of the one, then of the other direction
    reaches such a word; ``final-and`` only what reaches two (Koehn et al. 2003, section 4.5; Koehn et al. 2005).
    """
    match method:
        case "intersection":
            return forward & backward
        case "union":
            return forward | backward
        case "grow-diag":
            return frozenset(_grow(forward, backward))
        case "grow-diag-final":
            return frozenset(_final(_grow(forward, backward), forward, backward, both=False))
        case "grow-diag-final-and":
            return frozenset(_final(_grow(forward, backward), forward, backward, both=True))
    assert_never(method)


_NEIGHBOURS = ((-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))
"""Steps (target, source) to the links that touch one, in the order in which they are tried."""


def _reading_order(links: Links) -> list[Link]:
    """Links by target word, then source word: what is added first decides what can still be added."""
    return sorted(links, key=lambda link: (link[1], link[0]))


def _grow(forward: Links, backward: Links) -> set[Link]:
    """The intersection, grown into the union along neighbouring links until nothing more can be added."""
    links, union = set(forward & backward), forward | backward
    sources, targets = {source for source, _ in links}, {target for _, target in links}
    order = _reading_order(union)
    added = True
    while added:
        added = False
        for source, target in order:
            if (source, target) not in links:
                continue
            for step_target, step_source in _NEIGHBOURS:
                new = source + step_source, target + step_target
                if new in union and new not in links and (new[0] not in sources or new[1] not in targets):
                    links.add(new)
                    sources.add(new[0])
                    targets.add(new[1])
                    added = True
    return links


def _final(links: set[Link], forward: Links, backward: Links, *, both: bool) -> set[Link]:
    """Add the links of either direction that reach a word without one; with ``both``, only where neither word has."""
    sources, targets = {source for source, _ in links}, {target for _, target in links}
    for source, target in (*_reading_order(forward), *_reading_order(backward)):
        free = (source not in sources, target not in targets)
        if all(free) if both else any(free):
            links.add((source, target))
            sources.add(source)
            targets.add(target)
    return links


# ------------------------------------------------------------------------------------------------------------- as text


_LINK = re.compile(r"([0-9]{1,9})([-?p])([0-9]{1,9})")


def format_links(links: Iterable[Link]) -> str:
    """Links as a line of Pharaoh form, in the order of the source."""
    return " ".join(f"{source}-{target}" for source, target in sorted(links))


def format_soft(matrix: Float[np.ndarray, "T S"]) -> str:
    """For one target word after the other the weights of the source words: ``0.9000,0.1000 0.2000,0.8000``."""
    return " ".join(",".join(f"{weight:.4f}" for weight in row) for row in matrix) if matrix.size else ""


def parse_links(line: str, where: str) -> Links:
    """The links of one line of Pharaoh form, possible ones not allowed; ``where`` is ``file:line`` for the message.

    Raises DataError for anything that is not a link.
    """
    return frozenset(link for link, _ in _parse(line, where, possible=False))


def parse_gold(line: str, where: str, *, num_source: int | None = None, num_target: int | None = None) -> Gold:
    """One line of a gold standard; ``where`` is ``file:line`` for the message.

    Raises DataError for anything that is not a link, and for a link to a word that is not there where the numbers of
    words are given.
    """
    sure: set[Link] = set()
    possible: set[Link] = set()
    for link, is_sure in _parse(line, where, possible=True):
        for side, word, number in (("source", link[0], num_source), ("target", link[1], num_target)):
            if number is not None and word >= number:
                raise DataError(
                    f"{where}: the link {link[0]}-{link[1]} names {side} word {word}, but the {side} has {number} "
                    f"words, counted from 0"
                )
        (sure if is_sure else possible).add(link)
    return Gold(frozenset(sure), frozenset(possible))


def _parse(line: str, where: str, *, possible: bool) -> Iterator[tuple[Link, bool]]:
    """Each link of a line and whether it is a sure one."""
    for token in line.split():
        match = _LINK.fullmatch(token)
        if match is None or (match[2] != "-" and not possible):
            kinds = "0-1, or 0?1 for a possible one" if possible else "0-1"
            raise DataError(f"{where}: {token!r} is not a link: write source-target, counted from 0, such as {kinds}")
        yield (int(match[1]), int(match[3])), match[2] == "-"


# ------------------------------------------------------------------------------------------------------- against gold


@dataclass(frozen=True)
class AlignmentScore:
    """The counts behind precision, recall and alignment error rate; the sum of two is the score of both together.

    ``links`` were proposed, of which ``possible_hits`` are possible and ``sure_hits`` sure in the gold standard, which
    has ``sure`` sure links.
    """

    links: int = 0
    sure: int = 0
    sure_hits: int = 0
    possible_hits: int = 0

    def __add__(self, other: AlignmentScore) -> AlignmentScore:
        return AlignmentScore(
            self.links + other.links,
            self.sure + other.sure,
            self.sure_hits + other.sure_hits,
            self.possible_hits + other.possible_hits,
        )

    @property
    def precision(self) -> float:
        """Of the proposed links, the share that is at least possible; 1 where nothing was proposed."""
        return self.possible_hits / self.links if self.links else 1.0

    @property
    def recall(self) -> float:
        """Of the sure links, the share that was proposed; 1 where there are none."""
        return self.sure_hits / self.sure if self.sure else 1.0

    @property
    def error_rate(self) -> float:
        """AER = 1 - (|A and S| + |A and P|) / (|A| + |S|) (Och and Ney 2003, section 5); 0 where both are empty."""
        total = self.links + self.sure
        return 1.0 - (self.sure_hits + self.possible_hits) / total if total else 0.0


def aer(links: Links, gold: Gold) -> AlignmentScore:
    """One sentence's links against its gold standard; ``sum(scores, AlignmentScore())`` scores a corpus."""
    return AlignmentScore(
        links=len(links),
        sure=len(gold.sure),
        sure_hits=len(links & gold.sure),
        possible_hits=len(links & gold.possible),
    )
