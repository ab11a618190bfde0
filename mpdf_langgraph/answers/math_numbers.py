"""Numbers as people and models write them: one exact value for every way of writing it."""

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

from mpdf_langgraph.answers.math_units import (
    CURRENCY,
    NO_UNITS,
    Units,
    is_known,
    plain_units,
    read_units,
)
from mpdf_langgraph.answers.memory import cache_short
from mpdf_langgraph.answers.patterns import PRODUCT, Pattern

MAX_LENGTH = 1000  # characters. No answer is longer, and every step below stays cheap.
_MAX_EXPONENT = 400

# --- digits -----------------------------------------------------------------------------------

_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,3}(?:[ ][0-9]{3})+(?![0-9])|[0-9]+)"
DECIMAL = rf"(?:{_INTEGER}(?:\.[0-9]+)?|\.[0-9]+)"
_BRACED = r"\{\s?-?\s?[0-9]+(?:\.[0-9]+)?\s?\}"
_FRACTION = rf"\\frac\s?(?:{_BRACED}|[0-9])\s?(?:{_BRACED}|[0-9])"
_RECURRING = (
    r"(?P<fixed>[0-9]*\.[0-9]*)(?:\\overline\s?\{(?P<over>[0-9]+)\}|\\overline\s?(?P<over1>[0-9])"
    r"|\\dot\s?\{?(?P<dot>[0-9])\}?|\((?P<inside>[0-9]+)\)|(?P<tail>(?P<digit>[0-9])(?P=digit))\.\.\.)"
)
_POWER = (
    r"\s?(?:\\times|\\cdot|\*|x|×|·)\s?10\s?\^\s?(?:\{\s?(?P<e1>[+-]?[0-9]+)\s?\}"
    r"|(?P<e2>[+-]?[0-9]+))"
)
_NUMBER = Pattern(
    rf"(?:(?P<recurring>{_RECURRING})"
    rf"|(?P<whole>[0-9]+)\s?(?P<mixed>{_FRACTION}|(?<=\s)[0-9]+\s?/\s?[0-9]+)"
    rf"|(?P<frac>{_FRACTION})"
    rf"|(?P<over_>{DECIMAL})\s?/\s?(?P<under>[0-9]+(?![0-9.]))"
    rf"|(?P<decimal>{DECIMAL})(?:[eE](?P<e0>[+-]?[0-9]+)(?![\w])|{_POWER})?)"
)
_SIGN = Pattern(rf"\s*(?P<s1>(?:[+-]\s?)*)(?P<money>{CURRENCY}\s?)?(?P<s2>-?)")
_PERCENT = Pattern(r"\s?(?:\\?%|percent\b|per cent\b|\\text\s?\{\s?(?:percent|\\?%)\s?\}|\bpct\b)")
_ORDINAL = Pattern(r"(?:\^\s?)?\{?(?:\\text\s?\{)?\s?(?:st|nd|rd|th)\b\}?\}?")

# --- words ------------------------------------------------------------------------------------

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen"
    " fourteen fifteen sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: value for value, word in enumerate(_UNITS.split())}
