"""What mathematical answers are made of: lists, brackets, assignments, intervals, words.

Each function takes an answer apart in one way. It returns None if the answer is made in another.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from mpdf_langgraph.answers.math_numbers import (
    DECIMAL,
    NUMBER_WORD,
    Quantity,
    read_decimal,
    read_quantity,
)
from mpdf_langgraph.answers.math_units import Units, plain_units, scale_between
from mpdf_langgraph.answers.patterns import Pattern

_TOP_TOKEN = Pattern(
    r"\\(?:langle|rangle|begin|end)(?![a-z])|\\.|[()\[\]{}]|,|;|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])",
    re.DOTALL,
)
_LISTED_WORDS = Pattern(
    r"\\(?:text|textrm|mathrm|mbox)\s?\{\s?,?\s?(and|or|,|und|oder|et|ou|y|o)\s?\}"
    r"|\\(?:lor|vee|wedge|land)(?![a-z])|\\quad|∨|∧"
)


def split_list(text: str) -> list[str]:
    """Split at commas, semicolons, "and" and "or" that stand in no brackets."""
    text = _LISTED_WORDS.sub(lambda found: f" {found[1] or 'or'} ".replace(" , ", " and "), text)
    # \text{ apples and }
    text = re.sub(r"(\\text\s?\{[^{}]*?)\b(and|or)\b([^{}]*\})", r"\1} \2 \\text{\3", text)
    text = re.sub(r"\\text\s?\{\s*\}", " ", text)
    pieces: list[str] = []
    depth = start = 0
    for token in _TOP_TOKEN.finditer(text):
        kind = token.group()
        if kind in ("(", "[", "{", "\\{", "\\langle", "\\begin"):
            depth += 1
        elif kind in (")", "]", "}", "\\}", "\\rangle", "\\end"):
            depth -= 1
        elif kind in (",", ";", "and", "or") and depth <= 0:
            pieces.append(text[start : token.start()])
            start = token.end()
    pieces.append(text[start:])
    return [piece.strip() for piece in pieces if piece.strip()]


class Bracketed(NamedTuple):
    """What stands in one pair of brackets.

    Attributes:
        opening: "(", "[", "{" or "<".
        closing: The other one.
        items: What the commas inside separate.
    """

    opening: str
    closing: str
    items: list[str]


_BRACKETS = Pattern(
    r"(?P<open>\(|\[|\]|\\\{|\{|\\langle|<|\\lbrace|\\lbrack)\s*(?P<inside>.*?)\s*"
    r"(?P<close>\)|\]|\[|\\\}|\}|\\rangle|>|\\rbrace|\\rbrack)",
    re.DOTALL,
)
_ONE_BRACKET = {"\\{": "{", "\\}": "}", "\\langle": "<", "\\rangle": ">", "\\lbrace": "{",
                "\\rbrace": "}", "\\lbrack": "[", "\\rbrack": "]"}  # fmt: skip


def read_bracketed(text: str) -> Bracketed | None:
    """Read a tuple, interval or set: one pair of brackets that holds it all."""
    brackets = _BRACKETS.fullmatch(text)
    if not brackets:
        return None
    depth = 0
    for token in re.finditer(r"\\[{}]|\\langle|\\rangle|[()\[\]{}]", brackets["inside"]):
        depth += 1 if token.group() in ("(", "[", "{", "\\{", "\\langle") else -1
        if depth < 0:
            return None
    opening, closing = (_ONE_BRACKET.get(brackets[k], brackets[k]) for k in ("open", "close"))
    if depth or (opening == "{") != (closing == "}"):
        return None
    items = split_list(brackets["inside"])
    return Bracketed(opening, closing, items) if len(items) > 1 or opening == "{" else None


_MATRIX = Pattern(
    r"(?:\\left)?[(\[]?\s*\\begin\{(?:[pbB]?matrix|smallmatrix|array)\}(?:\{[lcr| ]*\})?"
    r"(?P<rows>.*?)\\end\{[a-zA-Z]+\}\s*(?:\\right)?[)\]]?",
    re.DOTALL,
)


_NESTED = Pattern(r"\[\s?((?:\[[^\[\]]+\]\s?,?\s?)+)\]")  # [[1, 2], [3, 4]]
_ROWS = Pattern(r"\[[^\[\];]+(?:;[^\[\];]+)+\]")  # [1, 2; 3, 4]


def read_matrix(text: str) -> list[list[str]] | None:
    """Read the rows of a matrix. A determinant, between bars, is an expression instead."""
    matrix = _MATRIX.fullmatch(text)
    if not matrix:
        if nested := _NESTED.fullmatch(text):
            return [split_list(row) for row in re.findall(r"\[([^\[\]]*)\]", nested[1])]
        return [split_list(row) for row in text[1:-1].split(";")] if _ROWS.fullmatch(text) else None
    rows = [row for row in re.split(r"\\\\|\\cr(?![a-z])", matrix["rows"]) if row.strip()]
    return [[cell.strip() for cell in row.split("&")] for row in rows]


_DETERMINANT = Pattern(r"\\begin\{vmatrix\}(?P<rows>.*?)\\end\{vmatrix\}", re.DOTALL)


def read_determinant(text: str) -> Fraction | None:
    """Read the value of a determinant of at most four rows of numbers."""
    found = _DETERMINANT.fullmatch(text)
    rows = [row.split("&") for row in re.split(r"\\\\", found["rows"])] if found else []
    values = [[read_quantity(cell.strip()) for cell in row] for row in rows]
    if not 0 < len(rows) < 5 or any(len(row) != len(rows) or None in row for row in values):
        return None
    return _determinant([[cell.value for cell in row if cell] for row in values])


def _determinant(rows: list[list[Fraction]]) -> Fraction:
    if not rows:
        return Fraction(1)
    return sum(
        (
            (-1) ** k * value * _determinant([row[:k] + row[k + 1 :] for row in rows[1:]])
            for k, value in enumerate(rows[0])
        ),
        Fraction(0),
    )


_NAME = (
    r"(?:[A-Za-z∂]|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|angle|triangle|vec|mathbf"
    r"|mathrm|overline|text|textbf|operatorname|bar|hat|measuredangle|det|Delta|ell|sigma|rho|tau"
    r"|sum|max|min|gcd|lim|log|sin|cos|tan)\b)"
)
_ASSIGNMENT = Pattern(
    rf"(?P<name>(?:\(\s?[A-Za-z](?:\s?,\s?[A-Za-z])+\s?\)|\|[A-Za-z\\{{}} ]+\|"
    rf"|{_NAME}[^=<>,]{{0,60}}?))\s?"
    r"(?:=|\\approx|≈|\\in(?![a-z])|∈|:=)\s?(?P<value>[^=].*)",
    re.DOTALL,
)


def read_assignment(text: str) -> tuple[str, str] | None:
    """Split ``x = 5`` or ``P(A) = 1/2`` into name and value. Of a chain take the last value."""
    if _COMPARISON.search(text) or re.search(r"\\equiv(?![a-z])", text):
        return None
    found = _ASSIGNMENT.fullmatch(text)
    if not found:
        return None
    value = found["value"].rpartition("=")[2].strip()
    return (re.sub(r"\s", "", found["name"]), value) if value and value[0] not in "^_" else None


_PLAIN_NAME = Pattern(
    r"(?:d|∂|\\partial )\w*/(?:d|∂|\\partial ?)\w+|(?:[A-Za-z]"
    r"|\\[a-z]+)(?:_\{?\w+\}?)?(?:\^\{?-1\}?)?'?(?:\([^()=]*\))?|[A-Za-z]{2,}|\|.+\|"
    r"|[A-Za-z]{0,4}\\(?:angle|overline|triangle|measuredangle|text|vec|mathbf|mathrm|det|max|min|gcd"
    r"|log|sin|cos|tan|lim|sum).*|\([A-Za-z](?:,[A-Za-z])+\)"
)


def is_plain_name(name: str) -> bool:
    """Tell whether a name stands for one unknown, such as x, x_1 or f(3), or says what is asked."""
    return bool(_PLAIN_NAME.fullmatch(name))


# --- inequalities -----------------------------------------------------------------------------
_SET_BUILDER = Pattern(
    r"\\?\{\s?(?P<name>[a-z])\s?(?:\\in\s?(?:\\mathbb\s?\{?R\}?|ℝ)\s?)?"
    r"(?:\\mid|\||:|\\colon|\\vert|,)\s?(?P<condition>.+?)\s?\\?\}"
)
_COMPARISON = Pattern(
    r"(?P<le>\\(?:le|leq|leqslant)(?![a-z])|<=|[≤⩽])|(?P<ge>\\(?:ge|geq|geqslant)(?![a-z])|>=|[≥⩾])"
    r"|(?P<ne>\\neq?(?![a-z])|!=|≠)|(?P<lt>\\lt(?![a-z])|<)|(?P<gt>\\gt(?![a-z])|>)"
)
_VARIABLE = Pattern(r"(?!\\pi$|e$|\\infty$)\\?[A-Za-z]{1,6}(?:_\{?\w\}?)?")
_UNION = Pattern(r"\\cup(?![a-z])|∪|(?<=[)\]])\s?U\s?(?=[(\[])|\\text\s?\{\s?or\s?\}|\bor\b")
_INTERSECTION = Pattern(r"\\text\s?\{\s?and\s?\}|\band\b|\\land(?![a-z])|\\cap(?![a-z])|∩")


def read_intervals(text: str) -> list[Bracketed] | None:
    r"""Read a union of intervals, also as inequalities of one unknown: ``2 < x \le 5``."""
    if not re.search(r"[\[\](<>≤≥≠⩽⩾]|!=|\\[lgn][et]", text):
        return None
    if built := _SET_BUILDER.fullmatch(text):
        text = built["condition"]
    text = re.sub(r"^[a-z]\s?(?:\\in(?![a-z])|∈)\s?", "", text)
    both = [_read_interval(piece.strip()) for piece in _INTERSECTION.split(text)]
    if len(both) == 2 and both[0] and both[1]:
        low, high = sorted((both[0][0], both[1][0]), key=lambda one: one.items[0] == "-\\infty")
        if low.items[1] == "\\infty" and high.items[0] == "-\\infty":
            return [Bracketed(low.opening, high.closing, [low.items[0], high.items[1]])]
    intervals: list[Bracketed] = []
    for piece in _UNION.split(text):
        read = _read_interval(piece.strip())
        if read is None:
            return None
        intervals += read
    return intervals


def _read_interval(piece: str) -> list[Bracketed] | None:
    bracketed = read_bracketed(piece)
    if bracketed and len(bracketed.items) == 2 and bracketed.opening in "([":
        return [bracketed]
    signs = [sign.lastgroup or "" for sign in _COMPARISON.finditer(piece)]
    sides = [side.strip() for side in _COMPARISON.sub("\0", piece).split("\0")]
    unknown = next((k for k, side in enumerate(sides[:2]) if _VARIABLE.fullmatch(side)), None)
    if unknown is None or not all(sides) or not 1 <= len(signs) <= 2:
        return None
    if signs == ["ne"]:
        other = sides[1 - unknown]
        return [
            Bracketed("(", ")", [low, high])
            for low, high in (("-\\infty", other), (other, "\\infty"))
        ]
    if len(signs) == 1:  # the other side is infinite
        infinity = "\\infty" if signs[0].startswith("lg"[unknown == 0]) else "-\\infty"
        sides.insert(2 * unknown, infinity)
        signs.insert(unknown, signs[0][0] + "t")
    if signs[0][0] == "g":
        sides.reverse()
        signs.reverse()
    if signs[0][0] != signs[1][0] or not _VARIABLE.fullmatch(sides[1]):
        return None
    opening, closing = "[" if "e" in signs[0] else "(", "]" if "e" in signs[1] else ")"
    return [Bracketed(opening, closing, [sides[0], sides[2]])]


# --- numbers of another kind ------------------------------------------------------------------

_BASES = {"binary": 2, "octal": 8, "decimal": 10, "hex": 16, "hexadecimal": 16}
_BASED = Pattern(
    r"\(?(?P<digits>[0-9A-Fa-f]*[0-9][0-9A-Fa-f]*|[A-F]+)\)?\s?(?:_\s?\{?\s?(?:\\text\s?\{)?\s?\(?\s?(?P<base>[0-9]{1,2}|[a-z]+)"
    r"\s?\)?\s?\}{0,2}|(?:\\text\s?\{)?\s?[\s(,]{0,3}(?:in\s)?base[\s-]?(?P<named>[0-9]{1,2}"
    r"|[a-z]+)\s?\)?\s?\}?"
    r"|\s?\(?(?:in\s)?(?P<kind>binary|octal|hexadecimal)\)?)"
)


_DIGITS_AS_TEXT = Pattern(r"\\(?:text|math)[a-z]{0,2}\s?\{\s?([0-9A-Fa-f]+)\s?\}(?=\s?_)")


def read_based(text: str) -> tuple[int, int] | None:
    """Read a number in a stated base: its value and the base."""
    text = _DIGITS_AS_TEXT.sub(r"\1", text)
    text = re.sub(r"^0x([0-9A-Fa-f]+)$", r"\1_16", re.sub(r"^0b([01]+)$", r"\1_2", text))
    found = _BASED.fullmatch(text)
    if not found:
        return None
    name = found["base"] or found["named"] or found["kind"]
    spelt = read_quantity(name)
    base = int(spelt.value) if spelt else _BASES.get(name, 0)
    try:
        return (int(found["digits"], base), base) if 2 <= base <= 36 else None
    except ValueError:
        return None


_TIME = Pattern(
    r"(?P<hour>[0-9]{1,2})(?:(?::|\.)(?P<minute>[0-5][0-9])(?::(?P<second>[0-5][0-9]))?)?\s?"
    r"(?:\\text\s?\{|\\mathrm\s?\{)?\s?(?P<half>[ap])\.?\s?m\b\.?\s?\}?"
    r"|(?P<hour2>[0-9]{1,2}):(?P<minute2>[0-5][0-9])",
    re.IGNORECASE,
)


def read_time(text: str) -> tuple[int, bool] | None:
    """Read a time of day: minutes since midnight, and whether a.m. or p.m. is said."""
    found = _TIME.fullmatch(text)
    if not found:
        return None
    if found["half"]:
        hour, minute = int(found["hour"]) % 12, int(found["minute"] or 0)
        return (hour + 12 * (found["half"].lower() == "p")) * 60 + minute, True
    return int(found["hour2"]) * 60 + int(found["minute2"]), False


_RATIO_SIGN = r"\s?(?::|\\colon|∶|\\text\s?\{\s?(?:to|:)\s?\}|\bto\b)\s?"
_RATIO = Pattern(rf"{DECIMAL}(?:{_RATIO_SIGN}{DECIMAL}){{1,5}}")
_PROPORTION = Pattern(
    rf"(?P<part>{DECIMAL})\s?"
    rf"(?:\\text\s?\{{)?\s?(?:out of(?: every)?|in(?: every)?)\s?\}}?\s?(?P<whole>{DECIMAL})"
)


def read_ratio(text: str) -> list[Fraction] | None:
    """Read 1:2:3 or "3 to 1", in lowest terms with a first term of 1."""
    if not _RATIO.fullmatch(text):
        return None
    terms = [read_decimal(term) for term in re.split(_RATIO_SIGN, text)]
    first = next((term for term in terms if term), None)
    return [term / first for term in terms] if first else None


def read_proportion(text: str) -> Fraction | None:
    """Read "1 out of 4" or "1 in 4"."""
    found = _PROPORTION.fullmatch(text)
    if not found or not (whole := read_decimal(found["whole"])):
        return None
    return read_decimal(found["part"]) / whole


_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
#: "March 14", "14 March 2020"
DAY_OF_YEAR = (
    rf"(?:{_MONTH}\s[0-9]{{1,2}}(?:st|nd|rd|th)?|[0-9]{{1,2}}(?:st|nd|rd"
    rf"|th)?\s(?:of\s)?{_MONTH})(?:,?\s[0-9]{{4}})?"
)
_DAY = Pattern(DAY_OF_YEAR)
_CONGRUENCE = Pattern(
    r"(?:(?P<name>[A-Za-z])\s?(?:\\equiv|≡|=)\s?)?(?P<residue>[^=≡]+?)\s?\(?\s?"
    r"(?:\\pmod|\\bmod|\\mod|\\text\s?\{\s?mod\s?\}|\\mathrm\s?\{\s?mod\s?\}|\\operatorname\s?\{mod\}|mod)\s?\{?\s?"
    r"(?P<modulus>[0-9A-Za-z]+)\s?\}?\s?\)?"
)


def read_congruence(text: str) -> tuple[str, str] | None:
    """Read a residue and its modulus: ``x ≡ 3 (mod 7)``."""
    found = _CONGRUENCE.fullmatch(text)
    return (found["residue"].strip(), found["modulus"]) if found else None


_COMPOUND = Pattern(
    rf"(?P<piece>(?:(?:[$€£₹]\s?)?{DECIMAL}|(?:{NUMBER_WORD})\b)[^0-9]*?)[\s,]*(?:\band\b)?[\s,]*"
    rf"(?=(?:[$€£₹]\s?)?[0-9]|(?<=\s)(?:{NUMBER_WORD})\b|$)"
)


def read_compound(text: str) -> list[Quantity] | None:
    """Read "1 hour 30 minutes" or "45 dollars and 50 cents": parts of one quantity."""
    plain = plain_units(text)
    if len(plain) > 100 or not re.fullmatch(r"[\w\s,.$€£₹°'/-]+", plain):
        return None
    parts: list[Quantity] = []
    position = 0
    while position < len(plain):
        found = _COMPOUND.match(plain, position)
        part = read_quantity(found["piece"]) if found else None
        if found is None or part is None or not part.units.dimensions or part.units.words:
            return None
        if parts and (
            part.units.dimensions != parts[0].units.dimensions
            or part.units.factor >= parts[-1].units.factor
        ):
            return None
        parts.append(part)
        position = found.end()
    return parts if len(parts) > 1 else None


def total_in(parts: list[Quantity], unit: Units) -> Fraction:
    """Add the parts of a compound quantity up, in a unit of the same kind."""
    return sum((part.value * (scale_between(part.units, unit) or 0) for part in parts), Fraction(0))


def has_form(text: str) -> bool:
    """Tell whether an answer that words may stand in has one of the forms above."""
    return bool(_DAY.fullmatch(text)) or any(
        read(text) is not None
        for read in (read_compound, read_based, read_congruence, read_ratio, read_proportion)
    )
