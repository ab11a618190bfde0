"""The letter of a multiple-choice question as an answer."""

import re
from collections.abc import Iterator
from itertools import islice

from mpdf_langgraph.answers.patterns import Pattern
from mpdf_langgraph.answers.reading import (
    MARKER,
    answering_part,
    find_boxes,
    json_answer,
    last_match,
    tagged_answer,
    without_truncated_box,
)
from mpdf_langgraph.errors import ConfigurationError

#: What `_letter_at` returns where more than one letter is given.
_SEVERAL = "several"
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Full-width and circled letters, and the Cyrillic ones that look like Latin ones.
_LATIN = {
    **{0xFF21 + k: letter for k, letter in enumerate(_ALPHABET)},
    **{0xFF41 + k: letter.lower() for k, letter in enumerate(_ALPHABET)},
    **{0x24B6 + k: letter for k, letter in enumerate(_ALPHABET)},
    **{0x24D0 + k: letter.lower() for k, letter in enumerate(_ALPHABET)},
    ord("（"): "(", ord("）"): ")", ord("【"): "[", ord("】"): "]", ord("“"): '"', ord("”"): '"',
    ord("’"): "'", ord("：") : ":", ord("，"): ",", ord("。"): ".", ord("「"): '"', ord("」"): '"',
}  # fmt: skip
_CYRILLIC = str.maketrans("АВСЕавсе", "ABCEabce")
_LONE_CYRILLIC = Pattern(r"(?<!\w)[АВСЕавсе](?!\w)")

_STYLE = (
    r"\\(?:text|mathrm|mathbf|textbf|textsf|textit|mathsf|boldsymbol|mathcal|textrm|mathit"
    r"|mathbb|underline)\w*\s?\{"
)
_HEDGES = (
    r"(?:(?:clearly|obviously|probably|definitely|certainly|therefore|thus|indeed|simply|likely|most\slikely"
    r"|option|choice|letter|answer|either|just|then|now|still|always|la|el|die|der|lettre|opción|opção|вариант"
    r"|选项|選項)\b\s?)"
)
_OPENING = Pattern(rf"(?:{_HEDGES}|{_STYLE}|[\s(\[{{<*$\"'`_:~])*", re.IGNORECASE)
_LETTER = Pattern(r"([A-Za-z])(?![A-Za-z0-9'’])")
# Behind a letter that is meant as one: "a because", where "a dog" is an article.
_FOLLOWS = (
    r"(?:because|since|as|is|was|and|or|but|not|for|due|which|would|fits|holds|seems|works)\b"
)
_SEPARATOR = Pattern(
    r"[\s)\]}*_$\"'`]{0,6}(?:,|/|&|\bor\b|\band\b|und|oder|、|和|或|及|跟)\s?(?:(?:and|or)\s)?(?:(?:option|choice)s?\s)?"
    r"[\s(\[*]*(?P<second>[A-Za-z])(?![A-Za-z0-9'’])[)\]*}]*(?P<rest>.?\s?\w{0,12})"
)
_CLAUSE = Pattern(r"\s?[a-z]{2,}")

_GOOD = r"(?:correct|right|true|best|valid|appropriate|suitable|accurate|answer)"
_X = (
    r"(?:\((?P<{0}>[A-Za-z])\)|\*\*(?P<{1}>[A-Z])\*\*|(?P<{2}>[A-Z])(?![A-Za-z0-9'’])"
    r"|(?<=option )(?P<{3}>[a-z])\b"
    r"|(?<=choice )(?P<{4}>[a-z])\b)"
)


def _letter(prefix: str) -> str:
    return _X.format(*(f"{prefix}{k}" for k in range(5)))


