"""Strict reading of JSON into records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest

from seq2edge.errors import CheckpointError
from seq2edge.files.records import (
    OPTIONAL,
    Pattern,
    RecordError,
    decode,
    json_schema,
    parse_json,
    plain_values,
    record_errors,
)

Word = Annotated[str, Pattern(regex="[a-z]+", meaning="a lower-case word", longest=5)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    """A record inside a record."""

    word: Word
    ratio: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    """One field of every kind that is understood."""

    count: int
    flag: bool
    choice: Literal[1, "a"]
    sizes: tuple[int | str, ...]
    table: Mapping[Word, Inner]
    inner: Inner | None
    free: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grown:
    """A record that got a field later, in a list."""

    parts: tuple[Part, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """With a default that its older files mean."""

    size: int
    layers: tuple[int, ...] = dataclasses.field(default=(), metadata=OPTIONAL)


VALID = {
    "count": 3,
    "flag": False,
    "choice": "a",
    "sizes": [1, "batch"],
    "table": {"abc": {"word": "x", "ratio": 2}},
    "inner": None,
    "free": {"deep": [1, -2.5, None, True, "ü"]},
}


def test_later_fields_are_written_where_they_say_something() -> None:
    """At any depth; older files and readers go with the rest."""
    grown = Grown(parts=(Part(size=1), Part(size=2, layers=(3,))))
    written = plain_values(grown)
    assert written == {"parts": [{"size": 1}, {"size": 2, "layers": [3]}]}
    assert decode(Grown, written) == grown
    assert json_schema(Grown)["$defs"]["Part"]["required"] == ["size"]


def test_every_kind_of_hint_is_read() -> None:
    """Lists become tuples, integers asked as floats become floats, everything else stays."""
    outer = decode(Outer, VALID)
    assert outer == Outer(
        count=3,
        flag=False,
        choice="a",
        sizes=(1, "batch"),
        table={"abc": Inner(word="x", ratio=2.0)},
        inner=None,
        free={"deep": [1, -2.5, None, True, "ü"]},
    )
    assert type(outer.table["abc"].ratio) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": True}, r"^count: expected an integer, got True$"),
        ({"count": 1.0}, r"^count: expected an integer, got 1\.0$"),
        ({"count": "1"}, r"^count: expected an integer, got '1'$"),
        ({"count": -1}, r"^count: expected an integer from 0 to 9223372036854775807, got -1$"),
        ({"count": 2**63}, r"^count: expected an integer from 0 to"),
        ({"flag": 0}, r"^flag: expected true or false, got 0$"),
        ({"choice": True}, r"^choice: expected one of 1, 'a', got True$"),
        ({"choice": 1.0}, r"^choice: expected one of 1, 'a', got 1\.0$"),
        ({"sizes": "batch"}, r"^sizes: expected a list, got 'batch'$"),
        ({"sizes": [1, 2.5]}, r"^sizes\[1\]: expected an integer, got 2\.5$"),
        ({"sizes": [None]}, r"^sizes\[0\]: expected an integer, got None$"),
        ({"table": []}, r"^table: expected an object, got \[\]$"),
        ({"table": {"A b": {}}}, r"^key 'A b' of table: expected a lower-case word, got 'A b'$"),
        ({"table": {"abcdef": {}}}, r"expected a lower-case word, got 'abcdef'$"),
        ({"table": {"a": {"word": "b"}}}, r"^table\.a\.ratio: missing$"),
        ({"inner": {"word": "b", "ratio": float("nan")}}, r"^inner\.ratio: expected a number, got"),
        ({"inner": {"word": "b", "ratio": True}}, r"^inner\.ratio: expected a number, got True$"),
        ({"inner": {"word": "b", "ratio": 2**70}}, r"^inner\.ratio: expected a number, got 1180"),
        ({"inner": {"word": "b", "ratio": 1, "x": 9}}, r"^inner\.x: unknown key with the value 9$"),
        ({"inner": {"word": "b\n", "ratio": 1}}, r"^inner\.word: expected a lower-case word"),
        ({"free": float("inf")}, r"^free: expected a number, got inf$"),
        ({"free": {"a": ["\ud800"]}}, r"^free\.a\[0\]: expected text without lone surrogates"),
        ({"free": {"\ud800": 1}}, r"^key '\\ud800' of free: expected text without lone surr"),
        ({"free": 2**64}, r"^free: expected a number, got 18446744073709551616$"),
        ({"a b/c": 1}, r"^\['a b/c'\]: unknown key with the value 1$"),
    ],
)
def test_wrong_values_name_their_path_and_value(change: dict[str, Any], message: str) -> None:
    """A value of another kind is refused with where it stands and what it is."""
    with pytest.raises(RecordError, match=message):
        decode(Outer, {**VALID, **change})


def test_a_record_must_be_an_object() -> None:
    """A list where the whole record must be is refused."""
    with pytest.raises(RecordError, match=r"^top level: expected an object, got \[1\]$"):
        decode(Outer, [1])


def test_free_values_have_a_depth_limit() -> None:
    """Nesting in free values ends with an error, not with Python's recursion limit."""
    value: Any = 0
    for _ in range(40):
        value = [value]
    with pytest.raises(RecordError, match="nested more than 32 levels deep"):
        decode(Any, value, "free")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff{}", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"[NaN]", "'NaN' is not a finite number"),
        (b"[-Infinity]", "'-Infinity' is not a finite number"),
        (b"[1e999]", "'1e999' is not a finite number"),
        (b'{"a": 1, "a": 1}', "duplicate key 'a'"),
        (b"[" * 200_000, "nested too deeply|not valid JSON"),
        (b"9" * 10_000, "not valid JSON"),
    ],
)
def test_bytes_that_are_not_strict_json_are_refused(data: bytes, message: str) -> None:
    """What JSON does not define, and what Python's reader alone would allow, is an error."""
    with pytest.raises(RecordError, match=message):
        parse_json(data)


def test_schema_closes_every_record() -> None:
    """The schema requires all keys and allows no others, at every level."""
    schema = json_schema(Outer)
    for record in (schema, schema["$defs"]["Inner"]):
        assert record["additionalProperties"] is False
        assert record["required"] == list(record["properties"])
    assert schema["properties"]["sizes"]["items"]["anyOf"][1] == {"type": "string"}


def test_errors_become_those_of_the_caller() -> None:
    """The kind that is asked for, about the file; other errors pass."""
    with (
        pytest.raises(CheckpointError, match=r"^a\.json: count: expected an integer, got 'x'$"),
        record_errors("a.json", CheckpointError),
    ):
        decode(Outer, {**VALID, "count": "x"})
    with pytest.raises(KeyError, match="other"), record_errors("a.json", CheckpointError):
        raise KeyError("other")
