"""The canonical Transformer and the checkpoints that map onto it (needs torch)."""
