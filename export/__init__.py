"""From the canonical Transformer to ONNX graphs and a bundle (needs torch and onnx)."""
