"""MkDocs' hook: the package as the API pages read it.

The package is the repository's root, where a walk also meets environments and build folders; so its
modules are copied to `.cache/docs`, which mkdocs.yml names.
"""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / ".cache" / "docs"


def on_startup(**_: Any) -> None:
    """Copy every module of the packages that pyproject.toml lists."""
    shutil.rmtree(COPY, ignore_errors=True)
    for package in packages():
        folder = Path(*package.split(".")[1:])
        (COPY / "seq2edge" / folder).mkdir(parents=True)
        for file in (ROOT / folder).glob("*.py"):
            shutil.copy(file, COPY / "seq2edge" / folder)


def packages() -> list[str]:
    """The list in pyproject.toml, parents first; Python 3.10 cannot read TOML by itself."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = text.split("\npackages = ", 1)[1].split("\n]", 1)[0]
    return sorted(ast.literal_eval(f"{listed}\n]"))


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Put every command's help behind the text of commands.md."""
    return markdown + commands() if page.file.src_uri == "commands.md" else markdown


def commands() -> str:
    """The help of every command, in the groups of `seq2edge --help`."""
    import click

    from seq2edge.cli import GROUPS, main

    root = click.Context(main, info_name="seq2edge", **main.context_settings)
    text = ""
    for title, group in GROUPS.items():
        text += f"\n## {title}\n"
        for command in group:
            context = click.Context(
                command, info_name=command.name, parent=root, max_content_width=90
            )
            text += f"\n### seq2edge {command.name}\n\n```text\n{context.get_help()}\n```\n"
    return text
