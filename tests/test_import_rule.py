"""Who may import whom: the rule as data, its check, and the table of it in ARCHITECTURE.md.

After a change of the data: `python tests/test_import_rule.py` writes the table anew.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {"tests", "benchmarks", "examples", "scripts", "build", "dist", "docs", "site"}


@dataclasses.dataclass(frozen=True)
class Room:
    """What a room does, the rooms below it that it imports, and the libraries."""

    does: str
    rooms: str = ""
    libraries: str = ""


# From the bottom up: a room imports `errors` and rooms above its own line here, and nothing else.
# A package inside a package is a room of its own.
ROOMS = {
    "errors": Room("every error a user can cause, in one tree"),
    "model": Room("`Dims` and the Transformer: one for all families", "", "torch"),
    "files": Room("files written whole or not at all, strict JSON records, the user's cache"),
    "bundle": Room(
        "manifest, folder, archive, origin, recorded answers", "model files", "numpy cryptography"
    ),
    "runtime.sound": Room(
        "recordings, sampling rates, voice activity, log-mel features",
        "bundle",
        "numpy soundfile av sounddevice",
    ),
    "runtime": Room(
        "decoding, text and images; the seam to backends",
        "model files bundle runtime.sound",
        "numpy tokenizers jinja2 llguidance PIL",
    ),
    "runtime.backends": Room(
        "ONNX Runtime and TensorRT behind the seam; what of a bundle runs here",
        "files bundle runtime",
        "numpy onnxruntime cuda",
    ),
    "runtime.speech": Room(
        "recordings of any length: languages, segments, words, times",
        "bundle runtime runtime.sound",
        "numpy",
    ),
    "testing": Room(
        "the contract of backends as checks, for their authors", "model runtime", "numpy"
    ),
    "evaluation": Room(
        "examples, metrics with intervals, audits; tables and pages of reports",
        "files runtime.sound runtime runtime.speech",
        "numpy matplotlib tomli",
    ),
    "export.passes": Room("edits of graphs, one a file", "model bundle", "numpy onnx_ir"),
    "checkpoints.families": Room("a family a file: dims and weights", "model", "torch"),
    "checkpoints.importers": Room(
        "a format a file: Hugging Face, GGUF, CTranslate2, Marian",
        "files bundle",
        "numpy torch safetensors tokenizers gguf",
    ),
    "checkpoints": Room(
        "from a checkpoint to a Transformer, a tokenizer and generation defaults",
        "model files bundle runtime checkpoints.families checkpoints.importers",
        "torch tokenizers safetensors transformers huggingface_hub",
    ),
    "export": Room(
        "tracing, shared weights, the gate, the original as judge: checkpoint in, bundle out",
        "model files bundle runtime runtime.backends export.passes checkpoints "
        "checkpoints.importers",
        "numpy torch onnx_ir transformers",
    ),
    "training": Room(
        "recipes, corpora, Lightning's trainer; privacy, adapters, sweeps",
        "model files bundle runtime evaluation checkpoints",
        "numpy torch safetensors tokenizers lightning peft opacus matplotlib tomli",
    ),
    "export.tensorrt": Room(
        "engines: memory plan, build, check",
        "model files bundle runtime.backends evaluation export.passes export",
        "onnx onnx_ir google",
    ),
    "quantize.passes": Room(
        "edits of graphs that change precision",
        "model bundle export.passes",
        "numpy onnx_ir onnxruntime ml_dtypes",
    ),
    "quantize": Room(
        "recipes, calibration, search, verdict; shortlists: bundle in, bundle out",
        "files bundle runtime runtime.backends export.passes export evaluation quantize.passes",
        "numpy onnx_ir onnxruntime",
    ),
    "serve.calls": Room(
        "calls over HTTP: fields, errors, turns of clients, a pool of models",
        "files bundle runtime",
        "numpy starlette prometheus_client",
    ),
    "serve.routes": Room(
        "the tasks as routes, a kind a file",
        "runtime runtime.sound runtime.speech serve.calls",
        "numpy starlette",
    ),
    "serve": Room(
        "the server: gates, connections, an end without loss; batches over files, Ray, Triton",
        "files bundle runtime runtime.speech serve.calls serve.routes",
        "numpy opentelemetry pyarrow ray starlette triton_python_backend_utils uvicorn",
    ),
    "commands": Room(
        "a command or pair a file: parse, call, print",
        "files bundle runtime.sound runtime runtime.backends runtime.speech evaluation "
        "checkpoints export training export.tensorrt quantize serve serve.calls",
        "click",
    ),
    "cli": Room("the command line, assembled", "commands", "click"),
    "__init__": Room("the public names, loaded when they are used", "runtime runtime.speech"),
}


def room_of(module: str) -> str:
    """The innermost room that holds a module: "runtime.backends" of "runtime.backends.device"."""
    around = [room for room in ROOMS if f"{module}.".startswith(f"{room}.")]
    return max(around, key=len, default=module.split(".", maxsplit=1)[0])


def imports(tree: Path) -> Iterator[tuple[str, str, str]]:
    """The place, the room, and a room ("seq2edge.files") or library ("numpy") imported there.

    Imports inside functions and under TYPE_CHECKING count too; the package's version is no room.
    """
    for path in sorted(tree.rglob("*.py")):
        parts = path.relative_to(tree).with_suffix("").parts
        if parts[0] in ELSEWHERE or parts[0].startswith("."):
            continue
        for line, name in imported(path):
            root, _, module = name.partition(".")
            if root == "seq2edge":
                root = f"seq2edge.{room_of(module)}".rstrip(".")
            if root not in {"seq2edge.__version__", "__future__", *sys.stdlib_module_names}:
                place = f"{path.relative_to(tree)}:{line}"
                yield place, room_of(".".join(parts)), root or "a relative name"


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """The line and the full name of everything that a file imports."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def allowed(room: str) -> set[str]:
    """The other rooms and the libraries that a room imports by the rule."""
    rule = ROOMS[room]
    return {*(f"seq2edge.{name}" for name in rule.rooms.split()), *rule.libraries.split()}


