"""Everything that reads bytes of strangers, as functions of bytes, and whole files to begin with.

A reader returns, or raises an error of ours. `fuzz.py` feeds it what it can think of.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from seq2edge.bundle.archive import unpack
from seq2edge.bundle.engine_info import EngineInfo
from seq2edge.bundle.lexicon import read_lexicon
from seq2edge.bundle.manifest import Manifest, SpecialTokens, TokenizerRecord
from seq2edge.bundle.reference import read_reference
from seq2edge.bundle.shortlist import read_ids
from seq2edge.errors import Seq2EdgeError
from seq2edge.evaluation.examples import read_examples
from seq2edge.evaluation.speech_times import read_times
from seq2edge.runtime.sound.recording import read_clip
from seq2edge.runtime.tokenizer import Tokenizer

SEEDS = Path(__file__).with_name("seeds")  # findings of old, in a folder for each reader
RECORD = TokenizerRecord(source="tokenizer.json", special=SpecialTokens(eos="</s>", pad="<pad>"))
SMALL = 2**24  # bytes of arrays that a reader may unpack here


TIMES = (  # of speech: subtitles, a table, JSON
    b"1\n00:00:00,500 --> 00:00:02,750\nGuten Tag\n\n2\n00:00:03,000 --> 00:00:04,000\nJa.\n\n",
    b"start\tend\ttext\n500\t2750\tGuten Tag\n3000\t4000\tJa.\n",
    b'{"segments": [{"text": "Ja.", "start": 0.5, "end": 1.0, "words": null}], "words": []}',
)


class FindingError(Exception):
    """A reader did what it may not do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """`read` takes bytes; `seeds` are files of the artefacts, or bytes, that it reads whole.

    `needs` is a module without which there is no such reader.
    """

    read: Callable[[bytes], object]
    seeds: tuple[str | bytes, ...]
    needs: str = "json"

    @property
    def here(self) -> bool:
        """Whether it can be asked."""
        return importlib.util.find_spec(self.needs) is not None


class Scratch:
    """A folder that one file at a time is written into; there is one for each process."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def file(self, data: bytes, name: str = "data") -> Path:
        """The file, alone in the folder but for what `beside` put there."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="reader-")
        path = Path(self._folder.name) / name
        path.write_bytes(data)
        return path


SCRATCH = Scratch()
ARTEFACTS = Path()  # set by `prepare`


def prepare(artefacts: Path) -> None:
    """Where the honest artefacts lie, which some readers need beside what they read."""
    globals()["ARTEFACTS"] = artefacts


def check(reader: Reader, data: bytes) -> None:
    """Let it read; anything but an answer or an error of ours goes up."""
    with contextlib.suppress(Seq2EdgeError):
        reader.read(data)


def seeds_of(name: str) -> list[bytes]:
    """Whole files, and what was found before."""
    whole = [
        seed if isinstance(seed, bytes) else (ARTEFACTS / seed).read_bytes()
        for seed in READERS[name].seeds
    ]
    folder = SEEDS / name
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [*whole, *(path.read_bytes() for path in found)]


def _archive(data: bytes) -> None:
    file = SCRATCH.file(data)
    out = file.with_name("out")
    try:
        unpack(file, out, limit_bytes=SMALL)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _lexicon(data: bytes) -> None:
    file = SCRATCH.file(data)
    dims = SimpleNamespace(vocab=96, source_vocab=0)
    bundle: Any = SimpleNamespace(
        manifest=SimpleNamespace(lexicon="lexicon.npz", dims=dims), file=lambda _: file
    )
    lexicon = read_lexicon(bundle)
    if lexicon is not None:
        lexicon.allowed([3, 4, 95])


def _graph(data: bytes) -> None:
    importlib.import_module("seq2edge.bundle.onnx_file").read_onnx(data, "graph")


def _checked_graph(data: bytes) -> None:
    """With the manifest that it belongs to."""
    manifest = Manifest.from_bytes((ARTEFACTS / "bart" / "manifest.json").read_bytes())
    check_graph = importlib.import_module("seq2edge.bundle.graph_check").check_graph
    check_graph(data, manifest.graphs[1], manifest, "graph")


def _tokenizer(data: bytes) -> None:
    file = SCRATCH.file(data, "tokenizer.json")
    tokenizer = Tokenizer(file.parent, RECORD)
    tokenizer.decode(tokenizer.encode("w5 w6, ä\u0301 w700"))
    tokenizer.encode_texts("w5", "w6 w7", longest=4)


