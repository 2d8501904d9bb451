"""The command line: its help, its exit codes, and no tracebacks."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from command_line import call

import seq2edge
from seq2edge import cli

GROUPS = {
    "Make a bundle": (
        "convert-weights export shortlist quantize targets build pack unpack clean".split()
    ),
    "Run it": "run chat transcribe listen read classify rerank embed tag answer fill serve".split(),
    "Measure it": "verify inspect eval audit doctor".split(),
    "Train": "train sweep distil canary".split(),
}
COMMANDS = [command for group in GROUPS.values() for command in group]


def test_help_lists_every_command_and_its_purpose():
    """The list of commands is a contract; each is in a group, with a line that fits."""
    result = call("--help")
    assert result.exit_code == 0
    sections = dict(re.findall(r"^([A-Z].*):\n((?:  .+\n)+)", result.stdout, re.MULTILINE))
    listed = {
        title: re.findall(r"^  ([\w-]+)  ", text, re.MULTILINE) for title, text in sections.items()
    }
    assert {title: listed.get(title) for title in GROUPS} == GROUPS
    assert set(sections) == {"Options", *GROUPS}
    assert "..." not in result.stdout.split("Options:")[1]
    assert sorted(cli.main.commands) == sorted(COMMANDS)
    for command in COMMANDS:
        cli.main.commands[command].make_context(command, [], resilient_parsing=True)  # alone
        shown = call(command, "--help")
        assert shown.exit_code == 0
        assert shown.stdout.startswith(f"Usage: main {command} ")
        short = call(command, "-h")
        assert short.exit_code == 0, (command, short.output, short.exception)
        assert short.stdout == shown.stdout


def test_the_version_is_the_packages():
    """As pip shows it."""
    assert call("--version").stdout == f"seq2edge, version {seq2edge.__version__}\n"


def test_help_imports_nothing_heavy():
    """So that it answers at once."""
    code = (
        "import sys\nfrom seq2edge.cli import main\n"
        "try: main(['export', '--help'])\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    roots = {name.split(".")[0] for name in done.stderr.split()}
    heavy = {"numpy", "onnxruntime", "onnx", "torch", "transformers", "tokenizers", "jinja2"}
    assert "click" in roots
    assert not roots & heavy


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_a_usage_error(command):
    """Exit code 2, whatever else is on the line."""
    result = call(command, "--no-such-option")
    assert result.exit_code == 2
    assert "No such option" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["export", "x"],
        ["run", "b", "t", "--num-beams", "0"],
        ["run", "b", "--device", "x"],
        ["run", "b", "t", "--chat", "--to", "fra_Latn"],
    ],
)
def test_bad_usage_has_exit_code_2(arguments):
    """Missing arguments and values out of range."""
    assert call(*arguments).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "none", "text"],
        ["export", "none", "-o", "out"],
        ["export", ".", "-o", "out"],
        ["inspect", "."],
        ["verify", "none"],
        ["unpack", "none", "out"],
        ["pack", "none", "out"],
        ["transcribe", "none", "clip.wav"],
        ["read", "none", "line.png"],
    ],
)
def test_user_errors_are_one_line_and_exit_code_1(arguments, tmp_path, monkeypatch):
    """No traceback, nothing on stdout, the subject first."""
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.stderr
