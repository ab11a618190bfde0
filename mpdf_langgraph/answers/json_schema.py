"""JSON schemas: checking a value against one, and reading it leniently.

The keywords that describe answers are known. A schema with another keyword is refused, so that
nothing is accepted unchecked.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mpdf_langgraph.errors import ConfigurationError

_KNOWN = frozenset(
    (
        "$defs", "$id", "$ref", "$schema", "additionalProperties", "allOf", "anyOf", "const",
        "default", "definitions", "deprecated", "description", "enum", "examples",
        "exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems", "maxLength",
        "maximum", "minItems", "minLength", "minimum", "multipleOf", "oneOf", "pattern",
        "prefixItems", "properties", "required", "title", "type", "uniqueItems",
    )
)  # fmt: skip
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,),
    "array": (list,), "object": (dict,), "null": (type(None),),
}  # fmt: skip
_BOUNDS = {
    "min": operator.ge, "max": operator.le, "exclusiveMin": operator.gt,
    "exclusiveMax": operator.lt,
}  # fmt: skip
_DEEPEST = 50
_OBJECTS_OF_SCHEMAS = ("properties", "$defs", "definitions")
_LISTS_OF_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except (re.error, OverflowError, RecursionError):
        return False


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_types(value: Any) -> bool:
    names = [value] if isinstance(value, str) else value
    return _are_names(names) and bool(names) and _TYPES.keys() >= {*names}


_Form = tuple[str, Callable[[Any], bool]]
_AN_OBJECT: _Form = ("an object of schemas", lambda value: isinstance(value, Mapping))
_A_LIST: _Form = ("a list that is not empty", lambda value: isinstance(value, list) and value != [])
_A_NUMBER: _Form = ("a number", lambda value: _is(value, "number"))
#: What the value of a keyword must be, and the check of it.
_FORMS: dict[str, _Form] = {
    **dict.fromkeys(_OBJECTS_OF_SCHEMAS, _AN_OBJECT),
    **dict.fromkeys((*_LISTS_OF_SCHEMAS, "enum"), _A_LIST),
    **dict.fromkeys(
        (side + end for side in _BOUNDS for end in ("imum", "Length", "Items")), _A_NUMBER
    ),
    "$ref": ("a text", lambda value: isinstance(value, str)),
    "multipleOf": ("a number above 0", lambda value: _is(value, "number") and value > 0),
    "pattern": ("a regular expression of Python", _is_pattern),
    "required": ("a list of names", _are_names),
    "type": (f"one of {', '.join(_TYPES)}, or a list of these", _are_types),
    "uniqueItems": ("true or false", lambda value: isinstance(value, bool)),
}


class MismatchError(ValueError):
    """A value does not fit a schema. The message says where."""


def check_schema(schema: Any, path: str = "$", root: Any = None) -> None:
    """See that every keyword of a schema is known and has a value of its form.

    Args:
        schema: Parsed JSON.
        path: Where it stands, for messages.
        root: The whole schema, which holds what references name. None: `schema` is the whole.

    Raises:
        ConfigurationError: One is not, or the schema is none.
    """
    if isinstance(schema, bool):
        return
    root = schema if root is None else root
    if not isinstance(schema, Mapping):
        raise ConfigurationError(f"JSON schema at {path}: expected an object, got {schema!r:.80}")
    if unknown := sorted(set(schema) - _KNOWN):
        raise ConfigurationError(
            f"JSON schema at {path}: {', '.join(unknown)} cannot be checked; use a pydantic model"
        )
    for key, value in schema.items():
        expected, fits = _FORMS.get(key, ("", None))
        if fits and not fits(value):
            raise ConfigurationError(
                f"JSON schema at {path}: {key} must be {expected}, got {value!r:.80}"
            )
        if key in _OBJECTS_OF_SCHEMAS:
            for name, part in value.items():
                check_schema(part, f"{path}.{name}", root)
        elif key in _LISTS_OF_SCHEMAS:
            for part in value:
                check_schema(part, f"{path}.{key}", root)
        elif key in ("items", "additionalProperties"):
            check_schema(value, f"{path}.{key}", root)
        elif key == "$ref":
            _look_up(root, value)


def describes_objects(schema: Any, root: Any = None, depth: int = 0) -> bool:
    """Tell whether an object may fit a schema, as far as its references, types and choices say.

    Args:
        schema: The whole, or a part of it.
        root: The whole schema, which holds what references name. None: `schema` is the whole.
        depth: How many references and choices led to it.
    """
    root = schema if root is None else root
    if isinstance(schema, bool) or depth > _DEEPEST:
        return schema is True
    if "$ref" in schema:
        return describes_objects(_look_up(root, schema["$ref"]), root, depth + 1)
    if schema.get("type", "object") != "object":
        return False
    chosen = [schema[key] for key in ("anyOf", "oneOf") if key in schema]
    values = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else [])]
    return (not values or any(isinstance(value, Mapping) for value in values)) and all(
        any(describes_objects(part, root, depth + 1) for part in parts) for parts in chosen
    )


@dataclass(frozen=True)
class LenientReader:
    """Reads values as a schema describes them.

    Args:
        root: The whole schema, which holds what references name.
    """

    root: Mapping[str, Any]

    def fit(self, value: Any, schema: Any, path: str = "$", depth: int = 0) -> Any:
        """Return a value as a schema describes it: "42" as 42 if it must be a number.

        Args:
            value: Parsed JSON.
            schema: What it must fit: the root or a part of it.
            path: Where the value stands, for messages.
            depth: How deep the value is nested.

        Raises:
            MismatchError: It does not fit.
        """
        if depth > _DEEPEST:
            raise MismatchError(f"{path} is nested too deeply")
        if schema is True or schema is None:
            return value
        if schema is False:
            raise MismatchError(f"{path} is not allowed")
        if "$ref" in schema:
            return self.fit(value, _look_up(self.root, schema["$ref"]), path, depth + 1)
        for part in schema.get("allOf", ()):
            value = self.fit(value, part, path, depth + 1)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                value = self._fit_any(value, schema[key], path, depth)
        value = _fit_type(value, schema.get("type"), path)
        if "enum" in schema:
            value = _fit_enum(value, schema["enum"], path)
        if "const" in schema:
            value = _fit_enum(value, [schema["const"]], path)
        _check_bounds(value, schema, path)
        if isinstance(value, dict):
            return self._fit_object(value, schema, path, depth)
        if isinstance(value, list):
            first, rest = schema.get("prefixItems", ()), schema.get("items", True)
            return [
                self.fit(item, first[k] if k < len(first) else rest, f"{path}[{k}]", depth + 1)
                for k, item in enumerate(value)
            ]
        return value

    def rename_keys(self, value: Any, schema: Any, depth: int = 0) -> Any:
        """Return a value whose keys are spelt as in the schema: "First Name" as first_name."""
        if depth > _DEEPEST or not isinstance(schema, Mapping):
            return value
        if "$ref" in schema:
            return self.rename_keys(value, _look_up(self.root, schema["$ref"]), depth + 1)
        if isinstance(value, list):
            return [self.rename_keys(item, schema.get("items"), depth + 1) for item in value]
        properties = schema.get("properties")
        if not isinstance(value, dict) or not isinstance(properties, Mapping):
            return value
        spelt: dict[str, str] = {_plain(name): name for name in properties}
        renamed: dict[str, Any] = {}
        for key, item in value.items():
            name = str(key if key in properties else spelt.get(_plain(str(key)), key))
            renamed.setdefault(name, self.rename_keys(item, properties.get(name), depth + 1))
        return renamed

    def _fit_any(self, value: Any, schemas: Any, path: str, depth: int) -> Any:
        faults = []
        for exact in (True, False):  # a value that fits as it stands is not changed
            for schema in schemas:
                try:
                    fitted = self.fit(value, schema, path, depth + 1)
                except MismatchError as error:
                    faults.append(str(error))
                    continue
                if fitted == value or not exact:
                    return fitted
        raise MismatchError(faults[0] if faults else f"{path} fits nothing")

    def _fit_object(
        self, value: dict[str, Any], schema: Mapping[str, Any], path: str, depth: int
    ) -> dict[str, Any]:
        properties = schema.get("properties", {})
        if missing := [name for name in schema.get("required", ()) if name not in value]:
            raise MismatchError(f"{path} lacks {', '.join(missing)}")
        rest = schema.get("additionalProperties", True)
        return {
            name: self.fit(item, properties.get(name, rest), f"{path}.{name}", depth + 1)
            for name, item in value.items()
            if name in properties or rest is not False  # a model may say more than it was asked for
        }


def _look_up(root: Mapping[str, Any], reference: str) -> Any:
    found: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(part) if isinstance(found, Mapping) and part else found
    if not isinstance(found, Mapping | bool):
        raise ConfigurationError(f"JSON schema: {reference} is not defined in it")
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()


def _fit_type(value: Any, wanted: Any, path: str) -> Any:
    if wanted is None:
        return value
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if _is(value, name):
            return int(value) if name == "integer" else value
    for name in names:
        converted = _converted(value, name)
        if converted is not None:
            return converted
    raise MismatchError(f"{path} must be {' or '.join(names)}, got {value!r:.60}")


def _is(value: Any, name: str) -> bool:
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    if name in ("integer", "number") and isinstance(value, bool):
        return False
    return isinstance(value, _TYPES.get(name, ()))


def _converted(value: Any, name: str) -> Any:
    """A value of another type that says the same. None if there is none."""
    if name in ("integer", "number") and isinstance(value, str):
        text = value.strip().strip("$€£% ").replace(",", "")
        if re.fullmatch(r"[-+]?\d{1,300}(?:\.0*)?", text):
            return int(text.split(".")[0])
        if name == "number" and re.fullmatch(r"[-+]?\d*\.?\d+(?:[eE][-+]?\d{1,3})?", text):
            return float(text)
    if name == "string" and _is(value, "number"):
        return str(value)
    if name == "boolean" and isinstance(value, str):
        return {"true": True, "yes": True, "false": False, "no": False}.get(value.strip().lower())
    if name == "array" and value is not None and not isinstance(value, list | dict):
        return [value]
    return None


def _fit_enum(value: Any, allowed: Any, path: str) -> Any:
    if value in allowed:
        return value
    if isinstance(value, str):
        for one in allowed:
            if isinstance(one, str) and _plain(one) == _plain(value):
                return one
    raise MismatchError(f"{path} must be one of {list(allowed)!r:.120}, got {value!r:.60}")


def _check_bounds(value: Any, schema: Mapping[str, Any], path: str) -> None:
    size, measure = value, "imum"
    if isinstance(value, str):
        size, measure = len(value), "Length"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            raise MismatchError(f"{path} must match {schema['pattern']!r}, got {value!r:.60}")
    elif isinstance(value, list):
        size, measure = len(value), "Items"
        if schema.get("uniqueItems") and any(item in value[:k] for k, item in enumerate(value)):
            raise MismatchError(f"{path} holds something twice")
    elif not _is(value, "number"):
        return
    elif (step := schema.get("multipleOf")) and abs(value / step - round(value / step)) > 1e-9:
        raise MismatchError(f"{path} must be a multiple of {step}, got {value}")
    for side, holds in _BOUNDS.items():
        bound = schema.get(side + measure)
        if bound is not None and not holds(size, bound):
            raise MismatchError(f"{path} is out of bounds: {value!r:.60}")
