"""A file of rows to a file of answers: every line in its place, whatever is killed on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import killing
import pytest

from seq2edge.errors import InputError
from seq2edge.serve.batch import Outcome, in_processes, predict_file
from seq2edge.serve.predictor import Predictor

ROWS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Echo(Predictor):
    """Answers without a model, and writes down what it was called with."""

    log: str

    def __call__(self, rows):
        """A row for each, errors of some."""
        with Path(self.log).open("ab", buffering=0) as file:
            file.write(b"".join(rows))
        lines = [json.loads(row) for row in rows]
        return [{"error": "no"} if line["n"] % 5 == 4 else line for line in lines]


@pytest.fixture
def echo(tmp_path, folder):
    """Ten rows in a file, four shards of three."""
    (tmp_path / "in").write_text("".join(f'{{"n": {n}}}\n' for n in range(10)))
    return Echo(bundle=str(folder), task="generate", log=str(tmp_path / "log"))


def run(echo, tmp_path, **options):
    """Answer the file in this process."""
    options = {"rows": ROWS, "compute": in_processes(1), **options}
    return predict_file(echo, tmp_path / "in", tmp_path / "out", **options)


def expect_all(tmp_path):
    """Ten lines in their order, two of them errors; nothing else is left."""
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert lines == [{"error": "no"} if n % 5 == 4 else {"n": n} for n in range(10)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "log", "model", "out"]


def test_every_line_has_its_answer_in_its_place(echo, tmp_path):
    """Also a last one that has no end of line; an empty file becomes an empty one."""
    (tmp_path / "in").write_bytes((tmp_path / "in").read_bytes().rstrip())
    assert run(echo, tmp_path) == Outcome(lines=10, errors=2)
    expect_all(tmp_path)
    (tmp_path / "in").write_bytes(b"")
    (tmp_path / "out").unlink()
    assert run(echo, tmp_path) == Outcome(lines=0, errors=0)
    assert (tmp_path / "out").read_bytes() == b""


def test_a_killed_run_is_gone_on_with(echo, tmp_path):
    """Wherever it is killed: finished shards are answered once, the file is whole or not there."""

    def once():
        return run(echo, tmp_path)

    changes = killing.count_changes(once)
    assert changes > 20
    for number in range(changes):
        (tmp_path / "log").unlink()
        (tmp_path / "out").unlink(missing_ok=True)
        assert killing.end(once, kill_at=number) == "killed"
        finished = {
            line
            for path in tmp_path.glob("out.parts/shard-*.jsonl")
            for line in path.read_text().splitlines()
        }
        before = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""
        if (tmp_path / "out").exists() and not (tmp_path / "out.parts" / "plan.json").exists():
            with pytest.raises(InputError, match="out: exists, remove it"):
                once()
            (tmp_path / "log").touch()
        else:
            whole = (tmp_path / "out").exists()
            once()
            log = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""
            again = log[len(before) :]
            assert not finished & set(again.splitlines())
            assert not (whole and again)
            expect_all(tmp_path)


def test_shards_of_another_run_are_not_gone_on_with(echo, tmp_path):
    """Other rows, options, sizes of shards or an other input are named; so is what exists."""

    def cut(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(echo, tmp_path, progress=cut)
    for other, options, name in (
        (echo, {"rows": 4}, "rows"),
        (dataclasses.replace(echo, decode={"num_beams": 2}), {}, "settings"),
        (dataclasses.replace(echo, task="chat"), {}, "task"),
    ):
        with pytest.raises(InputError, match=f"out.parts: shards of a run with another {name};"):
            run(other, tmp_path, **options)
    (tmp_path / "in").write_text('{"n": 1}\n')
    with pytest.raises(InputError, match="another input"):
        run(echo, tmp_path)
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="another input"):
        run(echo, tmp_path)


def test_a_file_that_exists_is_not_replaced(echo, tmp_path):
    """Nor is a folder emptied that holds anything else."""
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="out: exists, remove it or choose another name"):
        run(echo, tmp_path)
    assert (tmp_path / "out").read_text() == "mine"
    (tmp_path / "out").unlink()
    (tmp_path / "out.parts").mkdir()
    (tmp_path / "out.parts" / "mine").touch()
    with pytest.raises(InputError, match=r"out\.parts: Directory not empty"):
        run(echo, tmp_path)


@pytest.fixture
def translating(speaking, tmp_path):
    """The command line for 40 rows of a real bundle, in two processes; and what it should say."""
    bundle, options = str(speaking("bart")), {"max_new_tokens": 8}
    rows = [{"text": f"w{5 + n % 80} w{7 + n % 60}", "id": n} for n in range(40)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    predictor = Predictor(bundle=bundle, task="generate", load={"device": "cpu"}, decode=options)
    command = [
        sys.executable, "-m", "seq2edge.cli", "batch", bundle, tmp_path / "in.jsonl",
        tmp_path / "out.jsonl", "--task", "generate", "--processes", "2", "--rows", "5",
        "--device", "cpu", "--max-new-tokens", "8",
    ]  # fmt: skip
    return list(map(str, command)), predictor(rows)


def children(pid):
    """Processes that a process started."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def alive(pid):
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=60):
    """Until something is so."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.01)


def test_several_processes_and_one_killed(translating, tmp_path):
    """SIGKILL of a worker is told in a line; after that, and after one of all, it goes on."""
    command, expected = translating
    parts = tmp_path / "out.jsonl.parts"

    def begin():
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: process.poll() is not None or any(parts.glob("shard-*")))
        return process

    with begin() as process:
        workers = children(process.pid)
        os.kill(process.pid, signal.SIGSTOP)  # so that the work is not done before
        os.kill(workers[-1], signal.SIGKILL)
        os.kill(process.pid, signal.SIGCONT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Error: batch: a process was killed" in errors
    assert not (tmp_path / "out.jsonl").exists()
    with begin() as process:
        workers = children(process.pid)
        process.kill()
    wait_for(lambda: not any(map(alive, workers)))
    shards = {path: path.stat().st_mtime_ns for path in parts.glob("shard-*")}
    assert 0 < len(shards) < 8
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "out.jsonl: 40 lines, 0 errors" in done.stderr
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [answer["id"] for answer in answers] == list(range(40))
    texts = [[result["text"] for result in answer["results"]] for answer in answers]
    assert texts == [[result["text"] for result in answer["results"]] for answer in expected]


def test_workers_end_with_who_started_them():
    """Also in the middle of a shard, when that one was killed."""
    code = (
        "import time\nfrom seq2edge.serve.batch import in_processes\n"
        "list(in_processes(2)(time.sleep, [600, 600]))"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        wait_for(lambda: len(children(process.pid)) == 3)  # with multiprocessing's own tracker
        workers = children(process.pid)
        time.sleep(1)  # they are at work
        process.kill()
    wait_for(lambda: not any(map(alive, workers)), 20)
