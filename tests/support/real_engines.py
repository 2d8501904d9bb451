"""Bundles with real engines, built with the library that is installed."""

from __future__ import annotations

import dataclasses
import shutil

from seq2edge.bundle import Bundle
from seq2edge.export.tensorrt.build import build_bundle, plan_request
from seq2edge.export.tensorrt.sizes import BuildSizes

SIZES = BuildSizes(batch=(1, 2, 3), beams=4, source=(1, 16, 40), prompt=(1, 4, 8), capacity=40)


def with_engines(source, folder, *, target=None, sizes=SIZES):
    """A copy of a float32 bundle with engines, by default for what the library is for."""
    shutil.copytree(source.path, folder)
    built = build_bundle(plan_request(Bundle.open(folder), target, sizes)).bundle
    return dataclasses.replace(built, trust_engines=True)  # tests have caches of their own