def violations(tree: Path) -> list[str]:
    """Every import that the rule does not allow, with its place."""
    return [
        f"{place}: {room} may not import {name}"
        for place, room, name in imports(tree)
        if room not in ROOMS or name not in {f"seq2edge.{room}", "seq2edge.errors", *allowed(room)}
    ]


def test_rooms_import_what_the_rule_allows():
    """In all of the tree, inside functions too."""
    assert violations(ROOT) == []


def test_the_rule_allows_nothing_that_is_not_used():
    """So the table says what is, and a permission goes with its last use."""
    used = {(room, name) for _, room, name in imports(ROOT)}
    idle = {(room, name) for room in ROOMS for name in allowed(room)} - used
    assert idle == set()


def test_rooms_stand_on_rooms_above_their_line():
    """So there is no cycle, not even between a package and the packages in it."""
    lower: set[str] = set()
    for room, rule in ROOMS.items():
        assert set(rule.rooms.split()) <= lower, room
        lower.add(room)


def test_every_package_is_a_room():
    """And every loose module: nothing is outside the rule."""
    packages = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for file in ROOT.rglob("__init__.py")
        if file.parent != ROOT and not file.relative_to(ROOT).parts[0].startswith(".")
    }
    assert packages | {file.stem for file in ROOT.glob("*.py")} == set(ROOMS)


def test_rooms_are_imported_by_their_full_names():
    """Also by tests and examples: `import runtime`, from the root, would be a second copy."""
    rooms = {room.split(".")[0] for room in ROOMS}
    for path in ROOT.rglob("*.py"):
        if not path.relative_to(ROOT).parts[0].startswith("."):
            short = [name for _, name in imported(path) if name.split(".")[0] in rooms]
            assert short == [], path


@pytest.mark.parametrize(
    "name",
    [
        "seq2edge.training",
        "seq2edge.evaluation",
        "seq2edge.quantize",
        "lightning",
        "torch",
        "files",
    ],
)
@pytest.mark.parametrize(
    "code",
    ["import {}", "def run():\n    import {}", "if TYPE_CHECKING:\n    from {}.module import Name"],
)
def test_what_the_runtime_may_not_import_is_found(tmp_path, name, code):
    """Other rooms and libraries, wherever the import stands."""
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "likelihood.py").write_text(code.format(name))
    line = code.count("\n") + 1
    assert violations(tmp_path) == [f"runtime/likelihood.py:{line}: runtime may not import {name}"]


@pytest.mark.parametrize(
    ("file", "code", "message"),
    [
        (
            "runtime/model.py",
            "import seq2edge.runtime.backends.device",
            "seq2edge.runtime.backends",
        ),
        ("runtime/model.py", "from seq2edge.runtime import backends", "seq2edge.runtime.backends"),
        ("runtime/model.py", "import seq2edge", "seq2edge"),
        ("runtime/model.py", "from seq2edge import load", "seq2edge.load"),
        ("runtime/model.py", "from . import beam", "a relative name"),
        ("model/dims.py", "from seq2edge.runtime.model import Model", "seq2edge.runtime"),
        ("attic/old.py", "from seq2edge.errors import InputError", "seq2edge.errors"),
    ],
)
def test_a_package_inside_a_package_is_a_room(tmp_path, file, code, message):
    """What stands on another is not imported by it, nor is the root; unknown folders are told."""
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(code)
    room = file.split("/")[0]
    assert violations(tmp_path) == [f"{file}:1: {room} may not import {message}"]


@pytest.mark.parametrize(
    "code",
    [
        "from seq2edge.runtime.backend import Backend",
        "from seq2edge import __version__",
        "from seq2edge.errors import InputError",
        "import json, numpy",
    ],
)
def test_what_a_room_may_import_is_let_through(tmp_path, code):
    """Its own modules, errors, the version, rooms below, the standard library."""
    (tmp_path / "runtime" / "backends").mkdir(parents=True)
    (tmp_path / "runtime" / "backends" / "device.py").write_text(code)
    assert violations(tmp_path) == []


def table() -> str:
    """The rule as ARCHITECTURE.md prints it, from the bottom up."""
    lines = ["| room | does | imports rooms | imports libraries |", "|---|---|---|---|"]
    for name, room in ROOMS.items():
        rooms, libraries = (
            ", ".join(f"`{word}`" for word in words.split())
            for words in (room.rooms, room.libraries)
        )
        lines.append(f"| `{name}` | {room.does} | {rooms} | {libraries} |")
    return "\n".join(lines) + "\n"


PAGE = ROOT / "ARCHITECTURE.md"
PRINTED = re.compile(r"^\| room \|.*\n(?:\|.*\n)+", re.MULTILINE)


def test_the_table_of_the_architecture_is_the_rule():
    """It is printed from the data: `python tests/test_import_rule.py`."""
    assert PRINTED.findall(PAGE.read_text(encoding="utf-8")) == [table()]


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(PRINTED.sub(lambda _: table(), page), encoding="utf-8")
