"""One box, then many: models over HTTP, batches over files, Ray, Triton."""
