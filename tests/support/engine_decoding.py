"""Decoding with engines, and with ONNX Runtime on the same bundle."""

from __future__ import annotations

import numpy as np
from requests_of import decode_prompts

from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend
from seq2edge.runtime.options import DecodeOptions

OPTIONS = {
    "greedy": DecodeOptions(eos_token_id=2, pad_token_id=1),
    "beams": DecodeOptions(eos_token_id=2, pad_token_id=1, num_beams=3, num_return_sequences=2),
    "filters": DecodeOptions(
        eos_token_id=2,
        pad_token_id=1,
        num_beams=4,
        repetition_penalty=1.3,
        no_repeat_ngram_size=2,
        min_new_tokens=4,
    ),
}


def reference_of(bundle):
    """ONNX Runtime on the same bundle."""
    return OnnxRuntimeBackend(bundle, threads=1)


def sources_of(bundle, lengths, seed):
    """A padded batch of random sources, or of features or pixels."""
    rng, dims = np.random.default_rng(seed), bundle.manifest.dims
    lengths = np.array(lengths)
    if dims.samples is not None:
        lengths = np.array([dims.samples.length(int(n)) for n in lengths])
        return rng.standard_normal((len(lengths), lengths.max()), dtype=np.float32), lengths
    if dims.source_shape:
        features = rng.standard_normal((len(lengths), *dims.source_shape), dtype=np.float32)
        return features, np.full(len(lengths), dims.source_positions)
    return rng.integers(3, 90, (len(lengths), lengths.max())), lengths


def decoded(backend, bundle, lengths, options, seed=0):
    """Tokens and scores of one batch."""
    if bundle.manifest.dims.encoder is None:
        rng = np.random.default_rng(seed)
        prompts = [rng.integers(3, 90, n).tolist() for n in lengths]
        found = decode_prompts(backend, prompts, options, max_new_tokens=12)
    else:
        padded, positions = sources_of(bundle, lengths, seed)
        features = padded.ndim >= 3
        found = decode_prompts(
            backend,
            [[2, 5]] * len(lengths),
            options,
            max_new_tokens=12,
            sources=[
                row if features else row[:n] for row, n in zip(padded, positions, strict=True)
            ],
            positions=int(positions[0]),
        )
    return [(sequence.ids, round(sequence.score, 3)) for item in found for sequence in item]
