"""Words in mathematical answers, and the units behind expressions."""

import re
from functools import lru_cache

from mpdf_langgraph.answers.math_numbers import DECIMAL, read_quantity, units_behind
from mpdf_langgraph.answers.math_units import NO_UNITS, Units, singular
from mpdf_langgraph.answers.patterns import PRODUCT, STYLED, Pattern

# --- words ------------------------------------------------------------------------------------

_FUNCTIONS_TEXT = (
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh asin acos atan log ln lg exp"
    " sqrt cbrt max min gcd lcm mod abs floor ceil pi det lim sup inf sgn sign alpha beta gamma"
    " delta theta lambda phi omega sigma mu infty infinity oo dx dy dt arg re im cup cap"
)
_FUNCTIONS = frozenset(_FUNCTIONS_TEXT.split())
_WORD_TOKEN = Pattern(rf"{DECIMAL}|[^\W\d_]+(?:['’-][^\W\d_]+)*|\\[A-Za-z]+|[^\s\w]|_")
_FILLERS = frozenset(["the", "a", "an", "there", "is", "are"])
_MONTHS_TEXT = (
    "january february march april may june july august september october november december"
)
_MONTHS = frozenset(_MONTHS_TEXT.split())
_IN_DATES = frozenset(["st", "nd", "rd", "th", "of"])
# Phrases by what they say.
_SYNONYMS = {
    "does not exist": "dne; doesn't exist; do not exist; no limit",
    "no solution": "no solutions exist; none; empty set; \\emptyset; \\varnothing; ∅; \\{\\}; {}",
    "infinitely many": "infinite; infinitely many solutions; infinite solutions; infinite number of"
    " solutions",
    "\\infty": "infinity; ∞; oo; positive infinity; +\\infty",
    "-\\infty": "negative infinity",
    "\\mathbb{R}": "all real numbers; all reals; set of all real numbers; ℝ; \\R; \\mathbf{R}"
    "; \\Bbb{R}; (-\\infty,\\infty); (-\\infty,+\\infty)",
    "impossible": "not possible",
    "12:00 pm": "noon",
    "12:00 am": "midnight",
}


def has_words(text: str) -> bool:
    """Tell whether words stand in an answer that no mathematics can be made of."""
    if any(re.search(r"[^\W\d_]{2}", inside) for inside in STYLED.findall(text)):
        return True
    bare = re.sub(r"\\[A-Za-z]+", " ", STYLED.sub(" ", text))
    return any(_is_word(run) for run in re.findall(r"[^\W\d_]{2,}", bare))


def _is_word(run: str) -> bool:
    if run.lower() in _FUNCTIONS or PRODUCT.fullmatch(run) or _FACTORS.fullmatch(run):
        return False
    return run in _SHORT_WORDS if len(run) == 2 and run.islower() else True


_FACTORS = Pattern(
    r"(?:arc)?(?:sin|cos|tan|log|ln|sqrt|exp|pi)[a-z]?|[a-z]?(?:pi|sqrt)[a-z]?|(?:pi|sqrt|sin|cos|tan){2,}"
)
_SHORT_WORDS_TEXT = "no on in it is so we by of up us he me my go do be am pm or at to"
_SHORT_WORDS = frozenset(_SHORT_WORDS_TEXT.split())


def word_tokens(text: str) -> list[str]:
    """The words, numbers and signs of an answer, in a form made to be compared."""
    text = STYLED.sub(r" \1 ", text)
    tokens: list[str] = []
    for token in _WORD_TOKEN.findall(text):
        lower = token.casefold().strip("'’")
        quantity = read_quantity(lower) if token[0].isdigit() or token.isalpha() else None
        if quantity is not None and not quantity.unit_text:
            tokens.append(str(quantity.value))
        elif token[0].isalpha() and len(token) > 1:
            tokens += [word for word in singular(lower).split("-") if word not in _FILLERS]
        elif token not in ",.;:\"'!?`*$~" and lower != "a":
            tokens.append(token)
    if tokens and tokens[0] in ("on", "at"):
        del tokens[0]
    tokens = [{"r": "remainder", "R": "remainder"}.get(token, token) for token in tokens]
    if not _MONTHS & set(tokens):
        return tokens
    return sorted(token for token in tokens if token not in _IN_DATES)  # 5th of June


@lru_cache
def _synonyms() -> dict[str, str]:
    meanings = {}
    for meaning, phrases in _SYNONYMS.items():
        for phrase in phrases.split("; "):
            meanings[phrase] = meanings[" ".join(word_tokens(phrase))] = meaning
    return meanings


def synonym(text: str) -> str:
    """Return one phrase for all that say the same, such as "DNE", else the text itself."""
    meaning = _synonyms().get(re.sub(r"\s+", "", text))
    if meaning or not re.search(r"[A-Za-z]{3}", text) or len(text) > 100:
        return meaning or text
    return _synonyms().get(" ".join(word_tokens(text)), text)


# --- expressions with a unit ------------------------------------------------------------------

_UNIT_START = Pattern(
    r"\\(?:text|mathrm|mbox|operatorname|rm)\b|\\frac\s?\{\s?\\(?:text|mathrm)|(?<=[\s}\)0-9])(?:[a-zA-Z]{2,})|°"
    r"|\^\s?\{?\s?\\circ|(?<=\s)[msgLNJhWV]\b"
)

# What no unit can follow: nothing, an operator, a command other than these.
_NO_OPERAND = Pattern(r"^$|[-+=*^_{(,<>/]$|\\(?!(?:pi|theta|infty)$)[A-Za-z]+$")


def split_unit(text: str) -> tuple[str, Units]:
    """Split the unit, or a percent sign, off the end of an expression."""
    if percent := re.search(r"\s?\\?%$", text):
        return text[: percent.start()].strip(), NO_UNITS
    if re.search(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])|(?<![a-z])(?:sin|cos|tan)\b", text):
        return text, NO_UNITS  # degrees belong to the angle
    for start in _UNIT_START.finditer(text):
        expression, rest = text[: start.start()].rstrip(), text[start.start() :]
        if _NO_OPERAND.search(expression) or any(
            expression.count(opening) != expression.count(closing)
            for opening, closing in ("{}", "()")
        ):
            continue
        units = units_behind(rest, False)
        if units is not None:
            return expression, units
    return text, NO_UNITS
