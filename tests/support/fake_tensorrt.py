"""TensorRT's runtime without a GPU: the classes that the project uses, over `fake_cuda`.

A fake plan holds an ONNX graph and the profiles it was "built" with. A context checks what the real
one demands (every input bound and shaped inside its profile, aligned addresses of enough living
memory, caches in place, scratch memory) and really computes, with ONNX Runtime, when its stream
comes to it. Whatever is wrong raises MisuseError, also where the real library would answer False:
no correct caller sees either.
"""

from __future__ import annotations

import enum
import json

import numpy as np
import onnx
import onnxruntime

MAGIC = b"fake plan\n"
ALIGNMENT = 256
SCRATCH = 4096
TYPES = {
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "int64": onnx.TensorProto.INT64,
}
NUMPY = {"float32": np.float32, "float16": np.float16, "int64": np.int64}


class MisuseError(Exception):
    """The library was used in a way that has no defined result."""


def make_plan(model, profiles, *, in_place, release):
    """A plan: an ONNX model with its weights inside, profiles as {input: (least, best, most)}."""
    head = json.dumps({"profiles": profiles, "in_place": in_place, "release": release})
    return MAGIC + head.encode() + b"\n" + model.SerializeToString()


def dims_of(value):
    """The axes of an ONNX value."""
    return value.type.tensor_type.shape.dim


class FakeTensorRT:
    """The module. RTX is told by what it alone has."""

    class ILogger:
        """Takes what the library says."""

        Severity = enum.Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")

    TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT")
    DataType = enum.Enum("DataType", "FLOAT HALF BF16 INT64 INT32 INT8 UINT8 BOOL")
    float32, float16, bfloat16 = DataType.FLOAT, DataType.HALF, DataType.BF16
    int64, int32, int8 = DataType.INT64, DataType.INT32, DataType.INT8
    uint8, bool = DataType.UINT8, DataType.BOOL
    ExecutionContextAllocationStrategy = enum.Enum(
        "ExecutionContextAllocationStrategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED"
    )

    def __init__(self, cuda, *, rtx=False, release="1.0"):
        self.cuda = cuda
        self.__name__ = "tensorrt_rtx" if rtx else "tensorrt"
        self.__version__ = release
        self.device = "Fake GPU"
        self.compiled = []  # the kernels that RTX compiled, in order
        self.opened = []
        self.contexts = []
        self.spoil = None  # a function that changes an engine's outputs before they are written
        self.Runtime = lambda log: (Runtime if not rtx else RtxRuntime)(self, log)
        if rtx:
            self.CudaGraphStrategy = enum.Enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")
            self.EngineValidity = enum.Enum("EngineValidity", "VALID SUBOPTIMAL INVALID")
            self.EngineInvalidityDiagnostics = enum.IntFlag(
                "EngineInvalidityDiagnostics", "VERSION_MISMATCH UNSUPPORTED_CC MALFORMED_ENGINE"
            )
            self.validity = (self.EngineValidity.VALID, 0)


class Runtime:
    """Opens plans."""

    def __init__(self, trt, log):
        assert isinstance(log, trt.ILogger)
        self.trt, self.log = trt, log

    def deserialize_cuda_engine(self, plan):
        """An engine, or None with a line in the log."""
        if not plan.startswith(MAGIC):
            self.log.log(self.trt.ILogger.Severity.ERROR, "magic tag does not match")
            return None
        engine = Engine(self, plan)
        self.trt.opened.append(engine)
        return engine


class RtxRuntime(Runtime):
    """Tells before what does not fit."""

    def get_engine_validity(self, plan):
        """Validity and a set of reasons."""
        return self.trt.validity


