"""Units of quantities: reading them, and telling whether two quantities have the same unit."""

import math
import re
from fractions import Fraction
from typing import NamedTuple

from mpdf_langgraph.answers.memory import cache_short
from mpdf_langgraph.answers.patterns import STYLED, Pattern


class Units(NamedTuple):
    """A unit: what it measures, how many of the base unit it is, and the words that are no unit.

    Attributes:
        dimensions: Base units with their exponents, sorted.
        factor: How many base units one of it is.
        words: Words of no known unit ("marbles"), in the singular.
    """

    dimensions: tuple[tuple[str, int], ...] = ()
    factor: Fraction = Fraction(1)
    words: frozenset[str] = frozenset()


NO_UNITS = Units()


# Units with prefixes: symbol, names, prefixes that are in use.
_SI = (
    "m meter metre kcmµn; g gram gramme kmµ; s second mµn; N newton k; J joule k; W watt kM;"
    " Pa pascal k; V volt m; A ampere m; Ω ohm k; Hz hertz kM; cal calorie k; B byte kMG;"
    " L liter litre m"
)
_PREFIXES = {
    "k": ("kilo", 3), "M": ("mega", 6), "G": ("giga", 9), "c": ("centi", -2), "m": ("milli", -3),
    "µ": ("micro", -6), "n": ("nano", -9),
}  # fmt: skip
# Other units by what they measure: the base unit, with its exponent, and how many of it each is.
_OTHER = {
    "m": "1e-6 micron; 0.0254 in inch; 0.3048 ft foot; 0.9144 yd yard; 1609.344 mi mile",
    "m^2": "10000 hectare ha",
    "m^3": "1e-6 cc ml; 0.001 l",
    "g": "1 gm; 1000 kilo; 453.59237 lb lbs pound; 28.349523125 oz ounce",
    "s": "1 sec; 60 min minute; 3600 h hr hrs hour; 86400 day; 604800 week wk",
    "month": "1 month; 12 year yr",
    "cup": "1 cup; 2 pint pt; 4 quart qt; 16 gallon gal",
    "spoon": "1 teaspoon tsp; 3 tablespoon tbsp",
    "deg": "1 deg degree °; 1/60 arcminute",
    "USD": "1 $ USD dollar buck; 1/100 ¢ cent penny",
    "J": "3600000 kWh",
    "A": "1 amp",
    "B": "1000 KB",
}
# Units that no other is converted to: their names.
_ALONE = (
    "€ EUR euro; £ GBP quid; ₹ INR Rs rupee; JPY yen; CNY RMB yuan; ¥; ₩ KRW won; ₪ ILS shekel"
    "; ₽ RUB ruble rouble; ₿ BTC; CHF; °C degC celsius; °F degF fahrenheit; K kelvin; rad radian"
    "; ton tonne; acre; C coulomb; F farad; T tesla; mol mole; molar; eV; atm; bit"
)


def _table() -> dict[str, tuple[str, int, Fraction]]:
    """Every known unit: its base unit, the exponent of that, and the factor."""
    table: dict[str, tuple[str, int, Fraction]] = {}
    for row in _SI.split(";"):
        symbol, *names, prefixes = row.split()
        base, power, size = (
            ("m", 3, Fraction("0.001")) if symbol == "L" else (symbol, 1, Fraction(1))
        )
        for short, long, digits in (("", "", 0), *((p, *_PREFIXES[p]) for p in prefixes)):
            for name in (short + symbol, *(long + name for name in names)):
                table[name] = (base, power, size * Fraction(10) ** digits)
    for base, rows in _OTHER.items():
        for row in rows.split(";"):
            factor, *names = row.split()
            kind, _, exponent = base.partition("^")
            table |= dict.fromkeys(names, (kind, int(exponent or 1), Fraction(factor)))
    for row in _ALONE.split(";"):
        names = row.split()
        table |= dict.fromkeys(names, (names[0], 1, Fraction(1)))
    return table


_KNOWN = _table()
_SPEEDS = {"mph": "mi / h", "kph": "km / h", "kmph": "km / h", "kmh": "km / h", "fps": "ft / s",
           "rpm": "revolution / min", "psi": "lb / in ^ 2"}  # fmt: skip
#: Signs and codes that stand before or behind an amount of money.
CURRENCY = (
    r"(?:(?:US|A|AU|C|CA|HK|NZ|S)?\\?\$|[€£¥₹₩₽₪₿¢]|\\pounds(?![a-z])|\\(?:text)?euro?(?![a-z])"
    r"|\\texteuro(?![a-z])|\\yen(?![a-z])|\\rupee(?![a-z])|\bRs\.?(?![a-z])|\b(?:USD|EUR|GBP|INR|JPY|CNY|CHF)\b)"
)
_CURRENCY_NAMES = {"\\$": "$", "\\pounds": "£", "\\euro": "€", "\\eur": "€", "\\texteuro": "€",
                   "\\texteur": "€", "\\yen": "¥", "\\rupee": "₹", "Rs.": "Rs"}  # fmt: skip
