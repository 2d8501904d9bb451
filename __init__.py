"""seq2edge: from a Transformer checkpoint to cached decoding on an edge device.

    model = seq2edge.load("bundle")
    model.generate(["text"], model.options.replace(num_beams=4))

`load` opens a bundle and gives a `Model`, `DecodeOptions` say how it decodes. Whatever a user can
cause raises an error of `seq2edge.errors`, all of them of `seq2edge.errors.Seq2EdgeError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seq2edge import errors

__version__ = "0.1.0"

if TYPE_CHECKING:
    from seq2edge.runtime.model import Model as Model
    from seq2edge.runtime.model import load as load
    from seq2edge.runtime.options import DecodeOptions as DecodeOptions
    from seq2edge.runtime.service import Service as Service
    from seq2edge.runtime.speech.transcriber import Transcriber as Transcriber
    from seq2edge.runtime.tools import ToolCall as ToolCall
    from seq2edge.runtime.tools import Tools as Tools

_LAZY = {
    "load": "seq2edge.runtime.model",
    "Model": "seq2edge.runtime.model",
    "DecodeOptions": "seq2edge.runtime.options",
    "Service": "seq2edge.runtime.service",
    "Transcriber": "seq2edge.runtime.speech.transcriber",
    "ToolCall": "seq2edge.runtime.tools",
    "Tools": "seq2edge.runtime.tools",
}
__all__ = [
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


def __getattr__(name: str) -> Any:
    """Import what is used and no more, so that the command line starts at once."""
    if name not in _LAZY:
        raise AttributeError(f"module 'seq2edge' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
