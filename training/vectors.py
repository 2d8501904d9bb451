"""An embedding that starts from word vectors (Mikolov et al. 2013, Pennington et al. 2014)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders
from torch import nn

from seq2edge.errors import TrainingError
from seq2edge.files.storage import file_errors, hidden_sibling
from seq2edge.model.transformer import Transformer
from seq2edge.training.corpus import Corpus
from seq2edge.training.run_folder import TOKENIZER, Run, read_json, write_json
from seq2edge.training.vector_files import Vector, read_vectors

VALUES, REPORT = "vectors.npz", "vectors.json"
SHOWN = 5  # tokens without a vector that a report names
CHUNK = 2**22  # token ids that are counted at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """One embedding: its name in the model, its file, and the corpus columns that it embeds."""

    name: str
    side: str
    tokenizer: str
    columns: tuple[int, ...]


def prepare_vectors(material: Run, folder: Path, say: Callable[[str], None]) -> None:
    """Find the vectors of the run's vocabularies once, and keep them in its folder.

    Raises TrainingError for broken files, another width than the model's, and where no token of
    the vocabularies has a vector.
    """
    wanted = material.recipe.vectors
    if not wanted.file or (folder / REPORT).is_file():
        return
    tables = [t for t in _tables(material) if wanted.tables in ("both", t.side)]
    words = [_words(Tokenizer.from_file(str(folder / TOKENIZER / t.tokenizer))) for t in tables]
    sought = {form for known in words for word in known.values() for form in _forms(word)}
    path = Path(wanted.file)
    say(f"reading {path.name}")
    found = read_vectors(path, sought, material.facts.dims.width)
    values: dict[str, NDArray[Any]] = {}
    report = []
    for table, known in zip(tables, words, strict=True):
        ids, vectors = _matched(known, found)
        values[f"{table.name}.ids"] = ids
        values[f"{table.name}.vectors"] = scaled(vectors) if len(ids) else vectors
        report.append(_coverage(table, known, ids, material.train, frozen=wanted.frozen))
    if not any(entry["found"] for entry in report):
        raise TrainingError(f"{path}: has a vector for no word of the vocabulary")
    for entry in report:
        say(_sentence(entry))
    _keep(folder, values, {"file": path.name, "tables": report})


def fill_vectors(model: Transformer, folder: Path, *, frozen: bool) -> None:
    """Put the kept vectors into the model's tables; `frozen` tables that got some do not learn."""
    with np.load(folder / VALUES, allow_pickle=False) as values, torch.no_grad():
        for name in ("embedding", "source_embedding"):
            ids = values.get(f"{name}.ids")
            if ids is None or not len(ids):
                continue
            table: nn.Embedding = getattr(model, name)
            table.weight[torch.from_numpy(ids)] = torch.from_numpy(values[f"{name}.vectors"])
            table.weight.requires_grad = not frozen


def report_of(folder: Path) -> dict[str, Any]:
    """What `training.json` says about the vectors."""
    return {"vectors": read_json(folder / REPORT)}


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
    partial = hidden_sibling(folder / VALUES)
    try:
        with file_errors(folder / VALUES, TrainingError):
            with partial.open("wb") as file:
                np.savez(file, **values)  # type: ignore[arg-type] # arrays alone
            partial.replace(folder / VALUES)
    finally:
        partial.unlink(missing_ok=True)
    write_json(folder / REPORT, report)


def _tables(material: Run) -> Iterator[Table]:
    record = material.facts.tokenizer
    columns = tuple(range(len(material.train.ids)))
    if record.target is None:
        seen = columns if material.recipe.objective != "classify" else (0,)
        yield Table(name="embedding", side="both", tokenizer=record.source, columns=seen)
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
    words: dict[int, bytes], found: dict[bytes, Vector]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    ids, vectors = [], []
    for i, word in sorted(words.items()):
        form = next((form for form in _forms(word) if form in found), None)
        if form is not None:
            ids.append(i)
            vectors.append(found[form])
    return np.array(ids, dtype=np.int64), np.array(vectors, dtype=np.float32)


def _coverage(
    table: Table,
    words: dict[int, bytes],
    ids: NDArray[np.int64],
    corpus: Corpus,
    *,
    frozen: bool,
) -> dict[str, Any]:
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
