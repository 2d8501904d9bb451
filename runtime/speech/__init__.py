"""Recordings of any length: languages, segments and words with times, and how they are written."""
