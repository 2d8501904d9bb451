"""Strict reading of JSON into frozen dataclasses, and the JSON schema of the same dataclasses.

The type hints of a record are its whole grammar: every key must be there unless its field is marked
`OPTIONAL`, no other key may be, and nothing is coerced except an integer where a float is asked.
Hints understood: dataclasses, `Literal`, `Annotated[str, Pattern(...)]`, `str`, `int` (0 to
2**63 - 1), `float`, `bool`, `tuple[X, ...]`, `Mapping[str, X]`, `X | None`, `int | str`, and `Any`
for free JSON values.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType, NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NoReturn,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from seq2edge.errors import Seq2EdgeError

LARGEST = 2**63 - 1
DEEPEST = 32
# The metadata of a field that files do not have where it has its default: older ones never do.
OPTIONAL = MappingProxyType({"optional": True})
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlevel = 2
_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}


class RecordError(Seq2EdgeError):
    """What is wrong with a value, and where it stands in its file; see `record_errors`."""


@contextlib.contextmanager
def record_errors(subject: object, kind: type[Seq2EdgeError]) -> Iterator[None]:
    """What does not fit its record becomes an error of that kind about `subject`."""
    try:
        yield
    except RecordError as error:
        raise kind(f"{subject}: {error}") from error.__cause__


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pattern:
    """Which strings a field takes; `meaning` says it in words for the error."""

    regex: str
    meaning: str
    longest: int = 200


def parse_json(data: bytes) -> Any:
    """JSON values from UTF-8 bytes; repeated keys, NaN and infinities raise RecordError."""
    try:
        return json.loads(
            data.decode("utf-8"),
            parse_constant=_refuse_number,
            parse_float=_finite,
            object_pairs_hook=_distinct,
        )
    except RecursionError:
        raise RecordError("nested too deeply to be read") from None
    except ValueError as error:  # decoding errors of bytes and of JSON derive from it
        raise RecordError(f"not valid JSON, {error}") from None


def _refuse_number(text: str) -> NoReturn:
    raise RecordError(f"{_SHORT.repr(text)} is not a finite number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_number(text)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise RecordError(f"duplicate key {_SHORT.repr(key)} in one object")
        values[key] = value
    return values


def decode(hint: Any, value: object, path: str = "") -> Any:
    """`value` as what `hint` describes; `path` is where it stands in the file.

    Raises RecordError with the path, what is expected there and the value found.
    """
    if dataclasses.is_dataclass(hint):
        return _record(hint, value, path)
    reader = _READERS.get(get_origin(hint))
    if reader is not None:
        return reader(get_args(hint), value, path)
    return _free(value, path) if hint is Any else _scalar(hint, value, path)


def _mismatch(path: str, expected: str, value: object) -> RecordError:
    return RecordError(f"{path or 'top level'}: expected {expected}, got {_SHORT.repr(value)}")


def _below(path: str, key: str) -> str:
    if not re.fullmatch(r"\w{1,60}", key, re.ASCII):
        return f"{path}[{_SHORT.repr(key)}]"
    return f"{path}.{key}" if path else key


@functools.cache
def hints(record: type) -> dict[str, Any]:
    """Field names of a dataclass and their evaluated type hints, in order."""
    evaluated = get_type_hints(record, include_extras=True)
    return {field.name: evaluated[field.name] for field in dataclasses.fields(record)}


def plain_values(record: Any) -> dict[str, Any]:
    """A record's values for JSON, without optional ones that have their default."""
    plain: dict[str, Any] = _plain(record)
    return plain


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        values = {field: getattr(value, field.name) for field in fields}
        return {
            field.name: _plain(inner)
            for field, inner in values.items()
            if not field.metadata.get("optional") or inner != field.default
        }
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value


def _required(record: type) -> list[str]:
    """The keys that must be there."""
    fields = dataclasses.fields(record)
    return [field.name for field in fields if not field.metadata.get("optional")]


def _record(record: Any, value: object, path: str) -> Any:
    """An object with exactly the fields of a dataclass, made into it."""
    if not isinstance(value, dict):
        raise _mismatch(path, "an object", value)
    expected = hints(record)
    for key in value:
        if key not in expected:
            shown = _SHORT.repr(value[key])
            raise RecordError(f"{_below(path, key)}: unknown key with the value {shown}")
    for key in _required(record):
        if key not in value:
            raise RecordError(f"{_below(path, key)}: missing")
    fields = {key: decode(expected[key], value[key], _below(path, key)) for key in value}
    try:
        return record(**fields)
    except (Seq2EdgeError, ArithmeticError, ValueError) as error:
        raise RecordError(f"{path}: {error}" if path else str(error)) from error