_SMALL |= {word: 10 * value for value, word in enumerate(_TENS.split(), 2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6,
          "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12, "hundredth": 100,
          "thousandth": 1000}  # fmt: skip
_PARTS |= {name + "s": value for name, value in _PARTS.items() if name not in ("half", "halves")}
_SIGNS = {"minus": -1, "negative": -1, "plus": 1}
NUMBER_WORD = "|".join(
    sorted([*_SMALL, *_SCALES, *_PARTS, "hundred", "dozen"], key=len, reverse=True)
)
_MULTIPLIER = Pattern(
    r"\s*(?:\\text\s?\{)?\s*(?P<word>hundred|thousand|million|billion|trillion|dozen|gross|lakh|crore)s?\b"
    r"(?!ths?\b)\s*(?P<close>\})?",
    re.IGNORECASE,
)
_MULTIPLIERS = _SCALES | {"hundred": 100, "dozen": 12, "gross": 144, "lakh": 10**5, "crore": 10**7}
_SHORT_MULTIPLIER = Pattern(
    r"\s?(?:(?P<k>[kK])|(?P<m>M|mn|mln|mil)|(?P<b>B|bn)|(?P<t>T|tn))(?![A-Za-z/^])"
)


class Quantity(NamedTuple):
    """A number with its unit.

    Attributes:
        value: Exactly what is written.
        decimal: Whether it is written with a decimal point, so that it may be rounded.
        percent: Whether a percent sign follows.
        units: Its unit.
        unit_text: The same as it is written.
    """

    value: Fraction
    decimal: bool = False
    percent: bool = False
    units: Units = NO_UNITS
    unit_text: str = ""


@cache_short(8192)
def read_quantity(text: str) -> Quantity | None:
    """Read a number, perhaps with a currency, multiplier, percent sign or unit."""
    if len(text) > MAX_LENGTH:
        return None
    sign = _SIGN.match(text)
    assert sign is not None
    negative = (sign["s1"] + sign["s2"]).count("-") % 2 == 1
    number = _NUMBER.match(text, sign.end())
    if number is None:
        return _read_words(text)
    read = _value(number)
    if read is None:
        return None
    value, decimal = read
    return _with_rest(
        -value if negative else value, decimal, (sign["money"] or "").strip(), text[number.end() :]
    )


def _with_rest(value: Fraction, decimal: bool, money: str, rest: str) -> Quantity | None:
    """The quantity of a number and what follows it: multiplier, percent sign, unit."""
    multiplied = False
    while multiplier := _MULTIPLIER.match(rest):
        value *= _MULTIPLIERS[multiplier["word"].lower()]
        multiplied = True
        inside = "\\text{" in multiplier.group() and not multiplier["close"]
        rest = ("\\text{" if inside else "") + rest[multiplier.end() :]
    short = None if multiplied else _SHORT_MULTIPLIER.match(rest)
    # "$5M" is five million, and "5k" five thousand. "5 M" may be anything.
    if short and (money or (short["k"] and not rest.startswith(" "))):
        names = {"k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
        value *= next(scale for name, scale in names.items() if short[name])
        rest = rest[short.end() :]
    if ordinal := _ORDINAL.match(rest):
        rest = rest[ordinal.end() :]
    percent = _PERCENT.match(rest)
    if percent:
        rest = rest[percent.end() :]
    rest = rest.strip()
    # "$5 dollars" has one unit.
    unit_text = rest if _MONEY_NAME.match(rest) else f"{money} {rest}".strip()
    if not unit_text:
        return Quantity(value, decimal, bool(percent))
    units = units_behind(unit_text, bool(money))
    if units is None:
        return None
    written = re.sub(r"\s+\^", "^", plain_units(unit_text))
    return Quantity(value, decimal, bool(percent), units, written)


_MONEY_NAME = Pattern(r"(?:\\text\s?\{)?\s?(?:dollar|euro|pound|cent|USD|EUR|GBP)")
# What follows a number and is no unit, though it is made of letters.
_NO_UNIT = Pattern(
    r"\b(?:and|or|to|times|plus|minus|over|half|halves|sqrt|pi|mod|root|sin|cos|tan|cot|sec|csc|log"
    r"|ln|exp|choose|factorial|max|min\(|remainder|out|base|if|when|where|because|since|so|as|but|is|are"
    r"|was|not|am|pm|AM|PM|January|February|March|April|May|June|July|August|September|October"
    rf"|November|December|{NUMBER_WORD}|[a-z]+ths)\b|^\s*(?:squared|cubed|R)\b|[=<>+]"
)
_SYMBOLIC = Pattern("[πθαβγδλφϕψωτρσεΔΣℝ∞√∛∅∪∩!|]")


def units_behind(text: str, money: bool) -> Units | None:
    """The unit that follows a number. None if it may be a factor of an expression."""
    wrapped = text.lstrip("\\,;:! ~").startswith(
        ("\\text", "\\mathrm", "\\mbox", "\\operatorname", "\\frac", "\\rm")
    )
    plain = plain_units(text)
    if not plain:
        return NO_UNITS
    if (
        _SYMBOLIC.search(plain)
        or plain[0] in "*·²³"
        or (_NO_UNIT.search(plain) and not _LOOKS_LIKE_NO_UNIT.match(plain))
        or len(plain) > 80
        or len(plain.split()) > 8
        or re.search(r"[0-9]", re.sub(r"\^\s?\{?-?[0-9]", "", plain))
    ):
        return None
    units = read_units(plain)
    if units and not money and not units.dimensions and re.fullmatch(r"/\s?\w", plain):
        return None  # "1/x" is an expression, "1/s" a frequency
    word = re.match(r"[A-Za-z][A-Za-zµ]*", plain)
    if units is None or wrapped or money or word is None:
        return units
    first = word.group()
    if len(first) >= 3:
        return None if PRODUCT.fullmatch(first) else units
    return (
        units if is_known(first) or first in ("sq", "cu") or re.match("[A-Z]{2}", first) else None
    )


_LOOKS_LIKE_NO_UNIT = Pattern(r"(?:min|sec)s?$|per |/")


def _value(number: re.Match[str]) -> tuple[Fraction, bool] | None:
    """The value of a matched number, and whether it may be rounded."""
    try:
        if number["recurring"]:
            return _recurring(number), False
        if number["mixed"]:
            part = _fraction(number["mixed"])
            return (int(number["whole"]) + part, False) if 0 <= part < 1 else None
        if number["frac"]:
            return _fraction(number["frac"]), "." in number["frac"]
        if number["under"]:
            top = read_decimal(number["over_"])
            return top / int(number["under"]), "." in number["over_"]
    except ZeroDivisionError:
        return None
    value = read_decimal(number["decimal"])
    exponent = number["e0"] or number["e1"] or number["e2"]
    if exponent:
        if abs(int(exponent[:6])) > _MAX_EXPONENT:
            return None
        value *= Fraction(10) ** int(exponent)
    return value, "." in number["decimal"]


def read_decimal(text: str) -> Fraction:
    """Read what `DECIMAL` matches."""
    text = text.replace(",", "").replace(" ", "")
    return Fraction("0" + text if text.startswith(".") else text)


def _fraction(text: str) -> Fraction:
    parts = text.split("/")
    if "frac" in text:
        parts = [braced or bare for braced, bare in re.findall(r"\{([^{}]*)\}|([0-9])", text)]
    return Fraction(parts[0].replace(" ", "")) / Fraction(parts[1].replace(" ", ""))


def _recurring(number: re.Match[str]) -> Fraction:
    names = ("over", "over1", "dot", "inside", "digit")
    repeated = next(found for name in names if (found := number[name]))
    whole, _, places = number["fixed"].partition(".")
    value = Fraction(f"{whole or '0'}.{places or '0'}")
    return value + Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(places))


# --- number words -------------------------------------------------------------------------------

_WORDS = Pattern(r"[A-Za-z]+(?:[- ][A-Za-z]+)*")


def _read_words(text: str) -> Quantity | None:
    """Read a number in words, in English or Chinese: "twenty-five dollars"."""
    plain = plain_units(text)
    if chinese := _read_chinese(plain):
        return chinese
    words = plain.replace("-", " ").split(" ")
    if not _WORDS.match(plain) or len(words) > 40:
        return None
    value, used = _leading_number([word.lower().strip(".,") for word in words])
    if value is None:
        return None
    return _with_rest(value, False, "", " " + " ".join(words[used:]))


def _leading_number(words: list[str]) -> tuple[Fraction | None, int]:
    """The number that the first words say, and how many of them say it."""
    words = [*words, "", "", ""]
    start = used = int(words[0] in _SIGNS and bool(words[1]))
    total = group = 0
    if words[used] in ("a", "an") and (
        words[used + 1] in _MULTIPLIERS or words[used + 1] in _PARTS
    ):
        group, used = 1, used + 1
    elif words[used] == "half":
        group = 1
    while word := words[used]:
        value = _SMALL.get(word)
        if value is not None and (group % 100 == 0 or (group % 10 == 0 and value < 10)):
            group += value
        elif word in ("hundred", "dozen"):
            group = (group or 1) * _MULTIPLIERS[word]
        elif word in _SCALES:
            total, group = total + (group or 1) * _SCALES[word], 0
        elif not (
            word == "and" and used > start and group % 100 == 0 and words[used + 1] in _SMALL
        ):
            break
        used += 1
    number = Fraction(total + group)
    if used == start and not group:
        return None, 0
    if words[used] in _PARTS:
        number, used = number / _PARTS[words[used]], used + 1
        if words[used] == "a" and words[used + 1] in _MULTIPLIERS:
            used += 1  # "half a million"
    elif words[used] == "and" and words[used + 1] in ("a", "one") and words[used + 2] in _PARTS:
        number, used = number + Fraction(1, _PARTS[words[used + 2]]), used + 3
    return _SIGNS.get(words[0], 1) * number, used


def _read_chinese(text: str) -> Quantity | None:
    match = re.match(r"[零一二三四五六七八九十百千万亿两〇]{1,20}", text)
    if not match or len(text) - match.end() > 10:
        return None
    total = section = digit = 0
    for value in map(int, map(unicodedata.numeric, match.group())):
        if value < 10:
            digit = value
        elif value < 10**4:
            section, digit = section + (digit or 1) * value, 0
        else:
            total, section, digit = (total + section + digit) * value, 0, 0
    return _with_rest(Fraction(total + section + digit), False, "", text[match.end() :])


# --- writing ------------------------------------------------------------------------------------


def write_number(value: Fraction, decimal: bool) -> str:
    """Write a number in the shortest exact form."""
    if not decimal or value.denominator == 1:
        return str(value)
    places = next((k for k in range(1, MAX_LENGTH) if 10**k % value.denominator == 0), None)
    if places is None:  # 0.5/3 has no end
        return str(value)
    digits = f"{abs(value.numerator) * 10**places // value.denominator:0{places + 1}d}"
    return f"{'-' * (value < 0)}{digits[:-places]}.{digits[-places:]}"


def same_value(x: Fraction, y: Fraction, rounded: bool) -> bool:
    """Tell whether numbers are the same, or, of rounded ones, to six digits and six places."""
    return x == y or (rounded and abs(x - y) * 10**6 <= min(Fraction(1), max(abs(x), abs(y))))
