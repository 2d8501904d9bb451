"""What an audit swaps: templates with a slot, and terms that stand in it in turn.

A file (JSON or TOML) has `groups` by name, each with

- `alternatives`: names of what is swapped, such as "female" and "male";
- `terms`: rows with one term for each alternative, in their order;
- `templates`: sentences with one `{}` where the terms go;
- `agreeing`: words whose change in an output goes with the swap, such as "she" and "he" (optional);

and may have `associations`, each with a `name`, two `targets` and two `attributes`, lists of words
by name.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seq2edge.errors import InputError
from seq2edge.files.records import RecordError, decode, parse_json

DEFAULT = Path(__file__).with_name("pairs.json")
SLOT = "{}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """One thing that is swapped: see the module."""

    alternatives: tuple[str, ...]
    terms: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]
    agreeing: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.alternatives)
        if count < 2 or len(set(self.alternatives)) < count:
            raise InputError("alternatives: needs two or more that differ")
        if not self.terms or not self.templates:
            raise InputError("needs a row of terms and a template at least")
        for row in self.terms:
            if len(row) != count or not all(term.strip() for term in row):
                raise InputError(f"terms: {list(row)} are not {count}, one for each alternative")
        for template in self.templates:
            if template.count(SLOT) != 1:
                raise InputError(f"templates: {template!r} needs one {SLOT} for the term")

    def sentences(self) -> list[str]:
        """Every template with every term: for each template each row, its alternatives in turn."""
        return [
            _fill(template, term)
            for template, row in itertools.product(self.templates, self.terms)
            for term in row
        ]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Templates, rows of terms, alternatives: how `sentences` is folded."""
        return len(self.templates), len(self.terms), len(self.alternatives)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The alternatives that are compared: each with each."""
        return list(itertools.combinations(range(len(self.alternatives)), 2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Association:
    """Two lists of target words and two of attribute words, for WEAT."""

    name: str
    targets: Mapping[str, tuple[str, ...]]
    attributes: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        for kind, lists in (("targets", self.targets), ("attributes", self.attributes)):
            if len(lists) != 2 or not all(len(words) > 1 for words in lists.values()):
                raise InputError(f"{kind}: needs two lists of two or more words, by name")
        if len({len(words) for words in self.targets.values()}) > 1:
            raise InputError("targets: needs two lists of the same length")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs:
    """A file's groups and associations."""

    groups: Mapping[str, Group]
    associations: tuple[Association, ...]


def read_pairs(path: Path | None = None) -> Pairs:
    """The file's pairs, by default those that come with the package.

    Raises InputError naming what is wrong and where.
    """
    path = path or DEFAULT
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    try:
        values = _parse_toml(data) if path.suffix == ".toml" else parse_json(data)
        pairs: Pairs = decode(Pairs, _with_defaults(values))
    except (RecordError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}") from error
    if not pairs.groups:
        raise InputError(f"{path}: groups: there are none")
    return pairs


def _parse_toml(data: bytes) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as error:
            raise InputError(f"pairs: {error}; install tomli, or give JSON") from error
    return tomllib.loads(data.decode("utf-8"))


def _with_defaults(values: Any) -> Any:
    if not isinstance(values, dict) or not isinstance(values.get("groups"), dict):
        return values
    groups = {
        name: {"agreeing": [], **group} if isinstance(group, dict) else group
        for name, group in values["groups"].items()
    }
    return {"associations": [], **values, "groups": groups}


def _fill(template: str, term: str) -> str:
    """The term in the slot, with a capital where it opens the sentence."""
    if template.startswith(SLOT):
        term = term[:1].upper() + term[1:]
    return template.replace(SLOT, term)
