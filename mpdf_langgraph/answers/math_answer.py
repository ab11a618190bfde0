"""Numbers and mathematical expressions as answers."""

import math
import threading
import warnings
from typing import Any

from mpdf_langgraph.answers.math_comparison import Comparison
from mpdf_langgraph.answers.math_equality import EqualityWorker
from mpdf_langgraph.answers.math_notation import canonical
from mpdf_langgraph.answers.math_numbers import MAX_LENGTH
from mpdf_langgraph.answers.math_reading import find_answer
from mpdf_langgraph.answers.verdict_memory import VerdictMemory
from mpdf_langgraph.errors import ConfigurationError


class MathAnswer:
    r"""Numbers and mathematical expressions.

    `parse` takes the last complete ``\boxed{}``, with a sign, a multiplier or a second box
    beside it. Else it takes the contents of ``<answer>`` tags, the answer field of a JSON object,
    what follows the last ``####``, what follows "the answer is" or "answer:" (in other languages,
    too), a response that is nothing but one short expression, or else the last number. Thoughts
    and further questions that the model asks itself are no part of the response. A box cut off
    by the token limit counts only where nothing else is there. Decoration goes, and numbers come
    back in one form with their unit ("1,000" and ``1{,}000.0`` as "1000", ``\frac24`` as "1/2",
    "two dozen" as "24"), other expressions almost as they stand.

    `equivalent` compares numbers exactly. A decimal of six digits or more also equals what it
    rounds. Units are compared where both answers have one ("2 km" is "2000 m", "5 wins" is not
    "5 losses"); without a unit an answer equals the same number with any. A percentage equals
    its value and its bare number, as in "what percentage ..." with the answer 50. In these two
    places equality is not transitive. Words, number bases, moduli and lists are compared part by
    part. Expressions go to sympy, read by math-verify's grammar, in a worker process
    (`math_equality`) that is shared by all schemas and ended at the time limit.

    Args:
        timeout: Seconds of computing that comparing two expressions may take. Answers that take
            longer are not equivalent, and `undecided` counts them.

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
        self._verdicts = VerdictMemory()

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
        # One order, so that the verdict cannot depend on it.
        first, second = sorted((canonical(a), canonical(b)))
        try:
            return Comparison(self._same_expression).same(first, second)
        except RecursionError:
            return False  # nested more deeply than any answer
        except (TimeoutError, ChildProcessError) as error:
            self._count_undecided(error)
            return False

    def _same_expression(self, a: str, b: str) -> bool:
        known = self._verdicts.get(a, b)
        if known is not None:
            return known
        try:
            verdict = _WORKER.compare(a, b, self.timeout)
        except (TimeoutError, ChildProcessError):
            self._verdicts.put(a, b, False)
            raise
        return self._verdicts.put(a, b, verdict)

    def _count_undecided(self, error: Exception) -> None:
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

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the lock: a schema goes to other processes with its settings."""
        return {key: value for key, value in vars(self).items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())


_WORKER = EqualityWorker()
