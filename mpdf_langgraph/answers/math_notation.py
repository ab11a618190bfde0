"""One way of writing for mathematical answers: decoration gone, Unicode and LaTeX variants merged.

All of this is cheap and exact. What two answers are worth is compared elsewhere.
"""

import re
import unicodedata

from mpdf_langgraph.answers.math_numbers import (
    MAX_LENGTH,
    read_quantity,
    write_number,
)
from mpdf_langgraph.answers.math_units import CURRENCY
from mpdf_langgraph.answers.memory import cache_short
from mpdf_langgraph.answers.patterns import MATH_SEGMENT, STYLES, Pattern

_FULL_WIDTH = {0xFF01 + k: chr(0x21 + k) for k in range(94)}
_TYPOGRAPHY = (
    _FULL_WIDTH
    | str.maketrans(
        "\u2212\u2013\u2014\u2010\u2011\u00a0\u202f\u2009\u2007～\u2044\u2215“”‘’。、º˚\u2126\u03bc∣",
        "-----     //\"\"''.,°°Ωµ|",
        "\u200b\u2062\u2061",
    )
    | {ord("…"): "...", ord("⟨"): "\\langle ", ord("⟩"): "\\rangle "}
)
_VULGAR = Pattern("[¼½¾⅐-⅞↉]")
_VULGAR_RAISED = Pattern("\\^([¼½¾⅐-⅞])")
_VULGAR_DIGITS = Pattern("(?<=[0-9])\\s?(?=[¼½¾⅐-⅞])")
_THOUSANDS = Pattern(r"(?<=[0-9])(?:,?\s?\\!\s?|\\,|\{,\}|'|_|\\ )(?=[0-9]{3}(?![0-9]))")
_SEPARATED = Pattern("[0-9][.,][0-9]")
_EUROPEAN = Pattern(r"(?<![\w.,])([0-9]{1,3}(?:\.[0-9]{3})+),([0-9]+)(?![\w.,])")
_UNIT_BEHIND = (
    r"\s?(?:\\[,;]\s?)?(?:\\text\s?\{\s?)?"
    r"(?:[A-ZÄÖÜ][a-zäöüß]{3,}(?=\s|[.!]|$)|€|EUR\b|[Ee]uros?\b|(?:[kcm]?m|k?g|[Ll]|km/h|°C)\b)"
)
# "3,50 €", "2,5 km", "€3,50"
_EUROPEAN_DECIMAL = Pattern(
    rf"(?<![\w.,])([0-9]{{1,3}}),([0-9]{{1,2}})(?={_UNIT_BEHIND})|(€\s?[0-9]{{1,3}}),([0-9]{{2}})(?!\d)"
)
_ARRAY = Pattern(r"\(\s?\\begin\{array\}\{[^{}]*\}(.*?)\\end\{array\}\s?\)", re.DOTALL)
_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_REAIS = Pattern(r"(?<=R\$ )[0-9]{1,3}(?:\.[0-9]{3})+(?![.,]?[0-9])")
# A text in a language that writes a comma for the point: it has words of one, and none of English.
_EUROPEAN_WORDS = Pattern(
    r"[äöüßéèêñçãõàìòа-я]|\b(?:der|die|das|ist|und|sind|antwort|el|los|las|respuesta|les|est|il|het"
    r"|een|antwoord|uma?|hay|resultado|risultato|ergebnis|wynik|resposta|risposta|wynosi"
    r"|otrzymujemy)\b",
    re.IGNORECASE,
)
_ENGLISH_WORDS = Pattern(r"\b(?:the|are|of|and|we|so|total|answer)\b", re.IGNORECASE)
_DECIMAL_COMMA = Pattern(
    r"(?<![\w.,(\[{])([0-9]{1,9}),([0-9]{1,2}|[0-9]{4,9})(?![\w,)\]}]|\.[0-9])"
)
_POINTED = Pattern(
    r"(?<![\w.,])[0-9]{1,3}(?:(?:\.[0-9]{3}){2,}|\.[0-9]{2}0"
    r"|\.[0-9]{3}(?=\s(?![Ee]uro)[^\W\d_]{4}))(?![0-9]|[.,][0-9])"
)
_DIGITS = Pattern("[٠-٩۰-۹०-९০-৯๐-๙]")
_NEGATIVE = Pattern(
    r"(?=[mn])(?<![0-9)]\s)(?<!\b[a-z]\s)\b(?:minus|negative)\s(?=[$€£]?[0-9])", re.IGNORECASE
)
_RAISED_DIGITS = Pattern(r"(?<=[\w)\]}])([⁻⁰¹²³⁴-⁹]+)(?![⁻⁰¹²³⁴-⁹])")
_LOWERED_BASE = Pattern(r"(?<=[0-9A-Za-zα-ω])([₀-₉]+)")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
# In LaTeX a comma in braces has no space behind it: it marks thousands, or the decimals.
_BRACED_COMMA = Pattern(r"(?<![0-9},])(0\{,\}[0-9]+|[0-9]+\{,\}(?:[0-9]{1,2}|[0-9]{4,}))(?![0-9{])")
_CASES = Pattern(
    r"(?:\\left)?(?:\\\{)?\s?\\begin\{cases\}(.*?)\\end\{cases\}(?:\s?\\right\.)?", re.DOTALL
)
_SPACING = Pattern(
    r"(?<!\\)\\(?:[!,;:> ]|(?:left|right|big|Big|bigg|Bigg|bigl|bigr|Bigl|Bigr)(?![a-z])"
    r"|(?:quad|qquad|displaystyle|textstyle|scriptstyle|limits|hfill|enspace|thinspace|nobreak"
    r"|tiny|small|normalsize|large|Large|LARGE|huge|Huge|bfseries|centering|noindent)(?![a-zA-Z]))"
)
_CUT_SPACE = Pattern(r"(?<!\\)\\$")  # a control space of which the space was trimmed
_SIGNS = Pattern(
    r"\\(?:checkmark|blacksquare|square|Box|qed|qedsymbol|star|bigstar|clubsuit)(?![a-zA-Z])"
    "|[■□∎➡\u2600-\u27bf\U0001f300-\U0001faff]\ufe0f?"
)
_COLOURED = Pattern(
    r"\\(?:text)?color\s?(?:\[[^\]]*\])?\{[^{}]*\}|\\color\s?(?:red|blue|green|black|cyan|magenta|orange|purple)\b"
)
_DRESSED = Pattern(
    rf"\\(?:{STYLES}|underline|uline|ensuremath|underbrace|mathstrut|hl|framebox|colorbox\{{[^{{}}]*\}}"
    r"|fcolorbox\{[^{}]*\}\{[^{}]*\})\s?\{"
)
_PHANTOM = Pattern(r"\\(?:phantom|hphantom|vphantom|hspace|vspace|label|tag)\*?\s?\{[^{}]*\}")
_OLD_STYLE = Pattern(r"\\(?:bf|it|rm|sf|tt)(?![a-zA-Z])\s?")
_RELATION = Pattern(
    r"^(?:(?:=>|->|=|≈|≃|≅|⇒|→|∴|~|:)|\\(?:approx|simeq|cong|implies|therefore|to|sim|doteq"
    r"|leadsto|iff|mapsto|[A-Za-z]*[rR]ightarrow)(?![a-zA-Z]))\s*"
)
_LABEL = Pattern(
    rf"^(?:\\(?:{STYLES})\s?\{{\s*)?\(?(?P<letter>[A-E])(?:\)|[.:](?=\s))\s*(?P<close>\}})?(?:\\ "
    rf"|~|\s)*(?=\S)"
)
_ABOUT = Pattern(r"(.*[0-9π)}\]].*?)\s?(?:≈|\\approx(?![a-z]))\s?\\?\$?-?[0-9][0-9.,]*[^=≈]{0,30}")
_NOTE = Pattern(
    r"(?<=[0-9π}])\s\((?:(?:or|about|approximately|≈|i\.e\.,?|which is)\s?[^()]{1,40}"
    r"|-?[0-9.,]+\s?%)\)$"
)
#: Integers in their only form. Most answers are such.
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,14}")
_INDIAN = Pattern(r"(?<![0-9,])[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9,])")
_INLINE = Pattern(r"(?<!\\)\$([^$]+)\$")
_PREFIX = Pattern(
    rf"^(?:\\(?:{STYLES})\s?\{{\s*)?(?:the\s)?(?:(?:final|correct)\s)?"
    r"(?P<name>[A-Za-z][A-Za-z' ]{1,40}?)\s?(?::|(?P<is>\bis\b))\s*(?P<close>\})?\s*:?\s*(?=\S)",
    re.IGNORECASE,
)
_ALIGNED = Pattern(
    r"^\\begin\{(?:aligned|align\*?|split|gathered|equation\*?)\}(.*)\\end\{[a-z*]+\}$", re.DOTALL
)
_DOUBLED = Pattern(
    r"(?<!\\)\\\\(?=(?:[dtc]?frac|sqrt|text|pi|cdot|times|left|right|boxed|mathrm|circ|pm|infty|binom|theta|log|ln|sin|cos|tan|begin|end|\{|\}|%|\$|,|cup|le|ge|leq|geq)(?![a-zA-Z]))"
)
_SINGLE = Pattern(r"(?<!\\)\\(?=[A-Za-z{}$%,])")
_HEDGE = Pattern(
    r"^(?:\\text\s?\{\s*)?(?:about|exactly|approximately|approx\.?|roughly|nearly|around|almost)\b\s*\}?\s*(?=\S)",
    re.IGNORECASE,
)
_CURRENCY_IN_TEXT = Pattern(rf"^\\(?:text|mathrm)\s?\{{\s*({CURRENCY})\s*\}}\s*")
_TRAILING = Pattern(
    r"\s*(?:,|\\text\s?\{\s?,)\s*(?:\\text\s?\{\s?)?(?:as|so|since|because|where|for|with|if|when|hence|thus"
    r"|which|respectively|assuming|given)\b(?![^{}]*=).*$",
    re.DOTALL,
)


