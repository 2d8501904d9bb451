"""Replaying a bundle's reference on the graphs and engines that run here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from seq2edge.bundle import Bundle
from seq2edge.bundle.graph_check import checked_graph
from seq2edge.bundle.manifest import Manifest
from seq2edge.errors import BackendError, EngineError, ForeignEngineError
from seq2edge.runtime import parity
from seq2edge.runtime.backend import open_backend
from seq2edge.runtime.recorded import read_recorded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one kind of graphs; `ran` is false where they were passed over."""

    passed: bool
    summary: str
    ran: bool = True


def verify_graphs(
    bundle: Bundle, *, device: str = "auto", threads: int | None = None
) -> Iterator[tuple[str, Outcome]]:
    """Compare every kind of graphs and all engines with what the float model answered at export.

    What cannot run here (graphs that the installed ONNX Runtime is too old for, engines without
    their device or library) is told and passed over, as long as one runs. `device` tensorrt means
    engines alone, cpu and cuda graphs alone. Raises BackendError where none runs that was asked
    for, and BundleError for a graph that nothing may run.
    """
    for graph in bundle.manifest.graphs:  # those too that do not run here
        checked_graph(bundle, graph)
    engines = list(dict.fromkeys(engine.target for engine in bundle.manifest.engines))
    if device == "tensorrt":
        if not engines:
            raise BackendError(f"{bundle.path}: holds no engine; make one with `seq2edge build`")
        for kind in dict.fromkeys(graph.target for graph in bundle.manifest.graphs):
            yield kind, _passed_over("tensorrt was asked for")
    else:
        yield from _verify_graphs(bundle, device, threads)
    outcomes = []
    for target in engines:
        outcomes.append(_verify_engines(bundle, target, device))
        yield f"engines for {target}", outcomes[-1]
    if device == "tensorrt" and not any(outcome.ran for outcome in outcomes):
        raise BackendError(
            f"{bundle.path}: none of its engines runs here; build one for this device"
        )


def _passed_over(reason: str) -> Outcome:
    return Outcome(passed=True, summary=f"not run, {reason}", ran=False)


def _verify_graphs(
    bundle: Bundle, device: str, threads: int | None
) -> Iterator[tuple[str, Outcome]]:
    from seq2edge.runtime.backends.onnxruntime import (
        TARGETS,
        fastest_device,
        graph_release,
        import_onnxruntime,
        runs,
    )

    targets = list(dict.fromkeys(graph.target for graph in bundle.manifest.graphs))
    if not targets:
        raise BackendError(f"{bundle.path}: has no graphs, nothing can run it")
    library = import_onnxruntime()
    installed = str(library.__version__)
    device = fastest_device(library) if device == "auto" else device
    ours = [target for target in targets if target in TARGETS.get(device, ())]
    if ours and not any(runs(bundle, target, installed) for target in ours):
        raise BackendError(f"{bundle.path}: onnxruntime {installed} runs none of its graphs")
    reference = read_recorded(bundle)
    for target in targets:
        if target not in ours:
            yield target, _passed_over(_elsewhere(bundle, target, device))
            continue
        if not runs(bundle, target, installed):
            needed = graph_release(bundle, target)
            yield target, _passed_over(f"needs onnxruntime {needed}, {installed} is installed")
            continue
        backend, _ = open_backend(bundle, device=device, threads=threads, graphs=target)
        replayed = parity.replay(backend, reference)
        yield target, _outcome(replayed, bundle.manifest)


def _elsewhere(bundle: Bundle, target: str, device: str) -> str:
    """Why graphs of that kind do not run on the device."""
    if target != "tensorrt":
        return f"for the cpu alone, {device} runs the others"
    if bundle.manifest.engines:
        return "its engines are"
    return f"an engine has to be built for {target} on the device first, or cuda runs them"


def _verify_engines(bundle: Bundle, target: str, device: str) -> Outcome:
    """A target's engines, where they open here."""
    from seq2edge.runtime.backends.tensorrt import check_engines

    if device not in ("auto", "tensorrt"):
        return _passed_over(f"{device} was asked for")
    try:
        verdict = check_engines(bundle, target)
    except (BackendError, ForeignEngineError) as error:
        return _passed_over(str(error))
    except EngineError as error:
        return Outcome(passed=False, summary=f"DAMAGED: {error}")
    return Outcome(passed=verdict.passed, summary=verdict.summary)


def _outcome(replayed: parity.Parity, manifest: Manifest) -> Outcome:
    word = "equal"
    if manifest.precision == "float32":
        passed = replayed.within(parity.ELSEWHERE)
    else:
        assert manifest.parity is not None
        passed = replayed.no_worse_than(manifest.parity)
        word = f"as good as {manifest.precision} was made"
    return Outcome(passed=passed, summary=f"{word if passed else 'DIFFERENT'}: {replayed.figures}")
