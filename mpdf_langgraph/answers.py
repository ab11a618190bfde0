"""Answer schemas: how an answer is read out of a response, and when two answers are the same.

A schema brings its `instructions` for the prompt, reads an answer with `parse`, and compares
two parsed answers with `equivalent`. `assign_clusters` turns that comparison, which need not be
transitive, into a partition: every answer is compared with one representative per cluster.

Comparing may take a while (a worker process, a judge model), so async code calls
`assign_clusters` in a thread.
"""

import math
import re
import threading
import unicodedata
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple, Protocol

from langchain_core.language_models import BaseChatModel

from mpdf_langgraph.equality import EqualityWorker
from mpdf_langgraph.errors import ConfigurationError


class AnswerSchema(Protocol):
    """What a deliberation has to know about answers.

    Attributes:
        name: Recorded in traces.
        instructions: One sentence for the prompts: how the answer is to be written.
    """

    name: str
    instructions: str

    def parse(self, text: str) -> str | None:
        """Read the answer out of a response; None where there is none. Never raises."""
        ...

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether two parsed answers are the same answer."""
        ...


def assign_clusters(
    answers: Sequence[str | None], representatives: Sequence[str], schema: AnswerSchema
) -> tuple[list[int | None], list[str]]:
    """Sort answers into clusters of equivalent ones.

    An answer joins the first cluster whose representative it equals or is equivalent to, in
    either order, else it founds a new one. Given the representatives of earlier rounds, the
    clusters keep their numbers.

    Args:
        answers: Parsed answers; None for a response without one.
        representatives: One answer per cluster known so far.
        schema: Compares the answers.

    Returns:
        The index of every answer's cluster, None for None, and the representatives, the new
        ones at the end.

    Example:
        >>> assign_clusters(["1000", "7", None, "1,000"], [], MathAnswer())
        ([0, 1, None, 0], ['1000', '7'])
    """
    known = list(representatives)
    labels: list[int | None] = []
    for answer in answers:
        if answer is None:
            labels.append(None)
            continue
        if answer in known:
            labels.append(known.index(answer))
            continue
        for index, other in enumerate(known):
            if schema.equivalent(answer, other) or schema.equivalent(other, answer):
                labels.append(index)
                break
        else:
            labels.append(len(known))
            known.append(answer)
    return labels, known


class _Verdicts:
    """A bounded, thread-safe memory of verdicts on unordered pairs."""

    _CAPACITY = 10_000

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], bool] = {}

    def get(self, a: str, b: str) -> bool | None:
        return self._known.get((min(a, b), max(a, b)))

    def put(self, a: str, b: str, verdict: bool) -> bool:
        """Remember a verdict; where another thread was faster, its verdict stands."""
        with self._lock:
            if len(self._known) >= self._CAPACITY:
                del self._known[next(iter(self._known))]
            return self._known.setdefault((min(a, b), max(a, b)), verdict)


# --- mathematics ----------------------------------------------------------------------------

_MAX_LENGTH = 1000  # characters; no answer is longer, and every step below stays cheap

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
    r"\b(?:hundred|thousand|million|billion|trillion|dozen|and|or|to|times|plus|minus|over|half"
    r"|sqrt|pi|mod|root)\b",
    re.IGNORECASE,
)
_FIND_NUMBER = re.compile(rf"(?:(?<![\w)}}\]])[-\u2212]{_CURRENCY}?)?{_NUMBER}(?:\s?\\?%)?")
_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s{0,9}\{|\\.|[{}]", re.DOTALL)
_TRUNCATED_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,9}\{(?!\s*\})[^\n]*")
_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_HEADING = re.compile(r"\**(?:[A-Za-z]{2}|[0-9]+[.):]\s+\S)")
_MARKER = re.compile(r"\banswer[\s*]{0,9}(?:is\b|:|=)[\s*:]{0,9}", re.IGNORECASE)
_MATH_SEGMENT = re.compile(r"\$\$?([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|$)")
_COMMAND_WITH_WORDS = re.compile(
    r"\\(?:begin|end|text|mbox|mathrm|mathbf|textbf|operatorname)\s?\{[^{}]*\}"
)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_ONLY_WORDS = re.compile(r"[A-Za-z][A-Za-z\s.,'()-]*")
_NO_EXPRESSION = re.compile(r"\n|[A-Za-z]:|\\(?:boxed|fbox)")
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


class MathAnswer:
    r"""Numbers and mathematical expressions.

    `parse` takes the last complete ``\boxed{}``, else what follows the last ``####``, else
    what follows "the answer is" or "answer:", else a response that is nothing but one short
    expression, else the last number. A box cut off by the token limit is ignored with what
    stands in it: half a number is a wrong answer. Numbers come back in one form ("1,000",
    ``\$1000`` and "1000.0 dollars" as "1000", ``\frac24`` as "1/2"), other expressions almost
    as they stand.

    `equivalent` compares numbers exactly; a decimal of six digits or more also equals what it
    rounds. A percentage equals its value and its bare number, as in "what percentage ..." with
    the answer 50: the one place where numbers are not transitive. Everything else goes to
    math-verify, in a worker process (`mpdf_langgraph.equality`) that is shared by all schemas
    and killed at the time limit. Units are not compared.

    Args:
        timeout: Seconds that math-verify may take for one comparison; answers that take longer
            are not equivalent, and `undecided` counts them.

    Example:
        >>> schema = MathAnswer()
        >>> schema.parse(r"so we get \boxed{\frac{1}{2}}."), schema.parse("#### 1,250")
        ('1/2', '1250')
        >>> schema.equivalent("1/2", "0.5"), schema.equivalent("2x+x", "3x")
        (True, True)
    """

    name = "math"
    instructions = "Put the final answer in \\boxed{}."

    def __init__(self, timeout: float = 1.0) -> None:
        if not (timeout > 0 and math.isfinite(timeout)):
            raise ConfigurationError(f"timeout must be a positive number of seconds: {timeout!r}")
        self.timeout = timeout
        #: Comparisons given up at the time limit, or because the worker died of them.
        self.undecided = 0
        self._lock = threading.Lock()
        self._verdicts = _Verdicts()

    def parse(self, text: str) -> str | None:
        """Read the answer out of a response; None where there is none."""
        answer = _find_math(text)
        return answer if answer and len(answer) <= _MAX_LENGTH else None

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether two answers have the same value."""
        if a == b:
            return True
        if max(len(a), len(b)) > _MAX_LENGTH:
            return False
        a, b = _canonical(a), _canonical(b)
        quick = _quick_verdict(a, b)
        if quick is None:
            quick = self._verdicts.get(a, b)
        return self._ask_worker(a, b) if quick is None else quick

    def _ask_worker(self, a: str, b: str) -> bool:
        try:
            verdict = _WORKER.compare(a, b, self.timeout)
        except (TimeoutError, ChildProcessError) as error:
            verdict = False
            with self._lock:
                self.undecided += 1
                first = self.undecided == 1
            if first:
                warnings.warn(
                    f"Two answers could not be compared and count as different: {error} "
                    "Further ones are only counted, in MathAnswer.undecided.",
                    RuntimeWarning,
                    stacklevel=3,
                )
        return self._verdicts.put(a, b, verdict)


