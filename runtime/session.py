"""A conversation whose cache stays between its turns, and prefixes kept in files.

A prompt that begins with tokens which the cache holds computes only the rest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import BackendError, InputError, foreign_errors
from seq2edge.files.storage import file_errors, replacing, require_regular
from seq2edge.runtime.backend import SavedCache
from seq2edge.runtime.group import Group
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.request import Prefix
from seq2edge.runtime.sequences import GeneratedText
from seq2edge.runtime.streaming import TextStream

if TYPE_CHECKING:
    from seq2edge.runtime.model import Model
    from seq2edge.runtime.tools import Tools

FORMAT = 2  # of files of prefixes


class Session:
    """One conversation with a decoder-only model.

    `chat` is for any thread, one turn after the other; all else is for one at a time.
    """

    def __init__(
        self,
        model: Model,
        options: DecodeOptions,
        *,
        system: str | None = None,
        prefix: str | os.PathLike[str] | None = None,
        tools: Tools | None = None,
    ) -> None:
        """Raises InputError for a model that cannot chat, and a file that `save` did not write."""
        if model.dims.kind != "decoder":
            raise InputError(f"{model.bundle.path}: a model of kind {model.dims.kind} cannot chat")
        self._model = model
        self._options = options
        self._tools = tools
        self._first = [] if system is None else [{"role": "system", "content": system}]
        self.messages: list[dict[str, Any]] = list(self._first)
        self.prefix = None if prefix is None else load_prefix(prefix, model)
        self.reused = 0  # tokens of the last prompt that were not computed again
        self._turn = threading.Lock()

    def chat(self, text: str, options: DecodeOptions | None = None) -> GeneratedText:
        """The answer to what a user says next."""
        with self._turn:
            return self.stream(text, options).result

    def stream(self, text: str, options: DecodeOptions | None = None) -> TextStream:
        """The answer, piece by piece; it counts as said when the stream is over."""
        self.messages.append({"role": "user", "content": text})
        return self._answer(options)

    def stream_after(
        self, results: Mapping[str, str], options: DecodeOptions | None = None
    ) -> TextStream:
        """The answer to what the tools gave that the last one called, by the ids of its calls.

        Raises InputError where a call has no result, or a result no call.
        """
        calls = self.messages[-1].get("tool_calls", []) if self.messages else []
        if not calls or {call["id"] for call in calls} != set(results):
            raise InputError(f"session: {len(results)} results for {len(calls)} calls of tools")
        for call in calls:
            name = call["function"]["name"]
            said = {"role": "tool", "tool_call_id": call["id"], "name": name}
            self.messages.append({**said, "content": results[call["id"]]})
        return self._answer(options)

    def _answer(self, options: DecodeOptions | None) -> TextStream:
        model, options = self._model, options or self._options
        request = model.chat_request(self.messages, options, tools=self._tools)
        request = dataclasses.replace(request, keep=True)
        if self.prefix is not None:
            request = request.with_prefix(self.prefix)
        self.reused = 0 if request.prefix is None else len(request.prefix.ids)
        self.prefix = None  # spent; the answer leaves another one

        def result(group: Group) -> GeneratedText:
            answer = model.text_of(group)
            self.prefix = group.kept
            self.messages.append(answer.message)
            return answer

        return TextStream(model.backend, request, model.tokenizer, result)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what the cache holds. Raises InputError where it holds nothing."""
        if self.prefix is None:
            raise InputError("session: nothing was said yet, there is no prefix to save")
        save_prefix(path, self.prefix, self._model)

    def undo(self) -> None:
        """Forget what a user said last, and the answer."""
        while len(self.messages) > len(self._first):
            if self.messages.pop()["role"] == "user":
                break

    def reset(self) -> None:
        """Forget all that was said; what the model was told before stays in the cache."""
        self.messages = list(self._first)


def save_prefix(path: str | os.PathLike[str], prefix: Prefix, model: Model) -> None:
    """Write a prefix's ids, keys and values, for this bundle and kind of graphs alone.

    They tell what was said: none but the user who writes may read the file.
    """
    if not isinstance(prefix.cache, SavedCache):
        raise BackendError(f"{model.backend.name}: its caches cannot be saved")
    data = {**prefix.cache.read(), "ids": np.array(prefix.ids, dtype=np.int64)}
    about: dict[str, Any] = {
        "format": np.array(FORMAT),
        "bundle": np.array(fingerprint(model)),
        "sha256": np.array(_digest(data)),
    }
    with file_errors(Path(path)), replacing(Path(path)) as part:
        part.touch(mode=0o600)
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **about, **data)


def load_prefix(path: str | os.PathLike[str], model: Model) -> Prefix:
    """A prefix of `save_prefix`. Raises InputError for one of another bundle, or a damaged one."""
    data = _read(Path(path))
    bundle, digest = data.pop("bundle", None), data.pop("sha256", None)
    with foreign_errors(InputError, f"{path}: not a prefix"):
        version = int(data.pop("format", 0))
    if version == FORMAT and str(digest) != _digest(data):
        raise InputError(f"{path}: damaged, its hash is another one; save it again")
    ids = data.pop("ids", None)
    if version != FORMAT or ids is None or bundle is None or ids.ndim != 1:
        raise InputError(f"{path}: not a prefix of this version; save it again")
    if str(bundle) != fingerprint(model):
        raise InputError(f"{path}: the prefix of another bundle or of other graphs; save it again")
    cache = model.backend.start(None, 1, None)
    if not isinstance(cache, SavedCache):
        raise BackendError(f"{model.backend.name}: its caches cannot be restored")
    try:
        cache.write(data, len(ids))
    except ValueError as error:
        raise InputError(f"{path}: damaged: {error}") from None
    return Prefix(ids=tuple(ids.tolist()), cache=cache)


def prefix_ids(path: str | os.PathLike[str]) -> NDArray[np.int64]:
    """The ids (length,) that a file of `save_prefix` begins with. Raises InputError."""
    ids = _read(Path(path), "ids")["ids"]
    if ids.ndim != 1 or ids.dtype != np.int64:
        raise InputError(f"{path}: not a prefix of this version; save it again")
    return ids


def _read(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """All arrays, or those of some names."""
    with foreign_errors(InputError, f"{path}: not a prefix"), file_errors(path, InputError):
        require_regular(path, InputError)
        with path.open("rb") as file, np.load(file) as archive:
            return {name: archive[name] for name in names or archive}


def _digest(data: Mapping[str, NDArray[Any]]) -> str:
    """The SHA-256 of arrays by name."""
    digest = hashlib.sha256()
    for name, array in sorted(data.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def fingerprint(model: Model) -> str:
    """Of a bundle's files and the graphs that run here: equal ones have equal caches."""
    manifest = model.bundle.manifest
    words: Sequence[str] = sorted(f"{name} {file.sha256}" for name, file in manifest.files.items())
    target = getattr(model.backend, "target", "")
    return hashlib.sha256("\n".join([model.backend.name, target, *words]).encode()).hexdigest()