# "Option B is correct", "only A satisfies the condition", "(C) holds".
_SUBJECT = Pattern(
    rf"(?:(?P<pair>[A-Z]\)?(?:\s?,\s?(?:and\s)?|\s(?:and|or|&)\s)(?:(?:option|choice)\s)?))?(?<![A-Za-z0-9])"
    rf"(?P<only>\bonly\s)?(?:(?:option|choice|statement|answer)\s)?{_letter('s')}[.:)*]*(?:\s(?:(?![A-Z]\b)[^.,;\n]){{0,60}}?)?"
    rf"\s(?:(?:is|are|was|be|seems|must\sbe)\s(?:(?:all|both|clearly|indeed|therefore|thus|actually|definitely|also|probably)\s)?"
    rf"(?:the\s)?(?:only\s|most\s|single\s)?{_GOOD}|holds|works|fits|satisfies|matches|best\s(?:describes|fits|explains|matches|answers)"
    r"|it\sis)\b(?!\s(?:but|only)\b)"
)
_PLURAL = Pattern(r"\bare\s(?:all\s|both\s)?" + _GOOD)
# "I choose B", "it is C", "the right one is B", "so C."
_CHOSEN = Pattern(
    r"(?:\b(?:choos(?:e|ing)|chose|pick(?:ing)?|select(?:ing|ed)?|go(?:ing)?\swith|opt(?:ing)?\sfor|settle\son|prefer|say|lean(?:ing)?\s(?:towards?|to)|I\s(?:think|believe|guess)"
    r"|vote\sfor|it(?:'s|\sis)|it\smust\sbe|must\sbe|should\sbe|choice\sis|option\sis|this\sis|that\sis|points\sto|leaves(?:\sus\swith)?"
    r"|(?:correct|right|best|final)\s(?:one|option|choice|letter|answer|selection|statement)\s?(?:is|:|=|-)"
    r"|(?:my|final)\s(?:choice|pick|selection|vote)\s?(?:is|:|=|-))"
    r"|(?m:^)[ \t*_#>-]{0,9}(?:(?:selected|chosen|correct)\s)?(?:choice|option|letter"
    r"|selection|pick)\s?[:=]"
    r"|\b(?:correct|right|best)\sis|应?[选選]择?[擇项項]?|選ぶ|답은)\s?",
    re.IGNORECASE,
)
_CONCLUDED = Pattern(
    r"(?:\b(?:so|therefore|thus|hence|but|rather|answer|finally|ergo|then)\b|∴|⇒|=>|->|→|因此|所以|故),?\s*(?=[^\n]{1,24}$|[^\n.]{1,24}[.\n])",
    re.IGNORECASE | re.MULTILINE,
)
_NEGATION = Pattern(r"\s?(?:not|n't|never|neither|ni|nicht|pas)\b", re.IGNORECASE)
_LEADING = Pattern(
    r"[\s*_`\"'>#-]*(?:(?:option|choice)\s)?(?:\((?P<a>[A-Za-z])\)|\[(?P<b>[A-Za-z])\]|(?P<c>[A-Za-z])(?![A-Za-z0-9'’]))"
    r"(?P<after>[*_`\"']*(?:[.):]|\s[-–—:=]\s|\s*$|\s*\n|[*_`]+|,\s(?:because|since|as)\b))?",
    re.IGNORECASE,
)
_IN_BRACKETS = Pattern(r"(?<![\w\\])\(([A-Z])\)")
_SENTENCE = Pattern(r"[.!?;](?=\s|$)|\n")


_JOINED = Pattern(r"[\s$]*(?:\\text\s?\{)?\s*(?:,|/|&|and|or)\s*\}?[\s$]*")


