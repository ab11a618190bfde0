"""Answer schemas: how an answer is read out of a response, and when two answers are the same.

A schema brings its `instructions` for the prompt, reads an answer with `parse`, and compares
two parsed answers with `equivalent`. `assign_clusters` turns that comparison, which need not be
transitive, into a partition: every answer is compared with one representative per cluster.

Comparing may take a while (a worker process, a judge model), so async code calls
`assign_clusters` in a thread.
"""

import inspect
import math
import re
import threading
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

from langchain_core.language_models import BaseChatModel

from mpdf_langgraph.equality import EqualityWorker
from mpdf_langgraph.errors import ConfigurationError, describe_error
from mpdf_langgraph.mathematics import (
    ANSWER_MARKER,
    MAX_LENGTH,
    TRUNCATED_BOX,
    canonical,
    find_answer,
    last_box,
    last_match,
    quick_verdict,
)
from mpdf_langgraph.prompts import SAME_MEANING


class AnswerSchema(Protocol):
    """What a deliberation has to know about answers.

    Where comparing two answers takes the question too, as for programs, a schema has one method
    more, ``for_question(question)``, that returns the schema to compare with (see `schema_for`).

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


def schema_for(schema: AnswerSchema, question: str) -> AnswerSchema:
    """Return the schema that compares answers to this question: as a rule, the schema itself."""
    bind: Callable[[str], AnswerSchema] | None = getattr(schema, "for_question", None)
    return schema if bind is None else bind(question)


def is_async(function: Any) -> bool:
    """Tell whether calling it gives a coroutine: it, or its `__call__`, is a coroutine function."""
    called = getattr(function, "__call__", None)  # noqa: B004 - of an object with an async one
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def refuse_async(function: Any, name: str) -> None:
    """Raise where a function that is called synchronously returns a coroutine, true as it stands.

    Raises:
        ConfigurationError: It is asynchronous.
    """
    if is_async(function):
        raise ConfigurationError(f"{name} must be a plain function, not an async one: {function!r}")


def assign_clusters(
    answers: Sequence[str | None], representatives: Sequence[str], same: Callable[[str, str], bool]
) -> tuple[list[int | None], list[str]]:
    """Sort answers into clusters of equivalent ones.

    An answer joins the first cluster whose representative it equals or is equivalent to, in
    either order, else it founds a new one. Given the representatives of earlier rounds, the
    clusters keep their numbers.

    Args:
        answers: Parsed answers; None for a response without one.
        representatives: One answer per cluster known so far.
        same: Tells whether two answers are equivalent, as `AnswerSchema.equivalent` does.

    Returns:
        The index of every answer's cluster, None for None, and the representatives, the new
        ones at the end.

    Example:
        >>> assign_clusters(["1000", "7", None, "1,000"], [], MathAnswer().equivalent)
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
            if same(answer, other) or same(other, answer):
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
        answer = find_answer(text)
        return answer if answer and len(answer) <= MAX_LENGTH else None

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether two answers have the same value."""
        if a == b:
            return True
        if max(len(a), len(b)) > MAX_LENGTH:
            return False
        a, b = canonical(a), canonical(b)
        quick = quick_verdict(a, b)
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


# --- multiple choice ------------------------------------------------------------------------

_BOXED_LETTER = re.compile(r"(?:\\text\w*\s?\{|[\s({*$\[])*([A-Za-z])(?![A-Za-z0-9'])")
_ANSWER_LETTER = re.compile(
    r"\b(?i:answer)(?:\s{1,9}is)?[\s:*=$]{0,9}(?:(?:option|choice)\s)?(?:\\text\w*\{)?"
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
        boxed = last_box(text)
        if boxed is not None:
            match = _BOXED_LETTER.match(boxed)
            return match[1].upper() if match else None
        text = TRUNCATED_BOX.sub("", text)
        for pattern in (_ANSWER_LETTER, _PARENTHESISED_LETTER, _LONE_LETTER):
            if match := last_match(pattern, text):
                return next(letter for letter in match.groups() if letter).upper()
        return None


# --- free text ------------------------------------------------------------------------------


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
        refuse_async(equivalence, "equivalence")
        self._equivalence = equivalence
        #: Comparisons without a verdict: the judge said neither yes nor no, or the call failed.
        self.undecided = 0
        self._lock = threading.Lock()
        self._verdicts = _Verdicts()

    def parse(self, text: str) -> str | None:
        """Read the answer out of a response; None where nothing is left."""
        marker = last_match(ANSWER_MARKER, text)
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
                "Two answers could not be compared and count as different: "
                f"{describe_error(error)}",
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
            SAME_MEANING.format(a=a, b=b), {"tags": ["nostream"]}, temperature=0
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
