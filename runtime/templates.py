"""Chats to text, as a checkpoint's template writes them: jinja2's sandbox with a budget.

The sandbox keeps a template from what is not its own, the budget (`template_budget.py`) from taking
more time and memory than a chat needs. Blocks and comparisons, calls, filters, operators, slices
and literals are counted, by what the compiler writes around them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2.compiler import CodeGenerator
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context, pass_environment, pass_eval_context

from seq2edge.errors import BundleError, InputError, foreign_errors
from seq2edge.files.storage import read_regular
from seq2edge.runtime.template_budget import (
    BITS,
    Budget,
    bounded,
    check_attributes,
    check_format,
    check_join,
    check_product,
    checked_method,
    weigh,
)

VARIABLES = ("_loop_vars", "_block_vars")  # which the compiler passes beside the template's own
LONGEST = 2**17  # bytes of a template: five times the longest that is known


class ChatTemplate:
    """A chat template of a bundle. For any thread."""

    def __init__(self, path: Path) -> None:
        """Read and compile it. Raises BundleError for what is no template."""
        with foreign_errors(BundleError, f"{path}: not a chat template"):
            text = read_regular(path, LONGEST).decode("utf-8")
            self._environment = _Environment()
            self._template = self._environment.from_string(text)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **names: Any,
    ) -> str:
        """What it writes of these messages. Raises InputError, with its words where it refuses."""
        plain = _plain_messages(messages)
        self._environment.budget.begin([plain, tools])
        with foreign_errors(InputError, "chat: the template refuses it"):
            return self._template.render(messages=plain, tools=tools, **names)


class _Counted(CodeGenerator):
    """Writes the code of a template with steps counted in it."""

    def blockvisit(self, nodes: Iterable[jinja2.nodes.Node], frame: Any) -> None:
        self.writeline("environment.budget.spend()")
        super().blockvisit(nodes, frame)

    def visit_Compare(self, node: jinja2.nodes.Compare, frame: Any) -> None:  # noqa: N802
        self.write("(environment.budget.spend() or ")
        super().visit_Compare(node, frame)
        self.write(")")

    def visit_Concat(self, node: jinja2.nodes.Concat, frame: Any) -> None:  # noqa: N802
        join = "(markup_join if context.eval_ctx.autoescape else str_join)"
        self.write(f"environment.budget.made({join}(environment.budget.printable((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))))")

    def visit_Getitem(self, node: jinja2.nodes.Getitem, frame: Any) -> None:  # noqa: N802
        if isinstance(node.arg, jinja2.nodes.Slice):
            self._paid(super().visit_Getitem, node, frame)
        else:
            super().visit_Getitem(node, frame)

    def visit_List(self, node: jinja2.nodes.List, frame: Any) -> None:  # noqa: N802
        self._paid(super().visit_List, node, frame)

    def visit_Dict(self, node: jinja2.nodes.Dict, frame: Any) -> None:  # noqa: N802
        self._paid(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: jinja2.nodes.Tuple, frame: Any) -> None:  # noqa: N802
        if node.ctx == "load":
            self._paid(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def _paid(self, visit: Any, node: Any, frame: Any) -> None:
        self.write("environment.budget.made(")
        visit(node, frame)
        self.write(")")


class _Environment(ImmutableSandboxedEnvironment):
    """The names that chat templates rely on, in a sandbox that cannot change its arguments."""

    code_generator_class = _Counted
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        self.budget = Budget()
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # which would compute constants when nothing is counted yet
            finalize=_written,
            extensions=[_Generation, jinja2.ext.loopcontrols],
        )
        self.filters = {
            name: bounded(self.budget, name, function)
            for name, function in {
                **FILTERS,
                "tojson": _to_json,
                "join": _join,
                "sum": _sum,
            }.items()
        }
        del self.globals["lipsum"]
        self.globals["namespace"] = _Namespace
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = _now

    def concat(self, parts: Iterable[str]) -> str:
        """What a block or the whole template wrote."""
        listed = list(parts)
        self.budget.fits(sum(map(len, listed)))
        text: str = self.budget.made("".join(listed))
        return text

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self.budget.spend()
        if operator == "*":
            check_product(self.budget, left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            self.budget.fits(self.budget.largest + 1 if left.bit_length() * right > BITS else 0)
        elif operator == "%" and isinstance(left, str):
            check_format(self.budget, left, right)
        return self.budget.made(super().call_binop(context, operator, left, right))

    def call(self, context: Context, function: Any, /, *args: Any, **names: Any) -> Any:
        self.budget.spend()
        own = {name: value for name, value in names.items() if name not in VARIABLES}
        args = checked_method(self.budget, function, args, own)
        return self.budget.made(super().call(context, function, *args, **names))


@pass_context  # so that nothing is written when the template is compiled
def _written(context: Context, value: Any) -> str:
    """The text of a value that the template writes."""
    budget = context.environment.budget  # type: ignore[attr-defined]
    budget.spend()
    return value if isinstance(value, str) else str(budget.made(str(value)))


class _Namespace(Namespace):
    """One that prints nothing of what is in it, since that changes behind a list of it."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's words for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


@pass_eval_context
def _join(context: Any, value: Any, d: str = "", attribute: Any = None) -> Any:
    """The filter, of values that are made once before they are weighed."""
    budget, listed = context.environment.budget, list(value)
    check_join(budget, str(d), listed)
    check_attributes(budget, None, attribute)
    return FILTERS["join"](context, listed, d, attribute)


@pass_environment
def _sum(environment: Any, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    """The filter; each value that is no number makes all before it anew."""
    budget, listed = environment.budget, list(iterable)
    if not all(isinstance(value, (int, float)) for value in (*listed, start)):
        budget.fits(len(listed) * weigh((*listed, start), budget.largest))
    check_attributes(budget, None, attribute)
    return FILTERS["sum"](environment, listed, attribute, start)


def _plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copies of JSON values only, so that a template reaches no object of the caller."""
    try:
        plain = json.loads(json.dumps([dict(message) for message in messages]))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"chat: messages must be JSON objects: {error}") from None
    for i, message in enumerate(plain):
        _read_calls(message, i)
        if not isinstance(message.get("role"), str) or "content" not in message:
            raise InputError(f"chat: message {i} needs a role and a content, got {message!r:.80}")
    return list(plain)


def _read_calls(message: dict[str, Any], number: int) -> None:
    """Calls of tools as templates take them: with arguments that are objects, beside a text."""
    calls = message.pop("tool_calls", None)
    if not calls:
        return
    for i, call in enumerate(calls if isinstance(calls, list) else [calls]):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InputError(f"chat: message {number}: call {i} of a tool needs a function's name")
        arguments = function.get("arguments")
        if isinstance(arguments, str):  # as OpenAI gives them
            with contextlib.suppress(ValueError, RecursionError):
                arguments = json.loads(arguments)
        if not isinstance(arguments, dict):
            raise InputError(
                f"chat: message {number}: arguments of call {i}: {arguments!r:.60} is no object"
            )
        function["arguments"] = arguments
    message["tool_calls"] = calls
    if message.get("content") is None:
        message["content"] = ""


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - templates pass them in this order
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(layout: str) -> str:
    return dt.datetime.now().strftime(layout)  # noqa: DTZ005 - local time, as written
