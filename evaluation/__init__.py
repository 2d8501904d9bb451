"""Measuring a bundle: examples, metrics with their intervals, and audits for bias."""