_WORKER = EqualityWorker()


def _find_math(text: str) -> str | None:
    """The answer in a response, by the order that `MathAnswer` documents."""
    boxed = _last_box(text)
    if boxed is not None:
        return _canonical(boxed)
    answer: str | None
    text = _TRUNCATED_BOX.sub("", text)
    # A Markdown heading of level 4 ("#### Step 2", "#### 1. Add") is not an answer.
    lines = [line for line in _HASHES.findall(text) if not _HEADING.match(line)]
    if lines and (answer := _canonical(lines[-1])):
        return answer
    marker = _last(_MARKER, text)
    if marker and (answer := _after_marker(text[marker.end() :][: 2 * _MAX_LENGTH])):
        return answer
    whole = text.strip()
    if len(whole) <= _MAX_LENGTH and not _has_prose(whole) and not _NO_EXPRESSION.search(whole):
        answer = _canonical(whole)
        if "=" not in _ASSIGNED.sub("", answer, count=1) and re.search(r"\w", answer):
            return answer
    number = _last(_FIND_NUMBER, text)
    return _canonical(number.group()) if number else None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last match; no list of them, as a broken response can have millions."""
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def _last_box(text: str) -> str | None:
    """The contents of the last complete, non-empty box; of nested ones the innermost."""
    if "\\boxed" not in text and "\\fbox" not in text:
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
        return _canonical(segment.group())
    sentence = _SENTENCE_END.split(rest, maxsplit=1)[0]
    if _has_prose(sentence) and (number := _FIND_NUMBER.search(sentence)):
        return _canonical(number.group())
    return _canonical(sentence)


def _has_prose(text: str) -> bool:
    return bool(_WORD.search(_COMMAND_WITH_WORDS.sub(" ", text)))


def _canonical(text: str) -> str:
    """One form for every number, and little more than tidy white space for the rest."""
    if len(text) > 4 * _MAX_LENGTH:
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
    if not match or len(text) > _MAX_LENGTH or _NO_UNIT.search(match["unit"] or ""):
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
        if places > _MAX_LENGTH:  # 0.5/3 has no end
            return str(value)
    whole, rest = divmod(abs(value.numerator) * 10**places // value.denominator, 10**places)
    return f"{'-' * (value < 0)}{whole}.{rest:0{places}d}"


def _quick_verdict(a: str, b: str) -> bool | None:
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


# --- multiple choice ------------------------------------------------------------------------

_BOXED_LETTER = re.compile(r"(?:\\text\w*\s?\{|[\s({*$\[])*([A-Za-z])(?![A-Za-z0-9'])")
_ANSWER_LETTER = re.compile(
    r"\banswer(?:\s{1,9}is)?[\s:*=$]{0,9}(?:\\text\w*\{)?"
    r"(?:\(\s?([A-Za-z])\s?\)|([A-Z])(?![A-Za-z0-9'])|([a-z])(?=[).]|\s*$))",
)
_PARENTHESISED_LETTER = re.compile(r"(?<!\w)\(([A-Z])\)")
# "A triangle" and "I think" are words.
_LONE_LETTER = re.compile(r"(?<![\w'\u2019\\])(?![AI] [a-z])([A-Z])(?![\w'\u2019])")


class ChoiceAnswer:
    r"""One letter of a multiple-choice question.

    `parse` looks for ``\boxed{B}``, "the answer is (B)" or "Answer: B", the last "(B)", and
    the last capital letter that stands alone, in that order. The first of these that is there
    decides: a letter beyond the choices is no answer.

    Args:
        n: The number of choices, 2 to 26, lettered from A.

    Example:
        >>> ChoiceAnswer(4).parse("A and C are out, so the answer is (b).")
        'B'
    """

    def __init__(self, n: int) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or not 2 <= n <= 26:
            raise ConfigurationError(f"ChoiceAnswer takes the number of choices, 2 to 26: {n!r}")
        self.name = f"choice({n})"
        self._letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:n]
        self.instructions = (
            f"Put the letter of the right choice, A to {self._letters[-1]}, in \\boxed{{}}."
        )

    def parse(self, text: str) -> str | None:
        """Read the letter out of a response; None where there is none, or a wrong one."""
        letter = self._find(text)
        return letter if letter and letter in self._letters else None

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether two answers are the same letter."""
        return a.strip().upper() == b.strip().upper()

    @staticmethod
    def _find(text: str) -> str | None:
        boxed = _last_box(text)
        if boxed is not None:
            match = _BOXED_LETTER.match(boxed)
            return match[1].upper() if match else None
        text = _TRUNCATED_BOX.sub("", text)
        for pattern in (_ANSWER_LETTER, _PARENTHESISED_LETTER, _LONE_LETTER):
            if match := _last(pattern, text):
                return next(letter for letter in match.groups() if letter).upper()
        return None


