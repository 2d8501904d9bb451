"""Quantization: recipes, calibration, a search within a budget, and a verdict on what it is worth.

`run` does all of it; `seq2edge quantize` is that function on the command line.
"""

from seq2edge.quantize.pipeline import Quantized, QuantizeOptions, run

__all__ = ["QuantizeOptions", "Quantized", "run"]
