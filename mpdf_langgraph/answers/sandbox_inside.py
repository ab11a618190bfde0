"""The side inside the sandbox: it runs a program, or the tests of one.

`sandbox.py` passes the text of this file to the Python in there, so it imports the
standard library alone. A program and its tests never share a process. Their conversation, one
line of JSON a message, goes through the process outside:

    tests -> call {name, args, kwargs} -> program -> its value, or the error it raised -> tests

Only plain values travel, and they arrive as plain values: no object with an `__eq__` of its own,
and no stack frame of the tests, is within a program's reach. A program that forges its side of
the conversation has only found another way to give an answer.
"""

import builtins
import contextlib
import json
import os
import sys
import types
from collections.abc import Callable
from typing import Any, BinaryIO

_MAX_TEXT = 300  # characters told of an error


#: These end a loop without a sound: `all(map(candidate, ...))` would hold if it raised one.
_SILENT = (StopIteration, StopAsyncIteration)


class ProgramError(Exception):
    """What the tests see if a program raises an error that is not one of Python's own.

    The same goes for errors that are no failure to Python: `StopIteration`, `SystemExit`.
    """


# --- plain values ---------------------------------------------------------------------------


def encode(value: Any) -> Any:
    """Turn a plain value into what JSON can carry, so that `decode` gives an equal one.

    Plain are None, numbers, text, bytes, and lists, tuples, sets and dicts of plain values.
    Subclasses of these lose their class.

    Raises:
        TypeError: The value is not plain.
        RecursionError: It is nested too deeply, or holds itself.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        number = int(value)
        return number if number.bit_length() < 64 else {"int": hex(number)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return [encode(item) for item in value]
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [encode(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    raise TypeError(f"{type(value).__name__} is not plain data")


def decode(data: Any) -> Any:
    """Return the plain value that `encode` wrote.

    Raises:
        ValueError, TypeError, RecursionError: It has another form.
    """
    if isinstance(data, list):
        return [decode(item) for item in data]
    if not isinstance(data, dict):
        return data
    ((kind, content),) = data.items()
    if kind == "int":
        return int(content, 16)
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "complex":
        return complex(*content)
    if kind == "dict":
        return {decode(key): decode(item) for key, item in content}
    kinds: dict[str, Callable[[Any], Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}
    return kinds[kind](decode(item) for item in content)


def _told(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException:  # a program may raise an error with a __str__ of its own
        text = ""
    return text[:_MAX_TEXT]


# --- the conversation -----------------------------------------------------------------------


class _Channel:
    def __init__(self, requests: BinaryIO, replies: BinaryIO) -> None:
        self._requests, self._replies = requests, replies

    def receive(self) -> dict[str, Any]:
        line = self._requests.readline()
        if not line:
            os._exit(0)  # nobody is left to answer to
        message: dict[str, Any] = json.loads(line)
        return message

    def send(self, message: dict[str, Any]) -> None:
        self._replies.write(json.dumps(message).encode() + b"\n")
        self._replies.flush()


def _module(name: str) -> dict[str, Any]:
    """A namespace for code that is not `__main__`. Dataclasses look their module up."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    return module.__dict__


def _serve_program(channel: _Channel, source: str) -> None:
    """Load a program, then answer calls of its functions until nobody asks any more."""
    namespace = _module("program")
    try:
        exec(compile(source, "<program>", "exec"), namespace)
    except BaseException as error:  # sys.exit included
        channel.send({"raised": type(error).__name__, "text": _told(error)})
        return
    channel.send({"ready": True})
    while True:
        request = channel.receive()
        try:
            function = namespace.get(request["name"])
            if not callable(function):
                raise NameError(f"the program defines no function {request['name']}")
            args, kwargs = decode(request["args"]), decode(request["kwargs"])
            # Through JSON once, so that a value that cannot be sent is this call's error.
            reply = {"value": encode(function(*args, **kwargs))}
            json.dumps(reply)
        except BaseException as error:
            reply = {"raised": type(error).__name__, "text": _told(error)}
        channel.send(reply)


def _rebuilt(kind: str, text: str) -> Exception:
    """The error that a program raised, as the tests may expect it."""
    known = getattr(builtins, kind, None)
    if isinstance(known, type) and issubclass(known, Exception) and not issubclass(known, _SILENT):
        with contextlib.suppress(TypeError):  # some take more than a text
            return known(text)
    return ProgramError(f"{kind}: {text}")


class _UnusableError(Exception):
    """The tests, not the program, are at fault."""


def _serve_tests(channel: _Channel, setup: str, tests: str, name: str) -> None:
    """Run tests whose function under test is asked for its answers elsewhere."""
    asked = 0

    def candidate(*args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked += 1
        try:
            call = {"name": name, "args": encode(list(args)), "kwargs": encode(kwargs)}
        except TypeError as error:
            raise _UnusableError(f"they call {name} with what cannot be sent: {error}") from error
        channel.send(call)
        try:
            reply = channel.receive()
            if "value" in reply:
                return decode(reply["value"])
            raised = _rebuilt(str(reply["raised"]), str(reply.get("text", "")))
        except Exception:  # a forged reply must not choose how the tests end
            raised = ProgramError("it gave what cannot be read")
        raise raised

    candidate.__name__ = candidate.__qualname__ = name
    namespace = _module("tests")
    try:
        for source, file in ((setup, "<setup>"), (tests, "<tests>")):
            try:
                # Assertions stay in, whatever the Python was told.
                code = compile(source, file, "exec", dont_inherit=True, optimize=0)
            except (SyntaxError, ValueError) as error:
                raise _UnusableError(f"{file} cannot be compiled: {_told(error)}") from error
            try:
                exec(code, namespace)
            except Exception as error:
                if file == "<setup>":
                    message = f"{file} failed: {type(error).__name__}: {_told(error)}"
                    raise _UnusableError(message) from error
                raise
            namespace[name] = candidate
        if callable(namespace.get("check")):
            namespace["check"](candidate)
        if not asked:
            raise _UnusableError(f"they never call {name}")
    except _UnusableError as error:
        channel.send({"unusable": _told(error)})
    except BaseException as error:
        channel.send({"passed": False, "reason": f"{type(error).__name__}: {_told(error)}"})
    else:
        channel.send({"passed": True, "reason": ""})


def lower(name: str, limit: int) -> int:
    """Return a resource limit, or the one that already holds if that is lower.

    Args:
        name: The limit as `setrlimit(2)` names it, in lower case, e.g. ``"cpu"``.
        limit: The wanted value.
    """
    import resource  # not every system has it, and `encode` and `decode` are used outside

    hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
    return limit if hard == resource.RLIM_INFINITY else min(limit, hard)


def _limit(limits: dict[str, int]) -> None:
    """Give up what a program does not need. None of it can be taken back from inside."""
    import resource

    for name, limit in limits.items():
        if hasattr(resource, kind := f"RLIMIT_{name.upper()}"):  # some are Linux's alone
            resource.setrlimit(getattr(resource, kind), (lower(name, limit),) * 2)


def main() -> None:
    """Take the limits from the command line, greet, do the one task, and be gone."""
    # What the code in here prints or reads must not be taken for a message.
    channel = _Channel(os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb"))
    _limit(json.loads(sys.argv[1]))
    channel.send({"hello": True})
    task = channel.receive()
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)
    if "program" in task:
        _serve_program(channel, task["program"])
    else:
        _serve_tests(channel, task["setup"], task["tests"], task["name"])
    os._exit(0)  # at-exit handlers of the code have no say


if __name__ == "__main__":
    main()
