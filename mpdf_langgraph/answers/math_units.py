"""Units of quantities: reading them, and telling whether two quantities have the same unit."""

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from mpdf_langgraph.answers.patterns import Pattern


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


def _table() -> dict[str, tuple[str, int, Fraction]]:
    """Every known unit: its base unit, the exponent of that, and the factor."""
    table: dict[str, tuple[str, int, Fraction]] = {}

    def add(base: str, factor: str, names: str, power: int = 1) -> None:
        table.update(dict.fromkeys(names.split(), (base, power, Fraction(factor))))

    add("m", "1", "m meter metre")
    add("m", "1/100", "cm centimeter centimetre")
    add("m", "1/1000", "mm millimeter millimetre")
    add("m", "1000", "km kilometer kilometre")
    add("m", "1/1000000", "µm micrometer micrometre micron")
    add("m", "1/1000000000", "nm nanometer nanometre")
    add("m", "127/5000", "in inch")
    add("m", "381/1250", "ft foot")
    add("m", "1143/1250", "yd yard")
    add("m", "201168/125", "mi mile")
    add("g", "1", "g gram gramme gm")
    add("g", "1000", "kg kilogram kilogramme kilo")
    add("g", "1/1000", "mg milligram")
    add("g", "45359237/100000", "lb lbs pound")
    add("g", "45359237/1600000", "oz ounce")
    add("ton", "1", "ton tonne")
    add("s", "1", "s sec second")
    add("s", "1/1000", "ms millisecond")
    add("s", "60", "min minute")
    add("s", "3600", "h hr hour")
    add("s", "86400", "day")
    add("s", "604800", "week wk")
    add("month", "1", "month")
    add("month", "12", "year yr")
    add("m", "1/1000", "L l liter litre", 3)
    add("m", "1/1000000", "mL ml milliliter millilitre cc", 3)
    add("cup", "1", "cup")
    add("cup", "2", "pint pt")
    add("cup", "4", "quart qt")
    add("cup", "16", "gallon gal")
    add("spoon", "1", "teaspoon tsp")
    add("spoon", "3", "tablespoon tbsp")
    add("acre", "1", "acre")
    add("m", "10000", "hectare ha", 2)
    add("deg", "1", "deg degree °")
    add("deg", "1/60", "arcminute")
    add("rad", "1", "rad radian")
    add("degC", "1", "°C degC celsius")
    add("degF", "1", "°F degF fahrenheit")
    add("K", "1", "K kelvin")
    add("USD", "1", "$ USD dollar buck")
    add("USD", "1/100", "¢ cent penny")
    add("EUR", "1", "€ EUR euro")
    add("GBP", "1", "£ GBP quid")
    add("INR", "1", "₹ INR Rs rupee")
    add("JPY", "1", "JPY yen")
    add("CNY", "1", "CNY RMB yuan")
    add("yen or yuan", "1", "¥")
    add("KRW", "1", "₩ KRW won")
    add("RUB", "1", "₽ RUB ruble rouble")
    add("ILS", "1", "₪ ILS shekel")
    add("CHF", "1", "CHF")
    add("BTC", "1", "₿ BTC")
    add("N", "1", "N newton")
    add("N", "1000", "kN kilonewton")
    add("J", "1", "J joule")
    add("J", "1000", "kJ kilojoule")
    add("J", "3600000", "kWh")
    add("eV", "1", "eV")
    add("cal", "1", "cal calorie")
    add("cal", "1000", "kcal")
    add("W", "1", "W watt")
    add("W", "1000", "kW kilowatt")
    add("W", "1000000", "MW megawatt")
    add("Pa", "1", "Pa pascal")
    add("Pa", "1000", "kPa kilopascal")
    add("atm", "1", "atm")
    add("V", "1", "V volt")
    add("V", "1/1000", "mV millivolt")
    add("A", "1", "A amp ampere")
    add("A", "1/1000", "mA milliampere")
    add("ohm", "1", "Ω ohm")
    add("ohm", "1000", "kΩ")
    add("Hz", "1", "Hz hertz")
    add("Hz", "1000", "kHz")
    add("Hz", "1000000", "MHz")
    add("C", "1", "C coulomb")
    add("F", "1", "F farad")
    add("T", "1", "T tesla")
    add("mol", "1", "mol mole")
    add("M", "1", "molar")
    add("byte", "1", "byte B")
    add("byte", "1000", "KB kB kilobyte")
    add("byte", "1000000", "MB megabyte")
    add("byte", "1000000000", "GB gigabyte")
    add("bit", "1", "bit")
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
_SINGULAR = {
    "feet": "foot", "inches": "inch", "children": "child", "people": "person",
    "persons": "person", "men": "man", "women": "woman", "mice": "mouse", "teeth": "tooth",
    "geese": "goose", "halves": "half", "loaves": "loaf", "knives": "knife", "leaves": "leaf",
    "shelves": "shelf", "pennies": "penny", "lbs": "lb", "centuries": "century",
    "cookies": "cookie", "movies": "movie", "pies": "pie", "ties": "tie", "calories": "calorie",
    "hertz": "hertz", "Celsius": "celsius",
}  # fmt: skip
# Words between the words of a unit that say nothing of it.
_FILLING_TEXT = (
    "of the a an total altogether in all unit units each every left remaining more other"
    " different possible whole full exactly about for to their her his its"
)
_FILLING = frozenset(_FILLING_TEXT.split())
_WRAPPER = Pattern(
    r"\\(?:text(?:bf|it|rm|sf|normal|up)?|mathrm|mathbf|mathit|mathsf|mbox|operatorname|rm|bf|it|hbox)"
    r"\s?\{([^{}]*)\}"
)
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
        text = _WRAPPER.sub(r" \1 ", text)
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
    """Return a noun in the singular, roughly, and the same for singular and plural."""
    if word in _SINGULAR:
        return _SINGULAR[word]
    if word in _KNOWN or len(word) < 4:
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def is_known(word: str) -> bool:
    """Tell whether a word is a unit or stands for one."""
    return _lookup(word) is not None or word in _SPEEDS