_IRREGULAR = {
    "feet": "foot", "children": "child", "people": "person", "men": "man", "women": "woman",
    "mice": "mouse", "teeth": "tooth", "geese": "goose",
}  # fmt: skip
# Words between the words of a unit that say nothing of it.
_FILLING_TEXT = (
    "of the a an total altogether in all unit units each every left remaining more other"
    " different possible whole full exactly about for to their her his its"
)
_FILLING = frozenset(_FILLING_TEXT.split())
_POWERS = {"square": 2, "squared": 2, "sq": 2, "cubic": 3, "cubed": 3, "cu": 3}
_FRACTION = Pattern(r"\\[dtc]?frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}")
_TOKEN = Pattern(
    r"\s*(?:(?P<word>°\s?[CFK]\b|[°¢$€£¥₹₩₽₪₿]|[µμ]?[^\W\d_]+(?:['’-][^\W\d_]+)*)\.?"
    r"|(?P<power>\^\s?\{?\s?(?P<exponent>-?[1-9])\s?\}?|[²³])"
    r"|(?P<sign>[/*·]))"
)


def plain_units(text: str) -> str:
    r"""Write a unit without LaTeX: ``\,\mathrm{m}/\mathrm{s}^{2}`` as ``m/s^{2}``."""
    for _ in range(4):
        before = text
        text = STYLED.sub(r" \1 ", text)
        text = _FRACTION.sub(r" \1 / \2 ", text)
        if text == before:
            break
    text = re.sub(r"\\(?:[,;:!> ]|quad|qquad|displaystyle)|~", " ", text)
    text = re.sub(r"\^\s?\{?\s?\\(?:circ|degree)\s?\}?|\\(?:degree|degrees)(?![a-z])|º", "°", text)
    text = re.sub(r"\\(?:cdot|times|cdotp|ast)(?![a-z])|⋅", "*", text)
    text = re.sub(r"\\Omega(?![a-z])|Ω", "Ω", text)
    text = re.sub(r"\\(?:mu|micro)(?![a-z])\s*|μ", "µ", text)
    for latex, sign in _CURRENCY_NAMES.items():
        text = text.replace(latex, sign)
    text = re.sub(r"°\s+([CFK])\b", r"°\1", text.replace("''", " ").replace("\\%", "%"))
    return " ".join(re.sub(r"^\s*\((.*)\)\s*$", r"\1", text.strip(), flags=re.DOTALL).split())


def singular(word: str) -> str:
    """Return one form for the singular and the plural of a noun: a stem, not always a word."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word in _KNOWN or len(word) < 3:
        return word
    if word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    if word in _KNOWN:
        return word
    return re.sub("[vf]e$", "f", re.sub("ie$", "y", word))  # knives as knife, cookies as cookie


def is_known(word: str) -> bool:
    """Tell whether a word is a unit or stands for one."""
    return _lookup(word) is not None or word in _SPEEDS


def _lookup(word: str) -> tuple[str, int, Fraction] | None:
    for form in (word, singular(word), word.lower(), singular(word.lower())):
        if form in _KNOWN and (form == word or len(word) > 2):
            return _KNOWN[form]
    return None


@cache_short(4096)
def read_units(text: str) -> Units | None:
    """Read a unit that is written plainly. Return None if the text is something else."""
    text = plain_units(text)
    for name, meaning in _SPEEDS.items():
        text = re.sub(rf"(?<![a-z]){name}(?![a-z])", meaning, text)
    units: list[tuple[str, int, Fraction]] = []
    words: set[str] = set()
    sign, power, position = 1, 1, 0
    raisable = False  # whether a power may follow
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            return None
        position = token.end()
        word = re.sub(r"\s", "", token["word"] or "")
        behind = {"²": 2, "³": 3}.get(token["power"]) or int(token["exponent"] or 0)
        if raisable and word.lower() in ("squared", "cubed"):
            behind = _POWERS[word.lower()]
        if behind:
            if not raisable:
                return None
            base, exponent, scale = units.pop()
            units.append((base, exponent * behind, scale**behind))
            raisable = False
        elif token["sign"] or word.lower() == "per":
            sign = -1 if token["sign"] in ("/", None) else 1
        elif word == "in" and re.match(r"\s*[a-z]", text[position:]):
            continue  # "5 in total"
        elif word.lower() in _POWERS:
            power = _POWERS[word.lower()]
        else:
            known = _lookup(word)
            if known:
                base, exponent, scale = known
                units.append((base, exponent * sign * power, scale ** (sign * power)))
            elif (name := singular(word.lower())) not in _FILLING:
                words.add(name)
            raisable, sign, power = known is not None, 1, 1
    exponents: dict[str, int] = {}
    for base, exponent, _ in units:
        exponents[base] = exponents.get(base, 0) + exponent
    return Units(
        tuple(sorted((base, exponent) for base, exponent in exponents.items() if exponent)),
        math.prod((scale for _, _, scale in units), start=Fraction(1)),
        frozenset(words),
    )


def scale_between(a: Units, b: Units) -> Fraction | None:
    """Return what a number in unit `a` is multiplied by to be one in unit `b`.

    A missing unit fits every other. Return None if the units do not fit.
    """
    if NO_UNITS in (a, b) or a == b:
        return Fraction(1)
    if a.dimensions == b.dimensions and (a.words <= b.words or b.words <= a.words):
        return a.factor / b.factor
    small, large = sorted(
        (frozenset(unit.words) | frozenset(unit.dimensions) for unit in (a, b)), key=len
    )
    # "$45" and "45 dollars an hour": one says more than the other, and nothing else.
    return Fraction(1) if small < large else None
