"""Readers of checkpoints that are not Hugging Face folders."""
