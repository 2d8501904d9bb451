"""Ways in which a bundle cannot do its task: `verify` refuses each with one line.

Every way is a whole bundle whose files have the recorded sizes and hashes. Each was blessed, or
ended in a traceback, before the manifest was held against the files and the task was tried.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speaking as texts
import tiny_models
from command_line import call

import seq2edge
from seq2edge.bundle.lexicon import Lexicon, write_lexicon
from seq2edge.bundle.reference import REFERENCE, read_reference, write_reference
from seq2edge.files.storage import fingerprint, scan
from seq2edge.runtime.rehearsal import rehearse

VOCAB = tiny_models.VOCAB
CHAT = "chat_template.jinja"
TEMPLATE = "{{ eos_token }} w7 {{ messages[0].content }} w9"
MORE = {"gpt2": {"template": TEMPLATE}}
Change = Callable[["Folder"], object]


class Folder:
    """A copy of a bundle whose files are changed and recorded again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = json.loads((path / "manifest.json").read_bytes())

    def write(self, name: str, data: str) -> None:
        """A file with other contents."""
        (self.path / name).write_text(data, encoding="utf-8")

    def record(self) -> None:
        """Make the manifest say what is there."""
        names = [name for name in scan(self.path) if name != "manifest.json"]
        self.values["files"] = {name: vars(fingerprint(self.path / name)) for name in names}
        self.write("manifest.json", json.dumps(self.values))


@pytest.fixture
def changed(speaking, tmp_path) -> Callable[[str, Change], Path]:
    """`changed(name, change)`: that bundle after a change."""

    def make(name: str, change: Change) -> Path:
        source = speaking(name, **MORE.get(name, {}))
        shutil.copytree(source, tmp_path / "bundle")
        folder = Folder(tmp_path / "bundle")
        change(folder)
        folder.record()
        return folder.path

    return make


def says(*keys: str, value: Any) -> Change:
    """The manifest says so."""

    def change(folder: Folder) -> None:
        values = folder.values
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = value

    return change


def generation(**options: Any) -> Change:
    """The checkpoint's decoding defaults say so too."""
    return lambda folder: folder.values["generation"].update(options)


def beyond(name: str, value: Any = VOCAB) -> Change:
    """A default that names a token beyond the vocabulary."""
    return generation(**{name: value})


def dims(**layers: int) -> Change:
    """Stacks of so many layers."""

    def change(folder: Folder) -> None:
        for side, count in layers.items():
            folder.values["dims"][side]["layers"] = count

    return change


def without_graphs(folder: Folder) -> None:
    """No graph at all; all else is there."""
    for graph in folder.values["graphs"]:
        (folder.path / graph["file"]).unlink(missing_ok=True)
    folder.values["graphs"] = []


def without_decoders(folder: Folder) -> None:
    """An encoder of an encoder-decoder alone."""
    graphs = folder.values["graphs"]
    for graph in graphs:
        if graph["role"] == "decoder":
            (folder.path / graph["file"]).unlink()
    folder.values["graphs"] = [graph for graph in graphs if graph["role"] == "encoder"]


def with_tokenizer(change: Callable[[dict[str, Any]], object]) -> Change:
    """Another tokenizer.json."""

    def write(folder: Folder) -> None:
        values = json.loads((folder.path / "tokenizer.json").read_bytes())
        change(values)
        folder.write("tokenizer.json", json.dumps(values))

    return write


def longer_vocabulary(values: dict[str, Any]) -> None:
    """Words that the model has no embeddings for."""
    vocab = values["model"]["vocab"]
    vocab.update({f"w{i}": i for i in range(VOCAB, 2 * VOCAB)})


def only_unknown(values: dict[str, Any]) -> None:
    """No word but the unknown one."""
    vocab = values["model"]["vocab"]
    values["model"]["vocab"] = {
        name: i for name, i in vocab.items() if name in ("w3", *texts.SPECIAL)
    }


