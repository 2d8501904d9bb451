"""An embedding that starts from word vectors (Mikolov et al. 2013, Pennington et al. 2014).

Files of them are read as word2vec (text, binary), fastText (text) and GloVe publish them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders
from torch import nn

from seq2edge.errors import TrainingError
from seq2edge.files.compressed import READ_ERRORS, content_suffix, open_bytes
from seq2edge.files.progress import Say
from seq2edge.files.storage import file_errors, replacing
from seq2edge.model.transformer import Transformer
from seq2edge.training.corpus import Corpus
from seq2edge.training.run_folder import TOKENIZER, Run, read_json, write_json

VALUES, REPORT = "vectors.npz", "vectors.json"
SHOWN = 5  # tokens without a vector that a report names
CHUNK = 2**22  # token ids that are counted at once
LONGEST_WORD = 4096  # bytes; more means that this is no file of vectors
Vector: TypeAlias = NDArray[np.float32]  # (width,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """One embedding: its name in the model, its file, and the corpus columns that it embeds."""

    name: str
    side: str
    tokenizer: str
    columns: tuple[int, ...]


def prepare_vectors(run: Run, say: Say) -> None:
    """Find the vectors of the run's vocabularies once, and keep them in its folder.

    Raises TrainingError for broken files, another width than the model's, and where no token of
    the vocabularies has a vector.
    """
    recipe, folder = run.recipe.vectors, run.folder
    if not recipe.file or (folder / REPORT).is_file():
        return
    tables = [t for t in _tables(run) if recipe.tables in ("both", t.side)]
    words = [_words(Tokenizer.from_file(str(folder / TOKENIZER / t.tokenizer))) for t in tables]
    sought = {form for known in words for word in known.values() for form in _forms(word)}
    path = Path(recipe.file)
    say(f"reading {path.name}")
    read = read_vectors(path, sought, run.setup.dims.width)
    values: dict[str, NDArray[Any]] = {}
    report = []
    for table, known in zip(tables, words, strict=True):
        ids, vectors = _matched(known, read)
        values[f"{table.name}.ids"] = ids
        values[f"{table.name}.vectors"] = scaled(vectors) if len(ids) else vectors
        report.append(_coverage(table, known, ids, run.train, frozen=recipe.frozen))
    if not any(entry["found"] for entry in report):
        raise TrainingError(f"{path}: has a vector for no word of the vocabulary")
    for entry in report:
        say(_sentence(entry))
    _keep(folder, values, {"file": path.name, "tables": report})


def fill_vectors(model: Transformer, run: Run) -> None:
    """Put the kept vectors into the model's tables; frozen tables that got some do not learn."""
    frozen = run.recipe.vectors.frozen
    with np.load(run.folder / VALUES, allow_pickle=False) as values, torch.no_grad():
        for name in ("embedding", "source_embedding"):
            ids = values.get(f"{name}.ids")
            if ids is None or not len(ids):
                continue
            table: nn.Embedding = getattr(model, name)
            table.weight[torch.from_numpy(ids)] = torch.from_numpy(values[f"{name}.vectors"])
            table.weight.requires_grad = not frozen


def report_of(run: Run) -> dict[str, Any]:
    """What `training.json` says about the vectors."""
    return {"vectors": read_json(run.folder / REPORT)}


