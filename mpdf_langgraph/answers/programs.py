"""How programs are compared: the calls in a question, one form for a program and for a value.

Nothing here runs a program: Python is only parsed.
"""

import ast
import json
import re
from collections.abc import Sequence
from itertools import islice
from typing import Any

from mpdf_langgraph.answers.program_reading import MAX_LENGTH, UNREADABLE, parse_python
from mpdf_langgraph.answers.reading import has_long_mark_run
from mpdf_langgraph.answers.sandbox_inside import encode

_MAX_EXAMPLES = 20
_MAX_CALL = 2_000  # characters of one example


# --- calls ------------------------------------------------------------------------------------


def find_calls(text: str, function: str) -> list[str]:
    """The calls of a function with literal arguments, in the order of the text."""
    text = re.sub(r"\n[ \t]*\.\.\.(?=[ \t])", "\n", text[:MAX_LENGTH])
    calls: dict[str, None] = {}
    starts = re.finditer(rf"(?<![\w.])(?<!def ){re.escape(function)}\(", text)
    for start in islice(starts, 10 * _MAX_EXAMPLES):
        rest = text[start.start() :][:_MAX_CALL]
        for end in islice(re.finditer(r"\)", rest), 20):
            if read_call(rest[: end.end()]):
                calls[rest[: end.end()]] = None
                break
    return list(calls)[:_MAX_EXAMPLES]


def find_prompts(text: str) -> list[str]:
    """The calls after ``>>>`` or ``assert``, where the question defines no function."""
    text = text[:MAX_LENGTH]
    calls = re.findall(r"^[ \t]*>>>[ \t]*(\w+\(.*\))[ \t]*$", text, re.MULTILINE)
    for name in islice(
        re.finditer(r"^[ \t]*assert[ \t]+(\w+)\(", text, re.MULTILINE), _MAX_EXAMPLES
    ):
        calls += find_calls(text[name.start(1) :].split("\n", 1)[0], name[1])[:1]
    return [call for call in dict.fromkeys(calls) if read_call(call)][:_MAX_EXAMPLES]


def first_called(examples: Sequence[str]) -> str | None:
    """The function that the examples call first."""
    return examples[0].split("(", 1)[0] if examples else None


def read_call(text: str) -> dict[str, Any] | None:
    """Return the message that asks a program for this call. None if it is no literal call."""
    if len(text) > MAX_LENGTH or has_long_mark_run(text):
        return None
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            return None
        args = [ast.literal_eval(node) for node in call.args]
        kwargs = {node.arg: ast.literal_eval(node.value) for node in call.keywords}
        if None in kwargs:  # **{...}
            return None
        return {"name": call.func.id, "args": encode(args), "kwargs": encode(kwargs)}
    except (*UNREADABLE, TypeError):
        return None


# --- comparing ------------------------------------------------------------------------------


def normalise(code: str) -> str:
    """The program without comments, docstrings and layout."""
    tree = parse_python(code)
    if tree is None:
        return " ".join(code.split())
    try:
        for node in ast.walk(tree):
            match getattr(node, "body", None):
                case [ast.Expr(value=ast.Constant(value=str())), _, *_] as body:
                    del body[0]
        return ast.dump(tree)
    except UNREADABLE:
        return " ".join(code.split())


def canonical(data: Any) -> str:
    """One text for all encoded values that are equal, without ever comparing the values.

    Values come from a foreign program: a set of numbers chosen for their hashes would take
    minutes to build. Equal numbers have one form, as in Python. Floating-point numbers are rounded
    to twelve digits, since summing in another order changes the last.
    """
    if isinstance(data, list):
        return "[" + ", ".join(map(canonical, data)) + "]"
    if isinstance(data, dict):
        ((kind, content),) = data.items()
        if kind == "int":
            return hex(int(content, 16))
        if kind == "dict":
            items = (f"{canonical(key)}: {canonical(value)}" for key, value in content)
            return "{" + ", ".join(sorted(items)) + "}"
        if kind in ("set", "frozenset"):
            return "set(" + ", ".join(sorted(map(canonical, content))) + ")"
        if kind == "bytes":
            return f"bytes({json.dumps(content)})"
        return f"{json.dumps(kind)}({', '.join(map(canonical, content))})"
    if isinstance(data, float):
        rounded = data if data.is_integer() else float(f"{data:.12g}")
        return hex(int(rounded)) if rounded.is_integer() else repr(rounded)
    return hex(data) if isinstance(data, int) else json.dumps(data)
