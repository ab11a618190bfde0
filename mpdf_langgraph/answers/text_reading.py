"""Free text as an answer: finding it in a response, and one form for all ways of writing it."""

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

from mpdf_langgraph.answers.math_numbers import read_quantity
from mpdf_langgraph.answers.patterns import STYLED, Pattern
from mpdf_langgraph.answers.reading import (
    MARKER,
    answering_part,
    has_long_mark_run,
    json_answer,
    last_box,
    last_match,
    tagged_answer,
    without_closing,
)

_LONGEST_NORMALISED = 4_000
_YES_NO = Pattern(r"(?P<word>yes|no|true|false)\s?(?:[,.;:!]|\s[-–—]|[–—])", re.IGNORECASE)
_CORRECTED = Pattern(r"not\b[^.\n]{1,80}?\bbut\s(?:rather\s)?", re.IGNORECASE)
_ABBREVIATED_TEXT = (
    "st dr mr mrs ms prof jr sr vs mt no ft gen col sgt lt capt rev hon inc ltd co corp dept"
    " approx ave blvd e.g i.e etc u.s u.k d.c a.m p.m"
)
_ABBREVIATED = frozenset(_ABBREVIATED_TEXT.split())
_SENTENCE_END = Pattern(r"[.!?。](?:[\"”'’*)]{0,3})(?=\s+\S|$)")
_PRONOUN = Pattern(
    r"\s+(?:He|She|It|This|They|The|That|There|In|As|Because|Since|Its|These|We|However|Note)\b"
)
_APPOSITION = Pattern(
    r",\s(?=[A-Z]\w+['’]s\s)|,\s(?=[a-zà-ÿ]+\s(?:de|du|des|del|di|da|do|von|of)\s)|,\s(?=(?:the|a|an|which|who|whose|where|because|since|as|not|although|though|so|with|for|but|being"
    r"|located|known|due|also|i\.e\.|capital)\b)|\s(?=(?:because|since|as it|as they)\b)"
    r"|\s[-–—]\s(?=[a-z])|;\s"
)
# "The capital of France is Paris": what is described, and its name. "The Nile is a river" is not.
_LONGEST_SAID = 400
_OPENING = Pattern(
    r"(?:sure|certainly|of course|absolutely|great question|good question)(?: thing)?[!,.]\s+"
    r"|i (?:think|believe|guess)(?: that)?\s",
    re.IGNORECASE,
)
_BOLD_PHRASE = Pattern(r"\*\*([^*\n]{1,80}?[^*\n:])[.,]?\*\*(?!\s?:)")
_DESCRIBED = (
    r"(?:(?:The|Its|His|Her|Their|La|El|Le|Les|Los|Las|Il|O|A|L'|L’)\s?[a-zà-ÿ]|(?:Die|Der|Das)\s\w)"
    r"[^.!?:\n]{2,120}?"
)
_SAID_TO_BE = Pattern(
    rf"{_DESCRIBED}\s(?:is|are|was|were|es|fue|est|ist|war|lautet|é|è|foi|called|named|by|stands\sfor)"
    r"\s(?=(?:(?:the|an?|la|el|le|der|die|das|o|il)\s)?(?:[\"“«*_]|[A-ZÀ-ÝА-Я0-9]|l['’])|(?:true|false|positive|negative"
    r"|neutral|correct|incorrect)\b|(?<=stands\sfor\s)|(?<=called\s))([^\n]{1,100})"
    r"|(?:[Ii]t|That|This)(?:'s|\s(?:is|was|would\sbe))\s(?:the\s)?([A-Z][^,.\n]{1,60}?)(?:\s(?:who|that|which)\s|[.!]?$)"
    r"|[^.!?\n]{2,120}(?:ed|wn|en|made)\s[^.!?\n]{0,40}\bby\s([A-Z][^,.\n]{1,60})[.!]?$"
    r"|[А-Я][А-Яа-яё\s]{2,100}\s—\s([^,.\n]{1,60})"
    r"|[^.!?:\n]{2,120}\s(?:is|are|was|were|order):\s([^\n]{1,200})"
    r"|\W{0,4}(?:Label|Category|Sentiment|Class|Classification|Topic|Prediction|Output|Result"
    r"|Verdict|Conclusion|Response)\W{1,6}(?<=[:\s*])([^\n]{1,200})(?:\n|$)"
)
_SAID_IN_ASIA = Pattern(
    r"[^\n。]{2,30}(?:は([^\n。は]{1,20})(?:です|である)|[은는이가]\s([^\n]{1,20}?)(?:입니다|이다|예요|이에요)\.?|是([^\n。是]{1,20}))。?$"
)
_BOLD = Pattern(r"(?:\*\*)?([^*\n]{1,200}?)[.:,]?\*\*(?!\w)")
_INITIALS = Pattern(r"(?<!\S)([^\W\d_]) (?=[^\W\d_](?:\s|$))")
_IN_BRACKETS = Pattern(r"(?<=\S)\s\([^()]*\)$")
# At the beginning of an answer. "Los Angeles" is then "Angeles" in both answers.
_ARTICLES = frozenset(("la", "le", "les", "el", "los", "las", "il", "der", "die", "das"))
_DECORATION = ' \t\n*_`"“”„«»>'


