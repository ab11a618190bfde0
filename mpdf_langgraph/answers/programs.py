"""How programs are written: finding them in a response, the calls in a question, one form.

Nothing here runs a program: Python is only parsed.
"""

import ast
import json
import re
import textwrap
from itertools import islice
from typing import Any

from mpdf_langgraph.answers.sandbox_inside import encode

MAX_LENGTH = 100_000  # characters of a program
_MAX_EXAMPLES = 20
_MAX_CALL = 2_000  # characters of one example
_FENCE = re.compile(r"[ \t]*```[ \t]*([\w+#.-]*)[ \t]*$")
_LANGUAGES = ("", "python", "python3", "py")
DEFINITION = re.compile(r"^[ \t]*(?:async[ \t]+)?def[ \t]+(\w+)[ \t]*\(", re.MULTILINE)
# What goes wrong in reading a text as Python: deep nesting ends in the last two.
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)


# --- reading --------------------------------------------------------------------------------


def code_blocks(text: str) -> list[str]:
    """The complete fenced blocks that are, or may be, Python."""
    blocks: list[str] = []
    inside: list[str] | None = None
    language = ""
    for line in text.split("\n"):
        fence = _FENCE.match(line) if len(line) <= 200 and "```" in line else None
        if fence and inside is None:
            inside, language = [], fence[1].lower()
        elif fence and inside is not None and not fence[1]:
            if language in _LANGUAGES:
                block = "\n".join(inside)
                # Indented with a list around it; the rest of a function stays as it is.
                blocks.append(textwrap.dedent(block) if DEFINITION.search(block) else block)
            inside = None
        elif inside is not None:
            inside.append(line)
    return blocks


def is_python(text: str) -> bool:
    """Tell whether a text is Python that can be parsed and defines a function."""
    if len(text) > MAX_LENGTH or not DEFINITION.search(text):
        return False
    try:
        ast.parse(text)
    except _UNREADABLE:
        return False
    return True


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
    """The calls that stand after ``>>>``, where the question defines no function."""
    calls = re.findall(r"^[ \t]*>>>[ \t]*(\w+\(.*\))[ \t]*$", text[:MAX_LENGTH], re.MULTILINE)
    return [call for call in calls if read_call(call)][:_MAX_EXAMPLES]


def read_call(text: str) -> dict[str, Any] | None:
    """The message that asks a program for this call; None where it is none, or not literal."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            return None
        args = [ast.literal_eval(node) for node in call.args]
        kwargs = {node.arg: ast.literal_eval(node.value) for node in call.keywords}
        if None in kwargs:  # **{...}
            return None
        return {"name": call.func.id, "args": encode(args), "kwargs": encode(kwargs)}
    except (*_UNREADABLE, TypeError):
        return None


# --- comparing ------------------------------------------------------------------------------


def normalise(code: str) -> str:
    """The program without comments, docstrings and layout."""
    try:
        tree = ast.parse(code)
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and _is_docstring(body[0]) and len(body) > 1:
                del body[0]
        return ast.dump(tree)
    except _UNREADABLE:
        return " ".join(code.split())


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def canonical(data: Any) -> str:
    """One text for all encoded values that are equal, without ever comparing the values.

    Values come from a foreign program: a set of numbers chosen for their hashes would take
    minutes to build. Numbers that are equal have one form, as in Python; floating-point ones
    are rounded to twelve digits, since summing in another order changes the last.
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
