"""Free text as the answer."""

import re
import threading
import warnings
from collections.abc import Callable
from typing import Any

from langchain_core.language_models import BaseChatModel

from mpdf_langgraph.answers.schema import refuse_async
from mpdf_langgraph.answers.text_reading import find_text, normalise
from mpdf_langgraph.answers.thoughts import split_thought
from mpdf_langgraph.answers.verdict_memory import VerdictMemory
from mpdf_langgraph.errors import ConfigurationError, describe_error
from mpdf_langgraph.frames import quote_text
from mpdf_langgraph.prompts import SAME_MEANING


class TextAnswer:
    """Free text.

    `parse` takes what follows the last "answer is" or "Answer:" (in other languages, too), the
    contents of a box, an ``<answer>`` tag or a JSON object's answer field, without explanations
    and decoration; else the whole response. "Yes, it is." is Yes.
    `equivalent` ignores case, white space, punctuation, English articles and the accents of Latin
    letters, and compares numbers by their value; what still differs is decided by
    `equivalence`, if given.

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
        self._verdicts = VerdictMemory()

    def parse(self, text: str) -> str | None:
        """Read the answer out of a response; None where nothing is left."""
        return find_text(text)

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether two answers say the same."""
        if normalise(a) == normalise(b):
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
            SAME_MEANING.format(a=quote_text(a), b=quote_text(b)),
            {"tags": ["nostream"]},
            temperature=0,
        )
        _, verdict = split_thought(str(reply.text))
        word = re.match(r"\W*(yes|no)\b", verdict, re.IGNORECASE)
        if word is None:
            self._count_undecided()
            return False
        return word[1].lower() == "yes"

    def _count_undecided(self) -> None:
        with self._lock:
            self.undecided += 1

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the lock: a schema goes to other processes with its settings."""
        return {key: value for key, value in vars(self).items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())
