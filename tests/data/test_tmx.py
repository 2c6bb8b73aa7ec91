"""Translation memories: units of two languages among several, codes of a layout, and what is none."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from nmt.config import TmxCorpus
from nmt.data.corpus import Pair, digest_corpus, files_of, read_chunks, read_pairs
from nmt.errors import DataError

HEAD = """<?xml version="1.0" encoding="{encoding}"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header creationtool="x" segtype="sentence" adminlang="en" srclang="en" datatype="plaintext"/>
<body>
"""
UNITS = """<tu><tuv xml:lang="en-GB"><seg>The black cat &amp; the dog.</seg></tuv>
<tuv xml:lang="FR"><seg>Le chat noir &amp; le chien.</seg></tuv><tuv xml:lang="de"><seg>Die Katze.</seg></tuv></tu>
<tu><note>only one</note><tuv xml:lang="en"><seg>Alone.</seg></tuv></tu>
<tu><tuv lang="fr_CA"><seg>Cliquez <bpt i="1">&lt;b&gt;</bpt>ici<ept i="1">&lt;/b&gt;</ept>, <hi>vite</hi><ph>\\n</ph>
!</seg></tuv><tuv xml:lang="en"><prop type="x">p</prop><seg>Click <it pos="begin">{1}</it>here.</seg></tuv>
<tuv xml:lang="en-US"><seg>Another one.</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg/></tuv><tuv xml:lang="fr"><seg> </seg></tuv></tu>
"""
TAIL = "</body></tmx>\n"
PAIRS = [
    Pair("The black cat & the dog.", "Le chat noir & le chien."),
    Pair("Click here.", "Cliquez ici, vite !"),
    Pair("", " "),
]


def memory(folder: Path, content: bytes, source: str = "en", target: str = "fr") -> TmxCorpus:
    (folder / "memory.tmx").write_bytes(content)
    return TmxCorpus(format="tmx", path=folder / "memory.tmx", source=source, target=target)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_units_that_have_both_languages(encoding: str, tmp_path: Path) -> None:
    content = (HEAD.format(encoding=encoding) + UNITS + TAIL).encode(encoding)
    corpus = memory(tmp_path, content)
    assert list(read_pairs(corpus)) == PAIRS
    assert files_of(corpus) == (corpus.path,)
    plain = digest_corpus(corpus)
    turned = memory(tmp_path, content, "fr", "en")
    assert list(read_pairs(turned)) == [Pair(pair.target, pair.source) for pair in PAIRS]
    assert digest_corpus(turned) != plain
    packed = memory(tmp_path, gzip.compress(content))
    assert list(read_pairs(packed)) == PAIRS


def test_a_country_is_that_country_alone(tmp_path: Path) -> None:
    content = (HEAD.format(encoding="utf-8") + UNITS + TAIL).encode()
    assert list(read_pairs(memory(tmp_path, content, "en-us", "fr"))) == [Pair("Another one.", PAIRS[1].target)]
    assert list(read_pairs(memory(tmp_path, content, "en_GB", "DE"))) == [Pair(PAIRS[0].source, "Die Katze.")]


def test_many_units_are_read_a_chunk_at_a_time(tmp_path: Path) -> None:
    """Whatever stands before them: a namespace, and no line between two of them."""
    units = "".join(
        f'<tu><tuv xml:lang="en"><seg>a {n}</seg></tuv><tuv xml:lang="fr"><seg>b {n}</seg></tuv></tu>'
        for n in range(5000)
    )
    content = f'<tmx xmlns="http://www.lisa.org/tmx14" version="1.4"><header/><body>{units}</body></tmx>'
    chunks = list(read_chunks(memory(tmp_path, content.encode()), 4096))
    assert [chunk.first for chunk in chunks] == [1, 4097]
    assert chunks[1].lines()[1][-1] == "b 4999"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"the cat\n", r"memory.tmx:1: not TMX: syntax error \(column 1\)"),
        (b"<tmx><body><tu>", r"memory.tmx:1: not TMX: no element found"),
        (b"<tmx><body></body></tmx>", "no unit has both 'en' and 'it': it has no units with languages"),
        (
            (HEAD.format(encoding="utf-8") + UNITS + TAIL).encode(),
            "no unit has both 'en' and 'it'; the languages in it are en-GB, FR, de, en, fr_CA, en-US, fr",
        ),
        (gzip.compress((HEAD.format(encoding="utf-8") + UNITS + TAIL).encode())[:-9], "is damaged or cut short"),
        ((HEAD.format(encoding="EUC-KR") + TAIL).encode(), "its encoding cannot be read .*: convert it to UTF-8"),
        ((HEAD.format(encoding="klingon") + TAIL).encode(), "its encoding cannot be read|unknown encoding"),
        (
            "<tmx>é</tmx>".encode("latin-1"),
            r"not TMX: not well-formed .*is it in the encoding that its first line names",
        ),
    ],
)
def test_what_is_none_is_told(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        list(read_pairs(memory(tmp_path, content, "en", "it")))
