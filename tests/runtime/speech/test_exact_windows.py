"""Windows begin where they should, with what was said before them."""

from __future__ import annotations

import numpy as np
from speech_windows import FIRST, SECOND, TOKENS, heard

from seq2edge.runtime.speech.exact_windows import ExactWindows
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.windows import Hints


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
