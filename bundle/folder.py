"""A bundle: one folder with graphs, weights, tokenizer and the manifest that lists them all.

Reading trusts nothing: every file must be listed, regular, of the recorded size and inside the
folder. Writing happens in a hidden folder beside the destination, with which it is exchanged at the
end, so that a crash at any time leaves the old bundle or the new one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from seq2edge.bundle.consistency import check_weights
from seq2edge.bundle.manifest import (
    LARGEST_MANIFEST,
    MANIFEST,
    SIGNATURE,
    GraphRecord,
    Manifest,
    check_file_name,
)
from seq2edge.bundle.origin import KeyFile, check_size, origin_of, read_signature
from seq2edge.errors import BundleError
from seq2edge.files.records import RecordError, parse_json
from seq2edge.files.storage import (
    FileRecord,
    file_errors,
    fingerprint,
    full_disk,
    real_path,
    scan,
    settle,
)
from seq2edge.files.workspace import NEW, put_folder, workspace

LISTED = 20  # labels that a summary names
Stamps: TypeAlias = dict[str, tuple[int, int, int]]  # of files: number, size, time of change


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that was checked when it was opened.

    `trust_engines`: its engines, which are code, may be opened although others built them.
    """

    path: Path
    manifest: Manifest
    trust_engines: bool = False

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        hashes: bool = False,
        require_key: KeyFile | Sequence[KeyFile] | None = None,
        sha256: str | None = None,
        trust_engines: bool = False,
    ) -> Bundle:
        """Check the manifest, the list of files and their sizes; with `hashes` their contents too.

        require_key: files of public keys, one of which must have signed the bundle; sha256: what
        the manifest's hash must be. Both are checked before anything else is read, and mean hashes.
        Raises BundleError naming the file and what is wrong with it, OptionError for keys and
        hashes that are none.
        """
        folder = Path(path)
        _require_folder(folder)
        data = manifest_bytes(folder / MANIFEST)
        origin = origin_of(require_key, sha256)
        if origin is not None:
            origin.check(data, read_signature(folder), str(folder))
        manifest = Manifest.from_bytes(data, str(folder / MANIFEST))
        check_files(folder, manifest)
        bundle = cls(path=folder, manifest=manifest, trust_engines=trust_engines)
        if hashes or origin is not None:
            bundle.verify_hashes()
        return bundle

    @property
    def size(self) -> int:
        """Bytes of all listed files together."""
        return sum(record.size for record in self.manifest.files.values())

    @property
    def sha256(self) -> str:
        """The SHA-256 of the manifest, which pins the whole bundle: as a folder and as one file."""
        return hashlib.sha256(manifest_bytes(self.path / MANIFEST)).hexdigest()

    @property
    def signed(self) -> bool:
        """Whether there is a signature; whose, and whether it holds, `require_key` tells."""
        return read_signature(self.path) is not None

    def file(self, name: str) -> Path:
        """Where a listed file lies. Raises BundleError for any other name."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.path}: no file {name!r} in this bundle")
        return self.path / name

    def graph(self, role: str, target: str = "canonical") -> GraphRecord:
        """The graph of one role for one target. Raises BundleError naming those there are."""
        graphs: dict[tuple[str, str], GraphRecord] = {
            (graph.role, graph.target): graph for graph in self.manifest.graphs
        }
        if (role, target) not in graphs:
            known = ", ".join(" for ".join(key) for key in graphs) or "none"
            raise BundleError(f"{self.path}: no {role} graph for {target!r}, there are: {known}")
        return graphs[role, target]

    def verify_hashes(self) -> None:
        """Read every file; raises BundleError for the first whose SHA-256 is not the recorded."""
        for name, record in self.manifest.files.items():
            check_record(self.path / name, record, fingerprint(self.path / name))


def read_manifest(path: Path) -> Manifest:
    """The manifest of a file. Raises BundleError when it is missing or not of this format."""
    return Manifest.from_bytes(manifest_bytes(path), str(path))


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raise BundleError unless `folder` holds the listed files, each of its size, and no other."""
    sizes = scan(folder)
    for name, record in manifest.files.items():
        if name not in sizes:
            raise BundleError(f"{folder / name}: missing, but listed in {MANIFEST}")
        if sizes[name] != record.size:
            raise BundleError(
                f"{folder / name}: {sizes[name]} bytes, but {MANIFEST} says {record.size}, "
                "the file is damaged or was changed"
            )
    for name, size in sizes.items():
        if name == SIGNATURE:
            check_size(size, str(folder / name))
        elif name != MANIFEST and name not in manifest.files:
            raise BundleError(f"{folder}: file {name!r} is not listed in {MANIFEST}, remove it")
    for place, name in manifest.references():
        if name not in manifest.files:
            raise BundleError(f"{folder / MANIFEST}: {place}: {name!r} is not listed in files")
    check_weights(manifest.dims, sum(sizes.values()), folder / MANIFEST)


