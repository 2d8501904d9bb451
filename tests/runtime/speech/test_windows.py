"""Windows begin where they should, with what was said before them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from seq2edge.errors import OptionError
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.tokens import SpeechTokens
from seq2edge.runtime.speech.windows import (
    BLOCK,
    BatchedWindows,
    ExactWindows,
    Heard,
    Hints,
    behind,
    filled,
    in_recording,
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


WORDS = [1] * 24  # of a segment of 20 s and more


def batched(spans, seconds):
    """Windows of a recording that is equally loud everywhere."""
    samples = np.ones(seconds * SECOND, np.float32)
    spans = [(first * SECOND, last * SECOND) for first, last in spans]
    return BatchedWindows(samples, TOKENS, SpeechOptions(), mels=8, hints=Hints(), spans=spans)


def test_batched_parts_come_in_the_order_of_the_recording():
    """Whatever is decoded first; a silent window says nothing."""
    windows = batched([(0, 25), (30, 55), (58, 80)], 80)
    first, second, third = windows.next(), windows.next(), windows.next()
    assert windows.next() is None
    assert [window.frames for window in (first, second, third)] == [2500, 2500, 2200]
    assert windows.take(third, heard(50, *WORDS, 1150)) == []
    assert windows.take(second, heard(50, silent=True)) == []
    assert windows.seconds == 0.0
    parts = windows.take(first, heard(50, *WORDS, 1300))
    assert [(part.ids, part.start, part.end) for part in parts] == [
        ((50, *WORDS, 1300), 0, 2500),
        ((50, *WORDS, 1150), 5800, 8000),
    ]
    assert windows.done
    assert windows.seconds == 80.0


def test_what_a_batched_window_leaves_goes_into_the_block_after_the_next():
    """From a little before its last time, whichever window is done first.

    In a window of its own, as nothing else is near.
    """
    spans = [(30 * window, 30 * window + 25) for window in range(10)]
    made = []
    for order in (1, -1):
        windows = batched(spans, 300)
        block = [windows.next() for _ in range(BLOCK)]
        others = [windows.next() for _ in range(BLOCK)]
        assert windows.next() is None  # before all of the first block is known
        for window in block[::order]:
            # To 25 s, or one of them to 20 s alone.
            heard_to = 1050 if window is block[1] else 1300
            windows.take(window, heard(50, *WORDS, heard_to, heard_to))
        made.append([windows.next().spans for _ in range(3)])
        assert windows.next() is None
        assert windows.seconds == 49.8
        for window in others:
            windows.take(window, heard(50, *WORDS, 1300, 1300))
        assert not windows.done
    rest = (round(49.8 * SECOND), 55 * SECOND)
    assert made[0] == made[1]
    assert made[0][0][0] == rest
    assert [span[0] // SECOND for group in made[0] for span in group] == [49, 240, 270]


def test_of_a_segment_that_lasts_too_long_the_rest_is_read_again_once():
    """Models close a segment at the window's end where they stop early; twice is music."""
    windows = batched([(0, 25)], 30)
    (part,) = windows.take(windows.next(), heard(50, 1, 2, 3, 1300))
    assert (part.start, part.end) == (0, 150)
    assert windows.seconds == 1.3
    window = windows.next()
    assert window.spans == ((round(1.3 * SECOND), 25 * SECOND),)
    (part,) = windows.take(window, heard(50, 1, 2, 3, 1235))
    assert (part.start, part.end) == (130, 2500)
    assert windows.done


def test_spans_far_from_each_other_share_no_window():
    """No sentence has words of both."""
    windows = batched([(0, 5), (35, 40), (71, 75)], 80)
    near, far = windows.next(), windows.next()
    assert [len(window.spans) for window in (near, far)] == [2, 1]


def test_of_samples_each_span_is_a_window():
    """None is cut to fill the one before it; only what is too long is."""
    spans = [(0, 10 * SECOND), (12 * SECOND, 35 * SECOND), (36 * SECOND, 70 * SECOND)]
    samples = np.ones(70 * SECOND, np.float32)
    windows = BatchedWindows(samples, TOKENS, SpeechOptions(), mels=0, hints=Hints(), spans=spans)
    made = [windows.next().spans for _ in range(BLOCK)]
    assert made[:2] == [(spans[0],), (spans[1],)]
    ((first, middle),), ((again, last),) = made[2:]
    assert (first, middle, last) == (36 * SECOND, again, 70 * SECOND)


def test_a_batched_window_without_any_time_is_not_read_again():
    """Else it would be for ever."""
    windows = batched([(0, 25)], 30)
    window = windows.next()
    windows.take(window, heard(50, 50))
    assert windows.done
