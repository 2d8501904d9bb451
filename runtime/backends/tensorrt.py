"""TensorRT: a bundle's engines, fixed buffers on the device, steps recorded as CUDA graphs.

Buffers are as large as the engine allows and live as long as the backend, so that addresses stay
what they were: a batch's memory and cache lease a slot of them and give it back when they are
dropped. All work goes through one stream, which is why contexts can share their scratch memory and
slots be used again at once.

An engine of the masked form updates its cache in place; one of the lowered form writes another,
and the two swap. To reorder rows they are gathered into the other one too.

To read in this order: `engine` (a bundle's engines, opened), `engine_calls` (buffers, calls,
recorded steps), `engine_encoder` and `engine_decoder` (memories and caches), this module, and
`engine_check` (an engine is compared with the model before it is used). `device` is what of CUDA
they need, `tensorrt_library` finds the library.

Nothing here has been run by a TensorRT engine yet, only by the doubles in `tests/`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle import Bundle
from seq2edge.errors import BackendError, EngineError
from seq2edge.runtime.backend import Answer, Features, Lengths, Tokens
from seq2edge.runtime.backends import engine_check
from seq2edge.runtime.backends.device import ALIGNMENT, Device, import_cuda
from seq2edge.runtime.backends.engine import (
    OpenEngine,
    StoredEngine,
    check_release,
    find_engines,
    open_engine,
)
from seq2edge.runtime.backends.engine_decoder import EngineCache, EngineDecoder
from seq2edge.runtime.backends.engine_encoder import EngineEncoder, EngineMemory
from seq2edge.runtime.backends.engine_trust import check_trusted
from seq2edge.runtime.backends.tensorrt_library import import_tensorrt


class TensorRTBackend:
    """Runs a bundle's engines on the current CUDA device.

    Raises BackendError or EngineError where no engine of the bundle works here: a library, a
    driver or a device is missing, the plan is of another release or device, it was built elsewhere
    and is not trusted, it is damaged, or it does not answer as the model did.
    """

    name = "tensorrt"
    capacity: int | None = None
    rows: int | None = None
    running = False
    verifies = False
    aligns = False  # engines are built without

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "tensorrt",
        target: str | None = None,
        threads: int | None = None,
    ) -> None:
        if target is not None or threads is not None:
            what = "threads" if target is None else "graphs"
            raise BackendError(f"{what}: for onnxruntime alone; leave it out for {device}")
        self._encoder: EngineEncoder | None = None
        self._decoder: EngineDecoder | None = None
        refusals: list[tuple[str, BackendError | EngineError]] = []
        for name, engines in find_engines(bundle).items():
            try:
                self._open(bundle, engines)
            except (BackendError, EngineError) as error:
                self._encoder = self._decoder = None  # its buffers are free for the next
                refusals.append((name, error.with_traceback(None)))
                continue
            self.target = name
            return
        if len(refusals) == 1:
            raise refusals[0][1]
        raise BackendError("; ".join(f"engine for {name}: {error}" for name, error in refusals))

    @classmethod
    def unchecked(cls, engines: list[StoredEngine]) -> TensorRTBackend:
        """Engines of one target that nothing was compared with yet, for whoever does that.

        Raises BackendError or EngineError where they do not open here.
        """
        backend = cls.__new__(cls)
        backend.use(engines)
        return backend

    def _open(self, bundle: Bundle, engines: list[StoredEngine]) -> None:
        opened = self.use(engines)
        engine_check.check(bundle, engines, self, self.device)
        for engine in opened:
            engine.save_kernels()

    def use(self, engines: list[StoredEngine]) -> tuple[OpenEngine, ...]:
        """Open these, one for each role, and make their buffers; their answers are not checked."""
        trt = import_tensorrt(engines[0].info.library)
        for engine in engines:
            check_release(engine, trt)
        self.device = Device(import_cuda())
        for engine in engines:
            check_trusted(engine)
        opened = {engine.info.role: open_engine(engine, trt, self.device) for engine in engines}
        size = max(engine.scratch_size for engine in opened.values())
        scratch = (self.device.allocate(size), max(size, ALIGNMENT))
        encoder, decoder = opened.get("encoder"), opened.get("decoder")
        self._encoder = EngineEncoder(encoder, self.device, scratch) if encoder else None
        self._decoder = EngineDecoder(decoder, self.device, scratch) if decoder else None
        self.capacity = decoder.info.sizes.capacity if decoder else None
        self.rows = decoder.info.sizes.rows if decoder else None
        return tuple(opened.values())

    def encode(self, source: Tokens | Features, source_length: Lengths) -> EngineMemory:
        """See Backend. Raises BackendError for more than the engine was built for."""
        assert self._encoder is not None
        return self._encoder.encode(source, source_length)

    def start(self, memory: EngineMemory | None, rows: int, capacity: int | None) -> EngineCache:
        """See Backend. The engine's own capacity is the most that there can be."""
        assert self._decoder is not None
        return EngineCache(self._decoder, memory, rows, capacity)

    def step(
        self, tokens: Tokens, new_length: Lengths, cache: EngineCache, positions: int = 1
    ) -> Answer:
        """See Backend. Logits are valid until the cache is dropped, too."""
        assert positions == 1, "it answers the last token alone"
        return cache.step(tokens, new_length)

    def pool(
        self, source: Tokens, source_length: Lengths, token_types: Tokens | None = None
    ) -> NDArray[np.float32]:
        """See Backend."""
        assert self._encoder is not None
        return self._encoder.pool(source, source_length, token_types)


def check_engines(bundle: Bundle, target: str) -> engine_check.EngineVerdict:
    """Compare the answers of a target's engines with the model's, whether or not it was done.

    Raises BackendError where none can be opened here, since a library, its release, a driver or a
    device is missing; ForeignEngineError where they are for another device; EngineError where they
    are damaged, or do not run to the end.
    """
    engines = find_engines(bundle)[target]
    backend = TensorRTBackend.unchecked(engines)
    try:
        return engine_check.check_answers(bundle, engines, backend, backend.device)
    except BackendError as error:
        raise EngineError(
            f"{bundle.path}: its engines for {target} do not run on {backend.device.name}, {error}"
        ) from error
