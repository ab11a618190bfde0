"""One form for all ways of writing a text, and whether a sentence says a short answer."""

import re
import unicodedata

from mpdf_langgraph.answers.math_numbers import read_quantity
from mpdf_langgraph.answers.memory import cache_short
from mpdf_langgraph.answers.patterns import Pattern
from mpdf_langgraph.answers.reading import has_long_mark_run
from mpdf_langgraph.answers.text_reading import HAS_VERB

_LONGEST_NORMALISED = 4_000
# An article of another language is written small before a name, else it belongs to the name:
# "la Lune" and "La lune", but "La Paz".
_ARTICLE_BEFORE = Pattern(
    r"(?:l['’](?=\w)|(?:la|le|les|el|il|lo|los|las|un|una|une|uno|o|os|as|um|uma|de|het|een|den"
    r"|det)\s(?=\S)|(?:La|Le|Les|El|Il|Lo|Los|Las|Un|Una|Une)\s(?=[a-zà-ÿ])|[Ll]['’](?=\w)"
    r"|(?:[Dd]er|[Dd]ie|[Dd]as|[Ee]in|[Ee]ine)\s(?=[A-ZÀ-Ý]))"
)
_NAMES_WITH_ARTICLE = Pattern(
    r"l(?:as vegas|os angeles|a paz|e mans|e havre|a plata|os alamos)|el (?:salvador|paso|niño"
    r"|alamein)"
)
_TITLE = Pattern(
    r"(?:pres|queen|king|pope|dr|mr|mrs|ms|sir|prof|professor|president"
    r"|dame)\.? (?=\S+ \S)",
    re.IGNORECASE,
)
_ABOUT = Pattern(
    r"(?:about|approximately|approx\.?|around|roughly|exactly|circa|ca\.|c\.) (?=[$€£]?\d)|(?:in"
    r"|on) (?=\d{4}$|\w+day\b|(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]* \d)",
    re.IGNORECASE,
)
_MONTHS = "january february march april may june july august september october november december"
_MONTH_NAME = rf"(?P<month>{'|'.join(f'{m[:3]}(?:{m[3:]})?' for m in _MONTHS.split())})\.?"
_MONTH_STARTS = [month[:3] for month in _MONTHS.split()]
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_DATES = [
    Pattern(rf"(?i)\b{_DAY} (?:of )?{_MONTH_NAME},? (?P<year>\d{{4}})\b"),
    Pattern(rf"(?i)\b{_MONTH_NAME} {_DAY},? (?P<year>\d{{4}})\b"),
    Pattern(r"(?<![\d-])(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})(?![\d-])"),
    Pattern(rf"(?i)\b{_DAY} (?:of )?{_MONTH_NAME}\b(?P<year>)"),
    Pattern(rf"(?i)\b{_MONTH_NAME} {_DAY}\b(?P<year>)"),
]
_ROMAN_TEXT = "- i ii iii iv v vi vii viii ix x xi xii xiii xiv xv xvi xvii xviii xix xx"
_ROMAN = _ROMAN_TEXT.split()
_ORDINALS_TEXT = (
    " first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth"
    " fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
)
_ORDINALS = {word: str(k) for k, word in enumerate(_ORDINALS_TEXT.split(" ")) if word}
_LONG_ORDINAL = Pattern(
    r"\b(twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)[- ]"
    rf"({'|'.join(list(_ORDINALS)[:9])})\b"
)


@cache_short(4096)
def normalise(text: str, in_sentence: bool = False) -> str:
    """Write a text in one form for all that say the same.

    Case, white space, articles, punctuation, emoji and accents of Latin letters are gone. The
    signs that tell numbers, "C#" from "C", or "R&B" from "RB" apart stay. A number, a date, and a
    number with a known unit have one form.
    """
    if len(text) > _LONGEST_NORMALISED or has_long_mark_run(text):
        return " ".join(text.casefold().split())
    plain = " ".join(_without_accents(unicodedata.normalize("NFKC", text)).split())
    plain = re.sub(r"degrees? ([CF])(?:elsius|ahrenheit)?\b", r"°\1", plain)
    plain = _TITLE.sub("", _ABOUT.sub("", plain.rstrip(".!") or plain))
    if not _NAMES_WITH_ARTICLE.match(plain):
        plain = _ARTICLE_BEFORE.sub("", plain, count=1) if _ARTICLE_BEFORE.match(plain) else plain
    if not in_sentence and (number := _as_number(plain)):
        return number
    written = plain = plain.casefold()
    plain = re.sub(r"(?<=\d)\s?[–—−-]\s?(?=\d)|^[−–](?=\d)", "-", plain)
    plain = re.sub(r"(?<=\d)(?::00)?\s?(?=[ap]\.?m\b)", " ", plain)
    plain = re.sub(r"^(?:because(?: of)?|due to|the (?:city|town|country|state) of) ", "", plain)
    plain = _with_dates(plain)
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain)
    plain = re.sub(r"\b0(?=\d/\d{1,2}/\d{4})|(?<=\d/)0(?=\d/\d{4})", "", plain)
    plain = re.sub(r"\$?_\{?(\d+)\}?\$?", r"\1", plain)
    plain = _LONG_ORDINAL.sub(
        lambda found: f"{int(_as_number(found[1]) or 0) + int(_ORDINALS[found[2]])}th", plain
    )
    plain = plain.replace(",", " ")
    plain = re.sub(r"\s?([=/])\s?", r"\1", plain)
    plain = re.sub(r"\s?&\s?", " and ", plain)
    plain = re.sub(r"(?<=[^\W\d])[-/](?=[^\W\d])", " ", plain)
    kept = "".join(
        character
        for character, following in zip(plain, (plain + " ")[1:], strict=True)
        if not unicodedata.category(character).startswith("P")
        or character in "#%"
        or (character in "-.:/," and following.isdigit())
    )
    kept = "".join(c for c in kept if c == "°" or unicodedata.category(c) not in ("So", "Cf", "Mn"))
    kept = re.sub(r"(?<=\w\w) and (?=\w\w)", " ", " ".join(kept.split()))
    words = [word for word in kept.split() if word not in ("a", "an", "the")]
    alone = len(words) == 1
    return " ".join(_as_word(word, k or alone) for k, word in enumerate(words)) or written


