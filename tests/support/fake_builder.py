"""TensorRT's parser and builder without a GPU: what is "built" runs on `fake_tensorrt`.

The parser takes every graph, the builder puts it into a fake plan and logs a report of one layer.
A kernel is timed for each kind of node, unless the timing cache has it. As the real library does,
it refuses timings of another release or device, and bytes that are none.
"""

from __future__ import annotations

import json
from pathlib import Path

import fake_tensorrt
import onnx
from fake_tensorrt import MisuseError, dims_of
from onnx.external_data_helper import load_external_data_for_model

MAGIC = b"fake timings\n"
WORDS = {1: "Float", 7: "Int64", 10: "Half"}  # types, in the words of the report


class BuildingTensorRT(fake_tensorrt.FakeTensorRT):
    """The module with a builder too. `timed` are the kernels that were timed, in order."""

    class IProgressMonitor:
        """Told nothing."""

    class NetworkDefinitionCreationFlag:
        """How networks are made."""

        STRONGLY_TYPED = 1

    class ProfilingVerbosity:
        """What is logged."""

        DETAILED = "detailed"

    class LayerType:
        """Kinds of layers; attention is not among the known ones."""

    def __init__(self, cuda, *, release="10.16.2", device="Fake GPU", **options):
        super().__init__(cuda, release=release, **options)
        self.device, self.timed = device, []
        self.Builder = lambda log: Builder(self, log)
        self.OnnxParser = OnnxParser


class Network:
    """A graph, once it was parsed."""

    num_layers = 0
    model = None


class OnnxParser:
    """Reads weights from beside the graph."""

    num_errors = 0

    def __init__(self, network, log):
        self.network = network

    def parse(self, data, path):
        """Takes everything."""
        model = onnx.load_from_string(data)
        load_external_data_for_model(model, str(Path(path).parent))
        self.network.model = model
        return True


class Builder:
    """Makes fake plans."""

    def __init__(self, trt, log):
        assert isinstance(log, trt.ILogger)
        self.trt, self.log = trt, log

    def create_network(self, flags):
        """Strongly typed."""
        assert flags == 1 << self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return Network()

    def create_builder_config(self):
        """Without profiles or timings."""
        return BuilderConfig(self.trt, self.log)

    def create_optimization_profile(self):
        """Without shapes."""
        return Profile()

    def build_serialized_network(self, network, config):
        """Time kernels, report, and serialize."""
        model = network.model
        kinds = sorted({node.op_type for node in model.graph.node})
        known = config.timings.kernels if config.timings is not None else set()
        self.trt.timed += [kind for kind in kinds if kind not in known]
        known.update(kinds)
        for line in self._report(model):
            self.log.log(self.trt.ILogger.Severity.VERBOSE, line)
        profiles = [
            {v.name: profile.shapes.get(v.name) or fixed(v) for v in model.graph.input}
            for profile in config.profiles
        ]
        return fake_tensorrt.make_plan(
            model,
            profiles,
            in_place=any(node.op_type == "TensorScatter" for node in model.graph.node),
            release=self.trt.__version__,
        )

    @staticmethod
    def _report(model):
        yield "Layers:\nName: all_myl0_0, LayerType: kgen, Inputs: []"
        yield "I/O Tensors:"
        for mode, values in (("Input", model.graph.input), ("Output", model.graph.output)):
            for value in values:
                axes = ",".join(str(dim.dim_value or -1) for dim in dims_of(value))
                word = WORDS[value.type.tensor_type.elem_type]
                yield f" Name: {value.name}, IOMode: {mode}, DataType: {word}, Dimensions: [{axes}]"


def fixed(value):
    """Of an input whose sizes are all known."""
    return [[dim.dim_value for dim in dims_of(value)]] * 3


class Profile:
    """Shapes of inputs."""

    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, least, best, most):
        """One input's."""
        self.shapes[name] = [list(least), list(best), list(most)]


class BuilderConfig:
    """Profiles and timings."""

    progress_monitor = profiling_verbosity = None

    def __init__(self, trt, log):
        self.trt, self.log = trt, log
        self.profiles = []
        self.timings = None

    def add_optimization_profile(self, profile):
        """Its number."""
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, blob):
        """Of serialized timings, or empty ones; None for bytes that are none."""
        if not blob:
            return TimingCache(self.trt.__version__, self.trt.device, set())
        if not blob.startswith(MAGIC):
            self.log.log(self.trt.ILogger.Severity.ERROR, "timing cache: bad header")
            return None
        release, device, kernels = json.loads(blob[len(MAGIC) :])
        return TimingCache(release, device, set(kernels))

    def set_timing_cache(self, cache, ignore_mismatch):
        """Whether they are of this release and device."""
        if ignore_mismatch:
            raise MisuseError("timings of another device would be used")
        if (cache.release, cache.device) != (self.trt.__version__, self.trt.device):
            return False
        self.timings = cache
        return True


class TimingCache:
    """Kernels that were timed."""

    def __init__(self, release, device, kernels):
        self.release, self.device, self.kernels = release, device, kernels

    def combine(self, input_cache, ignore_mismatch):
        """Add another's."""
        if ignore_mismatch or (input_cache.release, input_cache.device) != (
            self.release,
            self.device,
        ):
            return False
        self.kernels |= input_cache.kernels
        return True

    def serialize(self):
        """A buffer, as the library's host memory is one."""
        return memoryview(
            MAGIC + json.dumps([self.release, self.device, sorted(self.kernels)]).encode()
        )
