"""Training: from text files to a checkpoint of the canonical model."""
