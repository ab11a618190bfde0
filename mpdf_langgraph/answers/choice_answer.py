"""One letter of a multiple-choice question as the answer."""

import re

from mpdf_langgraph.answers.math_notation import (
    TRUNCATED_BOX,
    last_box,
    last_match,
)
from mpdf_langgraph.errors import ConfigurationError

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
