"""Backends that execute a bundle, and what this machine has for them."""
