from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import group_work
import pytest

from seq2edge.errors import TrainingError
from seq2edge.training import processes
from seq2edge.training.processes import (
    PeerLostError,
    check_device,
    launch_processes,
    lost_processes,
    resolve_world,
)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher's variables, one thread, no long wait for processes that never end."""
    for name in (*processes.RANK_VARIABLES, "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(processes, "GRACE", 0.2)


def alive(number: int) -> bool:
    """Whether a process runs."""
    status = Path(f"/proc/{number}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()


def test_first_process() -> None:
    """The first process speaks and answers for all."""
    lines: list[str] = []
    result = launch_processes(group_work.speak, {"words": "done"}, processes=3, say=lines.append)
    assert result == "done 0"
    assert lines == ["done"]


def test_error() -> None:
    """An error of any process is raised as it is."""
    with pytest.raises(TrainingError, match=r"^data: broken$"):
        launch_processes(group_work.fail, {"message": "data: broken"}, processes=2, say=print)


def test_killed(tmp_path: Path) -> None:
    """A killed process is named and the others are ended."""
    began = time.monotonic()
    with pytest.raises(
        TrainingError, match=r"process 1 of 2 was ended by SIGKILL, as .* memory .*resume from it"
    ):
        launch_processes(group_work.die, {"folder": tmp_path}, processes=2, say=print)
    assert not alive(int((tmp_path / "0").read_text()))
    assert time.monotonic() - began < 60


def test_crashed() -> None:
    """A crashed process is named with its code."""
    with pytest.raises(TrainingError, match="process 1 of 2 ended with code 3, see its message"):
        launch_processes(group_work.crash, {}, processes=2, say=print)


def test_parent(tmp_path: Path) -> None:
    """Processes end with the one that started them."""
    program = (
        "import group_work, pathlib, sys\n"
        "from seq2edge.training.processes import launch_processes\n"
        "if __name__ == '__main__':\n"
        "    folder = {'folder': pathlib.Path(sys.argv[1])}\n"
        "    launch_processes(group_work.die, folder, processes=1, say=print)\n"
    )
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(Path(group_work.__file__).parent)}
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path)]
    with subprocess.Popen(command, env=environment) as started:
        while not (tmp_path / "0").is_file() or not (tmp_path / "0").read_text():
            assert started.poll() is None
            time.sleep(0.05)
        child = int((tmp_path / "0").read_text())
        assert alive(child)
        started.kill()
    until = time.monotonic() + 30
    while alive(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(child)


def test_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The place under torchrun is read from its variables."""
    assert resolve_world(4, 1) == (4, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setenv("WORLD_SIZE", "16")
    assert resolve_world(1, 1) == resolve_world(8, 2) == (8, 2)
    with pytest.raises(TrainingError, match="processes: 4 asked for, torchrun started 8"):
        resolve_world(4, 2)
    with pytest.raises(TrainingError, match="machines: 3 asked for, torchrun started 2"):
        resolve_world(8, 3)


def test_machines() -> None:
    """Several machines need torchrun."""
    with pytest.raises(TrainingError, match="machines: 2 of them need a launcher, start with"):
        resolve_world(8, 2)


def test_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is not here is refused before anything is prepared."""
    check_device("cpu", 9)
    with pytest.raises(TrainingError, match="device: 'tpu' is unknown, known: auto, cpu, cuda"):
        check_device("tpu", 1)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    check_device("cuda", 2)
    for device in ("cuda", "auto"):
        with pytest.raises(TrainingError, match="device: 2 GPUs are here for 3 processes, one"):
            check_device(device, 3)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    check_device("auto", 3)
    with pytest.raises(TrainingError, match="device: 0 GPUs are here for 1 processes"):
        check_device("cuda", 1)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    check_device("mps", 1)
    with pytest.raises(TrainingError, match="device: mps is for one process on a Mac"):
        check_device("mps", 2)


def test_lost() -> None:
    """A lost connection is told and other errors stay."""
    told = r"another process .* has ended .*closed by peer.*resume"
    with pytest.raises(PeerLostError, match=told), lost_processes(2):
        raise RuntimeError("[gloo/pair.cc:1] Connection closed by peer\nmore")
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), lost_processes(2):
        raise RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match=r"^gloo$"), lost_processes(1):
        raise RuntimeError("gloo")
