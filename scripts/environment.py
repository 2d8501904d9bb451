"""Make or reuse `.venv`: the package in editable mode with everything that tests and demos need.

Standard library alone, Python 3.11 or newer. Nothing is installed again while pyproject.toml, the
interpreter and the choice of torch stay the same.

    python3 scripts/environment.py            # a CPU build of torch, where one is offered
    TORCH_INDEX=https://... python3 scripts/environment.py   # another index for torch
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import urllib.error
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv"
STAMP = FOLDER / "made-from"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
EXTRAS = (
    "cpu,constraints,images,audio,media,microphone,serve,signing,export,quantize,train,rtx,docs,dev"
)


def main() -> int:
    """Install what is missing; returns the exit code."""
    if sys.version_info < (3, 11):  # ONNX Runtime for 3.10 is too old to check what is exported
        print(f"environment: Python {sys.version.split()[0]}, needs 3.11 or newer; set PYTHON=...")
        return 1
    torch = os.environ.get("TORCH") or "torch==2.13.0"
    index = os.environ.get("TORCH_INDEX")
    stamp = fingerprint(torch, index or "")
    if STAMP.is_file() and STAMP.read_text() == stamp:
        return 0
    print(f"environment: installing into {FOLDER}", flush=True)
    venv.create(FOLDER, with_pip=True, clear=True)
    index = index if index is not None else reachable(CPU_INDEX)
    extra = ["--extra-index-url", index] if index else []
    install([torch, *extra])
    install(["-e", f"{ROOT}[{EXTRAS}]", torch, *extra])
    STAMP.write_text(stamp)
    return 0


def fingerprint(torch: str, index: str) -> str:
    """Changes with everything that the environment is made from."""
    parts = (sys.version, torch, index, (ROOT / "pyproject.toml").read_text(), EXTRAS)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def reachable(index: str) -> str:
    """The index of CPU builds if it answers, else nothing: pip's own sources must do then.

    A CPU build there has a local version (2.13.0+cpu), which pip prefers to the plain one.
    """
    try:
        with urllib.request.urlopen(f"{index}/", timeout=5):
            return index
    except (OSError, urllib.error.URLError):
        return ""


def install(arguments: list[str]) -> None:
    """Run pip in the environment; it prints its own errors."""
    python = FOLDER / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, *arguments], check=True, cwd=ROOT)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        print(f"environment: pip ended with {error.returncode}")
        sys.exit(1)
