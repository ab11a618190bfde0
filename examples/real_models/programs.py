r"""Prompts for programs, and a critic that runs the examples which the question shows.

    python training/collect.py --answer code --prompts examples.real_models.programs:MBPP \
        --critic examples.real_models.programs:critic ...

Whoever wrote the question shows what the function must do: ``assert add(2, 3) == 5`` (MBPP), or
``>>> add(2, 3)`` with ``5`` in the next line (HumanEval). The critic runs the program on these
calls in the sandbox. It asks no model, and it knows nothing of the hidden tests that grade the
program.
"""

import ast
import re
import time
from collections.abc import Callable

from mpdf_langgraph import CodeAnswer, CodeTests, ConfigurationError, Prompts, Response

_REFINE = """\
Others wrote these programs for the same task:

{peers}

Check all programs, yours too, with the examples of the task. Then write the best program, \
corrected where it is wrong. {instructions} Write nothing else."""
#: How small models are asked for a program: without an explanation, which costs most of the tokens.
MBPP = Prompts(propose="{question}\n\n{instructions} Write nothing else.", refine=_REFINE)
HUMANEVAL = Prompts(
    propose="Complete this Python function.\n\n```python\n{question}\n```\n\n{instructions} Write "
    "nothing else.",
    refine=_REFINE,
)
# What stands between a call and its result: "add(2, 3) == 5", "=> 5", "➞ 5", "should return 5".
_RESULT = re.compile(
    r"(?:[ \t]*(?:==|=+>|➞|->|→|=|(?:should|must|will)\s+(?:return|be)|returns)|[ \t]*\n)[ \t]*(.+)"
)
_LEAST = 0.05
"""Confidence where all examples fail. One minus it where all pass: hidden tests may differ."""


def shown_tests(question: str, calls: tuple[str, ...]) -> list[str]:
    r"""Return assertions that the question shows about calls in it.

    Args:
        question: Its text.
        calls: The calls, as `CodeAnswer.for_question` finds them.

    Example:
        >>> shown_tests("Add.\n\nassert add(2, 3) == 5", ("add(2, 3)",))
        ['assert add(2, 3) == 5']
        >>> shown_tests(">>> add(2, 3)\n5\nIt adds.", ("add(2, 3)",))
        ['assert add(2, 3) == 5']
        >>> shown_tests("add(2, 3) adds.", ("add(2, 3)",))
        []
    """
    tests = []
    for call in calls:
        found = _RESULT.match(question, question.find(call) + len(call))
        value = _literal(found[1].strip()) if found else None
        if value is not None:
            tests.append(f"assert {call} == {value}")
    return tests


def _literal(text: str) -> str | None:
    """Return the Python literal that a line is, without a remark behind it. None if it is none."""
    for written in (text, re.split(r"#|\s\(|[.,;](?=\s|$)", text, maxsplit=1)[0].strip()):
        try:
            ast.literal_eval(written)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return written
    return None


def critic() -> Callable[[str, Response], float | None]:
    """Return the critic: the share of the shown examples that a program passes.

    It is drawn a little towards 1/2. A question that shows no example gives None, no confidence. No
    program at all is as bad as one that fails everything.

    Raises:
        SandboxError: Programs cannot be run here.
    """
    schema = CodeAnswer()

    def share_passed(question: str, response: Response) -> float | None:
        """Run the shown examples."""
        bound = schema.for_question(question)
        tests = shown_tests(question, bound.examples)
        if not tests:
            return None
        passed, deadline = 0, time.monotonic() + schema.sandbox.seconds
        if response["answer"] is not None:
            name = bound.examples[0].split("(", 1)[0]
            try:
                for test in tests:
                    if time.monotonic() > deadline:
                        break  # one that hangs takes all the time that a program has
                    test_of = CodeTests(name, test, bound.setup)
                    passed += schema.passes(response["answer"], test_of).passed
            except ConfigurationError:  # the question shows what is no Python
                return None
        return _LEAST + (1 - 2 * _LEAST) * passed / len(tests)

    return share_passed
