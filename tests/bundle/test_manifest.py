"""The manifest: round trips, hostile values, and its JSON schema."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import seq2edge
from seq2edge.bundle import manifest as manifest_module
from seq2edge.bundle.manifest import ImageRecord, Manifest, check_file_name, manifest_schema
from seq2edge.errors import BundleError
from seq2edge.files.records import hints
from seq2edge.files.storage import FileRecord
from seq2edge.model import dims as dims_module
from seq2edge.model.dims import Dims, StackDims

SCHEMA_FILE = Path(seq2edge.__file__).with_name("manifest.schema.json")
RECORD = FileRecord(size=5, sha256="0" * 64)
# Not written where they say nothing, so that older versions read the rest.
LATER = {
    field.name
    for module in (manifest_module, dims_module)
    for record in vars(module).values()
    if dataclasses.is_dataclass(record)
    for field in dataclasses.fields(record)
    if field.metadata.get("optional")
}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def full(make_manifest: Callable[..., Manifest]) -> Manifest:
    """A manifest with every part filled in."""
    return make_manifest(files={"encoder.onnx": RECORD, "target/tokenizer.json": RECORD})


@pytest.fixture(scope="module")
def values(full: Manifest) -> dict[str, Any]:
    """The same as JSON values."""
    decoded: dict[str, Any] = json.loads(full.to_bytes())
    return decoded


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    """The schema that is shipped."""
    return jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text("utf-8")))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys or indices."""
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places(value[key])


def read(values: Any) -> Manifest:
    """Decode JSON values by way of bytes."""
    return Manifest.from_bytes(json.dumps(values).encode())


def test_a_manifest_is_read_back_as_it_was_written(full: Manifest) -> None:
    """Writing and reading gives an equal manifest and equal bytes."""
    again = Manifest.from_bytes(full.to_bytes())
    assert again == full
    assert again.to_bytes() == full.to_bytes()


def test_the_smallest_manifest_is_read_back(full: Manifest) -> None:
    """Absent parts are written as null or empty, and read so."""
    stack = StackDims(layers=1, heads=1, kv_heads=1, head_dim=4, hidden=8, activation="relu")
    small = Manifest(
        kind="decoder",
        task="generate",
        family="gpt2",
        dims=Dims(width=4, vocab=9, decoder=stack),
        provenance=full.provenance,
    )
    assert Manifest.from_bytes(small.to_bytes()) == small


def test_a_manifest_without_a_shortlist_does_not_name_it(
    full: Manifest, schema: jsonschema.Draft202012Validator
) -> None:
    """So that what was written before, and older readers, go with it."""
    whole = dataclasses.replace(full, shortlist=None)
    written = json.loads(whole.to_bytes())
    assert "shortlist" not in written
    schema.validate(written)
    assert read(written) == whole


def test_a_shortlist_is_no_longer_than_the_vocabulary(full: Manifest) -> None:
    """Nor shorter than a choice."""
    assert full.shortlist is not None
    for size in (1, full.dims.vocab + 1):
        listed = dataclasses.replace(full.shortlist, size=size)
        with pytest.raises(BundleError, match=f"shortlist: {size} tokens, needs 2 to 100"):
            dataclasses.replace(full, shortlist=listed)


def test_every_missing_key_is_an_error(values: dict[str, Any], full: Manifest) -> None:
    """Whatever record loses a key, reading says which, or the key belonged to a free mapping."""
    for index in range(len(list(places(values)))):
        changed = copy.deepcopy(values)
        container, key = list(places(changed))[index]
        if isinstance(container, list):
            continue
        del container[key]
        try:
            outcome = "" if read(changed) == full else "changed"
        except BundleError as error:
            outcome = str(error)
        assert outcome == "changed" or outcome.endswith(f"{key}: missing")


