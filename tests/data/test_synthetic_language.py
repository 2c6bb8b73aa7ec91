"""The embedded corpus as a teacher of French would read it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import pytest

from nmt.data.grammar import Grammar
from nmt.data.synthetic import SyntheticPair

words = str.split

# ------------------------------------------------------------------------------------------------- what is not written


FORBIDDEN = {
    "elision": r"\b(?:le|la|je|me|ne|de|que|parce que|pendant que) (?=[aeiouâàéèêîôœh])"
    r"(?!(?:haut|hache|haricot|hibou|héros|huit|onz))",
    "no elision": r"\b(?:l|d|qu|n)'(?:haut|hache|haricot|hibou|héros|huit|onze|onzième)",
    "elision before a consonant": r"\b(?:[ldjmns]|qu)'(?![aeiouâàéèêîôœhy]|[AÉEIO])",
    "contraction": r"\b(?:de|à) (?:le|les)\b",
    "s'il": r"\bsi ils?\b|\bs'elles?\b",
    "cet": r"\bce (?=[aeiouâàéèêîôœh])(?!haut|haricot|hibou|héros)|\bcet (?![aeiouâàéèêîôœh])",
    "mon amie": r"\b(?:ma|sa) (?=[aeiouâàéèêîôœh])(?!haut|hache)",
    "bel": r"\b(?:un|le|ce|cet|mon|son|votre|notre|leur|chaque|autre) (?:beau|nouveau|vieux) "
    r"(?=[aeiouâàéèêîôœh])(?!haut|haricot|hibou|héros|et\b|à\b|il\b|aujourd|en\b|hier)",
    "a vowel between": r"[ae]-(?:il|elle)\b",
    "t between consonants": r"[dt]-t-",
    "des before an adjective": r"^Des (?:petits|petites|grands|grandes|vieux|vieilles|beaux|belles|nouveaux|nouvelles) "
    r"(?!et\b)(?=[a-zéèêœ]+s\b)",
    "a partitive that is denied": r"\bn(?:e |')\w+ pas (?:du|de la) (?:pain|lait|vin|viande|beurre|fromage|bière)\b",
    "il y a": r"\by (?:ont|avaient)\b",
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_french_does_not_write(pairs: list[SyntheticPair], name: str) -> None:
    pattern = re.compile(FORBIDDEN[name], re.IGNORECASE if name != "elision before a consonant" else 0)
    assert [pair.target for pair in pairs if pattern.search(pair.target)] == []


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("elision", "Je vois le homme."),
        ("elision", "Il dit que elle dort."),
        ("no elision", "C'est l'héros."),
        ("elision before a consonant", "Il n'voit pas."),
        ("contraction", "Il va à le parc."),
        ("s'il", "Si il vient"),
        ("cet", "Ce arbre"),
        ("cet", "cet maison"),
        ("mon amie", "ma école"),
        ("bel", "un beau arbre"),
        ("a vowel between", "Mange-il?"),
        ("t between consonants", "Voit-t-il?"),
        ("des before an adjective", "Des petites maisons"),
        ("a partitive that is denied", "Il ne boit pas du lait."),
    ],
)
def test_the_patterns_find_what_they_forbid(name: str, wrong: str) -> None:
    assert re.search(FORBIDDEN[name], wrong, re.IGNORECASE)


def test_english_says_a_and_an(pairs: list[SyntheticPair]) -> None:
    for pair in pairs:
        assert not re.search(r"\b[Aa] (?=[aeiou])(?!use|uni|one)", pair.source), pair.source
        assert not re.search(r"\b[Aa]n (?![aeiou]|hon|hour|[AEI](?!uro))", pair.source), pair.source


Features = frozenset[tuple[str, str]]


def either(genders: str, numbers: str) -> Features:
    return frozenset((gender, number) for gender in genders for number in numbers)


DETERMINERS: dict[str, Features] = {
    **dict.fromkeys(words("un le du au ce cet"), either("m", "s")),
    **dict.fromkeys(words("une la cette ma sa"), either("f", "s")),
    **dict.fromkeys(words("votre notre leur chaque l' mon son"), either("mf", "s")),  # mon amie
    **dict.fromkeys(words("des les aux ces mes ses vos nos leurs plusieurs quelques"), either("mf", "p")),
}


def french_nouns_and_adjectives() -> tuple[dict[str, Features], dict[str, Features], set[str]]:
    """By their French form: the genders and numbers that it can be; and the adjectives that stand before the noun."""
    nouns: dict[str, Features] = {}
    adjectives: dict[str, Features] = {}
    before: set[str] = set()
    for word in Grammar.load().lexicon:
        for name, tokens in word.forms["fr"].items():
            if word.kind == "noun" and len(tokens) == 1:
                gender = "m" if "m" in word.tags else "f"
                nouns[tokens[0]] = nouns.get(tokens[0], frozenset()) | {(gender, name)}
            elif word.kind == "adjective" and name in ("ms", "fs", "mp", "fp", "attr-ms"):
                for form in tokens[0].split("|"):
                    adjectives[form] = adjectives.get(form, frozenset()) | {(name[-2], name[-1])}
                    before |= {form} if "before" in word.tags else set()
    return nouns, adjectives, before


NOUNS, ADJECTIVES, BEFORE = french_nouns_and_adjectives()


def noun_phrases(line: str) -> Iterator[list[tuple[str, Features]]]:
    """Every determiner with the adjectives, the noun and the adjectives that follow it at once."""
    row = re.sub(r"'", "' ", line.lower()).replace("aujourd' hui", "aujourd'hui").split()
    for start, word in enumerate(row):
        if word not in DETERMINERS or (word in ("un", "une") and row[start - 1] in ("et", "cent", "mille")):
            continue  # two hundred and one houses are not one house
        phrase = [(word, DETERMINERS[word])]
        place = start + 1
        while place < len(row) and row[place] in ADJECTIVES and row[place].strip(".,?") not in NOUNS:
            phrase.append((row[place], ADJECTIVES[row[place]]))
            place += 1
        if place == len(row) or row[place].strip(".,?") not in NOUNS:
            continue
        phrase.append((row[place], NOUNS[row[place].strip(".,?")]))
        while row[place][-1] not in ".,?" and row[place + 1].strip(".,?") in set(ADJECTIVES) - BEFORE:
            place += 1  # "court" behind the noun is a verb
            phrase.append((row[place], ADJECTIVES[row[place].strip(".,?")]))
        yield phrase


def agrees(phrase: list[tuple[str, Features]]) -> bool:
    return bool(frozenset.intersection(*(features for _, features in phrase)))


def test_noun_phrases_agree_in_gender_and_number(pairs: list[SyntheticPair]) -> None:
    seen: Counter[int] = Counter()
    for pair in pairs:
        for phrase in noun_phrases(pair.target):
            seen[len(phrase)] += 1
            assert agrees(phrase), (phrase, pair.target)
    assert seen[2] > 10_000 and seen[3] > 5_000 and seen[4] > 800 and seen[5] > 20


@pytest.mark.parametrize(
    "line", ["Il voit la grand maison.", "Une maison rouges.", "Les petits voitures.", "Le belle fille.", "Ces maison."]
)
def test_the_check_of_agreement_finds_faults(line: str) -> None:
    assert not all(agrees(phrase) for phrase in noun_phrases(line))


SUBJECTS = {
    "Nous": r"(?:\w+ons|sommes)",
    "Vous": r"(?:\w+ez|êtes|dites)",
    "Ils": r"\w+nt",
    "Elle": r"(?!\w*(?:ons|ez|[^i]ent)\b)\w+",
    "Il": r"(?!\w*(?:ons|ez)\b)\w+",
    "Je": r"(?!\w*(?:ons|ez|ent)\b)\w+",
}
CLITICS = r"(?:(?:ne|me|nous|vous|le|la|les|lui|leur|y) |[nmly]')*"


@pytest.mark.parametrize("pronoun", SUBJECTS)
def test_the_verb_agrees_with_the_pronoun(pairs: list[SyntheticPair], pronoun: str) -> None:
    lines = [pair.target for pair in pairs if pair.target.startswith(f"{pronoun} ")]
    assert len(lines) > 100
    wrong = [line for line in lines if not re.match(rf"{pronoun} {CLITICS}{SUBJECTS[pronoun]}\b", line)]
    assert wrong == []


def participles(kind: str) -> str:
    """The participles of a class, masculine singular, those that also are plural left out."""
    forms = {word.forms["fr"]["ms"][0] for word in Grammar.load().lexicon if word.kind == kind}
    return "|".join(sorted(form for form in forms if form[-1] != "s"))


AGREEMENT = {
    "elle est venue": (rf"\bElle (?:n')?est (?:\w+ )?(?:{participles('motion')})", "e"),
    "ils sont venus": (rf"\bIls (?:ne )?sont (?:\w+ )?(?:{participles('motion')})", "s"),
    "il les a vus": (rf"\bles (?:ont|avez|avons|ai|a) (?:pas )?(?:{participles('verb')})", "e?s"),
    "qu'il a vue": (rf"\b[Uu]ne \w+ (?:qu'\w+|que \w+) (?:ont|avez|avons|ai|a) (?:{participles('verb')})", "e"),
    "l'a vendue": (rf"\b(?:la|une|cette) \w+ et l'(?:a|ai|avez|avons|ont) (?:{participles('verb')})", "e"),
}


@pytest.mark.parametrize("rule", AGREEMENT)
def test_participles_agree(pairs: list[SyntheticPair], rule: str) -> None:
    participle, ending = AGREEMENT[rule]
    assert [pair.target for pair in pairs if re.search(rf"{participle}\b", pair.target)] == []
    assert any(re.search(rf"{participle}{ending}\b", pair.target) for pair in pairs)


def test_numbers_in_sentences_agree_with_what_they_count(pairs: list[SyntheticPair]) -> None:
    text = " ".join(pair.target for pair in pairs)
    feminine = [form for form, features in NOUNS.items() if features == either("f", "p")]
    masculine = [form for form, features in NOUNS.items() if features == either("m", "p")]
    assert not re.search(rf"\b(?:et|cent|mille) un (?:{'|'.join(feminine)})\b", text)
    assert not re.search(rf"\b(?:et|cent|mille) une (?:{'|'.join(masculine)})\b", text)
    assert re.search(rf"\b(?:et|cent|mille) une (?:{'|'.join(feminine)})\b", text)


# ----------------------------------------------------------------------------------------------------------- phenomena


PHENOMENA = {
    "gender": (r"\b[Tt]he house\b", r"\b[Ll]a maison\b"),
    "number": (r"\b[Tt]he houses\b", r"\b[Ll]es maisons\b"),
    "adjective before": (r"\b[Tt]he big \w+", r"\b[Ll]es? grands?\b"),
    "adjective behind": (r"\b(red|green|blue) car\b", r"\bvoiture (rouge|verte|bleue)\b"),
    "both": (r"\b(old|new|big) \w+ (car|house|city)\b", r"\b(vieille|nouvelle|grande) (voiture|maison|ville) \w+"),
    "reversed order": (r"\bEuropean (economic|social|cultural) \w+", r"(économiques?|socia\w+|culturel\w*) europée\w+"),
    "before a vowel": (r"\bold (man|tree|friend|student)\b", r"\bvieil (homme|arbre|ami|étudiant)\b"),
    "l'": (r"\b[Tt]he man\b", r"\b[Ll]'homme\b"),
    "au": (r"\bto the (garden|museum|park|teacher)\b", r"\bau (jardin|musée|parc|professeur)\b"),
    "aux": (r"\bto the \w+s\b", r"\baux \w+s\b"),
    "du": (r"\bof the (committee|government)\b", r"\bdu (comité|gouvernement)\b"),
    "d'": (r"\b(Anna|Alice|Emma|Antoine)'s\b", r"\bd'(Anna|Alice|Emma|Antoine)\b"),
    "genitive": (r"\w+'s \w+", r"\bd(u|e|es|'\w+) "),
    "object pronoun": (r"\b(help|call|see)s? them\b", r"\bles (aid|appel|voi)"),
    "object pronoun elided": (r"\bsaw her\b", r"\bl'(a|ai|avons|avez|ont) vue\b"),
    "dative": (r"\bto him\b", r"\blui\b"),
    "pronoun for something named": (r"\band sold it\b", r"\bet l'\w+ vendue?\b"),
    "ne pas": (r"\bdoes not\b", r"\b(ne |n')\w+ pas\b"),
    "n'": (r"\bis not\b", r"\bn'est pas\b"),
    "ne jamais": (r"\bnever\b", r"\bjamais\b"),
    "no longer": (r"\bno longer\b", r"\b(ne |n')\w+ plus\b"),
    "pas de": (r"\bnot \w+ any\b", r"\bpas (de |d')"),
    "qui": (r"\bwho\b", r"\bqui\b"),
    "que": (r"\bwhom\b", r"\b(que|qu')"),
    "that": (r"\bthinks that\b", r"\bpense (que|qu')"),
    "because": (r"\bbecause\b", r"\bparce (que|qu')"),
    "if": (r"^If he\b", r"^S'il\b"),
    "when": (r"^When .* will\b", r"^Quand "),
    "while": (r"^While\b", r"^Pendant (que|qu')"),
    "inversion": (r"^Does he\b", r"^\w+-(t-)?il\b"),
    "inversion with t": (r"^Did she\b", r"^A-t-elle\b"),
    "est-ce que": (r"^Does the\b", r"^Est-ce (que|qu')"),
    "which": (r"^Which\b", r"^Quel(le)?s?\b"),
    "how many": (r"^How many\b", r"^Combien (de |d')"),
    "order": (r"^Do not\b", r"^(Ne |N')\w+z pas\b"),
    "present": (r"\bsees\b", r"\bvoit\b"),
    "passé composé": (r"\bsaw\b", r"\b(a|ont|ai|avons|avez) vue?s?\b"),
    "imparfait": (r"\bwas seeing\b", r"\bvoyait\b"),
    "être": (r"\barrived\b", r"\b(est|sont|suis) arrivée?s?\b"),
    "future": (r"\bwill see\b", r"\bverra\b"),
    "passive": (r"\bwas \w+ by\b", r"\ba été \w+ par\b"),
    "infinitive": (r"\bwants to\b", r"\bveut\b"),
    "comparison": (r"\bbigger than\b", r"\bplus grande?s? (que|qu')"),
    "superlative": (r"\bthe most (famous|beautiful|important)\b", r"\bl(e|a|es) plus\b"),
    "partitive": (r"\bsome (bread|milk|wine)\b", r"\bdu (pain|lait|vin)\b"),
    "age": (r"\byears old\b", r"\bans\b"),
    "thousands": (r"\bthousand\b", r"\bmille\b"),
    "seventy-one": (r"\bseventy-one\b", r"\bsoixante et onze\b"),
    "eighty": (r"\beighty\b", r"\bquatre-vingts\b"),
    "one, feminine": (r"\btwenty-one\b", r"\bvingt et une\b"),
    "premier": (r"\bthe first of\b", r"\ble (\w+ )?premier (janvier|février|mars|avril|mai|juin|juillet|août)"),
    "a date": (r"\bon the \w+(-\w+)? of \w+", r"\ble \w+(-\w+)? (janvier|mars|avril|mai|juin|juillet)"),
    "il y a": (r"\b[Tt]here (is|are)\b", r"\b[Ii]l y a\b"),
    "ago": (r"\bago\b", r"\bil y a\b"),
    "countries": (r"\bin (France|Japan)\b", r"\b(en France|au Japon)\b"),
    "h aspiré": (r"\bthe hero(es)?\b", r"\bles? héros\b"),
}


@pytest.mark.parametrize("name", PHENOMENA)
def test_every_phenomenon_occurs(pairs: list[SyntheticPair], name: str) -> None:
    english, french = PHENOMENA[name]
    assert any(re.search(english, pair.source) and re.search(french, pair.target) for pair in pairs)


def test_every_word_of_the_lexicon_can_be_drawn() -> None:
    grammar = Grammar.load()
    tokens = {language: grammar.tokens(language) for language in ("en", "fr")}
    for word in grammar.lexicon:
        for language, forms in word.forms.items():
            assert any(set(form) <= tokens[language] for form in forms.values()), forms
