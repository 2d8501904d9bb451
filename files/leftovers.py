"""What killed runs left, wherever it may lie."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from seq2edge.errors import InputError
from seq2edge.files.user_cache import cache_folder
from seq2edge.files.workspace import AGE, PATTERN, Leftover, sweep

BLOBS = "blobs"  # of a model in the hub's cache: its files by their hashes


def clean(folders: Sequence[Path] = (), *, dry_run: bool = False) -> Iterator[Leftover]:
    """Remove what killed runs left in the folders and below, and finish what they replaced.

    Without folders: in the current one and below, in our cache and the hub's, and among the
    temporary files. What a live run works on is left alone; with `dry_run` all is. Raises
    InputError for what is no folder.
    """
    places = [folder.absolute() for folder in folders or (Path(),)]
    for folder in places:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder")
    if not folders and (cache := cache_folder()) is not None:
        places += [place for place in (cache, hub_cache(cache.parent)) if place.is_dir()]
    below = [each for folder in places for each in _with_all_below(folder)]
    if not folders:
        below.append(Path(tempfile.gettempdir()))
    for folder in dict.fromkeys(below):
        yield from sweep(folder, keep=dry_run)
        if folder.name == BLOBS:
            yield from sweep_downloads(folder, keep=dry_run)


def sweep_downloads(blobs: Path, *, keep: bool = False) -> Iterator[Leftover]:
    """Remove what huggingface_hub began to fetch into a folder of its cache and left for a day.

    Each of its downloads has a name of its own, so none of these is gone on with.
    """
    with contextlib.suppress(OSError):
        for path in sorted(blobs.glob("*.incomplete")):
            status = path.lstat()
            if status.st_mtime < time.time() - AGE:
                if not keep:
                    path.unlink()
                yield Leftover(path=path, size=status.st_size)


def hub_cache(caches: Path) -> Path:
    """Where huggingface_hub keeps what it fetched; `caches` is the user's folder of caches."""
    home = os.environ.get("HF_HOME") or caches / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


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
