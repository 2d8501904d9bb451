"""Graph edits of quantization, one a file."""
