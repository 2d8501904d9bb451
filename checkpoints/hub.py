"""A checkpoint by its name on a Hugging Face hub: the files that an export needs, and no others.

Never fetched: pickles, code, weights of other frameworks. What was fetched lies in the hub's own
cache (`HF_HOME`), shared with other programs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from seq2edge.checkpoints.importers.huggingface import INDEX, SINGLE, shard_names
from seq2edge.checkpoints.importers.sentence_transformers import (
    LENGTH_FILES,
    MODULES,
    SETTINGS,
    module_folders,
)
from seq2edge.checkpoints.processors import FILE, WHOLE
from seq2edge.checkpoints.tokenizer import COMPANIONS, VOCABULARIES
from seq2edge.errors import CheckpointError, OptionError
from seq2edge.files.leftovers import BLOBS, sweep_downloads
from seq2edge.files.storage import settle

CONFIG = "config.json"
SMALL = (
    "generation_config.json",
    *VOCABULARIES,
    *COMPANIONS,
    FILE,
    WHOLE,
    MODULES,
    SETTINGS,
    LENGTH_FILES,
    INDEX,
)
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hub:
    """How a hub is asked: which revision (a branch, tag or commit), with which token, or offline.

    Without a token `HF_TOKEN` or the stored login holds.
    """

    revision: str | None = None
    token: str | None = None
    offline: bool = False


def find_checkpoint(name: str | Path, hub: Hub) -> tuple[Path, str]:
    """The folder or file of a checkpoint, and its origin for the records: "owner/name@commit".

    What is there under that path wins, and its origin is its last part. Raises CheckpointError for
    what is neither there nor on the hub, and OptionError for a revision of a folder.
    """
    path = Path(name)
    settle(path, CheckpointError)
    if path.exists() or not NAME.fullmatch(str(name)):
        if hub.revision is not None:
            raise OptionError(f"revision: {name} is no model of a hub")
        return path, path.name
    folder = _fetch(str(name), hub)
    return folder, f"{name}@{folder.name}"


def _fetch(repo: str, hub: Hub) -> Path:
    """The folder of the hub's cache that holds the files; its name is the commit."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(
            f"{repo}: no such folder; to fetch it install seq2edge[export]: {error}"
        ) from error
    endpoint = os.environ.get("HF_ENDPOINT")
    model = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    deque(sweep_downloads(model / BLOBS), maxlen=0)

    def download(file: str, revision: str) -> Path:
        path = huggingface_hub.hf_hub_download(
            repo,
            file,
            revision=revision,
            token=hub.token,
            local_files_only=hub.offline,
            endpoint=endpoint,
        )
        return Path(path)

    with _hub_errors(repo, hub):
        folder = download(CONFIG, hub.revision or "main").parent
        commit = folder.name
        if hub.offline:
            return folder
        api = huggingface_hub.HfApi(endpoint=endpoint, token=hub.token)
        listed = [file.rfilename for file in api.model_info(repo, revision=commit).siblings or ()]
        for file in listed:
            if any(fnmatch(file, pattern) for pattern in SMALL) and "/" not in file:
                download(file, commit)
        for file in _others(repo, folder, listed):
            download(file, commit)
    return folder


def _others(repo: str, folder: Path, listed: Sequence[str]) -> Iterator[str]:
    """The weights, and the files of modules in folders of their own."""
    if INDEX in listed:
        yield from shard_names(folder)
    elif SINGLE in listed:
        yield SINGLE
    elif MODULES not in listed:
        pickled = [file for file in listed if any(fnmatch(file, each) for each in PICKLED)]
        raise CheckpointError(
            f"{repo}: has no {SINGLE}"
            + (
                f", only {pickled[0]}, which can run code: take a revision that has one "
                "(--revision refs/pr/NUMBER), or download the folder and convert it once with "
                "seq2edge convert-weights"
                if pickled
                else ""
            )
        )
    for module in module_folders(folder) if MODULES in listed else ():
        for file in (CONFIG, SINGLE):
            if f"{module}/{file}" in listed:
                yield f"{module}/{file}"


@contextlib.contextmanager
def _hub_errors(repo: str, hub: Hub) -> Iterator[None]:
    """What goes wrong on the way becomes one line about the model."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{repo}: is gated, accept its terms on the hub and give a token "
            "(HF_TOKEN or --token-file)"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"{repo}: no such folder here and no such model on the hub; a private one needs a "
            "token (HF_TOKEN or --token-file)"
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{repo}: has no revision {hub.revision!r} on the hub") from None
    except errors.LocalEntryNotFoundError as error:
        reason = "and --offline fetches nothing" if hub.offline else f"and {_reason(error)}"
        raise CheckpointError(f"{repo}: no such folder here, not in the cache, {reason}") from error
    except errors.EntryNotFoundError as error:
        raise CheckpointError(f"{repo}: has no {CONFIG} on the hub, which is needed") from error
    except CheckpointError:
        raise
    except Exception as error:  # the library lets those of its HTTP client through
        raise CheckpointError(f"{repo}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    said = _first_line(error.__cause__ or error)
    return f"the hub cannot be reached ({said}); --offline takes what is cached"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
