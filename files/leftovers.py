"""What killed runs left, wherever it may lie."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from seq2edge.errors import InputError
from seq2edge.files.user_cache import cache_folder
from seq2edge.files.workspace import PATTERN, Leftover, sweep


def clean(folders: Sequence[Path] = (), *, dry_run: bool = False) -> Iterator[Leftover]:
    """Remove what killed runs left in the folders and below, and finish what they replaced.

    Without folders: in the current one and below, in our cache, and among the temporary files. What
    a live run works on is left alone; with `dry_run` all is. Raises InputError for no folder.
    """
    places = [folder.absolute() for folder in folders or (Path(),)]
    for folder in places:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder")
    if not folders and (cache := cache_folder()) is not None and cache.is_dir():
        places.append(cache)
    below = [each for folder in places for each in _with_all_below(folder)]
    if not folders:
        below.append(Path(tempfile.gettempdir()))
    for folder in dict.fromkeys(below):
        yield from sweep(folder, keep=dry_run)


def _with_all_below(folder: Path) -> Iterator[Path]:
    """A folder and those in it, however deep; no links, nothing that a run works on."""
    pending = [folder]
    while pending:
        folder = pending.pop()
        yield folder
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            pending += [
                folder / entry.name
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not PATTERN.fullmatch(entry.name)
            ]
