"""Replaying a bundle's reference on the graphs that run here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from seq2edge.bundle import Bundle
from seq2edge.errors import BackendError
from seq2edge.manifest import Manifest
from seq2edge.reference import REFERENCE, read_reference
from seq2edge.runtime import parity
from seq2edge.runtime.backends import open_backend


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one kind of graphs."""

    passed: bool
    summary: str


def verify_graphs(
    bundle: Bundle, *, device: str = "auto", threads: int | None = None
) -> Iterator[tuple[str, Outcome]]:
    """Compare every kind of graphs with what the float model answered at export.

    Graphs that the installed ONNX Runtime is too old for are told and passed over, as long as one
    kind runs. Raises BackendError where none does.
    """
    from seq2edge.runtime.backends.onnxruntime import (
        TARGETS,
        graph_release,
        import_onnxruntime,
        runs,
    )

    reference = read_reference(bundle.file(REFERENCE))
    installed = str(import_onnxruntime().__version__)
    targets = list(dict.fromkeys(graph.target for graph in bundle.manifest.graphs))
    ours = [target for target in targets if target in TARGETS]
    if ours and not any(runs(bundle, target, installed) for target in ours):
        raise BackendError(f"{bundle.path}: onnxruntime {installed} runs none of its graphs")
    for target in targets:
        if target not in TARGETS:
            note = f"not run, an engine has to be built for {target} on the device first"
            yield target, Outcome(passed=True, summary=note)
            continue
        if not runs(bundle, target, installed):
            needed = graph_release(bundle, target)
            note = f"not run, needs onnxruntime {needed}, {installed} is installed"
            yield target, Outcome(passed=True, summary=note)
            continue
        backend, _ = open_backend(bundle, device=device, threads=threads, graphs=target)
        found = parity.replay(backend, reference)
        yield target, _judge(found, bundle.manifest)


def _judge(found: parity.Parity, manifest: Manifest) -> Outcome:
    word = "equal"
    if manifest.precision == "float32":
        passed = found.within(manifest.precision)
    else:
        assert manifest.parity is not None
        passed = found.no_worse_than(manifest.parity)
        word = f"as good as {manifest.precision} was made"
    tokens = f", {found.tokens_equal} of {found.tokens_compared} tokens equal"
    return Outcome(
        passed=passed,
        summary=f"{word if passed else 'DIFFERENT'}: largest error {found.max_absolute:.1e}"
        f" ({found.max_relative:.1e} of the largest value)"
        f"{tokens if found.tokens_compared else ''}",
    )
