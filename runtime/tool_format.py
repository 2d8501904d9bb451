"""How a model writes calls of tools: found out of what its chat template makes of some.

A model was trained with its template: what that writes around a call's name and arguments is what
the model writes. A grammar of these texts and of the tools' schemas keeps answers to such calls.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from seq2edge.errors import InputError
from seq2edge.runtime.tools import ToolCall, Tools

Render: TypeAlias = Callable[..., str]  # of `Tokenizer.render_chat`

# What is looked for in what a template writes: nothing that would stand there otherwise.
NAMES, IDS = ("qxtoolqx", "qytoolqy"), ("qxcall001", "qycall002")
ARGUMENTS = {"qxkey": "qxvalue", "qxlist": [1, 2]}
SAID = "qxsaidqx"
LONGEST = 500  # characters of a text around a name or arguments
SEPARATORS = ((", ", ": "), (",", ":"))
UNREAD = "its chat template writes calls in a form that is not read here"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToolFormat:
    """The texts that a template writes around a call's name and its arguments, which are JSON.

    A call is `begin`, its name, `middle`, its arguments, `end`; of several, `between` stands for
    the end of one and the beginning of the next, None where a template writes one alone.
    `separators` are those of the JSON. An id that a template writes behind the arguments is left
    out: an answer has none.
    """

    begin: str
    middle: str
    end: str
    between: str | None
    separators: tuple[str, str]

    @property
    def texts(self) -> tuple[str, ...]:
        """All that it writes beside names and arguments."""
        return (self.begin, self.middle, self.end, self.between or "")

    def trigger(self, special: Mapping[str, int]) -> str:
        """What says that a call begins: a token that stands for itself, or the first word."""
        first = _parts(self.begin, special)[0]
        return first if first in special else first.split()[0]

    def grammar(self, tools: Tools, special: Mapping[str, int]) -> str:
        """A grammar (llguidance's Lark) of answers with calls of these tools.

        `special` are the ids of tokens that stand for themselves, which no text matches.
        """

        def literal(text: str) -> str:
            return " ".join(
                f"<[{special[part]}]>" if part in special else json.dumps(part, ensure_ascii=False)
                for part in _parts(text, special)
            )

        trigger, middle = self.trigger(special), literal(self.middle)
        item, colon = self.separators
        style = {"whitespace_flexible": False, "item_separator": item, "key_separator": colon}
        calls = [
            f"{json.dumps(name)} {middle} %json {json.dumps({'x-guidance': style, **schema})}"
            for name, schema in tools.callable.items()
        ]
        one = " | ".join(f"call_{i}" for i in range(len(calls)))
        several = ""
        if self.between is not None and tools.parallel and tools.choice in ("auto", "required"):
            several = f" ({literal(self.between)} one)*"
        rest = f"one{several} {literal(self.end)}".strip()
        lines = ["%llguidance {}"]
        if tools.choice != "auto":
            lines.append(f"start: {literal(self.begin)} {rest}")
        else:
            behind = literal(self.begin.removeprefix(trigger))
            lines.append(f"start: TEXT | head {behind} {rest}")
            lazy = "" if trigger in special else "[lazy]"
            lines.append(f"head{lazy}: TEXT {literal(trigger)}")
            lines.append(r"TEXT: /(.|\n)*/")
        lines.append(f"one: {one}")
        lines += [f"call_{i}: {call}" for i, call in enumerate(calls)]
        return "\n".join(lines)

    def read(self, text: str, names: Sequence[str]) -> list[ToolCall]:
        """The calls in an answer, up to one that is not whole; blanks between may be others."""
        known = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
        begin = re.compile(f"{_loose(self.begin)}({known}){_loose(self.middle)}")
        again = re.compile(f"{_loose(self.between or self.begin)}({known}){_loose(self.middle)}")
        calls: list[ToolCall] = []
        found = begin.search(text)
        while found is not None:
            try:
                arguments, place = json.JSONDecoder().raw_decode(text, found.end())
            except (ValueError, RecursionError):
                break
            if not isinstance(arguments, dict):
                break
            calls.append(ToolCall(name=found[1], arguments=arguments))
            found = again.match(text, place)
        return calls


def find_format(render: Render, ends: Sequence[str]) -> ToolFormat:
    """What a template writes; an answer ends with one of the texts `ends`.

    Raises InputError for a template that has no place for tools, or another form of calls.
    """
    functions = [{"name": name, "description": name, "parameters": {}} for name in NAMES]
    tools = [{"type": "function", "function": function} for function in functions]
    user = {"role": "user", "content": SAID[::-1]}
    asked = render([user], tools=tools)
    if not all(name in asked for name in NAMES):
        raise InputError("tools: its chat template has no place for them")
    said = render(
        [user, {"role": "assistant", "content": SAID}], tools=tools, add_generation_prompt=False
    )
    heads = [said[: said.find(SAID)], asked]

    def written(count: int) -> str:
        calls = [
            ToolCall(name=name, arguments=ARGUMENTS, id=identity).record
            for name, identity in zip(NAMES[:count], IDS, strict=False)
        ]
        answer = {"role": "assistant", "content": "", "tool_calls": calls}
        text = render([user, answer], tools=tools, add_generation_prompt=False)
        head = next((head for head in heads if head and text.startswith(head)), None)
        if head is None:
            raise InputError(f"tools: {UNREAD}")
        text = text[len(head) :]
        end = min((place for end in ends if (place := text.find(end)) >= 0), default=None)
        return text[:end].strip()

    one = _of_one(written(1))
    try:
        two = written(2)
    except InputError:  # of a template that takes one call at a time
        return one
    return dataclasses.replace(one, between=_between(one, two))


def _of_one(text: str) -> ToolFormat:
    """The format of a text with one call."""
    begin, found, behind = text.partition(NAMES[0])
    for separators in SEPARATORS:
        arguments = json.dumps(ARGUMENTS, separators=separators)
        middle, written, end = _without_ids(behind, arguments).partition(arguments)
        if found and written:
            break
    else:
        raise InputError(f"tools: {UNREAD}")
    parts = (begin, middle, end)
    if not begin or any(IDS[0] in part or len(part) > LONGEST for part in parts):
        raise InputError(f"tools: {UNREAD}")
    return ToolFormat(begin=begin, middle=middle, end=end, between=None, separators=separators)


def _between(one: ToolFormat, text: str) -> str | None:
    """What stands between two calls; None where they are not written as one is."""
    arguments = json.dumps(ARGUMENTS, separators=one.separators)
    before, behind = (f"{name}{one.middle}{arguments}" for name in NAMES)
    pattern = f"{re.escape(one.begin + before)}(.+){re.escape(behind + one.end)}"
    whole = re.fullmatch(pattern, _without_ids(text, arguments), re.DOTALL)
    return whole[1] if whole else None


def _without_ids(text: str, arguments: str) -> str:
    """A text without what it says of ids behind the arguments of calls."""
    ids = "|".join(IDS)
    return re.sub(f'({re.escape(arguments)})[^{{}}]*?(?:{ids})"?', r"\1", text)


def _parts(text: str, special: Mapping[str, int]) -> list[str]:
    """A text cut into tokens that stand for themselves, the longest first, and what is between."""
    if not special:
        return [text] if text else []
    known = "|".join(map(re.escape, sorted(special, key=len, reverse=True)))
    return [part for part in re.split(f"({known})", text) if part]


def _loose(text: str) -> str:
    """A regular expression of a text, with any blanks where it has some."""
    return r"\s*".join(re.escape(part) for part in re.split(r"\s+", text))


class CallReader:
    """What keeps one request's answers to calls, and reads these.

    `grammar` is that of its answers, in which the tokens `named` stand for themselves.
    """

    def __init__(self, form: ToolFormat, tools: Tools, special: Mapping[str, int]) -> None:
        self._form, self._names = form, list(tools.callable)
        self.grammar = form.grammar(tools, special)
        parts = (part for text in form.texts for part in _parts(text, special))
        self.named = frozenset(special[part] for part in parts if part in special)
        trigger = form.trigger(special)
        self._token = special.get(trigger)
        # A text that ends what is said before the calls.
        self.stop_strings = () if self._token is not None else (trigger,)

    def said(self, ids: Sequence[int]) -> Sequence[int]:
        """The ids before the calls, where a token begins these."""
        if self._token is None or self._token not in ids:
            return ids
        return ids[: list(ids).index(self._token)]

    def calls(self, text: str) -> tuple[ToolCall, ...]:
        """Those in the whole text of an answer, special tokens included."""
        return tuple(self._form.read(text, self._names))