def test_every_unknown_key_is_an_error(values: dict[str, Any]) -> None:
    """A key that no record has is refused at every level."""
    for path in (
        (),
        ("dims",),
        ("dims", "encoder"),
        ("tokenizer",),
        ("graphs", 0),
        ("provenance",),
        ("provenance", "privacy"),
    ):
        changed = copy.deepcopy(values)
        record: Any = changed
        for key in path:
            record = record[key]
        record["surprise"] = [1]
        with pytest.raises(BundleError, match=r"surprise: unknown key with the value \[1\]$"):
            read(changed)


@pytest.mark.parametrize(
    ("format_", "message"),
    [
        (5, r"^b/manifest\.json: format 5, this version reads 4, update seq2edge$"),
        (3, r"^b/manifest\.json: format 3, this version reads 4, export the checkpoint again$"),
        (True, r"^b/manifest\.json: format: expected one of 4, got True$"),
        ("1", r"^b/manifest\.json: format: expected one of 4, got '1'$"),
    ],
)
def test_other_formats_are_refused_first(
    values: dict[str, Any], format_: object, message: str
) -> None:
    """A future format is told from a damaged file, whatever keys it has."""
    changed = {**values, "format": format_}
    if type(format_) is int:
        changed["novelty"] = {}
    with pytest.raises(BundleError, match=message):
        Manifest.from_bytes(json.dumps(changed).encode(), "b/manifest.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (0, 9)}, r"size: \(0, 9, 1\), an edge has 1 to 16384 pixels"),
        ({"crop": (9, 20000)}, r"size: \(9, 20000, 1\), an edge has 1 to 16384 pixels"),
        ({"shortest_edge": -1}, r"size: \(-1,\), an edge has"),
        ({"mean": (0.5, 0.5, 0.5)}, "deviation: goes with a mean"),
        ({"mean": (0.5, 0.5, 0.5), "deviation": (0.5, 0.0, 0.5)}, "none of it is 0"),
    ],
)
def test_images_are_made_ready_within_limits(changes: dict[str, Any], message: str) -> None:
    """A manifest cannot ask for any amount of memory, nor for what is no number."""
    with pytest.raises(BundleError, match=message):
        ImageRecord(**changes)


