"""Every block of code in the README and the documents runs, or says what it would need.

Blocks share a folder and a namespace with those before them on the page. Python is executed.
Commands of seq2edge run in this process; the extras of `pip install`, the targets of `make` and the
scripts and options of `python` are looked up. TOML is read as what it is: a part of a recipe, or
pairs of an audit. A comment `<!-- needs: an NVIDIA GPU -->` before a block keeps it from running,
not from being looked up: every command and option in it must exist.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from command_line import call
from speaking import brief, sentences, write_tokenizer

from seq2edge import cli
from seq2edge.evaluation.pairs import read_pairs
from seq2edge.training.recipe import recipe_of

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
NEEDS = {"an NVIDIA GPU", "a Jetson", "many devices", "a download", "minutes", "hours"}
TINY = """
objective = "seq2seq"
data = { train = ["train.tsv"], validation = ["validation.tsv"] }
tokenizer = { kind = "characters", size = 30 }
check = { every = 20 }
[model]
width = 16
hidden = 32
heads = 2
encoder_layers = 1
decoder_layers = 1
max_positions = 64
[optimizer]
steps = 40
batch_tokens = 300
warmup = 3
learning_rate = 5e-3
"""
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
    while "=" in words[0]:  # VARIABLE=value before a command
        words = words[1:]
    program, *rest = words
    if program == "torchrun":
        program, rest = "seq2edge", rest[rest.index("seq2edge.cli") + 1 :]
    if program == "seq2edge":
        name, *arguments = rest
        assert name in cli.main.commands, f"no command {name}"
        cli.main.commands[name].make_context(name, arguments)
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


def run_shell(block: Block) -> None:
    """Look every command up; run those of seq2edge unless the block needs what is not here."""
    for words in commands(block.text):
        look_up(words)
        if block.needs:
            continue
        assert words[0] in ("seq2edge", "pip"), f"{words[0]}: mark the block with what it needs"
        if words[0] == "seq2edge":
            result = call(*words[1:])
            assert result.exit_code == 0, f"{shlex.join(words)}: {result.stderr}"


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
    """A folder with what pages speak of: a checkpoint, bundles, and files of examples."""
    checkpoint = tmp_path / "path" / "to" / "checkpoint"
    tiny_models.make("gpt2", n_layer=1).save_pretrained(checkpoint)
    write_tokenizer(checkpoint)
    (tmp_path / "CHECKPOINT").symlink_to(checkpoint)
    for name in ("translator", "translator-int8"):
        shutil.copytree(speaking("bart"), tmp_path / name)
    shutil.copytree(speaking("bart", edit=brief), tmp_path / "teacher-bundle")
    shutil.copytree(speaking("bert"), tmp_path / "sentiment")
    texts = [example.input for example in sentences(8)]
    for name in ("sentences.txt", "texts.txt"):
        (tmp_path / name).write_text("".join(f"{text}\n" for text in texts))
    for name in ("pairs.tsv", "news.tsv", "test.tsv"):
        (tmp_path / name).write_text("".join(f"{text}\t{text}\n" for text in texts))
    (tmp_path / "recipe.toml").write_text(TINY, encoding="utf-8")
    for name in ("train.tsv", "validation.tsv"):
        rows = [f"{text[: 3 * i]}\t{text[:8]}\n" for i in range(1, 6) for text in texts]
        (tmp_path / name).write_text("".join(rows))
    lines = "".join(f'{{"input": "{text}", "reference": "{text}"}}\n' for text in texts)
    (tmp_path / "talks.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_block_of_a_page(page, workplace):
    """In order, each with the names and files of those before it."""
    if page.name == "README.md":
        for name in ("translator", "translator-int8"):  # they are made there
            shutil.rmtree(workplace / name)
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
        ("python", "minutes", "print(", "was never closed"),
        ("sh", "", "seq2edge run translator w5 --num-beam 4 --colour", "No such option"),
        ("sh", "an NVIDIA GPU", "seq2edge run translator w5 \\\n  --colour", "No such option"),
        ("sh", "", "seq2edge verify no-such-bundle", "no such folder"),
        ("sh", "minutes", "cd x && seq2edge rum translator", "rum"),
        ("sh", "", "pip install '.[exprot]'", "exprot"),
        ("sh", "", "make test", "mark the block"),
        ("sh", "minutes", "make tset", "tset"),
        ("sh", "hours", "python examples/run.py g2p --fast", "no --fast"),
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


def test_marks_are_read(tmp_path):
    """On the line before a block, and not further up."""
    page = tmp_path / "page.md"
    page.write_text("<!-- needs: hours -->\n```sh\nmake test\n```\n\n```text\nwords\n```\n")
    marked, plain = blocks(page)
    assert (marked.needs, marked.language, marked.text) == ("hours", "sh", "make test\n")
    assert (plain.needs, plain.line) == ("", 6)
