"""What a chat template may take: a count of steps, and how much its values may become.

Whatever makes a value is counted, and no value may weigh more than `Budget.largest`, which is
judged before it is made wherever it can be much larger than what it is made of. Values weigh their
characters and items, those inside them included, as often as they would be printed. What is left
takes a time that these weights bound, so that it is enough to look at the clock between two values.
"""

from __future__ import annotations

import functools
import re
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jinja2.exceptions import SecurityError

STEPS = 2_000_000  # of a rendering
SECONDS = 2.0  # of a processor
LARGEST = 2**20  # what a value weighs beside what the chat does
MEMORY = 2**28  # bytes of all values together, beside those that the chat is worth
SHORT = 1000  # characters of what is looked for again and again
SLOW = 2**14  # what filters read whose time grows with its square
BITS = 4096  # of an integer


class Budget(threading.local):
    """What a rendering may still take, in the thread that it runs in."""

    steps, memory, deadline, largest = 0, 0, 0.0, 0

    def begin(self, chat: object) -> None:
        """A rendering of this chat begins."""
        weight = weigh(chat, sys.maxsize)
        self.steps = STEPS
        self.memory = MEMORY + 128 * weight
        self.largest = LARGEST + 4 * weight
        self.deadline = time.thread_time() + SECONDS

    def spend(self) -> None:
        """One step more."""
        self.steps -= 1
        if not self.steps & 63:
            self.check()

    def check(self) -> None:
        """Raise SecurityError where nothing is left."""
        if self.steps <= 0 or self.memory < 0 or time.thread_time() > self.deadline:
            raise SecurityError("it takes more time or memory than a chat needs")

    def fits(self, weight: int) -> None:
        """Raise SecurityError for a value that would be too large."""
        if weight > self.largest:
            raise SecurityError(f"it makes a value of more than {self.largest:,} characters")

    def made(self, value: Any) -> Any:
        """The same value, paid for."""
        if isinstance(value, str):
            self.fits(len(value))
            self.memory -= sys.getsizeof(value)
        elif isinstance(value, CONTAINERS):
            self.fits(weigh(value, self.largest))
            self.memory -= sys.getsizeof(value) + 64 * len(value)
        elif isinstance(value, types.GeneratorType):
            return self.each(value)
        if self.memory < 0:
            self.check()
        return value

    def printable(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """The same values, which print no more together than one may."""
        self.fits(weigh(values, self.largest))
        return values

    def each(self, values: Iterable[Any]) -> Iterator[Any]:
        """The same values, each paid for when it is made."""
        for value in values:
            self.spend()
            yield self.made(value)


CONTAINERS = (list, tuple, dict, set, frozenset)


def weigh(value: Any, most: int) -> int:
    """Characters and items of a value as they would be printed; `most` + 1 or more stands for all.

    What is inside counts as often as it is reached, so that small values that print large ones, a
    list of a list twice of a list twice, are known before.
    """
    weight, pending = 0, [value]
    while pending and weight <= most:
        part = pending.pop()
        if isinstance(part, str):
            weight += 1 + len(part)
        elif isinstance(part, CONTAINERS):
            weight += 1 + len(part)
            if weight <= most:
                pending += part
                pending += part.values() if isinstance(part, dict) else ()
        else:
            weight += 1 + (part.bit_length() // 3 if isinstance(part, int) else 0)
    return weight


# What a method of these types may be called, but for those that `_METHOD_CHECKS` knows.
_TEXT = """capitalize casefold center count endswith find index isalnum isalpha isascii isdecimal
    isdigit isidentifier islower isnumeric isprintable isspace istitle isupper ljust lower partition
    removeprefix removesuffix rjust split splitlines startswith swapcase title upper zfill"""
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(_TEXT.split()),
    dict: frozenset(("get", "items", "keys", "values", "copy")),
    list: frozenset(("index", "count", "copy")),
    tuple: frozenset(("index", "count")),
    range: frozenset(("index", "count")),
    int: frozenset(("bit_length", "is_integer", "conjugate")),
    float: frozenset(("is_integer", "conjugate", "hex")),
}


def checked_method(
    budget: Budget, function: Any, args: tuple[Any, ...], names: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The arguments of a call, after it was judged where it is a method of a plain value."""
    method = getattr(function, "__wrapped__", function)  # the sandbox has one for str.format
    value = getattr(method, "__self__", None)
    if not isinstance(method, (types.BuiltinMethodType, types.MethodType)) or value is None:
        return args
    kind = next((kind for kind in _METHODS if isinstance(value, kind)), None)
    if kind is None:
        if isinstance(method, types.BuiltinMethodType):
            raise SecurityError(f"{type(value).__name__}.{method.__name__} is no use to a chat")
        return args
    _check_numbers(budget, args, names)
    check = _METHOD_CHECKS.get(method.__name__) if kind is str else None
    if check is None and method.__name__ not in _METHODS[kind]:
        raise SecurityError(f"{kind.__name__}.{method.__name__} is no use to a chat")
    if method.__name__ == "join":
        args = tuple(list(arg) for arg in args)  # what is made on the way is made once
    if check is not None:
        check(budget, value, *args, **names)
    return args


def _check_numbers(budget: Budget, args: Iterable[Any], names: Mapping[str, Any]) -> None:
    """Of widths, counts and sizes none is larger than a value may be."""
    for value in (*args, *names.values()):
        if isinstance(value, int):
            budget.fits(abs(value))


def check_product(budget: Budget, left: Any, right: Any) -> None:
    """Of `*`: integers of so many digits, and a text or a list so many times."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() + right.bit_length()
        budget.fits(budget.largest + 1 if bits > BITS else 0)
    for value, count in ((left, right), (right, left)):
        if isinstance(value, (str, *CONTAINERS)) and isinstance(count, int):
            budget.fits((weigh(value, budget.largest) - 1) * count)


def check_format(budget: Budget, text: str, *args: Any, **names: Any) -> None:
    """Of `%` and `format`: each field may print all values, in the width that it says."""
    if re.search(r"%[^a-zA-Z%]*\*|\{[^{}]*\{", text.replace("{{", "")):
        raise SecurityError("a width that is computed is no use to a chat")
    fields = text.count("%") + text.count("{")
    widths = sum(int(digits[:9]) for digits in re.findall(r"\d+", text))
    values = weigh((*args, *names.values()), budget.largest)
    budget.fits(len(text) + widths + fields * values)


def _check_replace(budget: Budget, text: Any, old: Any, new: Any, *_: Any, **__: Any) -> None:
    value = str(text)
    budget.fits(len(value) + value.count(str(old)) * len(str(new)))


def check_join(budget: Budget, text: str, parts: Sequence[Any]) -> None:
    """Of parts with the text between them."""
    budget.fits(weigh(parts, budget.largest) + len(text) * len(parts))


def _check_strip(_budget: Budget, _text: Any, chars: Any = None) -> None:
    """Each character is looked for among all of them."""
    if chars is not None and len(chars) > SHORT:
        raise SecurityError(f"more than {SHORT:,} characters to strip")


def _check_search(_budget: Budget, _text: str, part: Any = None, *_: Any, **names: Any) -> None:
    """From the end, a long part takes a time that grows with both lengths."""
    part = names.get("sep", part)
    if isinstance(part, str) and len(part) > SHORT:
        raise SecurityError(f"more than {SHORT:,} characters to search for from the end")


def _check_tabs(budget: Budget, text: str, tabsize: int = 8) -> None:
    budget.fits(len(text) + text.count("\t") * tabsize)


def _check_indent(budget: Budget, text: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    value = str(text)
    wide = len(width) if isinstance(width, str) else int(width)
    budget.fits(len(value) + (1 + len(value.splitlines())) * wide)


def _check_json(
    budget: Budget, value: Any, _ascii: Any = None, indent: Any = None, *_: Any, **names: Any
) -> None:
    indent = names.get("indent", indent)
    wide = len(indent) if isinstance(indent, str) else indent or 0
    depth = 8  # more of it is paid for when it was made
    budget.fits(weigh(value, budget.largest) * (1 + wide * depth))


def _check_slow(_budget: Budget, value: Any, *args: Any, **names: Any) -> None:
    if weigh((value, *args, *names.values()), SLOW) > SLOW:
        raise SecurityError(f"more than {SLOW:,} characters for a filter that is slow")


def _check_fill(budget: Budget, _value: Any, count: int, fill_with: Any = None) -> None:
    budget.fits(count * weigh(fill_with, budget.largest))


def check_attributes(_budget: Budget, _value: Any, *names: Any, **named: Any) -> None:
    """Of paths such as `a.b.0`, which are followed for every item."""
    for name in (*names, *named.values()):
        if isinstance(name, str) and len(name) > SHORT:
            raise SecurityError(f"more than {SHORT:,} characters of attributes")


_METHOD_CHECKS: dict[str, Callable[..., None]] = {
    "expandtabs": _check_tabs,
    "format": check_format,
    "format_map": check_format,
    "join": check_join,
    "lstrip": _check_strip,
    "replace": _check_replace,
    "rfind": _check_search,
    "rindex": _check_search,
    "rpartition": _check_search,
    "rsplit": _check_search,
    "rstrip": _check_strip,
    "strip": _check_strip,
}
_FILTER_CHECKS: dict[str, Callable[..., None]] = {
    "batch": _check_fill,
    "format": check_format,
    "groupby": check_attributes,
    "indent": _check_indent,
    "max": check_attributes,
    "min": check_attributes,
    "pprint": _check_slow,
    "replace": _check_replace,
    "slice": _check_fill,
    "sort": check_attributes,
    "striptags": _check_slow,
    "tojson": _check_json,
    "trim": _check_strip,
    "unique": check_attributes,
    "urlize": _check_slow,
    "wordwrap": _check_slow,
}


def bounded(budget: Budget, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is judged before it is called, and whose value is paid for."""
    check = _FILTER_CHECKS.get(name)
    passed = int(hasattr(function, "jinja_pass_arg"))  # a context before the value

    @functools.wraps(function)
    def call(*args: Any, **names: Any) -> Any:
        budget.spend()
        _check_numbers(budget, args[passed + 1 :], names)
        if check is not None:
            check(budget, *args[passed:], **names)
        return budget.made(function(*args, **names))

    return call
