"""Every block of code in the README and the documents runs, or says what it would need.

Blocks share a folder and a namespace with those before them on the page. Python is executed.
Commands of seq2edge and scripts run in this process, in a folder where small things stand for large
ones (`page_places.py`); a few words that ask for hours are made `SHORTER`. Of `make` the scripts
run; lint, types and tests are not started by one of them. The extras of `pip install` are looked
up. TOML is read as what it is: a part of a recipe, or pairs of an audit. A comment
`<!-- needs: an NVIDIA GPU -->` before a block keeps it from running, not from being looked up:
every command and option in it must exist.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import environment
import page_places
import pytest
import torch
from command_line import call

from seq2edge import cli
from seq2edge.evaluation.pairs import read_pairs
from seq2edge.export import pipeline
from seq2edge.training.recipe import recipe_of

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
NEEDS = {
    "an NVIDIA GPU",
    "a Jetson",
    "many devices",
    "a model hub",
    "a running server",
    "a cluster",
}
SHORTER = {
    "NAME": "pretraining",
    "16x1,32x1,48x2,96x2": "8x1,16x1",
    "1000,8000,all": "20,all",
    "400": "4",
    "optimizer.steps=3600": "optimizer.steps=4",
    "optimizer.steps=600": "optimizer.steps=4",
}
# Commands that a test of the examples runs: its file, its name, and how it does so.
ELSEWHERE = {
    "examples/demo.py": ("examples", "test_the_demo_errs_no_more_than_promised", "demo.main()"),
    "examples/run.py NAME --quick": (
        "examples",
        "test_an_example_runs_as_it_stands",
        '.invoke(run.main, [name, "--quick", ',
    ),
    "examples/embedding/http_service.py translator 8000": (
        "embedding",
        "server",  # its tests are its clients
        'module.Server(("127.0.0.1", 0), model)',
    ),
}
RECIPE: dict[str, Any] = {
    "objective": "seq2seq",
    "data": {"train": ["train.tsv"]},
    "optimizer": {"steps": 100},
}


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its place, its language, what it is marked as needing, and its lines."""

    page: str
    line: int
    language: str
    needs: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """All fenced blocks of a page, in their order."""
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    before = ""
    for number, line in lines:
        if line.startswith("```"):
            body = []
            for _, inner in lines:
                if inner.startswith("```"):
                    break
                body.append(inner)
            mark = re.fullmatch(r"<!-- needs: (.+) -->", before)
            yield Block(
                page=os.path.relpath(page, ROOT),
                line=number,
                language=line.removeprefix("```"),
                needs=mark[1] if mark else "",
                text="\n".join(body) + "\n",
            )
        before = line


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command, without comments; one that goes on after a backslash is one."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            end = words.index("&&")
            yield words[:end]
            words = words[end + 1 :]
        if words:
            yield words


def look_up(words: list[str]) -> None:
    """Raise where a command of this project, or an option, extra or target, does not exist."""
    _, (program, *rest) = split_variables(words)
    if program == "torchrun":
        program, rest = "seq2edge", rest[rest.index("seq2edge.cli") + 1 :]
    if program == "seq2edge":
        name, *arguments = rest
        assert name in cli.main.commands, f"no command {name}"
        with cli.main.commands[name].make_context(name, arguments):
            pass  # files that it opened are closed again
    elif program == "pip":
        known = set(
            tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        )
        (extras,) = re.findall(r"\[(.*?)\]", " ".join(rest))
        assert set(extras.split(",")) <= known, extras
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), rest
    elif program == "python" and rest[0].endswith(".py"):
        source = (ROOT / rest[0]).read_text(encoding="utf-8")
        for option in (word for word in rest[1:] if word.startswith("-")):
            assert f'"{option}"' in source, f"{rest[0]}: no {option}"


KNOWN = ("seq2edge", "pip", "make", "python")
OUTER_MAKE = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")  # what `make test` leaves to its commands