def without_mask(values: dict[str, Any]) -> None:
    """The mask is a word of another name."""
    values["added_tokens"] = [t for t in values["added_tokens"] if t["content"] != texts.MASK]
    vocab = values["model"]["vocab"]
    vocab["w95"] = vocab.pop(texts.MASK)


def with_reference(change: Callable[[dict[str, Any]], object]) -> Change:
    """Another recorded reference."""

    def write(folder: Folder) -> None:
        arrays = read_reference(folder.path / REFERENCE)
        change(arrays)
        write_reference(folder.path / REFERENCE, arrays)

    return write


def without_steps(arrays: dict[str, Any]) -> None:
    """The prefill alone."""
    arrays["tokens"] = arrays["tokens"][:1]


def without_an_answer(arrays: dict[str, Any]) -> None:
    """What the last step answered is not there."""
    del arrays["top_logits_8"]


def of_other_ids(arrays: dict[str, Any]) -> None:
    """A prompt beyond the vocabulary."""
    arrays["prompt"] = arrays["prompt"] + VOCAB


def forgiving(arrays: dict[str, Any]) -> None:
    """Any answer is near enough."""
    arrays["float32_error"] = np.array(1e6)


def pooled_alone(arrays: dict[str, Any]) -> None:
    """What an encoder-only model is recorded with."""
    pooled = np.zeros((2, 3), np.float32)
    for name in list(arrays):
        if not name.startswith("source"):
            del arrays[name]
    arrays["pooled"] = pooled


def of_one_label(arrays: dict[str, Any]) -> None:
    """Fewer values than the model gives."""
    arrays["pooled"] = arrays["pooled"][:, :1]


def with_lexicon(vocab: int) -> Change:
    """A lexical shortlist that allows the first tokens alone."""

    def write(folder: Folder) -> None:
        lexicon = Lexicon(
            frequent=2,
            offsets=np.zeros(1, np.int64),
            ids=np.zeros(0, np.int64),
            copies=False,
            vocab=vocab,
        )
        write_lexicon(folder.path / "lexicon.npz", lexicon)
        folder.values["lexicon"] = "lexicon.npz"

    return write


def with_shortlist(folder: Folder) -> None:
    """A shortlist whose decoder computes the whole vocabulary."""
    folder.write("shortlist.txt", "".join(f"{i}\n" for i in range(10)))
    folder.values["shortlist"] = {
        "file": "shortlist.txt",
        "size": 10,
        "origin": "ids",
        "texts": 0,
        "most": None,
        "source_sha256": "0" * 64,
        "tool_version": "0.1.0",
        "created": "2026-01-31T23:59:59Z",
    }


def with_embedding(**fields: Any) -> Change:
    """What a folder of sentence-transformers says."""
    plain = {"prompts": {}, "default_prompt": "", "longest": None, "dimensions": None}
    return says("embedding", value={**plain, "similarity": "", **fields})


def with_file(name: str, text: str) -> Change:
    """A file that says something else."""
    return lambda folder: folder.write(name, text)


def without_reference(folder: Folder) -> None:
    """Nothing was recorded."""
    (folder.path / REFERENCE).unlink()


def with_parity(folder: Folder) -> None:
    """A quantized bundle that erred more than its logits are large."""
    folder.values["precision"] = "int8-weight"
    folder.values["parity"].update(max_absolute=1e3, max_relative=1e2)
    folder.values["quantization"] = {
        "recipe": "8-bit weights",
        "method": "nearest",
        "examples": 0,
        "ranges": None,
        "smoothing": 0.0,
        "cache": "activations",
        "weights": {},
        "float32_values": {},
        "source_sha256": "0" * 64,
        "tool_version": "0.1.0",
        "created": "2026-01-31T23:59:59Z",
        "packages": {},
    }


def swapped_files(folder: Folder) -> None:
    """The recorded answers as the tokenizer."""
    folder.values["tokenizer"]["source"] = REFERENCE


