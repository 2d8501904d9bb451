"""What is printed: a terminal obeys nothing of it, files get it as it is."""

from __future__ import annotations

import io

import click
import pytest
from command_line import call

from seq2edge.commands.terminal import show

TEXT = "a\tb\n\x1b]52;c;x\x07\x9b2J\u202eGröße\r"


class Terminal(io.StringIO):
    """A stream that people look at."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def test_a_terminal_is_shown_escapes_and_does_not_obey_them() -> None:
    """Tabs and lines stay, all other controls are written out."""
    screen, file = Terminal(), io.StringIO()
    show(TEXT, file=screen, nl=False)
    show(TEXT, file=file)
    assert screen.getvalue() == "a\tb\n" + r"\x1b]52;c;x\x07\x9b2J\u202eGröße\r"
    assert file.getvalue() == f"{TEXT}\n"


def test_errors_of_commands_are_one_line(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a path or a file has in it; a full memory is no traceback either."""
    result = call("inspect", tmp_path / "\x1b[31m\nred")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.strip().isprintable()

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(click.Group, "invoke", full)
    assert call("inspect", tmp_path).stderr == "Error: out of memory\n"


@pytest.mark.parametrize("option", ["--json-schema", "--grammar"])
def test_options_that_are_no_text_are_one_line(tmp_path, option: str) -> None:
    """A file of another encoding, or none."""
    (tmp_path / "rules").write_bytes(b"\xff\n")
    for name in ("rules", "none"):
        result = call("run", tmp_path, "text", option, tmp_path / name)
        assert result.exit_code in (1, 2)
        assert result.stderr.splitlines()[-1].startswith("Error: ")
        assert isinstance(result.exception, SystemExit)
