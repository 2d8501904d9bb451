"""What an import pulls in, and the public names."""

from __future__ import annotations

import subprocess
import sys

import pytest

import seq2edge

FORBIDDEN = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors", "gguf"}


def loaded_by(code):
    """Roots of all modules loaded after running the code in a fresh interpreter."""
    program = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stdout.split()}


RUNTIME = """
import importlib, pkgutil, seq2edge.runtime
for module in pkgutil.walk_packages(seq2edge.runtime.__path__, "seq2edge.runtime."):
    importlib.import_module(module.name)
"""

EVALUATION = RUNTIME.replace("runtime", "evaluation")


@pytest.mark.parametrize(
    "code",
    ["import seq2edge.runtime", RUNTIME, "import seq2edge.bundle", "import seq2edge.testing"],
)
def test_the_runtime_loads_neither_torch_nor_transformers_nor_onnx(code):
    """Every module of it, the bundle, and the checks of backends."""
    assert not loaded_by(code) & FORBIDDEN


def test_using_the_runtime_loads_none_of_them_either(exported):
    """From opening a bundle to tokens."""
    folder = exported("bart")[1] / "bundle"
    code = f"import seq2edge; print(seq2edge.load({str(folder)!r}).generate_ids([[5, 6]]))"
    found = loaded_by(code)
    assert "onnxruntime" in found
    assert not found & FORBIDDEN


def test_evaluating_loads_what_the_runtime_does_and_no_more():
    """Libraries of metrics and plots are loaded when they are used."""
    found = loaded_by(EVALUATION)
    assert not found & (
        FORBIDDEN | {"lightning", "sacrebleu", "jiwer", "rouge_score", "matplotlib"}
    )


def test_quantizing_loads_no_torch():
    """It can be done where there is none."""
    found = loaded_by("import seq2edge.quantize.pipeline, seq2edge.quantize.verdict")
    assert not found & {"torch", "transformers", "onnxscript", "safetensors"}


def test_building_engines_loads_no_torch():
    """It is done on the device."""
    found = loaded_by("import seq2edge.export.tensorrt.build, seq2edge.export.tensorrt.targets")
    assert not found & {"torch", "transformers", "onnxscript", "safetensors"}


def test_a_server_loads_no_telemetry():
    """Where no spans are asked for."""
    assert "opentelemetry" not in loaded_by("import seq2edge.serve.app, seq2edge.serve.server")


def test_the_package_itself_loads_nothing():
    """`import seq2edge` is for free; its names are loaded when they are used."""
    assert not loaded_by("import seq2edge") & {"numpy", "click", "onnxruntime", "tokenizers"}


def test_the_public_names_are_a_contract():
    """What `from seq2edge import ...` gives."""
    assert seq2edge.__all__ == [
        "DecodeOptions",
        "Model",
        "Service",
        "ToolCall",
        "Tools",
        "Transcriber",
        "__version__",
        "errors",
        "load",
    ]
    for name in seq2edge.__all__:
        assert getattr(seq2edge, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = seq2edge.nothing
