"""Batches of Parquet: a row for each row, of the same answers as JSON lines have."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import sys

import pytest

from seq2edge.errors import BackendError, InputError
from seq2edge.serve.batch import Outcome, in_processes, predict_file
from seq2edge.serve.predictor import Predictor

ROWS = [
    {"id": n, "text": f"w{n}", **({"pair": "é"} if n % 2 else {}), "tags": [n] * (n % 3)}
    for n in range(10)
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Echo(Predictor):
    """Answers what it reads, errors of some, without a model."""

    def __call__(self, rows):
        """A row for each."""
        lines = [json.loads(row) for row in rows]
        return [{"error": "no", "id": x["id"]} if x["id"] in (4, 9) else x for x in lines]


@pytest.fixture
def echo(folder):
    """For any bundle."""
    return Echo(bundle=str(folder), task="generate")


@pytest.fixture
def parquet():
    """The library's module for these files."""
    return pytest.importorskip("pyarrow.parquet", reason="needs seq2edge[parquet]")


def write(parquet, path, rows, **options):
    """A file of these rows, a few in a group."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    parquet.write_table(sys.modules["pyarrow"].table(columns), path, row_group_size=4)


def run(echo, tmp_path, source="in.parquet", destination="out.parquet", **more):
    """Answer a file in this process, three rows a shard."""
    files = tmp_path / source, tmp_path / destination
    return predict_file(echo, *files, **{"rows": 3, "compute": in_processes(1), **more})


def test_a_row_for_each_row(echo, tmp_path, parquet):
    """In and out, and from or to lines of JSON; a value that is null is not there."""
    answers = [row if row["id"] not in (4, 9) else {"error": "no", "id": row["id"]} for row in ROWS]
    write(parquet, tmp_path / "in.parquet", ROWS)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for source in ("in.parquet", "in.jsonl"):
        for destination in ("out.parquet", "out.jsonl"):
            assert run(echo, tmp_path, source, destination) == Outcome(lines=10, errors=2)
        lines = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
        assert list(lines) == answers
        table = parquet.ParquetFile(tmp_path / "out.parquet")
        rows = [{k: v for k, v in row.items() if v is not None} for row in table.read().to_pylist()]
        assert rows == answers
        assert table.num_row_groups == 4
        for path in tmp_path.glob("out.*"):
            path.unlink()
    assert {path.name for path in tmp_path.iterdir()} == {"in.parquet", "in.jsonl", "model"}


def test_a_run_that_was_cut_goes_on(echo, tmp_path, parquet):
    """Behind its finished shards; another file of rows is refused."""
    write(parquet, tmp_path / "in.parquet", ROWS)
    finished = []

    def cut(shards, _):
        finished.append(shards)
        if len(finished) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(echo, tmp_path, progress=cut)
    assert len(list(tmp_path.glob("out.parquet.parts/shard-*"))) == 2
    assert run(echo, tmp_path, progress=lambda *step: finished.append(step[0])).lines == 10
    assert finished[2:] == ["3 of 4 shards", "4 of 4 shards"]


def test_no_rows_are_no_rows(echo, tmp_path, parquet):
    """As of an empty file."""
    write(parquet, tmp_path / "in.parquet", [])
    assert run(echo, tmp_path) == Outcome(lines=0, errors=0)
    assert parquet.read_table(tmp_path / "out.parquet").num_rows == 0


def test_what_is_no_table_of_rows_is_one_line(echo, tmp_path, parquet):
    """A file that is none, values that JSON has no type for, answers of no common type."""
    (tmp_path / "in.parquet").write_bytes(b"PAR1 none")
    with pytest.raises(InputError, match=r"in\.parquet: "):
        run(echo, tmp_path)
    write(parquet, tmp_path / "in.parquet", [{"id": dt.date(2026, 1, 1)}])
    with pytest.raises(InputError, match=r"in\.parquet: a date in a column; rows have texts"):
        run(echo, tmp_path)
    (tmp_path / "in.jsonl").write_text('{"id": 1}\n{"id": "a"}\n')
    with pytest.raises(InputError, match=r"answers: cannot be Parquet, write \.jsonl: "):
        run(echo, tmp_path, "in.jsonl")


def test_without_its_library_the_extra_is_named(echo, tmp_path, monkeypatch):
    """For a file of Parquet alone."""
    monkeypatch.delitem(sys.modules, "seq2edge.serve.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BackendError, match=r"pip install seq2edge\[parquet\]"):
        run(echo, tmp_path)
