"""Numbers and mathematical expressions as answers."""

import math
import warnings

from mpdf_langgraph.answers.math_comparison import Comparison
from mpdf_langgraph.answers.math_equality import EqualityWorker
from mpdf_langgraph.answers.math_notation import INTEGER, canonical
from mpdf_langgraph.answers.math_numbers import MAX_LENGTH
from mpdf_langgraph.answers.math_reading import find_answer
from mpdf_langgraph.answers.memory import Memory
from mpdf_langgraph.errors import ConfigurationError, EqualityError


class MathAnswer:
    r"""Numbers and mathematical expressions.

    `parse` takes the first of these that the response has: the last complete ``\boxed{}`` with
    what stands beside it (a sign, a multiplier, a second box), ``<answer>`` tags, the answer field
    of a JSON object, what follows the last ``####``, what follows "the answer is" or "answer:" in
    many languages, one short expression that is the whole response, the expression that ends the
    last sentence, its last number that is no circumstance of another ("17 in 5 years" is 17),
    the last number, a box that the token limit cut off. It skips thoughts, how sure the model
    is, and further questions that the model asks itself.
    Numbers come back in one form with their unit: "1,000" and ``1{,}000.0`` as "1000",
    ``\frac24`` as "1/2", "two dozen" as "24". Other expressions lose their decoration.

    `equivalent` compares numbers exactly. A decimal of six digits or more also equals what it
    rounds. Units are compared if both answers have one: "2 km" is "2000 m", "5 wins" is not
    "5 losses". A number without a unit equals the same number with any. A percentage equals its
    value and its bare number. In these last two places equality is not transitive. Words, number
    bases, moduli and lists are compared part by part. Expressions go to sympy in a worker process
    (see `math_equality`), which is ended at the time limit.

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
        self._verdicts = Memory[bool]()

    @property
    def undecided(self) -> int:
        """How many comparisons were given up at the time limit, or for want of a worker."""
        return self._verdicts.undecided

    def parse(self, text: str) -> str | None:
        """Read the answer out of a response. Return None if there is none."""
        answer = find_answer(text)
        return answer if answer and len(answer) <= MAX_LENGTH else None

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether two answers have the same value."""
        if a == b:
            return True
        if max(len(a), len(b)) > MAX_LENGTH or (INTEGER.fullmatch(a) and INTEGER.fullmatch(b)):
            return False
        # One order, so that the verdict cannot depend on it.
        first, second = sorted((canonical(a), canonical(b)))
        try:
            return Comparison(self._same_expression).same(first, second)
        except RecursionError:
            return False  # nested more deeply than any answer
        except (TimeoutError, ChildProcessError, EqualityError) as error:
            if self._verdicts.count_undecided() == 1:
                warnings.warn(
                    f"Two answers could not be compared and count as different: {error} "
                    "Further ones are only counted, in MathAnswer.undecided.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return False

    def _same_expression(self, a: str, b: str) -> bool:
        pair = frozenset((a, b))
        try:
            return self._verdicts.remember(pair, lambda: _WORKER.compare(a, b, self.timeout))
        except (TimeoutError, ChildProcessError, EqualityError):
            self._verdicts.remember(pair, lambda: False)
            raise


_WORKER = EqualityWorker()