class Engine:
    """A graph, and the profiles it takes."""

    def __init__(self, runtime, plan):
        self.runtime, self.trt = runtime, runtime.trt
        head, _, data = plan[len(MAGIC) :].partition(b"\n")
        values = json.loads(head)
        self.profiles = values["profiles"]
        self.in_place = values["in_place"]
        model = onnx.load_from_string(data)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"]
        )
        self.inputs = {v.name: self._type(v) for v in model.graph.input}
        self.outputs = {v.name: self._type(v) for v in model.graph.output}
        self.shapes = {
            v.name: [d.dim_value if d.HasField("dim_value") else -1 for d in dims_of(v)]
            for v in model.graph.output
        }
        self.names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self.names)
        self.num_optimization_profiles = len(self.profiles)
        self.device_memory_size_v2 = SCRATCH
        if self.in_place or self.trt.__name__ == "tensorrt_rtx":
            self.get_aliased_input_tensor = self._aliased

    @staticmethod
    def _type(value):
        kinds = {number: name for name, number in TYPES.items()}
        return kinds[value.type.tensor_type.elem_type]

    def _aliased(self, name):
        if not self.in_place or not name.startswith("present_"):
            return None
        return name.replace("present_", "past_")

    def get_tensor_name(self, index):
        """By number."""
        return self.names[index]

    def get_tensor_mode(self, name):
        """Input or output."""
        mode = self.trt.TensorIOMode
        return mode.INPUT if name in self.inputs else mode.OUTPUT

    def get_tensor_dtype(self, name):
        """In the library's words."""
        return getattr(self.trt, {**self.inputs, **self.outputs}[name])

    def get_tensor_shape(self, name):
        """-1 where profiles leave it open."""
        kinds = [profile[name] for profile in self.profiles if name in profile]
        fixed = [[*zip(*shapes, strict=True)] for shapes in kinds]
        if not fixed:
            return self.shapes[name]
        axes = zip(*fixed, strict=True)
        return [sizes[0][0] if len({*sum(sizes, ())}) == 1 else -1 for sizes in axes]

    def create_runtime_config(self):
        """RTX's settings of a context."""
        assert self.trt.__name__ == "tensorrt_rtx"
        return RuntimeConfig(self.trt)

    def create_execution_context(self, options):
        """Of a strategy, or of RTX's settings."""
        strategy = options
        if isinstance(options, RuntimeConfig):
            strategy = options.strategy
        assert strategy == self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = Context(self, options)
        self.trt.contexts.append(context)
        return context


class RuntimeConfig:
    """RTX's settings."""

    strategy = cache = cuda_graph_strategy = None

    def __init__(self, trt):
        self.trt = trt

    def set_execution_context_allocation_strategy(self, strategy):
        """Who gives the memory."""
        self.strategy = strategy

    def create_runtime_cache(self):
        """Of compiled kernels."""
        return RuntimeCache(self.trt)

    def set_runtime_cache(self, cache):
        """Shared between contexts."""
        assert isinstance(cache, RuntimeCache)
        self.cache = cache
        return True


class RuntimeCache:
    """Kernels by the shapes that they are for."""

    MAGIC = b"fake kernels\n"

    def __init__(self, trt):
        self.trt, self.kernels = trt, []

    def serialize(self):
        """A buffer, as the library's host memory is one."""
        values = [self.trt.__version__, self.trt.device, self.kernels]
        return memoryview(self.MAGIC + json.dumps(values).encode())

    def deserialize(self, blob):
        """Whether it is of this release and device; else nothing changes."""
        if not blob.startswith(self.MAGIC):
            return False
        release, device, kernels = json.loads(blob[len(self.MAGIC) :])
        if (release, device) != (self.trt.__version__, self.trt.device):
            return False
        self.kernels = kernels
        return True

    def _compile(self, kernel):
        """Once."""
        if kernel not in self.kernels:
            self.trt.compiled.append(kernel)
            self.kernels.append(kernel)


