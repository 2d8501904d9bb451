"""A reference against the program that records it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from seq2edge.bundle import Bundle
from seq2edge.bundle.reference import REFERENCE, read_reference, write_reference
from seq2edge.errors import BundleError
from seq2edge.runtime.recorded import MOST_ERROR, MOST_LOSS, read_recorded


@pytest.fixture
def changed(exported, tmp_path):
    """`changed(name, arrays)`: what is read where these arrays of the reference are others."""

    def read(name, **arrays):
        bundle = Bundle.open(exported(name)[1] / "bundle")
        reference = read_reference(bundle.file(REFERENCE))
        made = {key: change(reference) for key, change in arrays.items()}
        write_reference(tmp_path / REFERENCE, {**reference, **made})
        return read_recorded(dataclasses.replace(bundle, path=tmp_path))

    return read


@pytest.mark.parametrize("name", ["bart", "llama", "bert", "whisper"])
def test_what_export_recorded_is_read(exported, name):
    """Every array, as it is."""
    bundle = Bundle.open(exported(name)[1] / "bundle")
    arrays = read_reference(bundle.file(REFERENCE))
    assert read_recorded(bundle).keys() == arrays.keys()


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("bart", {"source": lambda r: r["source"] + 96}, "source: .* the model takes 0 to 95"),
        ("bart", {"source_length": lambda r: r["source_length"] * 0}, "the model takes 1 to 12"),
        ("bart", {"source": lambda r: r["source"].astype(np.float32)}, "source: float32"),
        ("bart", {"prompt_length": lambda r: r["prompt_length"] + 5}, "prompt_length: 6 to 6"),
        ("bart", {"tokens": lambda r: r["tokens"][:, :2]}, r"tokens: int64 \(9, 2\)"),
        ("bart", {"top_ids_3": lambda r: r["top_ids_3"] * 0}, "not the likeliest tokens, each"),
        ("bart", {"top_ids_0": lambda r: r["top_ids_0"][:, :1]}, r"top_logits_0: .* \(2, 64\)"),
        ("bart", {"log_sum_exp_2": lambda r: r["log_sum_exp_2"] * np.nan}, "what is no number"),
        ("llama", {"prompt": lambda r: r["prompt"][0]}, r"prompt: int64 \(7,\)"),
        ("whisper", {"source": lambda r: r["source"][:, :-1]}, r"source: float32 \(1, 7, 100\)"),
        ("bert", {"pooled": lambda r: r["pooled"][:, :1]}, r"records \(2, 3\)"),
        ("bert", {"token_types": lambda r: r["token_types"] + 2}, "token_types: 2 to 3"),
    ],
)
def test_what_no_program_records_is_refused(changed, name, arrays, message):
    """With the array, what it is and what the model takes."""
    with pytest.raises(BundleError, match=rf"reference.npz: .*{message}"):
        changed(name, **arrays)


def test_what_allows_any_answer_is_refused(changed, exported):
    """An error of float32 that no model has; of a quantized bundle one as large as its logits."""
    bundle = Bundle.open(exported("bart")[1] / "bundle")
    arrays = read_reference(bundle.file(REFERENCE))
    largest = max(float(np.abs(a).max()) for n, a in arrays.items() if n.startswith("top_logits"))
    changed("bart", float32_error=lambda _: np.array(0.99 * MOST_ERROR * largest))
    with pytest.raises(BundleError, match=r"float32_error: .* allows any answer"):
        changed("bart", float32_error=lambda _: np.array(1.01 * MOST_ERROR * largest))
    with pytest.raises(BundleError, match="float32_error: holds what is no number"):
        changed("bart", float32_error=lambda _: np.array(np.nan))
    assert bundle.manifest.parity is not None

    def quantized(error):
        parity = dataclasses.replace(bundle.manifest.parity, max_absolute=error)
        # A manifest would ask for the rest of what is said of a quantization.
        manifest = dataclasses.replace(bundle.manifest, parity=parity)
        object.__setattr__(manifest, "quantization", object())
        return dataclasses.replace(bundle, manifest=manifest)

    read_recorded(quantized(0.99 * MOST_LOSS * largest))
    with pytest.raises(BundleError, match=r"parity: .* allows any answer"):
        read_recorded(quantized(1.01 * MOST_LOSS * largest))
