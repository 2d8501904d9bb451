"""Decode with very large caches and print how far memory grew during the worst step, in bytes.

    python in_place.py BUNDLE TARGET CAPACITY shared|separate

A cache that is copied needs fresh memory, which shows in the kernel's record of the highest use:
the arena is switched off, and the C library keeps no freed buffers of this size. `separate` is
the control: outputs in buffers of their own, which every step must allocate and fill.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime

from seq2edge.bundle import Bundle
from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend

STEPS = 5


def without_arena():
    """Session options that give memory back after every run."""
    options = original()
    options.enable_cpu_mem_arena = False
    return options


def resident(field):
    """VmRSS (now) or VmHWM (the highest since `forget`), in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def forget():
    """Let the record of the highest use begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def with_warnings(model, options, **others):
    """A session that says what it copies, which ours keeps to itself."""
    options.log_severity_level = 2
    return opened(model, options, **others)


original, opened = onnxruntime.SessionOptions, onnxruntime.InferenceSession
onnxruntime.SessionOptions, onnxruntime.InferenceSession = without_arena, with_warnings

path, target, capacity, mode = sys.argv[1:]
backend = OnnxRuntimeBackend(Bundle.open(path), target=target, threads=1)
cache = backend.start(None, 1, int(capacity))
for tensor in cache._caches.tensors().values():
    tensor[:] = 0  # the kernel gives memory when it is first written to
one = np.ones(1, dtype=np.int64)
backend.step(np.array([[5, 6, 7]]), np.array([3]), cache)
grown = []
for _ in range(STEPS):
    if mode == "separate":
        for name in cache._caches.tensors():
            cache._binding.bind_output(f"present_{name}", "cpu")
    forget()
    before = resident("VmRSS")
    backend.step(np.array([[9]]), one, cache)
    grown.append(resident("VmHWM") - before)
sys.stdout.write(str(max(grown)))