class ChoiceAnswer:
    r"""One letter of a multiple-choice question.

    `parse` takes the letter that is stated last: in ``\boxed{B}``, by "the answer is (B)",
    "Answer: b" (in other languages, too), "option B is correct" or "so I choose B". Where none is
    stated, it takes a letter that a response begins or ends with ("B. Paris"), else the
    one letter in brackets in the last sentence that has any. Two letters, or a letter beyond the
    choices, are no answer. Letters of names and articles are none either ("vitamin C", "A force").

    Args:
        n: The number of choices, 2 to 26, lettered from A.

    Example:
        >>> ChoiceAnswer(4).parse("A and C are out, so the answer is (b).")
        'B'
        >>> ChoiceAnswer(4).parse("Option B is correct; A and D confuse cause and effect.")
        'B'
    """

    def __init__(self, n: int) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or not 2 <= n <= 26:
            raise ConfigurationError(f"ChoiceAnswer takes the number of choices, 2 to 26: {n!r}")
        self.name = f"choice({n})"
        self._letters = _ALPHABET[:n]
        self.instructions = (
            f"Put the letter of the right choice, A to {self._letters[-1]}, in \\boxed{{}}."
        )

    def parse(self, text: str) -> str | None:
        """Read the letter out of a response; None where there is none, or a wrong one."""
        text = _latin(answering_part(text))
        given = tagged_answer(text)
        if given is None and (field := json_answer(text)):
            given = field.value or ""
        letter = self._find(text if given is None else given)
        return letter if letter and letter in self._letters else None

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether two answers are the same letter; a reference may be written "(B)"."""
        return self._letter_of(a) == self._letter_of(b)

    def _letter_of(self, text: str) -> str:
        return self.parse(text) or text.strip().upper()

    def _find(self, text: str) -> str | None:
        """The letter that decides, perhaps beyond the choices; None where there is none."""
        last, letter = -1, None
        for position, found in self._stated(text):
            if position > last:
                last, letter = position, found
        if letter is not None:
            return None if letter == _SEVERAL else letter
        text = without_truncated_box(text).strip()
        return _leading_letter(text) or _bracketed_letter(text)

    def _stated(self, text: str) -> Iterator[tuple[int, str]]:
        """Every letter that is stated as the answer, with its place."""
        boxes = find_boxes(text, most=20)
        if len(boxes) > 1 and _JOINED.fullmatch(text[boxes[-2].end : boxes[-1].start]):
            yield boxes[-1].start + 1, _SEVERAL
        for box in boxes:
            letter = _letter_at(box.contents, 0)
            if letter and (
                letter == _SEVERAL or letter in self._letters or box.contents.strip() == letter
            ):
                yield box.start, letter
        plain = without_truncated_box(text)
        if marker := _last_with_letter(MARKER, plain):
            yield marker
        if chosen := _last_with_letter(_CHOSEN, plain):
            yield chosen
        if concluded := _last_with_letter(_CONCLUDED, plain, short=True):
            yield concluded
        if subject := last_match(_SUBJECT, plain[-20_000:]):
            letter = next(
                value for key, value in subject.groupdict().items() if key[0] == "s" and value
            )
            several = subject["pair"] is not None and _PLURAL.search(subject.group())
            if not (
                letter in "AI"
                and re.match(r"[AI]\s[a-z]", subject.group())
                and not re.match(rf"[AI]\s(?:is|{_FOLLOWS}|best|holds|works|fits)", subject.group())
            ):
                yield (
                    len(plain) - len(plain[-20_000:]) + subject.start(),
                    _SEVERAL if several else letter.upper(),
                )


def _latin(text: str) -> str:
    text = re.sub(r"'([A-Za-z])'", r'"\1"', text)
    if text.isascii():
        return text
    return _LONE_CYRILLIC.sub(lambda one: one.group().translate(_CYRILLIC), text.translate(_LATIN))


def _last_with_letter(pattern: Pattern, text: str, short: bool = False) -> tuple[int, str] | None:
    """The last place where a letter follows what the pattern finds."""
    found = None
    for match in islice(pattern.finditer(text), 10_000):
        if letter := _letter_at(text[match.end() : match.end() + 200], 0, short=short):
            found = match.end(), letter
    return found


def _letter_at(text: str, start: int, short: bool = False) -> str | None:
    """The letter that begins here, `_SEVERAL` where more are given, None where a word begins.

    Args:
        text: What follows the words that announce an answer.
        start: Where.
        short: Take it only where nothing but a full stop follows.
    """
    if _NEGATION.match(text, start):
        return None
    opening = _OPENING.match(text, start)
    begin = opening.end() if opening else start
    letter = _LETTER.match(text, begin)
    if letter is None:
        return None
    bracketed = (
        text[begin - 1 : begin] in ("(", "[", "{", "<", "*", "$", '"', "'", "`", "_") and begin > 0
    )
    rest = text[letter.end() :]
    if not bracketed and not _stands_for_a_choice(letter[1], rest):
        return None
    if re.match(r"\s?=", rest):
        return None
    if short and not re.match(r"[)\]}*_$\"'`]*\s*(?:[.!\n,;]|$|\()", rest):
        return None
    more = _SEPARATOR.match(rest)
    another = more and (more["second"].isupper() or more.group().count("("))
    if more and another and not _CLAUSE.match(more["rest"]):
        return _SEVERAL
    if more and another and re.match(r"\s?(?:because|since|as|are|both)\b", more["rest"]):
        return _SEVERAL
    return letter[1].upper()


def _stands_for_a_choice(letter: str, rest: str) -> bool:
    """Tell whether a letter without brackets is no article, pronoun or variable."""
    if letter.islower():
        return bool(re.match(rf"\s*(?:[).,;:*}}\]\"'`$]|$|\n)|\s{_FOLLOWS}|[^\x00-\x7f]", rest))
    if letter in "AI" and re.match(r"\s[a-z]", rest):
        return bool(re.match(rf"\s{_FOLLOWS}", rest)) and not re.match(
            r"\s(?:was|would|for)\b", rest
        )
    return True


def _leading_letter(text: str) -> str | None:
    """The letter that a response, or else its last line, begins with."""
    lines = [line for line in text.split("\n") if line.strip(" \t*`_#-")]
    if not lines:
        return None
    leading = [letter for line in lines[:40] if (letter := _leads(line))]
    if (
        len(set(leading)) > 1
        and len(lines) > 1
        and not _is_alone(lines[-1])
        and not _is_alone(lines[0])
    ):
        first = _leads(lines[0])
        return None if first is None or _leads(lines[1]) else first
    for line in (lines[-1], lines[0]) if _is_alone(lines[-1]) else (lines[0], lines[-1]):
        if letter := _leads(line):
            return letter
    return None


def _is_alone(line: str) -> bool:
    return bool(re.fullmatch(r"[\s*_`\"'>#(\[-]*[A-Za-z][\s*_`\"').\]]*", line))


def _leads(line: str) -> str | None:
    leading = _LEADING.match(line[:400])
    if not leading or (leading["after"] is None and leading["c"]):
        return None
    letter = leading["a"] or leading["b"] or leading["c"]
    if (leading["a"] or leading["b"]) and re.match(
        r"\s(?:and|or|nor)\b|\s?,", line[leading.end() :]
    ):
        return None
    if (
        letter.islower()
        and leading["c"]
        and not re.match(r"[).:*`\"'\s]*$|[).:]\s", line[leading.end("c") :])
    ):
        return None
    return letter.upper()


def _bracketed_letter(text: str) -> str | None:
    """The only letter in brackets in the last sentence that has any."""
    for sentence in reversed(_SENTENCE.split(text[-4000:])):
        letters = _IN_BRACKETS.findall(sentence)
        if letters:
            doubtful = re.search(
                r"\b(?:not|neither|nor|wrong|incorrect|n't)\b", sentence, re.IGNORECASE
            )
            return letters[0] if len(set(letters)) == 1 and not doubtful else None
    return None
