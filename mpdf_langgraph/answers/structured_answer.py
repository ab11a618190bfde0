"""JSON objects as answers."""

import ast
import copy
import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from pydantic import BaseModel, ValidationError

from mpdf_langgraph.answers.json_schema import LenientReader, check_schema, describes_objects
from mpdf_langgraph.answers.patterns import Pattern
from mpdf_langgraph.answers.reading import answering_part, has_long_mark_run
from mpdf_langgraph.answers.text_form import normalise
from mpdf_langgraph.errors import ConfigurationError, ModelOutputError, plugged_in

_MAX_LENGTH = 100_000  # characters of an object
_MOST_OBJECTS = 50
_TOKEN = Pattern(r"\\.|[\"{}\n]", re.DOTALL)
_CODE_FENCE = Pattern(r"```(?:json[5c]?)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_COMMENT = Pattern(r'("(?:[^"\\]|\\.)*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_TRAILING_COMMA = Pattern(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)
_BARE_KEY = Pattern(r'("(?:[^"\\]|\\.)*")|(?<=[{,\s])([A-Za-z_]\w*)(?=\s*:)')


class StructuredAnswer:
    """JSON objects that fit a schema.

    `parse` takes the last object in a response that fits, from a code fence or from between
    words. It accepts single quotes, comments, trailing commas, keys in another spelling, and "42"
    for 42. It returns the object in one form, sorted and without white space. That is the form in
    which a pydantic model dumps it, if this loads as an equal instance. Else it is as it was given.
    Two answers are equivalent if every field is the same. Text is compared without case, white
    space and punctuation, numbers by value. `load` returns the answer as the schema describes it.

    Agents ask for `response_schema` as structured output if the endpoint is a vLLM server.

    Args:
        schema: A pydantic model, or a JSON schema of an object.
        by_field: Let `combine` vote on every field by itself. The winner may then be an object
            that nobody gave. Otherwise whole objects are voted on.

    Raises:
        ConfigurationError: It is no such schema.

    Example:
        >>> class City(BaseModel):
        ...     name: str
        ...     people: int
        >>> schema = StructuredAnswer(City)
        >>> answer = schema.parse("So: {'Name': 'Oslo', 'people': '700,000',}")
        >>> answer
        '{"name":"Oslo","people":700000}'
        >>> schema.load(answer)
        City(name='Oslo', people=700000)
    """

    def __init__(
        self, schema: type[BaseModel] | Mapping[str, Any], *, by_field: bool = False
    ) -> None:
        self.by_field = by_field
        self._model: type[BaseModel] | None = None
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            self._model = schema
            title = schema.__name__
            with plugged_in(f"the JSON schema of {title}"):
                described = schema.model_json_schema()
        elif isinstance(schema, Mapping):
            try:
                described = json.loads(json.dumps(dict(schema), allow_nan=False))
            except (TypeError, ValueError) as error:
                raise ConfigurationError(
                    "StructuredAnswer takes a pydantic model or a JSON schema, such as "
                    f"{{'properties': {{'a': {{'type': 'integer'}}}}}}. This is no JSON: {error}"
                ) from error
            check_schema(described)
            title = str(described.get("title", "object"))
        else:
            raise ConfigurationError(
                f"StructuredAnswer takes a pydantic model or a JSON schema: {schema!r:.120}"
            )
        if not describes_objects(described):
            raise ConfigurationError(
                f"StructuredAnswer reads JSON objects, and {title} is none: the schema must be of "
                "type object. Put the value into a field of a model"
            )
        #: The JSON schema, for endpoints that can be held to one.
        self.response_schema: dict[str, Any] = described
        self.name = f"structured({title})"
        self.instructions = (
            "Answer with one JSON object that fits this JSON schema, and nothing behind it:\n"
            f"{json.dumps(described, ensure_ascii=False)}"
        )

    def parse(self, text: str) -> str | None:
        """Read the last object that fits out of a response. Return None if there is none."""
        for candidate in _objects(answering_part(text)):
            read = self._read(candidate)
            if read is not None:
                return _written(self._canonical(*read))
        return None

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether two answers have the same fields with the same values."""
        if a == b:
            return True
        one, other = self._read(a), self._read(b)
        if one is not None and other is not None and one[1] == other[1]:
            return True  # also sets, which have no order
        return bool(self._folded(a, one) == self._folded(b, other))

    def load(self, answer: str) -> Any:
        """Return an answer as an instance of the model, or as the object that fits the schema.

        Raises:
            ModelOutputError: It does not fit. A parsed answer always does.
            ConfigurationError: A validator of the model failed in another way than by ValueError.
        """
        read = self._read(answer)
        if read is None:
            raise ModelOutputError(
                f"the answer does not fit {self.name}: {answer!r:.200}. Give one that `parse` "
                "returned"
            )
        return read[1]

    def combine(self, answers: Sequence[tuple[str, float]]) -> str | None:
        """Return the object of the heaviest value of every field. Return None without answers.

        If these do not fit together, return the heaviest whole answer. Ties go to what came
        first.

        Args:
            answers: Parsed answers with the weights of their votes.

        Example:
            >>> schema = StructuredAnswer({"properties": {"a": {}, "b": {}}}, by_field=True)
            >>> schema.combine([('{"a":1,"b":2}', 1), ('{"a":1,"b":3}', 1), ('{"a":4,"b":3}', 1)])
            '{"a":1,"b":3}'
        """
        objects = [(json.loads(answer), weight) for answer, weight in answers]
        if not objects:
            return None
        if self.by_field:
            fields = dict.fromkeys(name for one, _ in objects for name in one)
            chosen = {
                name: _heaviest([(one.get(name), w) for one, w in objects]) for name in fields
            }
            filled = {name: value for name, value in chosen.items() if value is not None}
            # A field that some left out, and nobody wrote as null, is left out.
            nulls = {name: None for one, _ in objects for name in one if one[name] is None}
            for together in ({**nulls, **filled}, filled):
                read = self._read(together)
                if read is not None:
                    return _written(read[0])
        return _written(_heaviest(objects))

    def _read(self, candidate: Any) -> tuple[dict[str, Any], Any] | None:
        """The object that fits, and what it loads as. None if it does not fit."""
        value = candidate if isinstance(candidate, dict) else _read_object(candidate)
        if value is None:
            return None
        reader = LenientReader(self.response_schema)
        try:
            value = reader.rename_keys(value, self.response_schema)
            if self._model is None:
                loaded = value = reader.fit(value, self.response_schema)
            else:
                try:
                    loaded = self._validated(value)
                except ValidationError:  # numbers with commas, yes for true
                    value = reader.fit(value, self.response_schema)
                    loaded = self._validated(value)
            json.dumps([value, self._dumped(loaded)], allow_nan=False)  # Infinity is no JSON
        except ConfigurationError:
            raise
        except (ValueError, TypeError, RecursionError, OverflowError, re.error):
            return None  # pydantic takes patterns that `re` does not know
        return (value, loaded) if isinstance(value, dict) else None

    def _validated(self, value: Any) -> Any:
        """An instance of the model.

        Raises:
            ValidationError: The value does not fit.
            ConfigurationError: A validator failed in another way.
        """
        assert self._model is not None
        given = copy.deepcopy(value)  # as a validator may change its input
        with plugged_in(f"a validator of {self.name}"):
            try:
                return self._model.model_validate(given)
            except ValidationError as error:
                refused = error
        raise refused

    def _dumped(self, loaded: Any, *, by_alias: bool = True) -> Any:
        """An instance as JSON without computed fields. None if it cannot be dumped."""
        if self._model is None:
            return loaded
        try:
            return loaded.model_dump(mode="json", by_alias=by_alias, round_trip=True)
        except ValueError:
            return None

    def _folded(self, answer: str, read: tuple[dict[str, Any], Any] | None) -> Any:
        """What is compared of an answer: what it loads as, else the object, else the text."""
        if read is None:
            value = _read_object(answer)
            return answer.strip() if value is None else _fold(value)
        dumped = self._dumped(read[1])
        return _fold(read[0] if dumped is None else dumped)

    def _canonical(self, value: dict[str, Any], loaded: Any) -> Any:
        """The one form of an object: its dump, if that loads as an equal instance."""
        if self._model is None:
            return value
        for by_alias in (True, False):  # an alias may be for writing alone
            dumped = self._dumped(loaded, by_alias=by_alias)
            with suppress(ConfigurationError):  # of a validator that takes no value of its own
                read = self._read(dumped) if isinstance(dumped, dict) else None
                if read is not None and read[1] == loaded:
                    return dumped
        return value


def _objects(text: str) -> list[str]:
    """The pieces of a text that may be JSON objects, the last one first."""
    pieces = [found[1] for found in islice(_CODE_FENCE.finditer(text), _MOST_OBJECTS)]
    found: deque[str] = deque(maxlen=_MOST_OBJECTS)
    depth, start, quoted = 0, 0, False
    for token in _TOKEN.finditer(text):
        kind = token.group() if quoted else token.group()[-1]
        if kind in ('"', "\n"):
            quoted = kind == '"' and not quoted and depth > 0
        elif kind == "{" and not quoted:
            start = start if depth else token.end() - 1
            depth += 1
        elif kind == "}" and not quoted and depth:
            depth -= 1
            if depth == 0:
                found.append(text[start : token.end()])
    return [*reversed(found), *reversed(pieces)]


def _read_object(text: str) -> dict[str, Any] | None:
    """Read JSON, or what was meant as JSON."""
    if len(text) > _MAX_LENGTH or has_long_mark_run(text):
        return None
    text = text.strip()
    repaired = _TRAILING_COMMA.sub(r"\1", _COMMENT.sub(r"\1", text))
    for attempt in (text, repaired, _BARE_KEY.sub(_quoted, repaired)):
        try:
            value = json.loads(attempt, strict=False, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            continue
        return value if isinstance(value, dict) else None
    try:
        value = ast.literal_eval(repaired)
        return json.loads(json.dumps(value, allow_nan=False)) if isinstance(value, dict) else None
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _quoted(found: re.Match[str]) -> str:
    return found[1] or f'"{found[2]}"'


def _written(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _fold(value: Any) -> Any:
    """A value in one form for all that count as the same."""
    if isinstance(value, dict):
        return {key: _fold(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_fold(item) for item in value]
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float):
        return float(f"{value:.12g}") if abs(value) < 2**53 else value
    return normalise(value) if isinstance(value, str) else value


def _heaviest(values: Sequence[tuple[Any, float]]) -> Any:
    """The value with the largest sum of weights. The first of equal ones wins."""
    sums: dict[str, float] = {}
    first: dict[str, Any] = {}
    for value, weight in values:
        key = json.dumps(_fold(value), sort_keys=True)
        sums[key] = sums.get(key, 0.0) + weight
        first.setdefault(key, value)
    return first[max(sums, key=lambda key: sums[key])]