def _lookup(word: str) -> tuple[str, int, Fraction] | None:
    for form in (word, singular(word), word.lower(), singular(word.lower())):
        if form in _KNOWN and (form == word or len(word) > 2):
            return _KNOWN[form]
    return None


@lru_cache(maxsize=4096)
def read_units(text: str) -> Units | None:
    """Read a unit that is written plainly; None where the text is something else."""
    text = plain_units(text)
    for name, meaning in _SPEEDS.items():
        text = re.sub(rf"(?<![a-z]){name}(?![a-z])", meaning, text)
    exponents: dict[str, int] = {}
    words: set[str] = set()
    factor, sign, multiple, last = Fraction(1), 1, 1, None
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            return None
        position = token.end()
        if token["sign"]:
            sign = -1 if token["sign"] == "/" else 1
            continue
        if token["power"]:
            power = {"²": 2, "³": 3}.get(token["power"]) or int(token["exponent"])
            if last is None:
                return None
            base, exponent, scale = last
            exponents[base] += exponent * (power - 1)
            factor *= scale ** (power - 1)
            last = None
            continue
        word = re.sub(r"\s", "", token["word"])
        if word == "in" and re.match(r"\s*[a-z]", text[position:]):
            continue  # "5 in total"
        if word.lower() == "per":
            sign = -1
        elif word.lower() in ("square", "squared", "sq"):
            if word.lower() == "squared" and last is not None:
                base, exponent, scale = last
                exponents[base] += exponent
                factor *= scale
            else:
                multiple = 2
        elif word.lower() in ("cubic", "cubed", "cu"):
            if word.lower() == "cubed" and last is not None:
                base, exponent, scale = last
                exponents[base] += 2 * exponent
                factor *= scale * scale
            else:
                multiple = 3
        elif known := _lookup(word):
            base, exponent, scale = known
            exponent *= sign * multiple
            scale **= sign * multiple
            exponents[base] = exponents.get(base, 0) + exponent
            factor *= scale
            last, sign, multiple = (base, exponent, scale), 1, 1
        else:
            last, sign, multiple = None, 1, 1
            if (name := singular(word.lower())) not in _FILLING:
                words.add(name)
    dimensions = tuple(sorted((base, power) for base, power in exponents.items() if power))
    return Units(dimensions, factor, frozenset(words))


def scale_between(a: Units, b: Units) -> Fraction | None:
    """Return what a number in unit `a` is multiplied by to be one in unit `b`.

    A missing unit fits every other. None where the units do not fit.
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
