"""Programs as answers: reading them, comparing what they do, testing them.

Nothing here runs a program in this process: all of them run in a `Sandbox`, and what they say
is compared as plain data.
"""

import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mpdf_langgraph.answers.memory import Memory
from mpdf_langgraph.answers.program_reading import (
    DEFINITION,
    code_blocks,
    ends_in_signature,
    find_program,
    is_python,
)
from mpdf_langgraph.answers.programs import (
    canonical,
    find_calls,
    find_prompts,
    first_called,
    normalise,
    read_call,
)
from mpdf_langgraph.answers.sandbox import ProgramEndedError, Sandbox, SandboxedProcess
from mpdf_langgraph.errors import ConfigurationError

_FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """What testing a program came to.

    Attributes:
        passed: Whether it passed all tests.
        reason: Why not, in one line for people. Empty if it passed.
    """

    passed: bool
    reason: str = ""


@dataclass(frozen=True)
class CodeTests:
    """What a program is tested with: the reference of a programming task.

    The tests exchange plain values with the program. They can check what a function returns or
    raises. They cannot check objects, nor changes that it makes to its arguments.

    Attributes:
        entry_point: The function under test.
        tests: Python that calls it: assertions, or a function `check(candidate)`.
        setup: Python that comes before both, e.g. a HumanEval prompt: imports and helpers. The
            tests run with their own copy of it.

    Example:
        >>> tests = CodeTests("add", "assert add(2, 3) == 5")
        >>> CodeTests.from_json(tests.to_json()) == tests
        True
    """

    entry_point: str
    tests: str
    setup: str = ""

    def to_json(self) -> str:
        """Return it as one line of JSON: the form in which a question can carry it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "CodeTests":
        """Read what `to_json` wrote.

        Raises:
            ConfigurationError: It is something else.
        """
        try:
            values = json.loads(text)
            if all(isinstance(value, str) for value in values.values()):
                return cls(**values)
        except (ValueError, TypeError, AttributeError):
            pass
        raise ConfigurationError(
            "the reference of a program must be CodeTests, or what its to_json() gave: "
            f"{text!r:.200}"
        )


class CodeAnswer:
    """Python programs.

    `parse` takes the last fenced code block that defines the function which the question asks
    for, else any function. It adds the imports and helpers of other blocks that it needs. Without
    fences it takes the stretch of the response that is Python. A block without its closing fence
    counts if it can be parsed. If the question ends in a signature, the body alone is an answer.

    Two programs are equivalent if they differ in nothing but comments, docstrings and layout, or
    give the same outputs on the examples. Outputs are compared as values, numbers to twelve
    digits. The type of an error is an output. A program that gives no value on any example equals
    only itself. Without examples the text alone decides. `for_question` finds the function and
    the examples in a question.

    Args:
        examples: Calls with literal arguments, e.g. ``"add(2, 3)"``.
        setup: Python before every program: the imports and helpers that the question gives.
        sandbox: Where programs run; `Sandbox()` by default.

    Raises:
        ConfigurationError: An example is no such call.
        SandboxError: There is no sandbox here, and no other is named.

    Example:
        >>> schema = CodeAnswer(examples=["add(2, 3)"], sandbox=Sandbox(command=("env", "-i")))
        >>> schema.equivalent("def add(a, b): return a + b", "add = lambda a, b: sum((a, b))")
        True
    """

    name = "code"
    instructions = (
        "Put the whole program, with its imports and without tests, in one ```python code block "
        "at the end."
    )

    def __init__(
        self, *, examples: Sequence[str] = (), setup: str = "", sandbox: Sandbox | None = None
    ) -> None:
        self.sandbox = Sandbox() if sandbox is None else sandbox
        self.setup = setup
        self.examples = tuple(examples)
        self._calls = [read_call(example) for example in self.examples]
        for example, call in zip(self.examples, self._calls, strict=True):
            if call is None:
                raise ConfigurationError(
                    f'an example must be a call with literal arguments, "add(2, 3)": {example!r}'
                )
        self._memory = Memory[tuple[str, ...] | None]()
        # What the question asks for, and whether its code ends in that function's signature.
        self._function: str | None = None
        self._body_alone = False

    def for_question(self, question: str) -> "CodeAnswer":
        """Return the schema for one question: its code is the setup, its calls the examples.

        The code is the question itself if it is Python, as in HumanEval, else its code blocks. The
        examples are the calls with literal arguments of the last function defined there. If none
        is defined, they are the calls after ``>>>`` or ``assert``.
        """
        setup = question if is_python(question) else "\n".join(code_blocks(question))
        setup = setup if is_python(setup) else ""
        defined = DEFINITION.findall(setup)
        bound = CodeAnswer(
            examples=find_calls(question, defined[-1]) if defined else find_prompts(question),
            setup=setup,
            sandbox=self.sandbox,
        )
        bound._memory = self._memory
        bound._function = defined[-1] if defined else first_called(bound.examples)
        bound._body_alone = ends_in_signature(setup)
        return bound

    def parse(self, text: str) -> str | None:
        """Read the program out of a response. Return None if there is none."""
        return find_program(text, self._function, body_alone=self._body_alone)

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether two programs do the same, as far as the examples show.

        Raises:
            SandboxError: The sandbox does not work.
        """
        if a == b or normalise(a) == normalise(b):
            return True
        outputs = self.outputs(a)
        return outputs is not None and outputs == self.outputs(b)

    def outputs(self, code: str) -> tuple[str, ...] | None:
        """Return what a program gives on each example, in a form made to be compared.

        Return None if there is nothing to compare: it cannot be loaded, it does not end, or it
        raises an error on every example.

        Raises:
            SandboxError: The sandbox does not work.
        """
        key = (self.setup, self.examples, code)
        return self._memory.remember(key, lambda: self._outputs(code))

    def _outputs(self, code: str) -> tuple[str, ...] | None:
        if not self._calls:
            return None
        outputs = []
        with self.sandbox.start() as process:
            deadline = time.monotonic() + self.sandbox.seconds
            try:
                if _load(process, _program(self.setup, code), deadline):
                    return None
                for call in self._calls:
                    assert call is not None
                    process.send(call, deadline)
                    reply = process.receive(deadline)
                    if "value" in reply:
                        outputs.append("value " + _shortened(canonical(reply["value"])))
                    else:
                        outputs.append(f"raised {reply['raised']:.100}")
            except (ProgramEndedError, KeyError, ValueError, TypeError, RecursionError):
                return None
        return tuple(outputs) if any(text.startswith("value") for text in outputs) else None

    def passes(self, code: str, tests: CodeTests | str) -> Verdict:
        """Test a program. The verdict is computed where the program cannot reach it.

        Args:
            code: The program, or for HumanEval the rest of one.
            tests: What it must pass, or the JSON of it.

        Raises:
            ConfigurationError: The tests cannot be run, whatever the program.
            SandboxError: The sandbox does not work.

        Example:
            >>> schema = CodeAnswer(sandbox=Sandbox(command=("env", "-i")))
            >>> schema.passes("def add(a, b): return a", CodeTests("add", "assert add(2, 0) == 2"))
            Verdict(passed=True, reason='')
        """
        tests = CodeTests.from_json(tests) if isinstance(tests, str) else tests
        with self.sandbox.start() as program, self.sandbox.start() as judge:
            deadline = time.monotonic() + self.sandbox.seconds
            try:
                return _judged(program, judge, code, tests, deadline)
            except ProgramEndedError as error:
                return Verdict(False, str(error))
            except RecursionError:
                return Verdict(False, "it gave what is nested too deeply")


