"""Spans fill windows, and know where in the recording they are."""

from __future__ import annotations

import numpy as np
from speech_windows import SECOND

from seq2edge.runtime.speech.spans import behind, filled, in_recording


def test_a_window_is_filled_with_spans():
    """As many as fit; of one that does not, what is before its quietest moment."""
    samples = np.ones(40 * SECOND, np.float32)
    samples[7 * SECOND : 8 * SECOND] = 0.1
    spans = [(0, SECOND), (2 * SECOND, 12 * SECOND), (20 * SECOND, 21 * SECOND)]
    group, others = filled(spans, 8 * SECOND, samples)
    middle = group[1][1]
    assert group == [(0, SECOND), (2 * SECOND, middle)]
    assert 7 * SECOND < middle < 8 * SECOND
    assert others == [(middle, 12 * SECOND), (20 * SECOND, 21 * SECOND)]
    assert filled(others, 8 * SECOND, samples) == (others, [])
    # Less than two seconds are no room for a part of the next one.
    assert filled(spans, 5 * SECOND // 2, samples) == (spans[:1], spans[1:])
    assert filled([(0, 6)], 4, samples) == ([(0, 4)], [(4, 6)])
    assert filled([], 8, samples) == ([], [])


def test_what_is_behind_some_samples_of_spans():
    """Spans that lie before are gone."""
    spans = [(0, 4), (10, 13), (20, 29)]
    assert behind(spans, 0) == spans
    assert behind(spans, 5) == [(11, 13), (20, 29)]
    assert behind(spans, 7) == [(20, 29)]
    assert behind(spans, 16) == []


def test_times_of_spans_are_those_of_the_recording():
    """An end at a border is the end of the first, a beginning that of the second."""
    spans = [(160, 480), (1600, 1920)]
    assert [in_recording(spans, frame) for frame in range(5)] == [1, 2, 10, 11, 12]
    assert in_recording(spans, 2, end=True) == 3