def check_record(path: Path, expected: FileRecord, actual: FileRecord) -> None:
    """Raise BundleError when a file is not the recorded one."""
    if actual != expected:
        raise BundleError(
            f"{path}: SHA-256 {actual.sha256} of {actual.size} bytes, but {MANIFEST} says "
            f"{expected.sha256} of {expected.size}, the file is damaged or was changed"
        )


class BundleWriter:
    """Collects a bundle's files and puts them in place all at once.

        with BundleWriter(destination) as writer:
            writer.path("encoder.onnx").write_bytes(...)
            writer.finish(manifest)

    Leaving the block without `finish`, or with an exception, leaves the destination untouched.
    """

    def __init__(self, destination: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.destination = real_path(destination)
        self._overwrite = overwrite
        self._replaced: Stamps | None = None  # files of the old bundle whose hashes were read
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> BundleWriter:
        self.check_destination()
        with file_errors(self.destination):
            self._work = self._stack.enter_context(workspace(self.destination.parent))
            self._folder = self._work / NEW
            self._folder.mkdir()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        if isinstance(error, Exception) and full_disk(error):
            with file_errors(self.destination):
                raise error

    def path(self, name: str) -> Path:
        """Where to write the file `name`; its folders are made. Raises BundleError for bad names.

        The weights of several graphs may share a file: ask for its path once and write it once.
        """
        check_file_name(name)
        path = self._folder / name
        with file_errors(self.destination / name):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def preview(self, manifest: Manifest) -> Bundle:
        """The files written so far as a bundle, for checks before it is finished; not hashed."""
        files = {
            name: FileRecord(size=size, sha256="0" * 64)
            for name, size in scan(self._folder).items()
        }
        return Bundle(path=self._folder, manifest=dataclasses.replace(manifest, files=files))

    def finish(self, manifest: Manifest) -> Bundle:
        """Record all files written so far in `manifest` and move the bundle to its destination."""
        files = {name: fingerprint(self._folder / name) for name in scan(self._folder)}
        return self.seal(dataclasses.replace(manifest, files=files).to_bytes())

    def seal(self, manifest: bytes, signature: bytes | None = None) -> Bundle:
        """Like `finish`, with the bytes of a manifest whose hashes the caller has checked."""
        decoded = Manifest.from_bytes(manifest, str(self.destination / MANIFEST))
        with file_errors(self.destination):
            (self._folder / MANIFEST).write_bytes(manifest)
            if signature is not None:
                (self._folder / SIGNATURE).write_bytes(signature)
            check_files(self._folder, decoded)
            self.check_destination()
            put_folder(self._work, self.destination)
        return Bundle(path=self.destination, manifest=decoded)

    def check_destination(self) -> None:
        """Raise BundleError where nothing can be written there; long work asks before it begins."""
        parent = self.destination.parent
        if not parent.is_dir():
            raise BundleError(f"{self.destination}: folder {parent} does not exist, make it first")
        settle(self.destination)
        if not os.path.lexists(self.destination) or _is_empty_folder(self.destination):
            return
        if not self._overwrite:
            raise BundleError(f"{self.destination}: exists, choose another place or overwrite it")
        self._replaced = _require_own_files(self.destination, self._replaced)


def describe(bundle: Bundle) -> dict[str, Any]:
    """What `inspect` shows: the manifest as plain JSON values, and what of it is not in there."""
    manifest = dataclasses.asdict(bundle.manifest)
    files = manifest.pop("files")
    for graph in manifest["graphs"]:
        graph["size"] = files[graph["file"]]["size"]
    whole = {"path": str(bundle.path), "size": bundle.size, "sha256": bundle.sha256}
    return {**whole, "signed": bundle.signed, **manifest, "files": files}


def summarize(values: Mapping[str, Any]) -> Iterator[str]:
    """The same for people, line by line."""
    dims, origin = values["dims"], values["provenance"]
    yield f"{values['path']}: {values['family']}, {values['kind']}, made to {values['task']}"
    yield f"size        {values['size'] / 1e6:.1f} MB, {values['precision']}"
    for side in ("encoder", "decoder"):
        if stack := dims[side]:
            sizes = f"{stack['layers']} layers, {stack['heads']} heads of {stack['head_dim']}"
            limit = stack["max_positions"] or "any number of"
            width = (dims["encoder_width"] if side == "encoder" else 0) or dims["width"]
            yield f"{side:<12}{sizes}, width {width}, {limit} positions"
    yield from _summarize_images(dims["image"], values["images"])
    yield f"vocabulary  {dims['vocab']}"
    yield from _summarize_shortlists(values)
    for graph in values["graphs"]:
        needs = ", ".join(f"{name} {version}+" for name, version in graph["requires"].items())
        yield f"graph       {graph['file']} ({graph['target']}, needs {needs})"
    yield f"tokenizer   {values['tokenizer']['source'] if values['tokenizer'] else 'none'}"
    yield from _summarize_embedding(values["embedding"])
    yield from _summarize_classes(values)
    for name, value in (values["generation"] or {}).items():
        yield f"decoding    {name} = {json.dumps(value)}"
    for name, value in values["generation_ignored"].items():
        yield f"not applied {name} = {json.dumps(value)}"
    for name in origin["unused_tensors"]:
        yield f"not used    {name}"
    if values["parity"]:
        yield f"parity      logits within {values['parity']['max_absolute']:.1e} of the model"
    yield from _summarize_original(values.get("original"))
    if spent := origin["privacy"]:
        yield (
            f"privacy     epsilon {spent['epsilon']:g} at delta {spent['delta']:g} for each "
            f"training row ({spent['steps']:,} steps, noise {spent['noise_multiplier']:.3g}, "
            f"{spent['sampling_rate']:.3g} of the rows a step)"
        )
    yield f"made        {origin['created']} from {origin['source']} ({origin['source_format']})"
    signed = "with a signature (whose: verify --require-key)" if values["signed"] else "not signed"
    yield f"sha256      {values['sha256']}, {signed}"


def _summarize_classes(values: Mapping[str, Any]) -> Iterator[str]:
    if reranking := values["reranking"]:
        default = json.dumps(reranking["instruction"], ensure_ascii=False)
        yield f"asked       by {values['tokenizer']['chat_template']}, instruction {default}"
    if labels := values["labels"]:
        more = f" and {len(labels) - LISTED:,} more" if len(labels) > LISTED else ""
        yield f"labels      {', '.join(labels[:LISTED])}{more}"


def _summarize_original(original: Mapping[str, Any] | None) -> Iterator[str]:
    if original and original["parity"]:
        error = original["parity"]["max_absolute"]
        yield f"original    compared with {original['implementation']}: within {error:.1e}"
    elif original:
        yield f"original    not compared: {original['reason']}"


def _summarize_images(
    image: Mapping[str, Any] | None, record: Mapping[str, Any] | None
) -> Iterator[str]:
    if not image:
        return
    patches = f"in patches of {image['patch_height']} x {image['patch_width']}"
    yield f"images      {image['height']} x {image['width']} pixels, {patches}"
    if not record:
        yield "images      none is made ready here: it reads pixels alone"


def _summarize_shortlists(values: Mapping[str, Any]) -> Iterator[str]:
    if listed := values["shortlist"]:
        learnt = f"learnt from {listed['texts']:,} texts"
        origin = learnt if listed["origin"] == "texts" else "given as ids"
        yield f"shortlist   {listed['size']:,} tokens can be generated, {origin}"
    if values["lexicon"]:
        yield f"lexicon     {values['lexicon']}: an answer has tokens that its source's words allow"


def _summarize_embedding(record: Mapping[str, Any] | None) -> Iterator[str]:
    if not record:
        return
    for name, prompt in record["prompts"].items():
        default = ", the default" if name == record["default_prompt"] else ""
        yield f"prompt      {name}: {json.dumps(prompt, ensure_ascii=False)}{default}"
    if record["longest"]:
        yield f"texts       cut to {record['longest']} tokens"
    if record["similarity"]:
        yield f"similarity  {record['similarity']}"


def _require_folder(folder: Path) -> None:
    settle(folder)
    with file_errors(folder):
        folder.exists()  # or its name is none that can be
    if folder.is_file():
        raise BundleError(
            f"{folder}: a file, not a bundle folder, unpack it first: "
            f"seq2edge unpack {folder} FOLDER"
        )
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such folder")


def manifest_bytes(path: Path) -> bytes:
    """What the file holds. Raises BundleError where that is missing, too long or no plain file."""
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{path}: missing or not a regular file, so this is not a bundle")
    with file_errors(path), path.open("rb") as file:
        data = file.read(LARGEST_MANIFEST + 1)
    if len(data) > LARGEST_MANIFEST:
        raise BundleError(f"{path}: more than {LARGEST_MANIFEST} bytes, this is no manifest")
    return data


def _is_empty_folder(path: Path) -> bool:
    with file_errors(path):
        return path.is_dir() and not any(path.iterdir())


def _require_own_files(folder: Path, known: Stamps | None) -> Stamps:
    """Only a folder of files as a manifest records them, of whatever format, may be replaced.

    A file that it does not list, or that was changed, would be lost; one that is missing is not.
    Hashes are read unless the files are those `known` from the last time.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder}: not a folder, so it is not overwritten")
    refusal = f"{folder}: not a bundle, so it is not overwritten"
    try:
        files = recorded_files(manifest_bytes(folder / MANIFEST))
        names = [name for name in scan(folder) if name not in (MANIFEST, SIGNATURE)]
    except (BundleError, RecordError) as error:
        raise BundleError(f"{refusal} ({error})") from error
    if files is None:
        raise BundleError(refusal)
    with file_errors(folder):
        stamps = {name: _stamp(folder / name) for name in names}
    for name in names if stamps != known else ():
        if name not in files:
            raise BundleError(f"{folder}: {name!r} is no part of the bundle and would be lost")
        if vars(fingerprint(folder / name)) != files[name]:
            raise BundleError(
                f"{folder}: {name!r} was changed and would be lost, or is damaged; "
                "remove the folder to write a bundle there"
            )
    return stamps


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes with a file's contents."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def recorded_files(manifest: bytes) -> dict[str, Any] | None:
    """The records of the files in a manifest of any format; None for JSON that is no manifest.

    Raises RecordError for what is no JSON.
    """
    values = parse_json(manifest)
    files = values.get("files") if isinstance(values, dict) else None
    own = isinstance(files, dict) and type(values.get("format")) is int
    return files if own else None