def test_images_go_with_a_model_that_reads_them(make_manifest: Callable[..., Manifest]) -> None:
    """Its dims say so."""
    with pytest.raises(BundleError, match="images: how they are read, but the dims have none"):
        make_manifest(images=ImageRecord())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("kind",), "decoder", "kind: 'decoder', but the dims are of 'encoder-decoder'"),
        (("task",), "dance", "task: expected one of 'generate', .* got 'dance'"),
        (("precision",), "float8", "precision: expected one of 'float32', .* got 'float8'"),
        (("precision",), "float32", "quantization: does not go with precision 'float32'"),
        (("quantization",), None, "quantization: does not go with precision 'int8-weight'"),
        (("parity",), None, "parity: missing, a quantized bundle needs what was measured"),
        (("audio",), None, "audio: 0 mels, but the dims have 80"),
        (("dims", "encoder", "kv_heads"), 3, r"dims\.encoder: kv_heads: 4 heads cannot share 3"),
        (("dims", "encoder", "kv_heads"), 0, r"dims\.encoder: "),
        (("dims", "encoder", "layers"), -1, r"dims\.encoder\.layers: expected an integer from 0"),
        (("dims", "encoder", "activation"), "exp", r"dims\.encoder: activation: 'exp'"),
        (("dims", "tied"), 1, r"dims\.tied: expected true or false, got 1"),
        (("graphs", 1, "role"), "encoder", None),
        (("graphs", 0, "file"), "../x", r"graphs\[0\]\.file: expected a relative file name"),
        (
            ("graphs", 0, "requires"),
            {"onnxruntime": ">1"},
            r"requires\.onnxruntime: expected a rel",
        ),
        (("tokenizer", "languages"), {"fr": "7"}, r"languages\.fr: expected an integer, got '7'"),
        (("provenance", "created"), "today", r"created: expected a UTC time such as"),
        (
            ("provenance", "privacy", "epsilon"),
            "8",
            r"privacy\.epsilon: expected a number, got '8'",
        ),
        (("provenance", "privacy", "steps"), -1, r"privacy\.steps: expected an integer from 0"),
        (("files",), {"/etc/passwd": {}}, "key '/etc/passwd' of files: expected a relative file"),
        (("files", "encoder.onnx", "sha256"), "F" * 64, "sha256: expected 64 lower-case hexadec"),
        (("labels",), "yes", "labels: expected a list, got 'yes'"),
        (("generation",), [], r"generation: expected an object, got \[\]"),
    ],
)
def test_wrong_values_are_refused_with_their_place(
    values: dict[str, Any], path: tuple[Any, ...], value: object, message: str | None
) -> None:
    """Each wrong value is named with its place in the file."""
    changed = copy.deepcopy(values)
    record: Any = changed
    for key in path[:-1]:
        record = record[key]
    record[path[-1]] = value
    if message is None:
        changed["graphs"][1]["target"] = "canonical"
        message = r"graphs\[1\]: a second encoder for canonical"
    with pytest.raises(BundleError, match=rf"^manifest\.json: .*{message}"):
        read(changed)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/../b", "/a", "a//b", "a/", "a\\b", "C:/x", "c:x", "a\x00b", "a\nb",
     "a\n", ".hidden", "a./b", "é", "x" * 101, "a b", "~/x", "\ud800"],
)  # fmt: skip
def test_file_names_that_could_leave_the_folder_are_refused(name: str) -> None:
    """Only plain relative names of portable characters are taken."""
    with pytest.raises(BundleError, match=r"expected (a relative file name|text without lone)"):
        check_file_name(name)


@pytest.mark.parametrize(
    "name", ["a", "weights.data", "target/tokenizer.json", "a-b_c.1/2", "x" * 100]
)
def test_plain_file_names_are_taken(name: str) -> None:
    """Letters, digits, dots, dashes and folders are allowed."""
    check_file_name(name)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("manifest.json",), "'manifest.json' is reserved"),
        (("Manifest.JSON",), "'Manifest.JSON' is reserved"),
        (("a.bin", "A.bin"), "'a.bin' and 'A.bin' differ only in upper and lower case"),
        (("nul.txt",), "'nul.txt' is a device name on Windows"),
        (("a/COM1",), "'a/COM1' is a device name on Windows"),
        (("a", "a/b"), "'a/b' lies below another file"),
        (("A/b", "a"), "'A/b' lies below another file"),
    ],
)
def test_names_that_would_collide_are_refused(
    make_manifest: Callable[..., Manifest], names: tuple[str, ...], message: str
) -> None:
    """Names must be different files on every file system."""
    with pytest.raises(BundleError, match=message):
        make_manifest(files=dict.fromkeys(names, RECORD))


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"a": float("nan")}, "a value is not JSON"),
        ({"a": {1, 2}}, "a value is not JSON"),
        ({"a": b"x"}, "a value is not JSON"),
        ({"a": "\ud800"}, "a value is not JSON"),
        ({"a": 2**70}, r"generation\.a: expected a number"),
    ],
)
def test_values_that_would_not_be_read_back_are_not_written(
    make_manifest: Callable[..., Manifest], generation: dict[str, Any], message: str
) -> None:
    """What JSON cannot hold stops the writer, not the reader."""
    with pytest.raises(BundleError, match=message):
        make_manifest(generation=generation).to_bytes()


