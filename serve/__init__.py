"""Models over HTTP: what answers, in OpenAI's shapes and in our own."""