def canonical(text: str) -> str:
    r"""Write an answer in one form: a number exactly, anything else without its decoration.

    Example:
        >>> canonical(r"\text{Total: }\$1{,}000.00"), canonical("½"), canonical(r"\color{red}{x}")
        ('$1000', '1/2', 'x')
    """
    if INTEGER.fullmatch(text) or len(text) > 4 * MAX_LENGTH:
        return text  # there is nothing to trim, or it is too long for an answer whatever is trimmed
    for _ in range(6):
        before = text
        text = _simplified(text)
        if text == before:
            break
    return text


@cache_short(4096)
def _simplified(text: str) -> str:
    text = _plain_characters(text)
    text = _undressed(text)
    quantity = read_quantity(text)
    if quantity is None:
        return text
    number = write_number(quantity.value, quantity.decimal) + "%" * quantity.percent
    return _with_unit(number, quantity.unit_text)


def _with_unit(number: str, unit: str) -> str:
    """The number with its unit, as it is read again."""
    if not unit:
        return number
    money = re.match(r"(?:(?:US|HK|NZ|[AC]U?|S)?\$|[€£¥₹₩₽₪₿¢])", unit)
    if money:
        rest = unit[money.end() :].strip()
        sign = "-" * number.startswith("-")
        return f"{sign}{money.group()}{number.removeprefix('-')}" + (
            " " * (rest[:1].isalpha()) + rest
        )
    return f"{number}{unit}" if unit[0] in "°/" else f"{number} {unit}"


