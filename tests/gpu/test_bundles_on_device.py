"""Bundles made elsewhere: ONNX Runtime's CUDA provider gives what the CPU gives.

`SEQ2EDGE_TEST_BUNDLES` names a folder of them. A device that trains and exports nothing (a board,
or one whose ONNX Runtime is older than what an export asks for) is tested so on every family.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from engine_decoding import OPTIONS, decoded

from seq2edge.bundle import Bundle
from seq2edge.bundle.reference import REFERENCE, read_reference
from seq2edge.runtime import parity
from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend

FOLDER = os.environ.get("SEQ2EDGE_TEST_BUNDLES", "")
BUNDLES = sorted(path.parent for path in Path(FOLDER).glob("*/manifest.json")) if FOLDER else []

pytestmark = pytest.mark.gpu


def canonical(path, device):
    """A bundle on the graphs that all devices have."""
    return OnnxRuntimeBackend(Bundle.open(path), device=device, target="canonical")


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.name)
def test_the_device_answers_as_the_model_did_and_as_the_cpu(cuda, path):
    """The recorded program within float32's tolerance; tokens greedy, with beams and filters."""
    bundle, device = Bundle.open(path), canonical(path, "cuda")
    answers = parity.replay(device, read_reference(bundle.file(REFERENCE)))
    assert answers.within(), answers.figures
    if bundle.manifest.dims.decoder is None:
        return
    host = canonical(path, "cpu")
    lengths = (12, 5, 1) if bundle.manifest.dims.encoder is None else (7, 4, 1)
    for seed in range(2):
        for options in OPTIONS.values():
            found, wanted = (
                decoded(each, bundle, lengths, options, seed) for each in (device, host)
            )
            assert [ids for ids, _ in found] == [ids for ids, _ in wanted]
            scores = [[score for _, score in each] for each in (found, wanted)]
            np.testing.assert_allclose(*scores, atol=0.01)
