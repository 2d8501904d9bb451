"""One box, then many: batches over files, Ray, Triton."""