def _template(data: bytes) -> None:
    SCRATCH.file((ARTEFACTS / "llama" / "tokenizer.json").read_bytes(), "tokenizer.json")
    file = SCRATCH.file(data, "template.jinja")
    record = dataclasses.replace(RECORD, chat_template=file.name)
    messages = [{"role": "user", "content": "w5 w6"}, {"role": "assistant", "content": "w7"}]
    Tokenizer(file.parent, record).render_chat(messages)


def _examples(data: bytes) -> None:
    read_examples(SCRATCH.file(data, "examples.jsonl"), "generate")


def _times(data: bytes) -> None:
    kind = "json" if data[:1] == b"{" else "srt" if b"-->" in data else "tsv"
    read_times(SCRATCH.file(data, f"times.{kind}"))


def _recipe(data: bytes) -> None:
    importlib.import_module("seq2edge.training.recipe").read_recipe(SCRATCH.file(data))


def _gguf(data: bytes) -> None:
    llama = importlib.import_module("seq2edge.checkpoints.importers.gguf_llama")
    source = llama.open_llama(SCRATCH.file(data))
    for name in sorted(source.names)[:3]:
        source.read(name)


def _ctranslate2(data: bytes) -> None:
    module = importlib.import_module("seq2edge.checkpoints.importers.ctranslate2_file")
    module.read_variables(SCRATCH.file(data))


def _marian(data: bytes) -> None:
    module = importlib.import_module("seq2edge.checkpoints.importers.marian_file")
    module.read_marian(SCRATCH.file(data))


def _marian_lexicon(data: bytes) -> None:
    module = importlib.import_module("seq2edge.checkpoints.importers.marian_lexicon")
    module.read_lexicon(SCRATCH.file(data), source=96, target=96, shared=True)


def _sentencepiece(data: bytes) -> None:
    module = importlib.import_module("seq2edge.checkpoints.sentencepiece")
    module.read_pieces(SCRATCH.file(data))


def _safetensors(data: bytes) -> None:
    module = importlib.import_module("seq2edge.checkpoints.importers.huggingface")
    file = SCRATCH.file(data, "model.safetensors")
    SCRATCH.file(b'{"model_type": "bart"}', "config.json")
    source = module.open_folder(file.parent)
    for name in sorted(source.names)[:3]:
        source.read(name)


def _config(data: bytes) -> None:
    """A checkpoint's config, up to its dims and an empty model."""
    shutil.copyfile(
        ARTEFACTS / "checkpoint" / "model.safetensors",
        SCRATCH.file(data, "config.json").with_name("model.safetensors"),
    )
    load = importlib.import_module("seq2edge.checkpoints.load")
    load.load_checkpoint(SCRATCH.file(data, "config.json").parent)


FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect")


def _pickle(data: bytes) -> None:
    """As the process that reads pickles does; foreign errors end it, and that is all right."""
    unpickle = importlib.import_module("seq2edge.checkpoints.unpickle")
    file = SCRATCH.file(data)
    with _starting_nothing():
        try:
            unpickle.main(file, file.with_name("out.safetensors"), tied=True)
        except FindingError:
            raise
        except Exception:  # noqa: BLE001 - see above
            return


@contextlib.contextmanager
def _starting_nothing() -> Iterator[None]:
    """A block in which this process may start nothing. A hook stays for ever: it has a switch."""
    if not hasattr(sys, "_reader_listens"):
        sys.addaudithook(_hear)
    sys._reader_listens = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        sys._reader_listens = False  # type: ignore[attr-defined]


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event in FORBIDDEN and sys._reader_listens:  # type: ignore[attr-defined]
        raise FindingError(f"{event} {arguments!r:.200}")


