"""Several processes that train one model: started together, watched, ended together.

`launch_processes` starts them on this machine. Under torchrun, on one machine or on many, each
process finds its place in the environment.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any

from seq2edge.errors import Seq2EdgeError, TrainingError
from seq2edge.files.progress import Say

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

RANK_VARIABLES = ("RANK", "LOCAL_RANK")
GRACE = 5.0  # seconds in which the others may end on their own when one has ended
DEVICES = ("auto", "cpu", "cuda", "mps")
RESUME = "what was learnt up to the last check is kept, resume from it"


class PeerLostError(TrainingError):
    """Another process is not there any more; what ended it is told elsewhere."""


@dataclasses.dataclass(kw_only=True)
class _Child:
    """A process, and what came out of it."""

    rank: int
    process: SpawnProcess
    pipe: Connection
    result: Any = None
    error: Seq2EdgeError | None = None
    stopped: bool = False  # by us, since another one ended


def first_process() -> bool:
    """Whether this is the process that prepares, speaks and saves."""
    return all(os.environ.get(name, "0") == "0" for name in RANK_VARIABLES)


def started_by_launcher() -> bool:
    """Whether `launch_processes` or torchrun started this process as one of a group."""
    return "LOCAL_RANK" in os.environ


def resolve_world(processes: int, machines: int) -> tuple[int, int]:
    """Processes on each machine and machines: what torchrun says, else what was asked for.

    Raises TrainingError where both say something else, and for several machines without torchrun.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    if not local:
        if machines > 1:
            raise TrainingError(
                f"machines: {machines} of them need a launcher, start with torchrun on each"
            )
        return processes, machines
    world = local, int(os.environ.get("WORLD_SIZE", local)) // local
    for name, asked_for, started in zip(
        ("processes", "machines"), (processes, machines), world, strict=True
    ):
        if asked_for not in (1, started):
            raise TrainingError(f"{name}: {asked_for} asked for, torchrun started {started}")
    return world


def check_device(device: str, processes: int) -> None:
    """Raise TrainingError for a device that is not here, or not as often as there are processes."""
    import torch

    if device not in DEVICES:
        raise TrainingError(f"device: {device!r} is unknown, known: {', '.join(DEVICES)}")
    gpus = torch.cuda.device_count()
    if (device == "cuda" or (device == "auto" and gpus)) and gpus < processes:
        raise TrainingError(
            f"device: {gpus} GPUs are here for {processes} processes, one each; ask for fewer or "
            "for the device cpu"
        )
    if device == "mps" and (processes > 1 or not torch.backends.mps.is_available()):
        raise TrainingError("device: mps is for one process on a Mac with Metal, choose cpu")


def launch_processes(
    work: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    processes: int,
    say: Say,
) -> Any:
    """Run `work(say=..., **arguments)` in that many new processes; what the first one returned.

    As soon as one fails the others are ended. Raises its error, or TrainingError that says how it
    ended. The processes end with this one.
    """
    port = _free_port()
    group = [_start(work, arguments, rank, processes, port) for rank in range(processes)]
    try:
        _watch(group, say)
    finally:
        _end(group)
    _raise_cause(group, say)
    return group[0].result


def _start(
    work: Callable[..., Any], arguments: Mapping[str, Any], rank: int, processes: int, port: int
) -> _Child:
    """Start one process of the group, with a pipe for what it says and returns."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    place = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "NODE_RANK": 0,
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    environment = {name: str(value) for name, value in place.items()}
    process = context.Process(target=_child, args=(work, arguments, environment, theirs))
    process.start()
    theirs.close()
    return _Child(rank=rank, process=process, pipe=ours)


def _child(
    work: Callable[..., Any],
    arguments: Mapping[str, Any],
    environment: Mapping[str, str],
    pipe: Connection,
) -> None:
    """The new process: find its place, work, and send lines and the result, or its error."""
    os.environ.update(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        torch.set_num_threads(max(1, (cores or 1) // int(environment["WORLD_SIZE"])))

    def say(line: str) -> None:
        if first_process():
            pipe.send(("line", line))

    try:
        pipe.send(("result", work(say=say, **arguments)))
    except Seq2EdgeError as error:
        pipe.send(("error", error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)  # the training's thread may be waiting in another process's operation


def _watch(group: list[_Child], say: Say) -> None:
    """Until all have ended well, or one has not."""
    running = list(group)
    while running:
        pipes = [child.pipe for child in running if not child.pipe.closed]
        connection.wait([*pipes, *(child.process.sentinel for child in running)])
        for child in list(running):
            _listen(child, say)
            if not child.process.is_alive():
                _listen(child, say)
                running.remove(child)
                if child.process.exitcode:
                    return


def _listen(child: _Child, say: Say) -> None:
    try:
        while not child.pipe.closed and child.pipe.poll():
            kind, value = child.pipe.recv()
            if kind == "line":
                say(value)
            else:
                setattr(child, kind, value)
    except (EOFError, ConnectionError):
        child.pipe.close()


def _end(group: list[_Child]) -> None:
    until = time.monotonic() + GRACE
    for child in group:
        child.process.join(max(0.0, until - time.monotonic()))
    for child in group:
        if child.process.is_alive():
            child.stopped = True
            child.process.kill()
            child.process.join()


def _raise_cause(group: list[_Child], say: Say) -> None:
    """The error that ended the others, where there is one."""
    for child in group:
        _listen(child, say)
    failed = [child for child in group if child.process.exitcode and not child.stopped]
    for child in failed:
        if child.error is not None and not isinstance(child.error, PeerLostError):
            raise child.error
    for child in sorted(failed, key=lambda child: child.error is not None):
        if child.error is not None:
            raise child.error
        raise TrainingError(f"process {child.rank} of {len(group)} {_ending(child)}; {RESUME}")


def _ending(child: _Child) -> str:
    code = child.process.exitcode or 0
    if code > 0:
        return f"ended with code {code}, see its message above"
    reason = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-code).name}{reason}"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def environment() -> ClusterEnvironment:
    """Where Lightning finds this process's place: torchrun's variables, or our launch's."""
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    return LightningEnvironment()


@contextmanager
def lost_processes(processes: int) -> Iterator[None]:
    """What gloo and NCCL say when another process is gone becomes a PeerLostError."""
    try:
        yield
    except RuntimeError as error:
        said = str(error).splitlines()[0] if str(error) else ""
        if processes == 1 or not re.search("gloo|nccl|TCPStore|Connection", said, re.IGNORECASE):
            raise
        raise PeerLostError(
            f"another process of the training has ended ({said:.120}); {RESUME}"
        ) from error
