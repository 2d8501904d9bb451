"""Runs on a local Ray of two processors, by a Python that has it; see tests/serve/test_ray.py.

python ray_runs.py batch|serve BUNDLE FOLDER    # answers FOLDER/in, writes FOLDER/result.json
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seq2edge.errors import Seq2EdgeError
from seq2edge.serve.batch import predict_file
from seq2edge.serve.predictor import Predictor
from seq2edge.serve.ray import _ray, application, on_ray

SETTINGS = {"load": {"device": "cpu", "threads": 1}, "decode": {"max_new_tokens": 8}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logged(Predictor):
    """Writes down which process answered."""

    log: str

    def __call__(self, rows):
        """As it does."""
        with Path(self.log).open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.1)  # so that the work is not done before somebody is killed
        return super().__call__(rows)


def kill_one(log: Path, parts: Path) -> None:
    """Kill the process that answered first, as soon as two answer and a shard is finished."""
    while not (log.exists() and len(set(log.read_text().split())) == 2 and any(parts.glob("s*"))):
        time.sleep(0.01)
    os.kill(int(log.read_text().split()[0]), signal.SIGKILL)


def batch(bundle: str, folder: Path) -> None:
    """Answer a file with two actors, one of which is killed; also how many processes worked."""
    log = folder / "log"
    predictor = Logged(bundle=bundle, task="generate", log=str(log), **SETTINGS)
    threading.Thread(target=kill_one, args=(log, folder / "out.parts"), daemon=True).start()
    outcome = predict_file(predictor, folder / "in", folder / "out", rows=2, compute=on_ray(2))
    result = {**vars(outcome), "processes": len(set(log.read_text().split())), "failure": ""}
    wrong = dataclasses.replace(predictor, decode={"max_tokens": 8})
    try:
        predict_file(wrong, folder / "in", folder / "other", rows=40, compute=on_ray(1))
    except Seq2EdgeError as error:
        result["failure"] = str(error)
    (folder / "result.json").write_text(json.dumps(result))


def post(row: object) -> tuple[int, object]:
    """Status and answer of a request."""
    request = urllib.request.Request("http://127.0.0.1:8000/", data=json.dumps(row).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def serve(bundle: str, folder: Path) -> None:
    """Answer every row of a file by two replicas at once: answers, statuses, replicas."""
    from ray import serve

    serve.run(application({"bundle": bundle, "task": "generate", "replicas": 2, **SETTINGS}))
    rows = [json.loads(line) for line in (folder / "in").read_text().splitlines()]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(post, [*rows, {"no": "text"}]))
    states = serve.status().applications["default"].deployments["Replica"].replica_states
    result = {
        "answers": [answer for _, answer in replies],
        "statuses": Counter(status for status, _ in replies),
        "replicas": states,
    }
    (folder / "result.json").write_text(json.dumps(result))


def main() -> None:
    """See the module."""
    ray = _ray()
    ray.init(num_cpus=2, include_dashboard=False)
    from ray._common.usage import usage_lib

    assert not usage_lib.usage_stats_enabled()
    {"batch": batch, "serve": serve}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))


if __name__ == "__main__":
    main()
