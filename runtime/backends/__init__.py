"""Backends that execute a bundle."""
