"""The real Triton of nvidia-pytriton, started on a model repository by a Python that has it.

That Python must be a shared library (libpython), as Debian's is: the stub of the backend loads it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import seq2edge

WHERE = """
import sys, sysconfig
from pytriton.utils.distribution import get_libs_path, get_root_module_path, get_stub_path
version = ".".join(map(str, sys.version_info[:2]))
print(get_root_module_path() / "tritonserver", get_libs_path(), get_stub_path(version))
print(sysconfig.get_path("purelib"))
"""


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def triton(python: str, repository: Path, folder: Path) -> Iterator[str]:
    """Yields the address of a server that is ready; it is ended afterwards."""
    code = [python, "-c", WHERE]
    printed = subprocess.run(code, capture_output=True, text=True, check=True).stdout
    server, libraries, stub, packages = printed.split()
    shutil.copytree(
        server, folder / "server", ignore=shutil.ignore_patterns("*_stubs", "__pycache__")
    )
    shutil.copy(stub, folder / "server" / "backends" / "python")
    http, port = free_port(), free_port()
    command = [
        folder / "server" / "bin" / "tritonserver", f"--model-repository={repository}",
        f"--backend-directory={folder / 'server' / 'backends'}", f"--http-port={http}",
        "--http-address=127.0.0.1", f"--grpc-port={port}", "--grpc-address=127.0.0.1",
        "--allow-metrics=false",
    ]  # fmt: skip
    # The stub heeds no PYTHONPATH; what it imports must be installed or lie beside it.
    for package in (Path(seq2edge.__file__).resolve().parent, *Path(packages).glob("[!_]*")):
        (folder / "server" / "backends" / "python" / package.name).symlink_to(package)
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries}
    log = folder / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)
    address = f"http://127.0.0.1:{http}/v2"
    try:
        limit = time.monotonic() + 60
        while not ready(address):
            if process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(log.read_text())
            time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def ready(address: str) -> bool:
    """Whether all models are loaded."""
    try:
        with urllib.request.urlopen(f"{address}/health/ready", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def infer(address: str, model: str, lines: list[str]) -> list[Any]:
    """The answers to rows, in one request of KServe's protocol."""
    tensor = {"name": "row", "shape": [len(lines), 1], "datatype": "BYTES", "data": lines}
    request = urllib.request.Request(
        f"{address}/models/{model}/infer", data=json.dumps({"inputs": [tensor]}).encode()
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        (output,) = json.load(reply)["outputs"]
    return [json.loads(line) for line in output["data"]]


def statistics(address: str, model: str) -> dict[str, Any]:
    """How many requests were answered, in how many executions."""
    with urllib.request.urlopen(f"{address}/models/{model}/stats", timeout=5) as reply:
        return dict(json.load(reply)["model_stats"][0])
