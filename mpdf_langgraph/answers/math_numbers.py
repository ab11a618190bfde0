"""Numbers as people and models write them: one exact value for every way of writing it."""

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from mpdf_langgraph.answers.math_units import (
    CURRENCY,
    NO_UNITS,
    Units,
    is_known,
    plain_units,
    read_units,
)
from mpdf_langgraph.answers.patterns import Pattern

MAX_LENGTH = 1000  # characters; no answer is longer, and every step below stays cheap
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
_SMALL = {word: value for value, word in enumerate(_UNITS.split())}
_TENS_TEXT = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = {word: 10 * value for value, word in enumerate(_TENS_TEXT.split(), 2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6,
          "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12, "hundredth": 100,
          "thousandth": 1000}  # fmt: skip
_PARTS |= {name + "s": value for name, value in _PARTS.items() if name not in ("half", "halves")}
_SIGNS = {"minus": -1, "negative": -1, "plus": 1}
NUMBER_WORD = "|".join(
    sorted([*_SMALL, *_TENS, *_SCALES, *_PARTS, "hundred", "dozen"], key=len, reverse=True)
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
_CHINESE_DIGITS = {c: v for v, c in enumerate("零一二三四五六七八九")} | {"两": 2, "〇": 0}
_CHINESE_SCALES = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8}


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


@lru_cache(maxsize=8192)
def read_quantity(text: str) -> Quantity | None:
    """Read a number, perhaps with a currency, multiplier, percent sign or unit; else None."""
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
    # "$5M" is five million, and "5k" five thousand; "5 M" may be anything.
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
    if money and not rest:
        unit_text = plain_units(money)
    elif money:
        unit_text = f"{plain_units(money)} {rest}" if not _repeats_money(rest) else rest
    else:
        unit_text = rest
    units = units_behind(unit_text, bool(money)) if unit_text else NO_UNITS
    if units is None:
        return None
    return Quantity(value, decimal, bool(percent), units, _tidy_units(unit_text))


def _repeats_money(rest: str) -> bool:
    return bool(re.match(r"(?:\\text\s?\{)?\s?(?:dollar|euro|pound|cent|USD|EUR|GBP)", rest))


# What follows a number and is no unit, though it is made of letters.
_NO_UNIT = Pattern(
    r"\b(?:and|or|to|times|plus|minus|over|half|halves|sqrt|pi|mod|root|sin|cos|tan|cot|sec|csc|log"
    r"|ln|exp|choose|factorial|max|min\(|remainder|out|base|if|when|where|because|since|so|as|but|is|are"
    r"|was|not|am|pm|AM|PM|January|February|March|April|May|June|July|August|September|October"
    rf"|November|December|{NUMBER_WORD}|[a-z]+ths)\b|^\s*(?:squared|cubed|R)\b|[=<>+]"
)
_SYMBOLIC = Pattern("[πθαβγδλφϕψωτρσεΔΣℝ∞√∛∅∪∩!|]")


def units_behind(text: str, money: bool) -> Units | None:
    """The unit that follows a number, None where it may be a factor of an expression."""
    wrapped = text.lstrip("\\,;:! ~").startswith(
        ("\\text", "\\mathrm", "\\mbox", "\\operatorname", "\\frac", "\\rm")
    )
    plain = plain_units(text)
    if not plain:
        return NO_UNITS
    if _SYMBOLIC.search(plain) or plain[0] in "*·²³":
        return None
    if _NO_UNIT.search(plain) and not _is_known_phrase(plain):
        return None
    if (
        len(plain) > 80
        or len(plain.split()) > 8
        or re.search(r"[0-9]", re.sub(r"\^\s?\{?-?[0-9]", "", plain))
    ):
        return None
    units = read_units(plain)
    if units is None:
        return None
    if wrapped or money or not re.match(r"[A-Za-z]", plain):
        return units
    word = re.match(r"[A-Za-zµ]+", plain)
    assert word is not None
    first = word.group()
    if len(first) >= 3:
        return units if not _looks_like_product(first) else None
    if not is_known(first) and first not in ("sq", "cu"):
        return units if len(first) == 2 and first.isupper() else None
    return units


def _is_known_phrase(plain: str) -> bool:
    return plain in ("min", "sec", "mins", "secs") or plain.startswith(("per ", "/"))


def _looks_like_product(word: str) -> bool:
    """Tell whether three letters are variables side by side rather than a word."""
    return any(set(word) <= set(letters) for letters in ("abc", "xyz", "uvw", "pqr", "rst", "mnk"))


def _tidy_units(text: str) -> str:
    return re.sub(r"\s+\^", "^", plain_units(text)).strip()


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
    if "frac" not in text:
        whole, under = text.split("/")
        return Fraction(int(whole), int(under))
    parts = re.findall(r"\{([^{}]*)\}|([0-9])", text)
    top, bottom = (Fraction((braced or bare).replace(" ", "")) for braced, bare in parts[:2])
    return top / bottom


def _recurring(number: re.Match[str]) -> Fraction:
    fixed = number["fixed"]
    repeated = next(
        filter(None, (number[name] for name in ("over", "over1", "dot", "inside", "digit")))
    )
    whole, _, places = fixed.partition(".")
    value = Fraction(f"{whole or '0'}.{places or '0'}")
    return value + Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(places))