def _load(process: SandboxedProcess, source: str, deadline: float) -> str:
    """Load a program. Return why it cannot be loaded, or an empty text."""
    process.send({"program": source}, deadline)
    reply = process.receive(deadline)
    if reply == {"ready": True}:
        return ""
    return _one_line(f"it cannot be loaded: {reply.get('raised')}: {reply.get('text')}")


def _judged(
    program: SandboxedProcess, judge: SandboxedProcess, code: str, tests: CodeTests, deadline: float
) -> Verdict:
    """Carry calls and replies between the tests and the program until there is a verdict."""
    task = {"setup": tests.setup, "tests": tests.tests, "name": tests.entry_point}
    judge.send(task, deadline)
    problem = _load(program, _program(tests.setup, code), deadline)
    while True:
        message = judge.receive(deadline)
        if "unusable" in message:
            raise ConfigurationError(
                f"the tests of {tests.entry_point} are of no use: {message['unusable']}"
            )
        if problem:
            return Verdict(False, problem)
        if "passed" in message:
            passed = message["passed"] is True
            return Verdict(passed, "" if passed else _one_line(str(message.get("reason"))))
        program.send(message, deadline)
        judge.send(program.receive(deadline), deadline)


def _one_line(text: str) -> str:
    return " ".join(text.encode(errors="replace").decode().split())[:500]


def _shortened(text: str) -> str:
    """The text, or of a long one a digest that stands for it."""
    return text if len(text) <= 100 else hashlib.sha256(text.encode()).hexdigest()


def _program(setup: str, code: str) -> str:
    """The code after what the question gives, which its own definitions replace."""
    future = "".join(line.rstrip("\n") + "\n" for line in _FUTURE.findall(code))
    return f"{future}{setup}\n{_FUTURE.sub('', code)}\n" if setup else code