def test_references_name_every_file_field(full: Manifest) -> None:
    """Graphs, engines, tokenizer files and the shortlist are all found."""
    assert dict(full.references()) == {
        "graphs[0].file": "encoder.onnx",
        "graphs[1].file": "decoder.onnxruntime.onnx",
        "engines[0].file": "engines/sm87.plan",
        "engines[0].sidecar": "engines/sm87.json",
        "tokenizer.source": "tokenizer.json",
        "tokenizer.target": "target/tokenizer.json",
        "shortlist.file": "shortlist.txt",
        "lexicon": "lexicon.npz",
    }


@given(value=JSON_VALUES)
def test_arbitrary_json_is_never_read(value: Any) -> None:
    """JSON that is no manifest gives a BundleError and nothing else."""
    with pytest.raises(BundleError, match=r"^manifest\.json: "):
        read(value)


@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_never_read(data: bytes) -> None:
    """Bytes that are no manifest give a BundleError and nothing else."""
    with pytest.raises(BundleError, match=r"^manifest\.json: "):
        Manifest.from_bytes(data)


@given(data=st.data())
def test_mutations_are_refused_or_mean_what_they_say(
    values: dict[str, Any], schema: jsonschema.Draft202012Validator, data: st.DataObject
) -> None:
    """A changed or deleted value gives a BundleError, or a manifest that holds the change."""
    changed = copy.deepcopy(values)
    container, key = data.draw(st.sampled_from(list(places(changed))), label="place")
    if data.draw(st.booleans(), label="delete"):
        del container[key]
    else:
        container[key] = data.draw(JSON_VALUES, label="value")
    try:
        manifest = read(changed)
    except BundleError:
        return
    schema.validate(changed)
    for key in LATER:
        if changed.get(key) is None:  # null says what a missing one says
            changed.pop(key, None)
    assert json.loads(manifest.to_bytes()) == changed


@given(end=st.integers(min_value=0))
def test_truncated_manifests_are_refused(full: Manifest, end: int) -> None:
    """No proper beginning of a manifest file is read as a manifest."""
    data = full.to_bytes().rstrip()
    with pytest.raises(BundleError, match=r"^manifest\.json: "):
        Manifest.from_bytes(data[: end % len(data)])


@given(place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_flipped_bits_are_refused_or_read_as_they_stand(
    full: Manifest, place: int, bit: int
) -> None:
    """A damaged byte never raises anything but BundleError."""
    data = bytearray(full.to_bytes())
    data[place % len(data)] ^= 1 << bit
    try:
        manifest = Manifest.from_bytes(bytes(data))
    except BundleError:
        return
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


def test_the_schema_file_is_the_records_schema() -> None:
    """`manifest.schema.json` says what the records say."""
    assert SCHEMA_FILE.read_text("utf-8") == manifest_schema(), (
        "write it again: python -c 'from seq2edge.bundle.manifest import manifest_schema as s; "
        'print(s(), end="")\' > manifest.schema.json'
    )


def test_the_schema_is_valid_and_takes_sample_manifests(
    schema: jsonschema.Draft202012Validator, values: dict[str, Any]
) -> None:
    """The schema is draft 2020-12 and accepts what the reader accepts."""
    schema.check_schema(schema.schema)
    schema.validate(values)


def test_the_schema_refuses_unknown_keys_everywhere(
    schema: jsonschema.Draft202012Validator, values: dict[str, Any]
) -> None:
    """Every object with properties is closed and requires all but those that came later."""
    records = [schema.schema, *schema.schema["$defs"].values()]
    for record in records:
        assert record["additionalProperties"] is False
        required = [key for key in record["properties"] if key not in LATER]
        assert record["required"] == required
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        schema.validate({**values, "surprise": 1})


def test_the_schema_has_exactly_the_dims(schema: jsonschema.Draft202012Validator) -> None:
    """`dims` in the file are the fields of `Dims` and `StackDims`."""
    definitions = schema.schema["$defs"]
    for record in (Dims, StackDims):
        assert list(definitions[record.__name__]["properties"]) == list(hints(record))
        assert list(hints(record)) == [field.name for field in dataclasses.fields(record)]