SIDECAR = {
    "format": 2, "library": "tensorrt", "release": "10.16.2", "target": "orin", "role": "encoder",
    "form": "masked", "precision": "float32",
    "sizes": {"batch": [1, 2, 3], "beams": 4, "source": [1, 16, 40], "prompt": [1, 4, 8],
              "capacity": 40, "top_k": 0},
    "profiles": ["encoder"], "inputs": [{"name": "x", "dtype": "int64", "shape": ["batch", 7]}],
    "outputs": [], "graph_sha256": "0" * 64, "plan_sha256": "0" * 64, "layers": 4,
    "fused_attentions": [2], "cache_updates": [4], "cache_copies": [0], "products": {"a": 1},
    "build_seconds": 1.0, "build_peak_bytes": None, "created": "2026-01-31T23:59:59Z",
}  # fmt: skip
ROW = {"input": "w5 w6", "references": ["w5", "w7"], "domain": "news"}
RECIPE = """objective = "seq2seq"
seed = 1
[data]
train = ["a.tsv"]
[tokenizer]
kind = "words"
size = 100
[model]
width = 64
[optimizer]
steps = 10
learning_rate = 2e-3
"""
TEMPLATES = (
    """{% for m in messages %}{{ bos_token }}{{ m['role'] | upper }}: {{ m.content.strip() }}
{% endfor %}{% if add_generation_prompt %}A:{% endif %}""",
    """{%- set ns = namespace(x=1) -%}{% for i in range(3) %}{% set ns.x = ns.x * 2 %}{{ ns.x }}
{% endfor %}{{ messages | tojson }}{{ '%s' % 4 }}{{ 'a' ~ 'b' * 3 }}{{ raise_exception('x') }}""",
    """{% macro f(x) %}{% if x %}{{ f(x[1:]) }}{% endif %}{% endmacro %}{{ f('abc') }}
{{ ['a', 'b'] | join(',') }}{{ 'abc'.replace('a', 'b').split('b') }}{{ messages[-1:] }}""",
)
WAV = (
    b"RIFF\x44\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x80>\x00\x00\x00}\x00\x00"
    b"\x02\x00\x10\x00data\x20\x00\x00\x00" + bytes(range(32))
)
READERS: dict[str, Reader] = {
    "manifest": Reader(
        read=Manifest.from_bytes, seeds=("bart/manifest.json", "bert/manifest.json")
    ),
    "engine": Reader(
        read=lambda data: EngineInfo.from_bytes(data, "engine"),
        seeds=(json.dumps(SIDECAR).encode(),),
    ),
    "archive": Reader(read=_archive, seeds=("bart.s2e",)),
    "graph": Reader(
        read=_graph,
        seeds=("bart/encoder.onnxruntime.onnx", "bart/decoder.onnx"),
        needs="seq2edge.bundle.onnx_file",
    ),
    "checked graph": Reader(
        read=_checked_graph,
        seeds=("bart/encoder.onnxruntime.onnx",),
        needs="seq2edge.bundle.graph_check",
    ),
    "reference": Reader(
        read=lambda data: read_reference(SCRATCH.file(data), limit_bytes=SMALL),
        seeds=("bert/reference.npz", "bart/reference.npz"),
    ),
    "lexicon": Reader(read=_lexicon, seeds=("lexicon.npz",)),
    "shortlist": Reader(read=lambda data: read_ids(SCRATCH.file(data)), seeds=(b"3\n5\n95\n",)),
    "tokenizer": Reader(read=_tokenizer, seeds=("bart/tokenizer.json", "bert/tokenizer.json")),
    "template": Reader(read=_template, seeds=tuple(text.encode() for text in TEMPLATES)),
    "sound": Reader(read=read_clip, seeds=(WAV,)),
    "compressed sound": Reader(read=read_clip, seeds=(WAV,), needs="soundfile"),
    "video": Reader(read=read_clip, seeds=(WAV,), needs="av"),
    "examples": Reader(read=_examples, seeds=(json.dumps(ROW).encode(),)),
    "times": Reader(read=_times, seeds=TIMES),
    "recipe": Reader(read=_recipe, seeds=(RECIPE.encode(),)),
    "gguf": Reader(read=_gguf, seeds=("gguf/model.gguf",), needs="torch"),
    "ctranslate2": Reader(read=_ctranslate2, seeds=("ctranslate2/model.bin",), needs="torch"),
    "marian": Reader(read=_marian, seeds=("marian/model.aabb.bin",), needs="torch"),
    "marian lexicon": Reader(read=_marian_lexicon, seeds=("lexicon.bin",), needs="torch"),
    "sentencepiece": Reader(
        read=_sentencepiece, seeds=("marian/vocab.aabb.spm",), needs="sentencepiece"
    ),
    "safetensors": Reader(
        read=_safetensors, seeds=("checkpoint/model.safetensors",), needs="torch"
    ),
    "config": Reader(read=_config, seeds=("checkpoint/config.json",), needs="torch"),
    "pickle": Reader(read=_pickle, seeds=("pickle.bin",), needs="torch"),
}