def _plain_characters(text: str) -> str:
    """Unicode and spacing commands in their plainest form."""
    text = text.translate(_TYPOGRAPHY)
    if not text.isascii():
        text = _VULGAR_RAISED.sub(r"^{\1}", text)
        text = _VULGAR_DIGITS.sub(" ", text)
        text = _VULGAR.sub(
            lambda one: unicodedata.normalize("NFKC", one[0]).replace("\u2044", "/"), text
        )
    if _DOUBLED.search(text) and not _SINGLE.search(text):
        text = text.replace("\\\\", "\\")
    text = _BRACED_COMMA.sub(lambda found: found[1].replace("{,}", "."), text)
    text = _INDIAN.sub(lambda found: found.group().replace(",", ""), text)
    text = _CUT_SPACE.sub("", _SPACING.sub(" ", _THOUSANDS.sub("", text))).replace("{:}", ":")
    text = _ARRAY.sub(r"\\begin{pmatrix}\1\\end{pmatrix}", text)
    text = _RAISED_DIGITS.sub(lambda found: f"^{{{found[1].translate(_RAISED)}}}", text)
    text = _LOWERED_BASE.sub(lambda found: f"_{{{found[1].translate(_LOWERED)}}}", text)
    text = re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", text)
    text = text.replace("\\mbox", "\\text").replace("\\lt ", "<").replace("\\gt ", ">")
    text = with_decimal_points(text)
    text = re.sub(r"(?<=[a-z])\s?!=(?!=)", r" \\ne ", text)
    text = _CASES.sub(
        lambda found: ", ".join(re.split(r"\s*\\\\\s*", found[1].replace("&", " ").strip())), text
    )
    return " ".join(text.split())


