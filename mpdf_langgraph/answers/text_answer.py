"""Free text as the answer."""

import re
import warnings
from collections.abc import Callable

from langchain_core.language_models import BaseChatModel

from mpdf_langgraph.answers.memory import Memory
from mpdf_langgraph.answers.schema import refuse_async
from mpdf_langgraph.answers.text_form import joined, says
from mpdf_langgraph.answers.text_reading import find_text
from mpdf_langgraph.answers.thoughts import split_thought
from mpdf_langgraph.errors import ConfigurationError, describe_error
from mpdf_langgraph.frames import quote_text
from mpdf_langgraph.prompts import SAME_MEANING


class TextAnswer:
    """Free text.

    `parse` takes what follows the last "answer is" or "Answer:" in many languages, the contents of
    a box, an ``<answer>`` tag or a JSON object's answer field, without explanations and
    decoration. Else it takes the only bold phrase, or the name at the end of a sentence such as
    "The capital of France is Paris.", or the whole response. "Yes, it is." is Yes. What is taken
    back ("Lyon. No wait, Paris.") does not count.
    `equivalent` ignores case, white space, punctuation, articles, titles and the accents of Latin
    letters. It compares numbers, dates and quantities by their value. A plain statement also
    equals a short answer that it holds: "Carbon has 6 protons." is 6. This is not transitive.
    If answers still differ, `equivalence` decides.

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
        self._verdicts = Memory[bool]()

    @property
    def undecided(self) -> int:
        """How many comparisons had no verdict: the judge said neither yes nor no, or failed."""
        return self._verdicts.undecided

    @property
    def is_judged(self) -> bool:
        """Whether a function or a model is asked of texts that differ."""
        return self._equivalence is not None

    def parse(self, text: str) -> str | None:
        """Read the answer out of a response. Return None if nothing is left."""
        return find_text(text)

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether two answers say the same."""
        if joined(a) == joined(b) or says(a, b) or says(b, a):
            return True
        if self._equivalence is None:
            return False
        try:
            return self._verdicts.remember(frozenset((a, b)), lambda: self._decide(*sorted((a, b))))
        except Exception as error:  # whatever a judge raises, a deliberation goes on
            self._verdicts.count_undecided()
            warnings.warn(
                "Two answers could not be compared and count as different: "
                f"{describe_error(error)}",
                RuntimeWarning,
                stacklevel=2,
            )
            return False

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
            self._verdicts.count_undecided()
            return False
        return word[1].lower() == "yes"