# What is wrong: the bundle, the change, and what the one line says.
WAYS: dict[str, tuple[str, Change, str]] = {
    "no graphs": ("bart", without_graphs, "has no graphs"),
    "no decoder": ("bart", without_decoders, "no decoder graph for '"),
    "a billion layers": ("bart", dims(decoder=10**9), "layers: 1000000000, a model has 0 to"),
    "layers without weights": ("bert", dims(encoder=4000), "32,771,072 weights or more, but all"),
    "a task of other dims": ("bart", says("task", value="classify"), "dims are made to generate"),
    "suppress_tokens": ("bart", beyond("suppress_tokens", [5, VOCAB]), "the vocabulary has 96"),
    "begin_suppress_tokens": ("bart", beyond("begin_suppress_tokens", [VOCAB]), "token 96"),
    "forced_bos_token_id": ("bart", beyond("forced_bos_token_id"), "forced_bos_token_id: token 96"),
    "forced_eos_token_id": ("bart", beyond("forced_eos_token_id"), "forced_eos_token_id: token 96"),
    "eos_token_id": ("bart", beyond("eos_token_id", [2, VOCAB]), "eos_token_id: token 96"),
    "bad_words_ids": ("bart", beyond("bad_words_ids", [[3, VOCAB]]), "bad_words_ids: token 96"),
    "sequence_bias": ("bart", beyond("sequence_bias", [[[VOCAB], 1.0]]), "token 96"),
    "decoder_start_token_id": (
        "bart",
        beyond("decoder_start_token_id"),
        "start_token_id: token",
    ),
    "decoder_prompt": ("bart", beyond("decoder_prompt", [VOCAB]), "decoder_prompt: token 96"),
    "pad_token_id": ("bart", beyond("pad_token_id"), "pad_token_id: token 96"),
    "no start": (
        "bart",
        generation(decoder_start_token_id=None, bos_token_id=None),
        "neither the options nor the checkpoint has",
    ),
    "no position left": ("gpt2", generation(max_new_tokens=10**6), "the model has 64 positions"),
    "no length left": ("bart", generation(max_length=1), "max_length: 1, the prompt has 1"),
    "an option of another name": ("bart", generation(heat=1), "heat: no such option"),
    "nothing but suppressed": (
        "bart",
        generation(suppress_tokens=list(range(VOCAB))),
        "no other is left to choose",
    ),
    "more labels than logits": ("bert", says("labels", value=list("abcd")), "labels: 4 names"),
    "fewer labels than logits": ("bert", says("labels", value=["a"]), "tell 3 labels apart"),
    "a damaged tokenizer": ("bart", with_file("tokenizer.json", "{}"), "not a tokenizer"),
    "a foreign tokenizer": ("bart", with_tokenizer(longer_vocabulary), "the vocabulary has 96"),
    "a tokenizer of one word": ("bart", with_tokenizer(only_unknown), "tells no two texts apart"),
    "another file as tokenizer": ("bart", swapped_files, "reference.npz: not a tokenizer"),
    "an unknown special token": (
        "bart",
        says("tokenizer", "special", "eos", value="[END]"),
        "special token eos: '[END]' is none of its tokens",
    ),
    "a language beyond the vocabulary": (
        "bart",
        says("tokenizer", "languages", value={"de": VOCAB}),
        "tokenizer.languages: token 96",
    ),
    "an unknown default language": (
        "bart",
        says("tokenizer", "source_language", value="de"),
        "'de' is none of the languages",
    ),
    "pieces without embeddings": (
        "bart",
        says("tokenizer", "unknown_from", value=VOCAB + 1),
        "unknown_from: 97, but 96 pieces",
    ),
    "no mask": ("bert-masked", with_tokenizer(without_mask), "special token mask: '<mask>'"),
    "no room for a text": (
        "bert",
        says("tokenizer", "text_limit", value=1),
        "tokenizer allows 1",
    ),
    "a template that is none": ("gpt2", with_file(CHAT, "{% if %}"), "not a chat template"),
    "a template that refuses": (
        "gpt2",
        with_file(CHAT, "{{ raise_exception('never') }}"),
        "the template refuses it: never",
    ),
    "a template that asks nothing": ("gpt2", with_file(CHAT, "w5"), "the same whatever a message"),
    "no reference": ("bart", without_reference, "missing, nothing says what the model answers"),
    "a reference without steps": ("bart", with_reference(without_steps), "int64 (1, 4)"),
    "a reference with a hole": ("bart", with_reference(without_an_answer), "top_logits_8: missing"),
    "a reference of other ids": ("bart", with_reference(of_other_ids), "prompt: 98 to 98"),
    "a reference of another kind": ("bart", with_reference(pooled_alone), "prompt: missing"),
    "a reference of other labels": ("bert", with_reference(of_one_label), "float32 (2, 1)"),
    "a reference that forgives": ("bart", with_reference(forgiving), "allows any answer"),
    "a parity that forgives": ("bart", with_parity, "allows any answer"),
    "a lexicon without an end": ("bart", with_lexicon(vocab=VOCAB), "it allows no end token"),
    "a lexicon of other tokens": ("bart", with_lexicon(vocab=VOCAB + 1), "this model's vocabular"),
    "a shortlist of another decoder": ("bart", with_shortlist, "the logits of other tokens"),
    "images of another size": (
        "trocr",
        says("images", "size", value=[8, 8]),
        "made (8, 8), but the dims take (12, 20)",
    ),
    "clips of another rate": (
        "whisper",
        says("audio", "sampling_rate", value=8000),
        "audio: rate, window and hop are (8000, 400, 160)",
    ),
    "heads of other layers": (
        "whisper",
        says("speech", "alignment_heads", value=[[2, 0]]),
        "[2, 0] is no head of the decoder",
    ),
    "a spoken language beyond": (
        "whisper",
        says("speech", "languages", value={"en": VOCAB}),
        "speech.languages: token 96",
    ),
    "no task of speech": (
        "whisper",
        says("speech", "languages", value={"en": 5}),
        "task: 'transcribe' is unknown",
    ),
    "more dimensions than values": (
        "bert-embedding",
        with_embedding(dimensions=33),
        "embedding.dimensions: 33, but the dims give 32 values",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_do_its_task_is_no_bundle(changed, way):
    """Exit code 1 and one line that says what is wrong."""
    name, change, message = WAYS[way]
    result = call("verify", changed(name, change), "--device", "cpu", "--threads", "1")
    assert result.exit_code == 1, result.stdout
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("bart", "generate: answered with 8 tokens"),
        ("gpt2", "generate: answered with 8 tokens"),
        ("whisper", "transcribe: answered with 8 tokens"),
        ("trocr", "read: answered with 8 tokens"),
        ("bert", "classify: gave 3 scores of labels"),
        ("bert-embedding", "embed: gave 32 values"),
        ("bert-masked", "fill: gave 5 fillings"),
    ],
)
def test_what_can_do_its_task_says_so(speaking, name, line):
    """The tokenizer first, then the chat template where there is one."""
    bundle = speaking(name, **MORE.get(name, {}))
    result = call("verify", bundle, "--device", "cpu", "--threads", "1")
    assert result.exit_code == 0, result.stderr
    lines = ["tokenizer: texts become tokens, and tokens texts"]
    if name == "gpt2":
        lines += ["chat template: writes what is asked"]
        lines += ["tools: its chat template has no place for them"]
    assert result.stdout.splitlines()[3:] == [*lines, line]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("bart", "generate: answered with 8 tokens"),
        ("llama", "generate: answered with 8 tokens"),
        ("bert", "classify: gave 3 scores of labels"),
    ],
)
def test_what_has_no_tokenizer_reads_what_was_recorded(exported, name, line):
    """Its ids."""
    model = seq2edge.load(exported(name)[1] / "bundle", device="cpu", threads=1)
    assert list(rehearse(model)) == [line]
