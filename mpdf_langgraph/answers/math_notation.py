"""How mathematical answers are written: finding them in a response, one form for every number.

All of this is cheap and exact; what it cannot decide is left to math-verify (see `equality`).
"""

import re
from collections import deque
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

MAX_LENGTH = 1000  # characters; no answer is longer, and every step below stays cheap

_INTEGER = r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+"
_DECIMAL = rf"(?:(?:{_INTEGER})(?:\.[0-9]+)?|\.[0-9]+)"
_FRACTION = r"\\[dt]?frac\s?(?:\{-?[0-9]+\}|[0-9])\s?(?:\{[0-9]+\}|[0-9])"
_NUMBER = rf"(?:{_FRACTION}|{_DECIMAL}(?:\s?/\s?[0-9]+)?)"
_CURRENCY = r"(?:\\?[$€£]\s?)"
_UNIT = (
    r"(?:\^?\{?\\circ\}?|°"
    r"|(?:\s?\\text\s?\{[^{}]*\}|\s(?:[A-Za-z]{3,})(?:\s[A-Za-z]+){0,4}"
    r"|\s?(?:cm|mm|km|kg|ft|lbs?|oz|mL|ml|hrs?|mph)\b)(?:\^\{?[23]\}?)?)"
)
_NUMERAL = re.compile(
    rf"(?P<sign>[+-]?)\s?{_CURRENCY}?(?P<sign2>-?)(?P<number>{_NUMBER})"
    rf"(?P<percent>\s?(?:\\?%|percent|\\text\s?\{{\s?percent\}}))?(?P<unit>{_UNIT})?"
)
# Words after a number that are no units: with them the number alone is not the answer.
_NO_UNIT = re.compile(
    r"\b(?:(?:hundred|thousand|million|billion|trillion|dozen)(?:s|ths?)?|and|or|to|times|plus|minus"
    r"|over|half|halves|thirds|fourths|fifths|tenths|sqrt|pi|mod|root|sin|cos|tan|cot|log|exp"
    r"|choose|factorial)\b|^\s(?:squared|cubed)\b",
    re.IGNORECASE,
)
_FIND_NUMBER = re.compile(rf"(?:(?<![\w)}}\]])[-\u2212]{_CURRENCY}?)?{_NUMBER}(?:\s?\\?%)?")
_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,9}\{|\\.|[{}]", re.DOTALL)
TRUNCATED_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,9}\{(?!\s*\})[^\n]*")
_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_HEADING = re.compile(r"\**(?:[A-Za-z]{2}|[0-9]+[.):]\s+\S)")
ANSWER_MARKER = re.compile(r"\banswer[\s*]{0,9}(?:is\b|:|=)[\s*:]{0,9}", re.IGNORECASE)
_MATH_SEGMENT = re.compile(r"\$\$?([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|$)")
_COMMAND_WITH_WORDS = re.compile(
    r"\\(?:begin|end|text|mbox|mathrm|mathbf|textbf|operatorname)\s?\{[^{}]*\}"
)
_WORD = re.compile(r"(?<![\\A-Za-z])(?:[A-Za-z]{3,}|(?i:it|is|so|we|hm)(?![A-Za-z]))")
_ONLY_WORDS = re.compile(r"[A-Za-z][A-Za-z\s.,'()-]*")
_NO_EXPRESSION = re.compile(r"\n|[A-Za-z]:|\\(?:boxed|fbox|framebox)")
_ASSIGNED = re.compile(r"[A-Za-z]\s?=")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:,?\s?\\!\s?|\\,|\{,\})(?=[0-9]{3})")
_SPACING = re.compile(r"(?<!\\)\\(?:[!,;: ]|(?:left|right)(?![a-z]))")
_WRAPPED = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s?\{([^{}]*)\}")
_TYPOGRAPHY = str.maketrans(  # minus, en dash, no-break spaces, fraction slash
    {"\u2212": "-", "\u2013": "-", "\u00a0": " ", "\u202f": " ", "\u2044": "/"}
)


class _Numeral(NamedTuple):
    value: Fraction
    decimal: bool  # written with a decimal point, so perhaps rounded
    percent: bool
    text: str


