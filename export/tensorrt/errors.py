"""Why TensorRT makes no engine of a graph: its own words, the graph's node, the model's weight.

The library names nodes by what the exporter called them. So every node that it names is told with
its operator and the parameter that it reads, or the nearest one before it. What is only of use to
the library's developers (places in its sources, calls that failed for want of a GPU) is left out.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx

from seq2edge.errors import EngineError

# The fact in a line of the library, without the call and the kind of error around it.
_FACT = re.compile(r"Error Code \d+: [\w ]+ \((?P<fact>.*)\)\s*$", re.DOTALL)
_PLACE = re.compile(r"\s*In (?:operator\(\)|\w+) at /\S+")
_WORDS = re.compile(r'^.* && "(?P<fact>.*)"$')
_NOISE = re.compile(r"catchCudaError|^Invalid Node - ")
_SIZES = re.compile(r"k(?P<which>MIN|OPT|MAX) values for profile (?P<index>\d+)")
_WHICH = {"MIN": "least", "OPT": "best", "MAX": "most"}
_PARAMETER = re.compile(r"model\.\S*?\.(?:weight|bias)\b|model\.\S+")

OURS = "build the graphs that seq2edge made for TensorRT, and report this if it is one"
_REMEDIES = (
    (r"same input types|identical types|datatype", "types are in the graph: quantize it again"),
    (r"static sequence length", "give the caches one size, their capacity"),
    (r"HW-specific", "take a precision that the GPU has, see `seq2edge targets`"),
    (
        r"shape constraints|conformable|dimension",
        "give sizes that fit each other: --batch, --beams, --source, --prompt, --capacity",
    ),
    (r"memory", "ask for less: --batch, --source and --prompt, see --plan"),
)


def not_read(graph: Path, model: onnx.ModelProto, trt: Any, errors: Sequence[Any]) -> EngineError:
    """The error that the parser does not take a graph; `errors` are what the parser gives."""
    nodes = _Nodes(model)
    parts = []
    for error in errors:
        where = nodes.describe(error.node_name()) or error.node_operator() or "the graph"
        fact = _parser_fact(error).removeprefix(f"{error.node_name()}: ")
        parts.append(f"{where}: {fact}; {_remedy(fact)}")
    reasons = "; ".join(parts) or f"no reason was given; {OURS}"
    return EngineError(f"{graph}: {trt.__name__} {trt.__version__} does not read {reasons}")


def not_built(
    graph: Path, model: onnx.ModelProto, trt: Any, lines: Sequence[str], profiles: Sequence[str]
) -> EngineError:
    """The error that the builder made nothing; `lines` are the errors that it logged."""
    facts = list(dict.fromkeys(fact for line in lines if (fact := _fact(line))))
    reasons = "; ".join(_name_profiles(fact, profiles) for fact in facts) or "no reason was given"
    nodes = _Nodes(model)
    where = [nodes.describe(name) for name in nodes.named_in(reasons)]
    if where:
        reasons += f"; this is {', '.join(where)}"
    library = f"{trt.__name__} {trt.__version__}"
    return EngineError(f"{graph}: {library} made no engine, {reasons}; {_remedy(reasons)}")


def _parser_fact(error: Any) -> str:
    fact = _fact(str(error.desc()))
    unsupported = str(getattr(error.code(), "name", "")).startswith("UNSUPPORTED")
    if unsupported and fact in ("", "false"):  # a bare condition
        return f"{error.node_operator()} is not supported"
    return fact or "no reason was given"


def _fact(text: str) -> str:
    """What is wrong, in the library's words."""
    lines = [line for line in text.splitlines() if line.strip() and not _NOISE.search(line)]
    facts = []
    for line in lines:
        match = _FACT.search(line) or _WORDS.search(line)
        facts.append(_PLACE.sub("", match["fact"] if match else line).strip().rstrip("."))
    return "; ".join(facts)


def _name_profiles(text: str, profiles: Sequence[str]) -> str:
    """The names of profiles, which the library counts."""

    def name(match: re.Match[str]) -> str:
        index = int(match["index"])
        known = profiles[index] if index < len(profiles) else str(index)
        return f"the {_WHICH[match['which']]} sizes of profile {known}"

    return _SIZES.sub(name, text)


def _remedy(fact: str) -> str:
    remedies = (remedy for words, remedy in _REMEDIES if re.search(words, fact, re.IGNORECASE))
    return next(remedies, OURS)


class _Nodes:
    """The graph's nodes by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._nodes = {node.name: node for node in model.graph.node if node.name}
        self._producers = {out: node for node in model.graph.node for out in node.output}
        self._weights = {tensor.name for tensor in model.graph.initializer}

    def describe(self, name: str) -> str:
        """`node_linear (MatMul of model.layers.0.attention.qkv.weight)`; "" without a name."""
        node = self._nodes.get(name)
        if node is None:
            return name
        own = [parameter for i in node.input if (parameter := self._parameter(i))]
        if own:
            return f"{name} ({node.op_type} of {own[0]})"
        before = self._nearest(node)
        return f"{name} ({node.op_type}{f' after {before}' if before else ''})"

    def named_in(self, text: str) -> Iterator[str]:
        """The names of nodes that a text holds as words of their own."""
        for name in self._nodes:
            if name in text and re.search(rf"(?<![\w/])(?<!\w\.){re.escape(name)}(?![\w/])", text):
                yield name

    def _parameter(self, name: str) -> str:
        """The model's parameter that an initializer is, or is made of."""
        match = _PARAMETER.match(name) if name in self._weights else None
        return match[0] if match else ""

    def _nearest(self, node: onnx.NodeProto) -> str:
        """The first parameter on the way back to the inputs, the shortest way first."""
        pending, visited = deque([node]), set()
        while pending:
            for name in pending.popleft().input:
                if parameter := self._parameter(name):
                    return parameter
                if name in self._producers and name not in visited:
                    visited.add(name)
                    pending.append(self._producers[name])
        return ""
