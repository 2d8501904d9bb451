"""Reading checkpoints: families, foreign formats, tokenizers, generation defaults."""
