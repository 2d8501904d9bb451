"""Windows begin where they should, with what was said before them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from seq2edge.errors import OptionError
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.tokens import SpeechTokens
from seq2edge.runtime.speech.windows import (
    BatchedWindows,
    ExactWindows,
    Heard,
    Hints,
    in_recording,
    packed,
)

FIRST = 50
TOKENS = SpeechTokens(
    start=31,
    end=30,
    positions=24,
    languages={},
    tasks={},
    no_timestamps=49,
    first_timestamp=FIRST,
    no_speech=48,
    previous=47,
    latest=None,
)
SECOND = 16_000


def heard(*ids, silent=False, temperature=0.0):
    """What a window says."""
    return Heard(
        ids=ids,
        temperature=temperature,
        average_logprob=-0.1,
        compression_ratio=1.0,
        no_speech_probability=0.0,
        silent=silent,
        language="en",
    )


def exact(seconds, options=None, spans=None, hints=None):
    """Those of a recording of noise."""
    samples = np.random.default_rng(0).standard_normal(int(seconds * SECOND)).astype(np.float32)
    return ExactWindows(
        samples, TOKENS, options or SpeechOptions(), mels=8, hints=hints or Hints(), spans=spans
    )


def test_a_window_follows_the_last_pair_and_knows_what_was_said():
    """Half of the positions at most, one time of a pair, nothing behind what was drawn hot."""
    windows = exact(70)
    first = windows.next()
    assert (first.first, first.frames, first.before) == (0, 3000, ())
    assert windows.next() is None  # before the first is taken
    parts = windows.take(first, heard(50, 1, 2, 150, 150, 3, 4, 1250, 1250))
    assert [(part.ids, part.start, part.end) for part in parts] == [
        ((50, 1, 2, 150), 0, 200),
        ((150, 3, 4, 1250, 1250), 200, 2400),
    ]
    second = windows.next()
    assert (second.first, second.frames) == (2400, 3000)
    assert second.before == (47, 50, 1, 2, 150, 150, 3, 4, 1250)
    windows.take(second, heard(50, *range(20), 1350, temperature=0.6))
    third = windows.next()
    assert (third.first, third.frames, third.before) == (5400, 1600, ())
    np.testing.assert_array_equal(third.features[:, 1600:], 0)
    windows.take(third, heard(50, silent=True))
    assert windows.done
    assert windows.seconds == 70.0


def test_what_was_said_is_cut_to_half_of_the_positions():
    """With hot words before it, which take none of the room that is there for new text."""
    options = SpeechOptions()
    windows = exact(70, options, hints=Hints(hotwords=(5, 6), prompt=(7, 8)))
    first = windows.next()
    assert first.before == (47, 5, 6, 7, 8)
    windows.take(first, heard(50, *range(20), 1350))
    assert windows.next().before == (47, 5, 6, *range(12, 20), 1350)


def test_silence_is_skipped():
    """Whole windows of it, and the rest of a recording."""
    windows = exact(100, spans=[(70 * SECOND, 71 * SECOND)])
    window = windows.next()
    assert (window.first, window.frames) == (6000, 3000)
    windows.take(window, heard(50, 1, 650, 650))
    assert windows.done
    assert exact(40, spans=[]).done


def test_a_prefix_is_of_the_first_window_alone():
    """It begins with a time, as a text does."""
    hints = Hints.of(SpeechOptions(prefix=" a"), TOKENS, lambda text: [len(text)])
    assert hints.prefix == (FIRST, 2)
    windows = exact(40, hints=hints)
    first = windows.next()
    assert first.prefix == (FIRST, 2)
    windows.take(first, heard(50, 2, 3, 1350, 1350))
    assert windows.next().prefix == ()


def test_hints_need_a_token_for_what_was_said_before():
    """Otherwise they would be dropped silently."""
    tokens = dataclasses.replace(TOKENS, previous=None)
    with pytest.raises(OptionError, match="hotwords: this model has no token"):
        Hints.of(SpeechOptions(hotwords="a"), tokens, lambda _: [1])


def test_spans_are_packed_into_windows():
    """As many as fit; longer ones are cut, and empty windows do not arise."""
    assert packed([(0, 4), (10, 13), (20, 29), (40, 41)], 8) == [
        [(0, 4), (10, 13)],
        [(20, 28)],
        [(28, 29), (40, 41)],
    ]
    assert packed([], 8) == []


def test_times_of_spans_are_those_of_the_recording():
    """An end at a border is the end of the first, a beginning that of the second."""
    spans = [(160, 480), (1600, 1920)]
    assert [in_recording(spans, frame) for frame in range(5)] == [1, 2, 10, 11, 12]
    assert in_recording(spans, 2, end=True) == 3


def test_batched_parts_come_in_the_order_of_the_recording():
    """Whatever is decoded first; a silent window says nothing."""
    samples = np.ones(80 * SECOND, np.float32)
    spans = [(0, 20 * SECOND), (30 * SECOND, 45 * SECOND), (50 * SECOND, 80 * SECOND)]
    windows = BatchedWindows(samples, TOKENS, SpeechOptions(), mels=8, hints=Hints(), spans=spans)
    first, second, third = windows.next(), windows.next(), windows.next()
    assert windows.next() is None
    assert [window.frames for window in (first, second, third)] == [2000, 1500, 3000]
    assert windows.take(third, heard(50, 1, 150)) == []
    assert windows.take(second, heard(50, silent=True)) == []
    parts = windows.take(first, heard(50, 2, 100))
    assert [(part.ids, part.start, part.end) for part in parts] == [
        ((50, 2, 100), 0, 100),
        ((50, 1, 150), 5000, 5200),
    ]
    assert windows.done
    assert windows.seconds == 80.0