def with_decimal_points(text: str) -> str:
    """Write European numbers that surely are such with a point: "1.234,56" and "3,50 €".

    Digits of other scripts and a minus in words are written plainly, too.
    """
    if not text.isascii():
        text = _DIGITS.sub(lambda digit: str(unicodedata.decimal(digit.group())), text)
        text = text.replace("٫", ".").replace("٬", ",")  # what Arabic writes for the two
    text = _NEGATIVE.sub("-", text)
    if not _SEPARATED.search(text):
        return text
    if _EUROPEAN_WORDS.search(text) and not _ENGLISH_WORDS.search(text):
        text = _DECIMAL_COMMA.sub(r"\1.\2", text)
        text = _POINTED.sub(lambda found: found.group().replace(".", ""), text)
    text = _EUROPEAN.sub(lambda found: found[1].replace(".", "") + "." + found[2], text)
    text = _REAIS.sub(lambda found: found.group().replace(".", ""), text)
    return _EUROPEAN_DECIMAL.sub(
        lambda found: f"{found[1] or found[3]}.{found[2] or found[4]}", text
    )


def _undressed(text: str) -> str:
    """What is left without signs, colours, boxes, quotation marks and words that introduce."""
    text = _OLD_STYLE.sub("", _PHANTOM.sub("", _COLOURED.sub("", _SIGNS.sub("", text))))
    text = text.strip("*` \t")
    if len(text) > 2 and text[0] == text[-1] == "_":
        text = text.strip("_ ")
    text = _RELATION.sub("", text)
    text = _HEDGE.sub(_reopened, text)
    text = _CURRENCY_IN_TEXT.sub(r"\1 ", text)
    while len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    if aligned := _ALIGNED.match(text):
        text = re.split(r"\\\\", aligned[1].replace("&", " "))[-1].strip()
    text = _opened(text)
    if segment := MATH_SEGMENT.fullmatch(text):
        text = next(filter(None, segment.groups()), "").strip()
    elif len(inner := _INLINE.findall(text)) == 1 and "\\" in inner[0]:
        text = _INLINE.sub(r"\1", text)
    prefix = _PREFIX.match(text)
    if prefix and _introduces(text, prefix):
        opening = "\\text{" if "{" in prefix.group() and not prefix["close"] else ""
        text = opening + text[prefix.end() :].strip()
    text = _NOTE.sub("", _TRAILING.sub("", text) or text)
    about = _ABOUT.fullmatch(text)
    if about and re.search(r"[0-9π)}]", about[1].rpartition("=")[2].partition("_")[0]):
        text = about[1]
    if not text.endswith(("..", "!")):  # 0.333...
        text = re.sub(r"\\text\s?\{\s?[.,;]?\s?\}$", "", text).rstrip(".,;:。 ")
    if text.endswith("!") and re.search(r"[A-Za-z]{3}!$", text):
        text = text[:-1]
    return text.strip()


def _reopened(removed: re.Match[str]) -> str:
    """What opened the text of which the first words are removed."""
    return "\\text{" if removed.group().count("{") > removed.group().count("}") else ""


def _introduces(text: str, prefix: re.Match[str]) -> bool:
    """Tell whether a prefix such as "Total:" introduces what follows it."""
    words = prefix["name"].lower().split()
    if prefix["is"]:
        return bool({"answer", "result", "total", "value", "solution", "area"} & set(words))
    rest = text[prefix.end() :]
    return bool(re.search(r"[A-Za-z]{2}", prefix["name"])) and not re.match(r"[0-9]{1,2}:", rest)


def _opened(text: str) -> str:
    """The text without braces or a style around all of it."""
    for _ in range(20):
        dressed = _DRESSED.match(text)
        start = dressed.end() if dressed else 1 if text.startswith("{") else 0
        inner = text[start:-1].strip()
        if not start or not inner or _closing(text, start) != len(text) - 1:
            return text
        if not dressed and re.search("[,|]", inner) and not re.search(r"[\\{}]", inner):
            return text  # a set in plain notation
        text = inner
    return text


def _closing(text: str, start: int) -> int:
    """Where the brace that was opened before `start` closes, or -1."""
    depth = 1
    for token in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(token.group(), 0)
        if depth == 0:
            return token.start()
    return -1


_BRACE = Pattern(r"\\.|[{}]", re.DOTALL)


def split_label(text: str) -> tuple[str, str] | None:
    r"""Split the letter of a choice off: ``\textbf{(C)}\ 15`` is C and 15."""
    label = _LABEL.match(text)
    if not label:
        return None
    opening = "\\text{" if "{" in label.group() and not label["close"] else ""
    return label["letter"], opening + text[label.end() :].strip()
