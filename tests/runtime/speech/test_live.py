"""Words settle when two readings agree, and a pause settles all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.errors import OptionError
from seq2edge.runtime.sound.recording import read_samples
from seq2edge.runtime.speech.live import (
    Listener,
    LiveOptions,
    agreeing,
    place_behind,
    spread,
)
from seq2edge.runtime.speech.transcript import Segment, Word

SPEECH = read_samples(Path(__file__).parents[3] / "examples" / "librivox.wav")
SECOND = 16000


def words(text: str) -> list[Word]:
    """One a second."""
    return [
        Word(text=f" {word}", start=i, end=i + 1, probability=1.0)
        for i, word in enumerate(text.split())
    ]


def segment(text: str, start: float, end: float) -> Segment:
    """A segment without words."""
    return Segment(
        text=text,
        start=start,
        end=end,
        ids=(),
        temperature=0.0,
        average_logprob=-0.1,
        compression_ratio=1.0,
        no_speech_probability=0.0,
        language="en",
    )


class Script:
    """A reader that says what it was told to, and keeps what it was handed."""

    def __init__(self, *readings: Sequence[Segment]) -> None:
        self.readings = list(readings)
        self.heard: list[tuple[int, str]] = []

    def __call__(self, samples: NDArray[np.float32], said: str) -> Sequence[Segment]:
        """The next of its readings."""
        self.heard.append((len(samples), said))
        return self.readings.pop(0)


def text(settled: Sequence[Word]) -> str:
    """Of words."""
    return "".join(word.text for word in settled)


def test_words_that_two_readings_begin_with_settle() -> None:
    """Whatever their case and marks; the rest is shown as what it may be."""
    read = Script(
        [segment(" He was not", 0, 1)],
        [segment(" he was, nought an", 0, 2)],
        [segment(" He was nought an ill man", 0, 3)],
    )
    listener = Listener(read, LiveOptions(step=1.0))
    updates = [listener.hear(SPEECH[i * SECOND : (i + 1) * SECOND]) for i in range(3)]
    settled = [text(update.settled) for update in updates if update]
    assert settled == ["", " he was,", " nought an"]
    assert [update.partial for update in updates if update] == [
        " He was not",
        " nought an",
        " ill man",
    ]
    assert not any(update.pause for update in updates if update)


def test_nothing_is_read_before_there_is_enough_new_sound() -> None:
    """Blocks are gathered."""
    read = Script([segment(" He", 0, 1)])
    listener = Listener(read, LiveOptions(step=0.5))
    parts = [listener.hear(SPEECH[at : at + 1600]) for at in range(0, 8000, 1600)]
    assert [part is None for part in parts] == [True, True, True, True, False]


def test_a_pause_settles_all_words_and_lets_the_sound_go() -> None:
    """What follows is read alone, with what was said before as the prompt."""
    read = Script(
        [segment(" He was not.", 0, 4)], [segment(" An ill man", 0, 2)], [segment(" An", 0, 1)]
    )
    listener = Listener(read, LiveOptions(step=1.0))
    pause = np.zeros(SECOND, np.float32)
    first = listener.hear(np.concatenate([SPEECH, pause]))
    assert first is not None
    assert (text(first.settled), first.partial, first.pause) == (" He was not.", "", True)
    second = listener.hear(np.concatenate([pause, SPEECH[:SECOND]]))
    assert second is not None
    assert (second.settled, second.partial) == ((), " An ill man")
    assert read.heard[1][1] == " He was not."
    assert read.heard[1][0] < 3 * SECOND
    last = listener.finish()
    assert (text(last.settled), last.pause) == (" An", True)
    assert 5.0 < last.settled[0].start < 8.0  # of all sound


def test_silence_is_not_read() -> None:
    """And does not pile up."""
    listener = Listener(Script(), LiveOptions(step=1.0))
    for _ in range(10):
        update = listener.hear(np.zeros(SECOND, np.float32))
        assert update is not None
        assert (update.settled, update.partial, update.pause) == ((), "", False)
    assert listener.finish().settled == ()
    assert len(listener._sound) <= SECOND


def test_the_sound_of_segments_that_are_settled_is_let_go() -> None:
    """The words of the next one are not read twice."""
    both = [segment(" He was.", 0, 2), segment(" Not an ill", 2, 4)]
    read = Script(both, both, [segment(" Not an ill man", 0, 3)])
    listener = Listener(read, LiveOptions(step=1.0))
    listener.hear(SPEECH[: 3 * SECOND])
    second = listener.hear(SPEECH[3 * SECOND : 4 * SECOND])
    assert second is not None
    assert text(second.settled) == " He was. Not an ill"
    third = listener.hear(SPEECH[4 * SECOND :])
    assert third is not None
    assert read.heard[2][0] == len(SPEECH) - 2 * SECOND
    assert read.heard[2][1] == " He was."
    assert (text(third.settled), third.partial) == ("", " man")


def test_sound_that_never_settles_is_bounded() -> None:
    """Readings that never agree end at some time."""
    listener = Listener(
        lambda samples, _: [segment(f" w{len(samples)}", 0, 1)], LiveOptions(step=1.0)
    )
    for _ in range(20):
        listener.hear(SPEECH[SECOND : 4 * SECOND])
        assert len(listener._sound) <= 30 * SECOND


@pytest.mark.parametrize(
    ("settled", "heard", "place"),
    [
        ("", "a b", 0),
        ("a b", "a b c", 2),
        ("a b", "A, b. c", 2),
        ("a b c", "a c d", 2),
        ("a b", "a x b c", 3),
        ("a b", "x y z", 2),
        ("a b c", "a", 1),
        ("a b", "", 0),
    ],
)
def test_settled_words_are_found_again(settled: str, heard: str, place: int) -> None:
    """Also where they are heard in another way now."""
    assert place_behind(words(settled), words(heard)) == place


def test_agreement_ends_at_the_first_difference() -> None:
    """And at the end of the shorter one."""
    assert agreeing(words("a b c"), words("A b, d")) == 2
    assert agreeing(words("a"), words("a b")) == 1
    assert agreeing([], words("a")) == 0


def test_words_share_the_time_of_a_segment_by_their_length() -> None:
    """Where the bundle has no times of words."""
    first, second = spread(segment(" abc abcdefg", 1.0, 4.0))
    assert (first.text, first.start, first.end) == (" abc", 1.0, 2.0)
    assert (second.text, second.start, second.end) == (" abcdefg", 2.0, 4.0)
    assert spread(segment(" ", 0, 1)) == []


@pytest.mark.parametrize(("name", "value"), [("step", 0.0), ("pause", 11.0), ("step", np.nan)])
def test_options_out_of_range_are_refused(name: str, value: float) -> None:
    """By their names."""
    with pytest.raises(OptionError, match=f"{name}: {value} s, 0.1 to 10"):
        LiveOptions(**{name: value})