def joined(text: str) -> str:
    """The normal form with words joined: "ice cream" is "ice-cream" and "icecream"."""
    return re.sub(r"(?<=[^\W\d]) (?=[^\W\d])", "", normalise(text))


def _as_word(word: str, place: int) -> str:
    if word in _ORDINALS:
        return _ORDINALS[word] + "th"
    if ordinal := re.fullmatch(r"(\d{1,3})(?:st|nd|rd|th)", word):
        return ordinal[1] + "th"
    if place and len(word) > 1 and word in _ROMAN:
        return str(_ROMAN.index(word))
    return _as_number(word) or word


def _with_dates(text: str) -> str:
    for date in _DATES:
        text = date.sub(_as_date, text)
    return text


def _as_date(found: re.Match[str]) -> str:
    month = found["month"].lower()
    number = int(month) if month.isdigit() else _MONTH_STARTS.index(month[:3]) + 1
    return f"{found['year']}-{number}-{int(found['day'])}"


def _as_number(text: str) -> str | None:
    """One form for a number, in digits or in words, and for one with a known unit."""
    text = text.rstrip(".!")
    if len(text) > 40 or not re.fullmatch(
        r"[-+]?(?:US)?[$€£]?\d[\d,]*(?:\.\d+)?.*|[-+]?\.\d+|[A-Za-z][A-Za-z -]+", text
    ):
        return None
    quantity = read_quantity(text)
    if quantity is None or re.search(r"\d/(?!\d+$)|\d(?:st|nd|rd|th)\b|:", text):
        return None
    value = quantity.value
    unit = "%" if quantity.percent else ""
    if quantity.units.words:
        return None
    if quantity.unit_text:
        if not text[0].isalnum() and text[0] not in "$€£+-U":
            return None
        value *= quantity.units.factor
        unit = " ".join(f"{name}^{power}" for name, power in quantity.units.dimensions)
    return (str(value) if value.denominator == 1 or "." not in text else str(float(value))) + unit


_STROKES = str.maketrans("łŁøØđĐı", "lLoOdDi")


def _without_accents(text: str) -> str:
    if text.isascii():
        return text
    text = text.translate(_STROKES)
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


# Words with which a sentence may mention what it does not answer.
_DOUBTED = Pattern(
    r"(?:n['’]t|\b(?:not|no|never|nor|neither|or|either|although|though|but|while|whereas|instead"
    r"|rather|except|unlike|mistakenly|often|many|some|most|might|could|may|wrong|incorrect|false"
    r"|than|if|unless|unsure|unknown"
    r"|nicht|kein\w*|ne|pas|não|ni|né|не|ни|или|oder|ou|aber|mais|pero))\b|不|没|非",
    re.IGNORECASE,
)
_LISTING = Pattern(
    r"[,;](?!\s(?:an?|the|who|which|where|in|at|on|of|located|also|from)\b)|\s(?:and|&)\s"
)
_LONGEST_SENTENCE = 300


def says(sentence: str, answer: str) -> bool:
    """Tell whether a sentence that is no more than a statement says a short answer.

    The answer is a member of no list in it, and the sentence has no "not", "or" or "some".
    """
    if len(answer) > 0.75 * len(sentence) or len(sentence) > _LONGEST_SENTENCE:
        return False
    if len(sentence.splitlines()) > 1 or len(answer.splitlines()) > 1:
        return False  # more than a sentence
    short = _in_pieces(answer)
    words = short.split()
    if not words or len(words) > 10 or short in ("yes", "no", "true", "false"):
        return False
    if (
        not sentence.isascii()
        and len(short) > 1
        and short in sentence
        and "\u3040" <= short < "\ud7ff"
    ):
        return not _DOUBTED.search(sentence)
    if len(sentence.split()) < 3 or not HAS_VERB.search(sentence) or _DOUBTED.search(sentence):
        return False
    before, found, after = f" {_in_pieces(sentence)} ".partition(f" {short} ")
    listed = (before + after).count(",") > 1 and (after[:1] == "," or before[-1:] == ",")
    name = re.search(rf"\s([A-Z]\w+)\s{re.escape(answer)}", sentence)  # "New York" is not York
    if name and not _TITLE.match(f"{name[1]} x y"):
        return False
    if short.replace(".", "").isdigit() and re.search(r"\d", after):
        return False
    return bool(found) and not listed and (len(short) > 1 or short.isdigit())


def _in_pieces(text: str) -> str:
    pieces = [
        normalise(piece, in_sentence=True)
        for piece in _LISTING.split(_with_dates(text))
        if piece.strip()
    ]
    return " , ".join(piece for piece in pieces if piece)