# --- number words -------------------------------------------------------------------------------

_WORDS = Pattern(r"[A-Za-z]+(?:[- ][A-Za-z]+)*")


def _read_words(text: str) -> Quantity | None:
    """Read a number in words, "twenty-five dollars"; or in Chinese."""
    plain = plain_units(text).strip()
    if chinese := _read_chinese(plain):
        return chinese
    if not _WORDS.match(plain):
        return None
    words = plain.replace("-", " ").split(" ")
    if len(words) > 40:
        return None
    value, used = _leading_number(words)
    if value is None:
        return None
    rest = " ".join(words[used:])
    return _with_rest(value, False, "", " " + rest if rest else "")


def _leading_number(words: list[str]) -> tuple[Fraction | None, int]:
    """The number that the first words say, and how many of them say it."""
    lower = [word.lower().strip(".,") for word in words]
    sign, start = 1, 0
    if lower[0] in _SIGNS and len(lower) > 1:
        sign, start = _SIGNS[lower[0]], 1
    value, used = _cardinal(lower, start)
    if value is None:
        return None, 0
    number = Fraction(value)
    rest = lower[used:]
    if rest and rest[0] in _PARTS and used > start:
        number, used = number / _PARTS[rest[0]], used + 1
    elif rest[:3] in (["and", "a", "half"], ["and", "one", "half"]):
        number, used = number + Fraction(1, 2), used + 3
    elif rest[:3] in (["and", "a", "quarter"], ["and", "one", "quarter"]):
        number, used = number + Fraction(1, 4), used + 3
    return sign * number, used


def _cardinal(words: list[str], start: int) -> tuple[Fraction | None, int]:
    """The whole number (or bare half) that begins at a word, and where it ends."""
    if words[start] == "half" or words[start : start + 2] == ["a", "half"]:
        end = start + (2 if words[start] == "a" else 1)
        if words[end : end + 1] == ["a"] and words[end + 1 : end + 2]:
            scale = _MULTIPLIERS.get(words[end + 1])
            return (Fraction(scale, 2), end + 2) if scale else (Fraction(1, 2), end)
        return Fraction(1, 2), end
    position, total, group, found = start, 0, 0, False
    if words[start] in ("a", "an") and words[start + 1 : start + 2]:
        following = words[start + 1]
        if following not in _MULTIPLIERS and following not in ("quarter", "third"):
            return None, start
        group, position = 1, start + 1
        if following in _PARTS:
            return Fraction(1), position
    while position < len(words):
        word = words[position]
        if word in _SMALL or word in _TENS:
            if (
                found
                and group % 100
                and not (group % 10 == 0 and word in _SMALL and _SMALL[word] < 10)
            ):
                break
            group += _SMALL.get(word, 0) or _TENS.get(word, 0)
        elif word == "hundred":
            group = (group or 1) * 100
        elif word in _SCALES:
            total, group = total + (group or 1) * _SCALES[word], 0
        elif word == "dozen":
            group = (group or 1) * 12
        elif (
            word == "and"
            and found
            and words[position + 1 : position + 2]
            and (words[position + 1] in _SMALL or words[position + 1] in _TENS)
            and (group % 100 == 0)
        ):
            position += 1
            continue
        else:
            break
        found = True
        position += 1
    return (Fraction(total + group), position) if found else (None, start)


def _read_chinese(text: str) -> Quantity | None:
    match = re.match(r"[零一二三四五六七八九十百千万亿两〇]+", text)
    if not match or len(match.group()) > 20:
        return None
    total, section, digit = 0, 0, 0
    for character in match.group():
        if character in _CHINESE_DIGITS:
            digit = _CHINESE_DIGITS[character]
            continue
        scale = _CHINESE_SCALES[character]
        if scale >= 10**4:
            total, section = (total + section + digit) * scale, 0
        else:
            section += (digit or 1) * scale
        digit = 0
    rest = text[match.end() :]
    return (
        _with_rest(Fraction(total + section + digit), False, "", rest) if len(rest) <= 10 else None
    )


# --- writing ------------------------------------------------------------------------------------


def write_number(value: Fraction, decimal: bool) -> str:
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


def same_value(x: Fraction, y: Fraction, rounded: bool) -> bool:
    """Tell whether numbers are the same, or, of rounded ones, to six digits and six places."""
    return x == y or (rounded and abs(x - y) * 10**6 <= min(Fraction(1), max(abs(x), abs(y))))