def find_text(text: str) -> str | None:
    """Return the answer of a response. Return None if nothing is left."""
    text = answering_part(text).lstrip("# \n")
    if inside := tagged_answer(text):
        return _shortened(inside) or None
    if field := json_answer(text):
        return None if field.value is None else _tidy(field.value) or None
    marker = last_match(MARKER, text)
    if marker is not None:
        rest = text[marker.end() :]
        return _statement(last_box(rest) or rest) or None
    if boxed := last_box(text):
        return _tidy(boxed) or None
    return _shortened(text) or None


def _statement(rest: str) -> str:
    """The answer at the beginning of what follows "the answer is"."""
    line = rest.strip(_DECORATION + ":").lstrip("#").split("\n", 1)[0]
    if corrected := _CORRECTED.match(line):
        line = line[corrected.end() :]
    if yes_or_no := _YES_NO.match(line):
        return yes_or_no["word"].capitalize()
    if bold := _BOLD.match(rest.lstrip(" \t\n:")):
        return _tidy(bold[1])
    line = line[: _end_of_sentence(line)]
    clause = _APPOSITION.split(line, maxsplit=1)[0]
    return _tidy(_IN_BRACKETS.sub("", _tidy(clause)))


def _shortened(text: str) -> str:
    """A whole response as the answer: as it stands, but for yes and no, and what it says is so."""
    said = _OPENING.sub("", without_closing(text.strip()))
    text = _tidy(text)
    if yes_or_no := _YES_NO.match(text):
        return yes_or_no["word"].capitalize()
    if len(said) <= _LONGEST_SAID:
        bold = _BOLD_PHRASE.findall(said)
        if len(bold) == 1:
            return _tidy(bold[0])
        found = _SAID_TO_BE.match(said) or _SAID_IN_ASIA.match(said)
        if found:
            return _statement(next(filter(None, found.groups())))
    head, _, rest = said.partition("\n\n")  # a label, and why
    if rest and "\n" not in head and len(head.split()) <= 4 and head[-1] not in ":?":
        return _tidy(head)
    return _IN_BRACKETS.sub("", text) if len(text.split()) <= 5 else text


def _end_of_sentence(line: str) -> int:
    for end in _SENTENCE_END.finditer(line[:2000]):
        if line[end.start()] != ".":
            return end.start()
        before = line[: end.start()].rsplit(None, 1)[-1:]
        word = before[0].lower().strip('(*"') if before else ""
        rest = line[end.end() :]
        abbreviated = word in _ABBREVIATED or len(word) == 1 or re.fullmatch(r"(?:\w\.)+\w", word)
        if not rest.strip() or not abbreviated or _PRONOUN.match(rest):
            return end.end() if abbreviated else end.start()
    return len(line)


def _tidy(text: str) -> str:
    """The text without tags, LaTeX styles, quotation marks and Markdown around it."""
    for _ in range(4):
        before = text
        text = text.strip().strip(_DECORATION).strip()
        text = STYLED.sub(r"\1", text) if "\\" in text and len(text) <= 2000 else text
        if re.fullmatch(r"\$[^$]+\$", text) and not text[1:2].isdigit():
            text = text[1:-1]
        if re.fullmatch(r"\*\*.*|.*[^.\s]\.", text, re.DOTALL) and "." not in text[:-1]:
            text = text.removesuffix(".")
        if text == before:
            break
    return text


@lru_cache(maxsize=4096)
def normalise(text: str) -> str:
    """Write a text in one form for all that say the same.

    Case, white space, articles, punctuation and accents of Latin letters are gone. The
    signs that tell numbers, "C#" from "C", or "R&B" from "RB" apart stay. A number has one form.
    """
    if len(text) > _LONGEST_NORMALISED or has_long_mark_run(text):
        return " ".join(text.casefold().split())
    plain = " ".join(_without_accents(unicodedata.normalize("NFKC", text)).casefold().split())
    if number := _as_number(plain):
        return number
    written = plain
    plain = re.sub(r"^l['’](?=\w)", "", plain)
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain)
    plain = re.sub(r"(?<!\d),|,(?!\d)", " ", plain)
    plain = re.sub(r"\s?&\s?", " and ", plain)
    plain = re.sub(r"(?<=[^\W\d])[-/](?=[^\W\d])", " ", plain)
    kept = "".join(
        character
        for character, following in zip(plain, (plain + " ")[1:], strict=True)
        if not unicodedata.category(character).startswith("P")
        or character in "#%"
        or (character in "-.:/," and following.isdigit())
    )
    kept = _INITIALS.sub(r"\1", re.sub(r"\b([^\W\d]) (?=[^\W\d] )", r"\1", kept))
    words = [word for word in kept.split() if word not in ("a", "an", "the")]
    words = words[1:] if len(words) > 1 and words[0] in _ARTICLES else words
    return " ".join(_as_number(word) or word for word in words) or written


def _as_number(text: str) -> str | None:
    """One form for a number, whether in digits or in words."""
    text = text.rstrip(".!")
    if len(text) > 40 or not re.fullmatch(r"[-+]?[\d,]*\.?\d+|[a-z][a-z -]+", text):
        return None
    quantity = read_quantity(text)
    if quantity is None or quantity.unit_text or quantity.percent:
        return None
    value: Fraction = quantity.value
    return str(value) if value.denominator == 1 or "." not in text else str(float(value))


def _without_accents(text: str) -> str:
    if text.isascii():
        return text
    taken_apart = unicodedata.normalize("NFD", text)
    kept: list[str] = []
    latin = False
    for character in taken_apart:
        if unicodedata.combining(character):
            if latin:
                continue
        else:
            latin = character < "\u0250"
        kept.append(character)
    return unicodedata.normalize("NFC", "".join(kept))
