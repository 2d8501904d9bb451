"""Tools that a model may call: what they are, which of them it may ask for, and its calls."""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from typing import Any

from seq2edge.errors import OptionError

CHOICES = ("auto", "none", "required")
MOST = 128  # tools of one request, as OpenAI takes them
NAME = re.compile("[A-Za-z0-9_.-]{1,64}")
ID_LENGTH = 9  # the templates of Mistral's models take no other
LETTERS = string.ascii_letters + string.digits


def new_id() -> str:
    """Letters and digits that no other call has."""
    return "".join(secrets.choice(LETTERS) for _ in range(ID_LENGTH))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToolCall:
    """What a model asks for: a tool's name, and JSON values by the names of its parameters.

    `id` is what the tool's answer refers to, and another one each time; it does not count when
    calls are compared.
    """

    name: str
    arguments: dict[str, Any]
    id: str = dataclasses.field(default_factory=new_id, compare=False)

    @property
    def record(self) -> dict[str, Any]:
        """It in a message, as chat templates take it."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclasses.dataclass(frozen=True)
class Tools:
    """Functions that a model may ask for in its answer to a chat.

    `definitions` are those of OpenAI's API and of transformers: {"type": "function", "function":
    {"name": ..., "description": ..., "parameters": JSON schema}}. With the `choice` "auto" the
    model says whether it calls some, with "required" it does, with a tool's name that one, with
    "none" it is told of none. `parallel` lets it call several at a time, where its template knows
    how. Construction raises OptionError for what is no such definition or choice.
    """

    definitions: Sequence[Mapping[str, Any]]
    choice: str = "auto"
    parallel: bool = True

    def __post_init__(self) -> None:
        try:
            plain = json.loads(json.dumps(list(self.definitions), allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise OptionError(f"tools: needs a list of JSON objects: {error}") from None
        if not 1 <= len(plain) <= MOST:
            raise OptionError(f"tools: {len(plain):,} of them, needs 1 to {MOST}")
        for i, definition in enumerate(plain):
            _check_definition(f"tools[{i}]", definition)
        object.__setattr__(self, "definitions", tuple(plain))
        names = self.names
        for i, name in enumerate(names):
            if name in names[:i]:
                raise OptionError(f"tools[{i}].function.name: {name!r} is that of another one too")
        if self.choice not in (*CHOICES, *names):
            known = ", ".join([*CHOICES, *names])
            raise OptionError(f"tool_choice: {self.choice!r:.80}, needs one of {known:.500}")
        if not isinstance(self.parallel, bool):
            raise OptionError(f"parallel: {self.parallel!r:.60}, needs True or False")

    @property
    def names(self) -> tuple[str, ...]:
        """Of all of them."""
        return tuple(each["function"]["name"] for each in self.definitions)

    @property
    def callable(self) -> dict[str, dict[str, Any]]:
        """Those that may be called, each with the schema of its arguments.

        Arguments that a schema does not name are none, unless it says more of them.
        """
        chosen = self.names if self.choice in CHOICES else (self.choice,)
        functions = [each["function"] for each in self.definitions]
        schemas = {each["name"]: each.get("parameters") or {} for each in functions}
        base = {"type": "object", "properties": {}, "additionalProperties": False}
        return {name: {**base, **schemas[name]} for name in chosen}


def told_of(tools: Tools | None) -> Tools | None:
    """Those that a model is told of: none by the choice "none"."""
    return None if tools is None or tools.choice == "none" else tools


def _check_definition(place: str, definition: Any) -> None:
    if not isinstance(definition, dict) or definition.get("type") != "function":
        raise OptionError(f"{place}: {definition!r:.60}, needs an object of the type 'function'")
    function = definition.get("function")
    if not isinstance(function, dict):
        raise OptionError(f"{place}.function: {function!r:.60}, needs an object")
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in CHOICES:
        raise OptionError(
            f"{place}.function.name: {name!r:.80}, needs 1 to 64 of a-z, A-Z, 0-9, '_', '-' and "
            f"'.', and not {', '.join(CHOICES)}"
        )
    schema = function.get("parameters")
    if schema is not None and (
        not isinstance(schema, dict) or schema.get("type", "object") != "object"
    ):
        raise OptionError(f"{place}.function.parameters: {schema!r:.60}, needs an object's schema")