def _literal(choices: tuple[Any, ...], value: object, path: str) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    raise _mismatch(path, "one of " + ", ".join(map(repr, choices)), value)


def _annotated(arguments: tuple[Any, ...], value: object, path: str) -> Any:
    pattern: Pattern = arguments[1]
    decoded = decode(arguments[0], value, path)
    if len(decoded) > pattern.longest or not re.fullmatch(pattern.regex, decoded):
        raise _mismatch(path, pattern.meaning, value)
    return decoded


def _union(options: tuple[Any, ...], value: object, path: str) -> Any:
    if value is None and NoneType in options:
        return None
    others = [option for option in options if option is not NoneType]
    chosen = next((option for option in others if option is type(value)), others[0])
    return decode(chosen, value, path)


def _tuple(arguments: tuple[Any, ...], value: object, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _mismatch(path, "a list", value)
    return tuple(decode(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(value))


def _mapping(arguments: tuple[Any, ...], value: object, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _mismatch(path, "an object", value)
    of_key, of_value = arguments
    return {
        decode(of_key, key, f"key {_SHORT.repr(key)} of {path}"): decode(
            of_value, item, _below(path, key)
        )
        for key, item in value.items()
    }


def _scalar(hint: type, value: object, path: str) -> Any:
    if type(value) is int and hint in (int, float):
        if not 0 <= value <= LARGEST and hint is int:
            raise _mismatch(path, f"an integer from 0 to {LARGEST}", value)
        if abs(value) <= LARGEST:
            return hint(value)
    if type(value) is not hint or (isinstance(value, float) and not math.isfinite(value)):
        raise _mismatch(path, _NAMES[hint], value)
    if isinstance(value, str) and not _is_text(value):
        raise _mismatch(path, "text without lone surrogates", value)
    return value


def _is_text(value: str) -> bool:
    return not re.search("[\ud800-\udfff]", value)


def _free(value: object, path: str, depth: int = 0) -> Any:
    """Any JSON value, within the depth and the numbers that every reader takes."""
    if depth > DEEPEST:
        raise RecordError(f"{path}: nested more than {DEEPEST} levels deep")
    if isinstance(value, dict):
        return {
            decode(str, key, f"key {_SHORT.repr(key)} of {path}"): _free(
                item, _below(path, key), depth + 1
            )
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_free(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    if type(value) is int and abs(value) <= LARGEST:
        return value
    if value is None or isinstance(value, bool):
        return value
    return _scalar(str if isinstance(value, str) else float, value, path)


_READERS: dict[Any, Callable[[tuple[Any, ...], object, str], Any]] = {
    Literal: _literal,
    Annotated: _annotated,
    Union: _union,
    UnionType: _union,
    tuple: _tuple,
    Mapping: _mapping,
}


def json_schema(record: type) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a record; the records inside it stand in `$defs`."""
    definitions: dict[str, Any] = {}
    root = _object_schema(record, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": record.__name__,
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _object_schema(record: type, definitions: dict[str, Any]) -> dict[str, Any]:
    properties = {key: _schema(hint, definitions) for key, hint in hints(record).items()}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": _required(record),
        "properties": properties,
    }


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of one hint; records go into `definitions`, once each."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if hint.__name__ not in definitions:
            definitions[hint.__name__] = _object_schema(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is Annotated:
        pattern: Pattern = arguments[1]
        return {
            "type": "string",
            "maxLength": pattern.longest,
            "pattern": f"^{pattern.regex}$",
        }
    if origin in (Union, UnionType):
        return {"anyOf": [_schema(option, definitions) for option in arguments]}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is Mapping:
        keys, values = (_schema(argument, definitions) for argument in arguments)
        return {"type": "object", "propertyNames": keys, "additionalProperties": values}
    return dict(_SCALAR_SCHEMAS[hint])


_SCALAR_SCHEMAS: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer", "minimum": 0, "maximum": LARGEST},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    NoneType: {"type": "null"},
    Any: {},
}
