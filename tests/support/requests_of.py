"""Prompts decoded together, in the fewest words."""

from __future__ import annotations

from seq2edge.runtime.scheduler import ROWS, Request, decode


def decode_prompts(
    backend,
    prompts,
    options,
    *,
    max_new_tokens,
    sources=None,
    positions=0,
    rows=ROWS,
    processors=(),
):
    """Each prompt's sequences; `sources` are what an encoder reads, a source a prompt."""
    requests = [
        Request(
            prompt=prompt,
            source=None if sources is None else sources[i],
            positions=positions,
            options=options,
            max_new_tokens=max_new_tokens,
            processors=processors,
        )
        for i, prompt in enumerate(prompts)
    ]
    return decode(backend, requests, rows=rows)