def scaled(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(tokens, width), all multiplied by one number so that their mean square is 1 / width.

    That is the variance of a new table, so tokens with and without a vector weigh the same, and
    angles and relative lengths stay.
    """
    square = float(np.mean(np.square(vectors, dtype=np.float64)))
    if square == 0:
        return vectors
    factor = np.float32((square * vectors.shape[1]) ** -0.5)
    return vectors * factor


def whole_word(token: str, tokenizer: Tokenizer) -> str:
    """The word that a token is, "" for a part of one; the tokenizer's model says how words begin.

    A word-level token is a word. Of subwords only those with the mark of a word's beginning are.
    """
    decoder = tokenizer.decoder
    if decoder is None:
        return token
    if isinstance(decoder, decoders.ByteLevel) and token.startswith("Ġ"):
        return str(decoder.decode([token])).strip()
    if isinstance(decoder, decoders.Metaspace) and token.startswith("▁"):
        return token[1:]
    return ""


def _keep(folder: Path, values: dict[str, NDArray[Any]], report: dict[str, Any]) -> None:
    """Write the vectors, then the report, which says that they are there."""
    path = folder / VALUES
    with (
        file_errors(path, TrainingError),
        replacing(path) as partial,
        partial.open("wb") as file,
    ):
        np.savez(file, **values)  # type: ignore[arg-type] # arrays alone
    write_json(folder / REPORT, report)


def _tables(run: Run) -> Iterator[Table]:
    """The model's embeddings and the columns of the training corpus that each one reads."""
    record = run.setup.tokenizer
    if record.target is None:
        columns = range(len(run.train.ids) if run.recipe.objective != "classify" else 1)
        yield Table(name="embedding", side="both", tokenizer=record.source, columns=tuple(columns))
        return
    yield Table(name="source_embedding", side="source", tokenizer=record.source, columns=(0,))
    yield Table(name="embedding", side="target", tokenizer=record.target, columns=(1,))


def _words(tokenizer: Tokenizer) -> dict[int, bytes]:
    """Ids of all tokens that are words, special ones left out, and the words."""
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    words = {}
    for token, i in tokenizer.get_vocab(with_added_tokens=True).items():
        word = "" if token in special else whole_word(token, tokenizer)
        if word and not re.fullmatch(r"\s*", word):
            words[i] = word.encode()
    return words


def _forms(word: bytes) -> tuple[bytes, bytes]:
    """In the order in which a file is asked for them."""
    return word, word.decode().lower().encode()


def _matched(
    words: dict[int, bytes], read: dict[bytes, Vector]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    ids, vectors = [], []
    for i, word in sorted(words.items()):
        form = next((form for form in _forms(word) if form in read), None)
        if form is not None:
            ids.append(i)
            vectors.append(read[form])
    return np.array(ids, dtype=np.int64), np.array(vectors, dtype=np.float32)


def _coverage(
    table: Table,
    words: dict[int, bytes],
    ids: NDArray[np.int64],
    corpus: Corpus,
    *,
    frozen: bool,
) -> dict[str, Any]:
    """What the report says of one table: words with a vector, their share, who lacks one."""
    counts = np.zeros(max([*words, 0]) + 1, dtype=np.int64)
    for column in table.columns:
        tokens = corpus.ids[column]
        for start in range(0, len(tokens), CHUNK):
            part = tokens[start : start + CHUNK]
            counts += np.bincount(part[part < len(counts)], minlength=len(counts))
    ordinary = sum(int(counts[i]) for i in words)
    missing = sorted(set(words) - set(ids.tolist()), key=lambda i: (-counts[i], i))
    return {
        "table": table.side,
        "words": len(words),
        "found": len(ids),
        "share_of_words_read": round(float(counts[ids].sum()) / ordinary, 4) if ordinary else 0.0,
        "missing": [words[i].decode() for i in missing[:SHOWN]],
        "frozen": frozen and bool(len(ids)),
    }


def _sentence(entry: dict[str, Any]) -> str:
    side = "embedding" if entry["table"] == "both" else f"{entry['table']} embedding"
    without = f", most frequent without: {' '.join(entry['missing'])}" if entry["missing"] else ""
    kept = ", fixed" if entry["frozen"] else ""
    return (
        f"{side}: vectors for {entry['found']:,} of {entry['words']:,} words, "
        f"{entry['share_of_words_read']:.1%} of those in the training files{kept}{without}"
    )


def read_vectors(path: Path, words: Collection[bytes], width: int) -> dict[bytes, Vector]:
    """The vectors of `words` (UTF-8) that the file has; of a word that stands twice, the first.

    A name that ends in .bin is word2vec's binary form, every other one text: a word and its
    numbers a line, below a line `count width` (word2vec) or without it (GloVe). .gz, .bz2 and .xz
    are read too. Raises TrainingError for another width, and for broken files with the place.
    """
    if path.suffix == ".zip":
        raise TrainingError(f"{path}: an archive, unpack it and name one of its files")
    vectors: dict[bytes, Vector] = {}
    read = _binary if content_suffix(path) == ".bin" else _text
    try:
        with open_bytes(path) as file:
            for word, vector in read(file, path, words, width):
                vectors.setdefault(word, vector)
    except READ_ERRORS as error:
        fact = getattr(error, "strerror", None) or error
        raise TrainingError(f"{path}: cannot be read: {fact}") from error
    return vectors


def _text(
    file: IO[bytes], path: Path, words: Collection[bytes], width: int
) -> Iterator[tuple[bytes, Vector]]:
    """Lines; a word may have spaces in it, as some of GloVe's have."""
    first = file.readline()
    counted = re.fullmatch(rb"(\d+) (\d+)\s*", first)
    if not counted:
        _check_width(path, len(first.split()) - 1, width)
        yield from _line(first, 1, path, words, width)
    else:
        _check_width(path, int(counted[2]), width)
    number, header = 1, 1 if counted else 0
    for number, line in enumerate(file, start=2):
        yield from _line(line, number, path, words, width)
    if counted and number - header != int(counted[1]):
        raise TrainingError(
            f"{path}: holds {number - header:,} vectors, its first line says {int(counted[1]):,}; "
            "fetch it again"
        )


def _line(
    line: bytes, number: int, path: Path, words: Collection[bytes], width: int
) -> Iterator[tuple[bytes, Vector]]:
    """The word and vector of one line, or nothing where nobody asked for the word."""
    word, *numbers = line.rstrip().rsplit(b" ", width)
    if len(numbers) != width:
        raise TrainingError(f"{path}:{number}: {len(numbers)} numbers, expected {width}")
    if word not in words:
        return
    try:
        vector = np.array(numbers, dtype=np.float32)
    except ValueError as error:
        raise TrainingError(f"{path}:{number}: not numbers: {error}") from error
    if not np.isfinite(vector).all():
        raise TrainingError(f"{path}:{number}: a number is not finite")
    yield word, vector


def _binary(
    file: IO[bytes], path: Path, words: Collection[bytes], width: int
) -> Iterator[tuple[bytes, Vector]]:
    """A line `count width`, then each word, a space and `width` little-endian float32."""
    header = file.readline(100)
    counted = re.fullmatch(rb"(\d+) (\d+)\s*", header)
    if not counted:
        raise TrainingError(f"{path}: begins with {header[:40]!r}, not with a count and a width")
    count = int(counted[1])
    _check_width(path, int(counted[2]), width)
    offset = len(header)
    for number in range(count):
        raw = bytearray()
        while (byte := file.read(1)) not in (b" ", b"") and len(raw) <= LONGEST_WORD:
            raw += byte
        data = file.read(4 * width)
        offset += len(raw) + 1
        if byte != b" " or len(data) < 4 * width:
            raise TrainingError(
                f"{path}: ends or breaks at byte {offset:,} in vector {number + 1:,} of {count:,}; "
                "fetch it again"
            )
        word = bytes(raw.lstrip(b"\n"))
        if word in words:
            vector = np.frombuffer(data, dtype="<f4").astype(np.float32)
            if not np.isfinite(vector).all():
                raise TrainingError(f"{path}: byte {offset:,}: a number is not finite")
            yield word, vector
        offset += len(data)
    if rest := file.read(100).strip():
        raise TrainingError(f"{path}: goes on at byte {offset:,} after {count:,} vectors: {rest!r}")


def _check_width(path: Path, file_width: int, width: int) -> None:
    if file_width != width:
        raise TrainingError(
            f"{path}: its vectors have width {file_width}, the model has {width}; "
            f"set model.width to {file_width} or choose another file"
        )