class Context:
    """Bindings, and calls with them."""

    def __init__(self, engine, options):
        self.engine, self.cuda, self.options = engine, engine.trt.cuda, options
        self.profile, self.scratch = None, None
        self.shapes, self.addresses = {}, {}
        self.settled = None  # the shapes of the last call that was no capture

    def set_optimization_profile_async(self, index, stream):
        """Forgets all shapes."""
        assert int(stream) in self.cuda.streams
        self.profile, self.shapes = self.engine.profiles[index], {}
        return True

    def set_device_memory(self, address, size):
        """What the context works in."""
        if size < self.engine.device_memory_size_v2 or address % ALIGNMENT:
            raise MisuseError(f"scratch memory of {size} bytes at {address:#x}")
        self.scratch = (address, size)

    def set_input_shape(self, name, shape):
        """Must lie inside the profile."""
        if name not in self.engine.inputs or not isinstance(shape, tuple):
            raise MisuseError(f"{name} is no input, or {shape!r} no shape")
        least, _, most = self.profile[name]
        if len(shape) != len(least) or not all(
            a <= n <= b for a, n, b in zip(least, shape, most, strict=True)
        ):
            raise MisuseError(f"{name} of {shape}, the profile has {least} to {most}")
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name, address):
        """Must be aligned."""
        if name not in self.engine.names or address % ALIGNMENT:
            raise MisuseError(f"{name} at {address:#x}")
        self.addresses[name] = address
        return True

    def infer_shapes(self):
        """Inputs without a shape."""
        return [name for name in self.engine.inputs if name not in self.shapes]

    def execute_async_v3(self, handle):
        """Check everything, and compute when the stream gets there."""
        engine = self.engine
        missing = [n for n in engine.inputs if n not in self.shapes]
        missing += [n for n in engine.names if n not in self.addresses]
        if missing or self.profile is None or self.scratch is None:
            raise MisuseError(
                f"not set: {missing}, profile {self.profile is not None}, {self.scratch}"
            )
        self._check_aliases()
        if isinstance(self.options, RuntimeConfig):
            self.options.cache._compile(json.dumps(self.shapes, sort_keys=True))
        if self.cuda.streams[int(handle)].capturing is None:
            self.settled = dict(self.shapes)
        elif self.settled != self.shapes:
            raise MisuseError("captured without a call of these shapes before")
        shapes, addresses, scratch = dict(self.shapes), dict(self.addresses), self.scratch

        def work():
            self.cuda.find(*scratch)[:] = 0x7F
            self._compute(shapes, addresses)

        self.cuda.enqueue(handle, work)
        return True

    def _check_aliases(self):
        for name, address in self.addresses.items():
            if name.startswith("present_"):
                past = self.addresses[name.replace("present_", "past_")]
                if (past == address) != self.engine.in_place:
                    raise MisuseError(f"{name} and its past: in place is {self.engine.in_place}")

    @staticmethod
    def _check_lengths(feed):
        """No operator says what it does outside of its tensors."""
        if "new_length" in feed:
            past = next(value for name, value in feed.items() if name.startswith("past_"))
            columns, capacity = feed["input_ids"].shape[1], past.shape[2]
            if not ((feed["new_length"] >= 1) & (feed["new_length"] <= columns)).all():
                raise MisuseError(f"new_length {feed['new_length']} of {columns} columns")
            if not (feed["cache_length"] + columns <= capacity).all():
                raise MisuseError(f"{columns} columns behind {feed['cache_length']}")

    def _compute(self, shapes, addresses):
        feed = {}
        for name, shape in shapes.items():
            dtype = np.dtype(NUMPY[self.engine.inputs[name]])
            size = int(np.prod(shape)) * dtype.itemsize
            feed[name] = self.cuda.find(addresses[name], size).view(dtype).reshape(shape).copy()
        self._check_lengths(feed)
        results = self.engine.session.run(list(self.engine.outputs), feed)
        for name, result in zip(self.engine.outputs, results, strict=True):
            if self.engine.trt.spoil is not None:
                result = self.engine.trt.spoil(name, result)  # noqa: PLW2901
            assert result.dtype == NUMPY[self.engine.outputs[name]]
            written = np.ascontiguousarray(result).reshape(-1).view(np.uint8)
            self.cuda.find(addresses[name], written.size)[:] = written
