"""Languages are called by codes and names in any case."""

from __future__ import annotations

import numpy as np
import pytest
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from seq2edge.errors import InputError
from seq2edge.runtime.speech.language import NAMES, language_code, language_probabilities

ALL = {code: i for i, code in enumerate(NAMES)}


def test_every_name_of_whisper_is_known():
    """Those of transformers' list, aliases too, in any case."""
    for name, code in TO_LANGUAGE_CODE.items():
        assert language_code(name.title(), ALL) == code
        assert language_code(code.upper(), ALL) == code
    assert {*NAMES} == {*TO_LANGUAGE_CODE.values()}


def test_a_language_that_the_model_does_not_know_is_refused():
    """With its code, and those that it does know."""
    with pytest.raises(InputError, match=r"does not know 'German' \(de\), known: en, fr"):
        language_code("German", {"fr": 1, "en": 0})
    with pytest.raises(InputError, match="does not know 'Klingon', known: en"):
        language_code("Klingon", {"en": 0})


def test_probabilities_are_of_the_languages_alone():
    """The likeliest first, whatever else is likely."""
    logits = np.array([9.0, 1.0, 3.0, 2.0])
    likely = language_probabilities(logits, {"en": 1, "de": 2, "fr": 3})
    assert list(likely) == ["de", "fr", "en"]
    total = np.exp([1.0, 3.0, 2.0]).sum()
    assert likely["de"] == pytest.approx(np.exp(3.0) / total)
