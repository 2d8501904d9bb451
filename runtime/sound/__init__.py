"""Sound: files and samples in, what encoders read out; nothing of a model."""
