"""Every public name has a page, and every page names what there is."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from docs_hooks import commands
from numpy.typing import NDArray

import seq2edge
from seq2edge import cli, errors
from seq2edge.runtime.filling import Filling
from seq2edge.runtime.images import Picture
from seq2edge.runtime.reading import Answer
from seq2edge.runtime.search import Processor
from seq2edge.runtime.service import Reply, Service
from seq2edge.runtime.session import Session
from seq2edge.runtime.tagging import Aggregation, Entity
from seq2edge.runtime.tokenizer import EncodedText
from seq2edge.runtime.tools import Tools
from seq2edge.runtime.words import WordAlignment

DOCS = Path(__file__).resolve().parents[2] / "docs"
# What users import: a module, and the names of it that are promised.
PUBLIC = {
    "seq2edge": "load Model DecodeOptions Service Transcriber Tools ToolCall",
    "seq2edge.errors": " ".join(
        name for name, value in vars(errors).items() if inspect.isclass(value)
    ),
    "seq2edge.bundle": "Bundle",
    "seq2edge.bundle.archive": "pack unpack",
    "seq2edge.export.pipeline": "export_checkpoint",
    "seq2edge.export.tensorrt": "build_engine",
    "seq2edge.quantize": "run QuantizeOptions Quantized",
    "seq2edge.quantize.pipeline": "quantize_bundle",
    "seq2edge.quantize.shortlist": "shorten_vocabulary",
    "seq2edge.quantize.verdict": "judge",
    "seq2edge.evaluation.evaluate": "evaluate read_domains",
    "seq2edge.evaluation.audit": "audit",
    "seq2edge.training.train": "train",
    "seq2edge.training.recipe": "Recipe read_recipe",
    "seq2edge.training.sweep": "sweep",
    "seq2edge.training.distil": "distil",
    "seq2edge.training.canary": "measure_exposure",
    "seq2edge.runtime.speech.options": "SpeechOptions",
    "seq2edge.runtime.speech.transcript": "Transcript Segment Word",
    "seq2edge.runtime.speech.writers": "Layout write_transcript",
    "seq2edge.runtime.fake": "FakeBackend Call random_answer",
    "seq2edge.runtime.backend": "Backend Cache",
    "seq2edge.serve.predictor": "Predictor",
    "seq2edge.serve.batch": "predict_file in_processes Outcome",
    "seq2edge.serve.ray": "on_ray application",
    "seq2edge.serve.triton": "export_triton",
    "seq2edge.testing": "ContractError Examples check_backend examples_of",
}


def find(path: str) -> Any:
    """The object of a dotted path, imported."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            value = getattr(value, name)
        return value
    raise ImportError(path)


def directives() -> Iterator[tuple[Path, str, str]]:
    """The page, the path and the options of everything that a page shows."""
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        for path, options in re.findall(r"^::: (\S+)\n((?: {4}.*\n?)*)", text, re.MULTILINE):
            yield page, path, options


def documented() -> dict[str, Any]:
    """Everything that pages show, by where it was made; of a module its own public members."""
    shown: dict[str, Any] = {}
    for _, path, options in directives():
        value, members = find(path), re.search(r"members: \[(.*)\]", options)
        values = [value]
        if inspect.ismodule(value):
            names = members[1].split(", ") if members else vars(value)
            own = [getattr(value, name) for name in names if not name.startswith("_")]
            values = [each for each in own if getattr(each, "__module__", "") == value.__name__]
        shown |= {f"{each.__module__}.{each.__qualname__}": each for each in values}
    return shown


def mentioned(hint: Any) -> Iterator[type]:
    """Our classes in an annotation, however deep."""
    if inspect.isclass(hint) and hint.__module__.startswith("seq2edge."):
        yield hint
    for part in typing.get_args(hint):
        yield from mentioned(part)


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_has_a_page(module):
    """Also every error, and what the package itself exports."""
    assert PUBLIC[module]
    shown = list(documented().values())
    missing = [name for name in PUBLIC[module].split() if find(f"{module}.{name}") not in shown]
    assert missing == []


def test_the_packages_own_names_are_in_the_list():
    """The version and the errors' module have pages too, in words."""
    assert {*PUBLIC["seq2edge"].split(), "__version__", "errors"} == set(seq2edge.__all__)
    assert "seq2edge.__version__" in (DOCS / "api" / "model.md").read_text(encoding="utf-8")


def functions(shown: dict[str, Any]) -> Iterator[Any]:
    """All documented functions, and the public methods of documented classes."""
    for value in shown.values():
        if inspect.isfunction(value):
            yield value
        elif inspect.isclass(value):
            methods = [getattr(each, "__func__", each) for each in vars(value).values()]
            yield from (
                each
                for each in methods
                if inspect.isfunction(each) and not each.__name__.startswith("_")
            )


# Names that annotations have and modules import late.
LAZY = {
    "NDArray": NDArray,
    "Session": Session,
    "Processor": Processor,
    "Reply": Reply,
    "WordAlignment": WordAlignment,
    "Service": Service,
    "EncodedText": EncodedText,
    "Entity": Entity,
    "Aggregation": Aggregation,
    "Answer": Answer,
    "Filling": Filling,
    "Picture": Picture,
    "Image": PIL.Image.Image,
    "Tools": Tools,
    "os": os,
    "Iterator": Iterator,
}


def test_what_functions_take_and_give_has_a_page():
    """Every record of ours that a documented function is annotated with."""
    shown = documented()
    missing, checked = set(), 0
    for function in functions(shown):
        hints = typing.get_type_hints(function, localns=LAZY).values()
        records = [each for hint in hints for each in mentioned(hint)]
        paths = {f"{each.__module__}.{each.__qualname__}" for each in records}
        missing |= {(function.__qualname__, path) for path in paths - set(shown)}
        checked += len(paths)
    assert checked > len(shown) / 2
    assert missing == set()


def test_every_command_has_its_help_on_the_page():
    """With every option."""
    text = commands()
    for name, command in cli.main.commands.items():
        assert f"### seq2edge {name}\n" in text
        for parameter in command.params:
            assert all(option in text for option in parameter.opts if option.startswith("-"))


def test_nothing_is_shown_twice():
    """A name has one page."""
    paths = [path for _, path, _ in directives()]
    assert len(paths) == len(set(paths))


def test_every_page_is_in_the_navigation():
    """MkDocs would only say so while it builds."""
    text = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"- (\S+\.md)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