# --- free text ------------------------------------------------------------------------------

_JUDGE = (
    "Two people answered the same question.\n\n"
    "First answer:\n<answer>{a}</answer>\n\n"
    "Second answer:\n<answer>{b}</answer>\n\n"
    "Do the two answers mean the same? Reply with one word, yes or no."
)


class TextAnswer:
    """Free text.

    `parse` takes what follows the last "answer is" or "Answer:", else the whole response.
    `equivalent` ignores case, white space, punctuation and English articles; what still differs
    is decided by `equivalence`, if given.

    Args:
        equivalence: A function of two answers, called in both orders, or a chat model, asked
            at temperature 0 whether they mean the same. Verdicts are remembered. A call that
            fails counts as not equivalent, with a warning, and is asked again next time.

    Example:
        >>> TextAnswer().equivalent("The Eiffel Tower.", "eiffel tower")
        True
        >>> capitals = TextAnswer(lambda a, b: a[0] == b[0])
        >>> capitals.equivalent("Paris", "Pau")
        True
    """

    name = "text"
    instructions = 'End with "Answer: " and your final answer, as short as possible.'

    def __init__(
        self, equivalence: Callable[[str, str], bool] | BaseChatModel | None = None
    ) -> None:
        if not (
            equivalence is None or isinstance(equivalence, BaseChatModel) or callable(equivalence)
        ):
            raise ConfigurationError(
                f"equivalence must be a function of two answers or a chat model: {equivalence!r}"
            )
        self._equivalence = equivalence
        #: Comparisons without a verdict: the judge said neither yes nor no, or the call failed.
        self.undecided = 0
        self._lock = threading.Lock()
        self._verdicts = _Verdicts()

    def parse(self, text: str) -> str | None:
        """Read the answer out of a response; None where nothing is left."""
        marker = _last(_MARKER, text)
        return text[marker.end() if marker else 0 :].strip().strip("*").strip() or None

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether two answers say the same."""
        if _normalise(a) == _normalise(b):
            return True
        if self._equivalence is None:
            return False
        known = self._verdicts.get(a, b)
        if known is not None:
            return known
        try:
            verdict = self._decide(min(a, b), max(a, b))
        except Exception as error:  # whatever a judge raises, a deliberation goes on
            self._count_undecided()
            warnings.warn(
                f"Two answers could not be compared and count as different: {error!r}",
                RuntimeWarning,
                stacklevel=2,
            )
            return False
        return self._verdicts.put(a, b, verdict)

    def _decide(self, a: str, b: str) -> bool:
        if not isinstance(self._equivalence, BaseChatModel):
            assert self._equivalence is not None
            return bool(self._equivalence(a, b) or self._equivalence(b, a))
        # The tag keeps the judge's words out of the token stream of a graph around it.
        reply = self._equivalence.invoke(
            _JUDGE.format(a=a, b=b), {"tags": ["nostream"]}, temperature=0
        )
        word = re.match(r"\W*(yes|no)\b", str(reply.text), re.IGNORECASE)
        if word is None:
            self._count_undecided()
            return False
        return word[1].lower() == "yes"

    def _count_undecided(self) -> None:
        with self._lock:
            self.undecided += 1


@lru_cache(maxsize=4096)
def _normalise(text: str) -> str:
    """Normalise as SQuAD does, but spare the signs that tell numbers and "C#" from "C" apart."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    kept = "".join(
        character
        for character, following in zip(plain, (plain + " ")[1:], strict=True)
        if not unicodedata.category(character).startswith("P")
        or character in "#%"
        or (character in "-.:/" and following.isdigit())
    )
    words = [word for word in kept.split() if word not in ("a", "an", "the")]
    return " ".join(words) or plain