def find_answer(text: str) -> str | None:
    """The answer in a response, by the order that `MathAnswer` documents."""
    boxed = last_box(text)
    if boxed is not None:
        return canonical(boxed)
    answer: str | None
    text = TRUNCATED_BOX.sub("", text)
    # A Markdown heading of level 4 ("#### Step 2", "#### 1. Add") is not an answer.
    lines = [line for line in _HASHES.findall(text) if not _HEADING.match(line)]
    if lines and (answer := canonical(lines[-1])):
        return answer
    marker = last_match(ANSWER_MARKER, text)
    if marker and (answer := _after_marker(text[marker.end() :][: 2 * MAX_LENGTH])):
        return answer
    whole = text.strip()
    if len(whole) <= MAX_LENGTH and not _has_prose(whole) and not _NO_EXPRESSION.search(whole):
        answer = canonical(whole)
        if "=" not in _ASSIGNED.sub("", answer, count=1) and re.search(r"\w", answer):
            return answer
    number = last_match(_FIND_NUMBER, text)
    return canonical(number.group()) if number else None


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last match; no list of them, as a broken response can have millions."""
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def last_box(text: str) -> str | None:
    """The contents of the last complete, non-empty box; of nested ones the innermost."""
    if not any(box in text for box in ("\\boxed", "\\fbox", "\\framebox")):
        return None
    open_braces: list[int] = []  # start of the contents of a box, -1 for any other brace
    last, contents = -1, None
    for token in _BOX_TOKEN.finditer(text):
        kind = token.group()
        if kind == "}":
            start = open_braces.pop() if open_braces else -1
            if start > last and (inner := text[start : token.start()].strip()):
                last, contents = start, inner
        elif kind.endswith("{") and (kind == "{" or len(kind) > 2):
            open_braces.append(-1 if kind == "{" else token.end())
    return contents


def _after_marker(rest: str) -> str | None:
    """The answer at the beginning of what follows "the answer is"."""
    rest = rest.strip()
    segment = _MATH_SEGMENT.match(rest)
    # "$12, so she has $5 left" is not mathematics between dollar signs.
    if segment and not _has_prose(segment.group()):
        return canonical(segment.group())
    sentence = _SENTENCE_END.split(rest, maxsplit=1)[0]
    if _has_prose(sentence) and (number := _FIND_NUMBER.search(sentence)):
        return canonical(number.group())
    return canonical(sentence)


def _has_prose(text: str) -> bool:
    return bool(_WORD.search(_COMMAND_WITH_WORDS.sub(" ", text)))


def canonical(text: str) -> str:
    """One form for every number, and little more than tidy white space for the rest."""
    if len(text) > 4 * MAX_LENGTH:
        return text  # too long for an answer, whatever is trimmed
    text = _SPACING.sub(" ", _THOUSANDS.sub("", text.translate(_TYPOGRAPHY)))
    text = text.replace("\\mbox", "\\text").replace("dfrac", "frac").replace("tfrac", "frac")
    text = " ".join(text.split()).strip("*` ")
    for wrapper in (_MATH_SEGMENT, _WRAPPED):
        if match := wrapper.fullmatch(text):
            text = next(filter(None, match.groups()), "").strip()
    if not text.endswith(".."):  # 0.333...
        text = text.rstrip(".,;: ")
    numeral = _numeral(text)
    return numeral.text if numeral else text


@lru_cache(maxsize=4096)
def _numeral(text: str) -> _Numeral | None:
    """Read a plain number, with currency, percent sign or unit if need be."""
    match = _NUMERAL.fullmatch(text)
    if not match or len(text) > MAX_LENGTH or _NO_UNIT.search(match["unit"] or ""):
        return None
    number = match["number"].replace(",", "")
    if "frac" in number:
        parts = re.findall(r"-?[0-9]+", number)
        if len(parts) == 1:  # \frac12
            parts = list(parts[0])
        elif len(parts) == 2 and "{" not in number:  # \frac1 2
            parts = [part[0] for part in parts]
    else:
        parts = re.split(r"\s?/\s?", number)
    values = [Fraction("0" + part if part.startswith(".") else part) for part in parts]
    if len(values) == 2 and values[1] == 0:
        return None
    value = values[0] / values[1] if len(values) == 2 else values[0]
    if (match["sign"] + match["sign2"]).count("-") == 1:
        value = -value
    decimal, percent = "." in number, bool(match["percent"])
    return _Numeral(value, decimal, percent, _write(value, decimal) + "%" * percent)


def _write(value: Fraction, decimal: bool) -> str:
    """Write a number in the shortest exact form."""
    if not decimal or value.denominator == 1:
        return str(value)
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
        if places > MAX_LENGTH:  # 0.5/3 has no end
            return str(value)
    whole, rest = divmod(abs(value.numerator) * 10**places // value.denominator, 10**places)
    return f"{'-' * (value < 0)}{whole}.{rest:0{places}d}"


def quick_verdict(a: str, b: str) -> bool | None:
    """The verdict on two canonical answers, None where only math-verify can tell."""
    if "".join(a.split()) == "".join(b.split()):
        return True
    x, y = _numeral(a), _numeral(b)
    if x and y:
        if x.percent == y.percent:
            return _same_number(x.value, y.value, x.decimal or y.decimal)
        scaled = x.value / 100 if x.percent else x.value, y.value / 100 if y.percent else y.value
        rounded = x.decimal or y.decimal
        return _same_number(x.value, y.value, rounded) or _same_number(*scaled, rounded)
    words = [_words(text) for text in (a, b)]
    if any(words):  # math-verify takes words for products: "listen" would equal "silent"
        return words[0] == words[1]
    return None


def _same_number(x: Fraction, y: Fraction, rounded: bool) -> bool:
    """Exactly the same, or, of rounded numbers, to six digits and six places."""
    return x == y or (rounded and abs(x - y) * 10**6 <= min(Fraction(1), max(abs(x), abs(y))))


def _words(text: str) -> str | None:
    r"""The normalised words of an answer such as ``\text{Friday}``, None for anything else."""
    text = _WRAPPED.sub(r"\1", text).strip()
    if _ONLY_WORDS.fullmatch(text) and _WORD.search(text):
        return " ".join(re.findall("[a-z]+", text.casefold()))
    return None
