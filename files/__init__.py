"""Files: whole or not at all, hashed, compressed, cached; strict JSON records."""
