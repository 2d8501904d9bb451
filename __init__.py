"""seq2edge: from a Transformer checkpoint to cached decoding on an edge device."""