def run_shell(block: Block) -> None:
    """Look every command up; run it unless the block needs what is not here."""
    for words in commands(block.text):
        look_up(words)
        if block.needs:
            continue
        variables, (program, *rest) = split_variables(words)
        if program == "seq2edge":
            result = call(*(SHORTER.get(word, word) for word in rest))
            assert result.exit_code == 0, f"{shlex.join(words)}: {result.stderr}"
        elif program == "make":
            run_make(*rest, variables=variables)
        elif program == "python":
            run_script(rest)
        elif program == "curl":
            pages = (ROOT / "tests" / "serve" / "test_serving_page.py").read_text(encoding="utf-8")
            assert f'"{block.page}"' in pages, f"no server answers the curl lines of {block.page}"
        else:
            assert program == "pip", f"{program}: mark the block with what it needs"


def split_variables(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """What is set before a command, and the command."""
    count = next(number for number, word in enumerate(words) if "=" not in word)
    return dict(word.split("=", 1) for word in words[:count]), words[count:]


def run_make(target: str, *, variables: Mapping[str, str]) -> None:
    """Run the scripts that `make` would run; modules (lint, types, tests) are looked up.

    A make within a make says which folder it enters, and heeds the outer one's flags.
    """
    outer = {name: text for name, text in os.environ.items() if name not in OUTER_MAKE}
    words = ["make", "-n", target]
    done = subprocess.run(words, cwd=ROOT, env=outer, capture_output=True, text=True, check=True)
    for words in commands(done.stdout):
        _, (_, *rest) = split_variables(words)
        if rest[0] == "-m":
            assert importlib.util.find_spec(rest[1]), f"no module {rest[1]}"
        elif rest == ["scripts/environment.py"]:
            make_environment(variables)
        else:
            run_script(rest)


def make_environment(variables: Mapping[str, str]) -> None:
    """Run `scripts/environment.py` on a folder here; pip is told what to install, and not run."""
    folder, told = Path(".venv"), []
    folder.mkdir(exist_ok=True)
    with (
        mock.patch.dict(os.environ, variables),
        mock.patch.multiple(environment, FOLDER=folder, STAMP=folder / "made-from"),
        mock.patch.object(environment, "reachable", return_value=""),
        mock.patch.object(environment.venv, "create"),
        mock.patch.object(environment.subprocess, "run", lambda words, **_: told.append(words)),
    ):
        assert environment.main() == 0
    for name, value in variables.items():
        heeded = [value in words for words in told]
        assert heeded == [True, True], f"{name} is not heeded: {told}"


def run_script(words: list[str]) -> None:
    """Run a script in this process, as `python` would; or find the test that does."""
    if " ".join(words) in ELSEWHERE:
        file, name, way = ELSEWHERE[" ".join(words)]
        text = (ROOT / "tests" / "examples" / f"test_{file}.py").read_text(encoding="utf-8")
        tests = {node.name: node for node in ast.parse(text).body if hasattr(node, "name")}
        assert way in ast.get_source_segment(text, tests[name]), f"{name} does not run {words}"
        return
    words = [SHORTER.get(word, word) for word in words]
    folder = Path(words[0]).resolve().parent
    beside = {path.stem for path in folder.glob("*.py")}
    others = {name: sys.modules.pop(name) for name in beside & sys.modules.keys()}
    path, ended, threads = [str(folder), *sys.path], 0, torch.get_num_threads()
    try:
        with (
            mock.patch.object(sys, "argv", words),
            mock.patch.object(sys, "path", path),
            mock.patch.object(pipeline, "export_checkpoint", page_places.export_trained),
        ):
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as done:
        ended = done.code
    finally:
        torch.set_num_threads(threads)
        for name in beside:
            sys.modules.pop(name, None)
        sys.modules.update(others)
    assert not ended, f"{shlex.join(words)}: {ended}"


def read_toml(block: Block) -> None:
    """Read it by the rules of the page's files."""
    if block.page == "docs/audit.md":
        Path("pairs.toml").write_text(block.text, encoding="utf-8")
        read_pairs(Path("pairs.toml"))
    else:
        recipe_of({**RECIPE, **tomllib.loads(block.text)})


def check(block: Block, names: dict[str, Any]) -> None:
    """Run one block, or look up what it says. Raises what is wrong with it."""
    assert not block.needs or block.needs in NEEDS, f"needs {block.needs!r}, known: {NEEDS}"
    if block.language == "python":
        code = compile(block.text, f"{block.page}:{block.line}", "exec")
        if not block.needs:
            exec(code, names)
    elif block.language == "sh":
        run_shell(block)
    elif block.language == "toml":
        read_toml(block)
    else:
        assert block.language == "text", f"language {block.language!r} is not known here"
        first = block.text.split()[0]
        assert first not in KNOWN, f"{first} is a command: call the block sh"


@pytest.fixture
def workplace(tmp_path, monkeypatch, speaking):
    """A folder with what pages speak of, and only there is something changed."""
    page_places.furnish(tmp_path, speaking)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache" / "of-the-user"))
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_block_of_a_page(page, workplace, speaking):
    """In order, each with the names and files of those before it."""
    if furnish := page_places.PLACES.get(str(page.relative_to(ROOT))):
        furnish(workplace, speaking)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        with telling(block):
            check(block, names)


@contextlib.contextmanager
def telling(block: Block) -> Iterator[None]:
    """Say where the block is that does not work."""
    try:
        yield
    except (Exception, SystemExit) as error:
        place = f"{block.page}:{block.line}"
        raise AssertionError(f"{place}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize(
    ("language", "needs", "text", "message"),
    [
        ("python", "", "import seq2edge\nseq2edge.lod", "has no attribute 'lod'"),
        ("python", "many devices", "print(", "was never closed"),
        ("sh", "", "seq2edge run translator w5 --num-beam 4 --colour", "No such option"),
        ("sh", "an NVIDIA GPU", "seq2edge run translator w5 \\\n  --colour", "No such option"),
        ("sh", "", "seq2edge verify no-such-bundle", "no such folder"),
        ("sh", "a Jetson", "cd x && seq2edge rum translator", "rum"),
        ("sh", "", "pip install '.[exprot]'", "exprot"),
        ("sh", "", "make tset", "tset"),
        ("sh", "", "curl http://127.0.0.1:8000/health", "no server answers the curl lines"),
        ("sh", "many devices", "python examples/run.py g2p --fast", "no --fast"),
        ("sh", "", "TORCH=torch==0 TORCH_INDX=x make test", "INDX"),
        ("sh", "", "sudo reboot", "mark the block"),
        ("sh", "patience", "make test", "needs 'patience'"),
        ("toml", "", "[adapter]\nrang = 8", "rang"),
        ("text", "", "seq2edge doctor", "call the block sh"),
        ("", "", "seq2edge doctor", "language ''"),
    ],
)
def test_a_block_that_does_not_work_is_found(workplace, language, needs, text, message):
    """Whatever it is, and marked or not."""
    block = Block(page="README.md", line=1, language=language, needs=needs, text=text)
    with pytest.raises((Exception, SystemExit), match=re.escape(message)):
        check(block, {})


def test_a_script_that_stops_is_found(workplace):
    """By what it says; modules and arguments are then as before."""
    text = "import sys, weights\nsys.exit(f'{sys.argv[1]}, {weights.__file__}')"
    (workplace / "stop.py").write_text(text)
    (workplace / "weights.py").touch()
    before = sys.modules.get("weights"), sys.argv
    place = re.escape(str(workplace / "weights.py"))
    with pytest.raises(AssertionError, match=f"stop.py now: now, {place}"):
        run_script(["stop.py", "now"])
    assert (sys.modules.get("weights"), sys.argv) == before


def test_what_no_test_runs_is_found(monkeypatch):
    """The test is gone, or runs something else."""
    file, name, way = ELSEWHERE["examples/demo.py"]
    for changed in ((file, "test_nothing", way), (file, name, "remain()")):
        monkeypatch.setitem(ELSEWHERE, "examples/demo.py", changed)
        with pytest.raises((KeyError, AssertionError), match=changed[1]):
            run_script(["examples/demo.py"])


def test_what_is_shorter_stands_on_a_page():
    """Nothing is replaced that nobody wrote."""
    shell = [block for page in PAGES for block in blocks(page) if block.language == "sh"]
    words = {word for block in shell for command in commands(block.text) for word in command}
    assert set(SHORTER) <= words


def test_marks_are_read(tmp_path):
    """On the line before a block, and not further up."""
    page = tmp_path / "page.md"
    page.write_text("<!-- needs: a Jetson -->\n```sh\nmake test\n```\n\n```text\nwords\n```\n")
    marked, plain = blocks(page)
    assert (marked.needs, marked.language, marked.text) == ("a Jetson", "sh", "make test\n")
    assert (plain.needs, plain.line) == ("", 6)
