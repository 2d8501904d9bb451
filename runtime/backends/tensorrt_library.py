"""TensorRT's Python bindings, for whoever builds or runs engines: the import, and the one logger.

TensorRT and TensorRT-RTX have the same API; RTX is told by what it alone has (`ComputeCapability`,
`CudaGraphStrategy`).
"""

from __future__ import annotations

import collections
import functools
import importlib
import importlib.util
from typing import Any

from seq2edge.errors import BackendError

LIBRARIES = ("tensorrt", "tensorrt_rtx")  # in order of preference
EXTRAS = {
    "tensorrt": "seq2edge[tensorrt], on a Jetson that of its JetPack",
    "tensorrt_rtx": "seq2edge[rtx]",
}
ERRORS = ("ERROR", "INTERNAL_ERROR")
KEPT = 2**18  # the latest lines of the log; a process that serves for months forgets the others


def import_tensorrt(name: str | None = None) -> Any:
    """The library of that name; TensorRT if it is installed, else TensorRT-RTX, without a name.

    Raises BackendError that says what to install.
    """
    names = LIBRARIES if name is None else (name,)
    installed = [library for library in names if importlib.util.find_spec(library) is not None]
    if not installed:
        remedy = EXTRAS[name or "tensorrt_rtx"]
        raise BackendError(f"{' and '.join(names)}: not installed; install {remedy}")
    try:
        return importlib.import_module(installed[0])
    except (ImportError, OSError) as error:
        raise BackendError(f"{installed[0]}: does not load here ({error})") from error


@functools.cache
def process_logger(trt: Any) -> Any:
    """The process's one logger: TensorRT goes on using the first that it is given.

    `lines` holds (severity, text); whoever reads them clears them before.
    """

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: collections.deque[tuple[str, str]] = collections.deque(maxlen=KEPT)

        def log(self, severity: Any, message: str) -> None:
            self.lines.append((severity.name, message))

        def error_lines(self) -> list[str]:
            return [text for name, text in self.lines if name in ERRORS]

        def errors(self) -> str:
            return "; ".join(self.error_lines()) or "no reason"

    return Log()
