"""What a library in Rust writes to the process's standard error before it panics, kept from it."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator

_LOCK = threading.Lock()
_PANIC = b"panicked at"
STDERR = 2


@contextlib.contextmanager
def without_panic_reports() -> Iterator[None]:
    """A block whose panics are told by their exception alone; what else is written comes behind it.

    Also what other threads write meanwhile, so that the block should be short or rare.
    """
    with _LOCK, contextlib.ExitStack() as stack:
        try:
            before = os.dup(STDERR)
        except OSError:  # it is closed: nobody sees a report
            yield
            return
        stack.callback(os.close, before)
        kept = stack.enter_context(tempfile.TemporaryFile())
        os.dup2(kept.fileno(), STDERR)
        try:
            yield
        finally:
            os.dup2(before, STDERR)
            kept.seek(0)
            written = kept.read()
            if written and _PANIC not in written:
                os.write(STDERR, written)
