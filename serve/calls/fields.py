"""Strict reading of what a client sends: known fields, of their types, within their bounds."""

from __future__ import annotations

import codecs
import math
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from seq2edge.files.records import RecordError, parse_json
from seq2edge.serve.calls.failures import RequestError

MISSING: Any = object()  # the default of a field that is needed


class Fields:
    """The fields of a JSON object, each of which is taken by its name; `end` refuses the rest.

    A field that is null is one that is not there. Every method raises RequestError, which names the
    field.
    """

    def __init__(self, values: Any, place: str = "") -> None:
        """`place` is what stands before the names: "messages[0]." of a field inside a list."""
        if not isinstance(values, Mapping):
            raise RequestError(
                f"{place.rstrip('.') or 'body'}: needs an object", param=place or None
            )
        self._values = {name: value for name, value in values.items() if value is not None}
        self._place = place
        self._known: list[str] = []

    @classmethod
    def of_json(cls, body: bytes) -> Fields:
        """Those of a body."""
        try:
            return cls(parse_json(body.removeprefix(codecs.BOM_UTF8)))
        except RecordError as error:
            raise RequestError(f"body: {error}") from None

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def holds(self, name: str, kind: type) -> bool:
        """Whether a field is there and of this type."""
        return isinstance(self._values.get(name), kind)

    def refuse(self, name: str, fact: str) -> NoReturn:
        """Say what is wrong with a field."""
        raise RequestError(f"{self._place}{name}: {fact}", param=f"{self._place}{name}")

    def take(self, name: str, default: Any = MISSING) -> Any:
        """The value of a field, of any type."""
        self._known.append(name)
        value = self._values.pop(name, default)
        if value is MISSING:
            self.refuse(name, "is needed")
        return value

    def text(self, name: str, default: Any = MISSING) -> Any:
        """A string."""
        return self._of(name, default, str, "a string")

    def flag(self, name: str, default: Any = MISSING) -> Any:
        """True or false."""
        return self._of(name, default, bool, "true or false")

    def choice(self, name: str, choices: Collection[str], default: Any = MISSING) -> Any:
        """One of some strings."""
        value = self.text(name, default)
        if value is not default and value not in choices:
            self.refuse(name, f"{value!r:.60}, needs one of {', '.join(choices)}")
        return value

    def integer(self, name: str, default: Any = MISSING, *, least: int, most: int) -> Any:
        """An integer within bounds, which are allowed."""
        value = self.take(name, default)
        if value is default:
            return value
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.refuse(name, f"{value!r:.60}, needs an integer from {least:,} to {most:,}")
        return value

    def number(self, name: str, default: Any = MISSING, *, least: float, most: float) -> Any:
        """A number within bounds, which are allowed."""
        value = self.take(name, default)
        if value is default:
            return value
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not least <= value <= most or not math.isfinite(value):
            self.refuse(name, f"{value!r:.60}, needs a number from {least:g} to {most:g}")
        return value

    def items(self, name: str, default: Any = MISSING, *, most: int) -> Any:
        """A list that is not empty."""
        value = self._of(name, default, list, "a list")
        if value is not default and not 1 <= len(value) <= most:
            self.refuse(name, f"{len(value):,} entries, needs 1 to {most:,}")
        return value

    def texts(self, name: str, default: Any = MISSING, *, most: int) -> Any:
        """A list of strings; one string is a list of one."""
        if self.holds(name, str):
            return [self.text(name)]
        value = self.items(name, default, most=most)
        if value is not default and not all(isinstance(item, str) for item in value):
            self.refuse(name, "needs a string, or a list of strings")
        return value

    def objects(self, name: str, default: Any = MISSING, *, most: int) -> Any:
        """A list of objects, each to be read and ended as this one."""
        value = self.items(name, default, most=most)
        if value is default:
            return value
        return [Fields(item, f"{self._place}{name}[{i}].") for i, item in enumerate(value)]

    def inner(self, name: str, default: Any = MISSING) -> Any:
        """An object inside, to be read and ended as this one."""
        value = self.take(name, default)
        return value if value is default else Fields(value, f"{self._place}{name}.")

    def rest(self, names: Collection[str]) -> dict[str, Any]:
        """Those of these names that are there, of any type."""
        self._known.extend(names)
        return {name: self._values.pop(name) for name in names if name in self._values}

    def end(self) -> None:
        """Refuse what nobody took."""
        for name in self._values:
            known = ", ".join(sorted(set(self._known)))
            self.refuse(name[:60], f"no field of this request, known: {known}")

    def _of(self, name: str, default: Any, kind: type, needs: str) -> Any:
        value = self.take(name, default)
        if value is not default and not isinstance(value, kind):
            self.refuse(name, f"{value!r:.60}, needs {needs}")
        return value
