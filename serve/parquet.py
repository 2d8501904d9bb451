"""Files of Parquet as JSON lines and back: part by part, whatever their size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from seq2edge.errors import BackendError, InputError, foreign_errors

try:
    import pyarrow as pa
    from pyarrow import parquet
except ModuleNotFoundError as error:
    raise BackendError("Parquet: needs pyarrow; pip install seq2edge[parquet]") from error

ROWS = 1000  # that are read at a time


def to_lines(source: Path, destination: Path) -> None:
    """Write each row of `source` as a line of JSON; a value that is null is none.

    Raises InputError for a file that is no Parquet, and for values that JSON has no type for.
    """
    with (
        foreign_errors(InputError, source),
        parquet.ParquetFile(source) as rows,
        destination.open("w", encoding="utf-8") as file,
    ):
        for batch in rows.iter_batches(ROWS):
            for row in batch.to_pylist():
                values = {name: value for name, value in row.items() if value is not None}
                file.write(json.dumps(values, ensure_ascii=False, default=_no_json) + "\n")


def _no_json(value: Any) -> NoReturn:
    kind = type(value).__name__
    raise ValueError(f"a {kind} in a column; rows have texts, numbers, lists and structs alone")


def from_lines(shards: Sequence[Path], destination: Path) -> None:
    """Write the JSON lines of each file as a group of rows, with the columns that any of them has.

    Raises InputError where a column's values have no type in common.
    """
    with foreign_errors(InputError, "answers: cannot be Parquet, write .jsonl"):
        kinds = [pa.schema([]), *map(_kind, shards)]
        schema = pa.unify_schemas(kinds, promote_options="permissive")
        with parquet.ParquetWriter(destination, schema) as writer:
            for shard in shards:
                writer.write_table(pa.Table.from_pylist(_rows(shard), schema))


def _rows(shard: Path) -> list[dict[str, Any]]:
    return list(map(json.loads, shard.read_bytes().splitlines()))


def _kind(shard: Path) -> Any:
    """The columns of a file's rows."""
    rows = _rows(shard)
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in names}).schema
