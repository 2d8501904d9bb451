"""Windows of the parts in which somebody speaks: what they hold, and what they leave."""

from __future__ import annotations

import numpy as np
from speech_windows import SECOND, TOKENS, heard

from seq2edge.runtime.speech.batched_windows import BLOCK, BatchedWindows
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.windows import Hints

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
