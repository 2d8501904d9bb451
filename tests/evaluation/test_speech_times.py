"""Errors of times are those of words that both have, by files as `transcribe` writes them."""

from __future__ import annotations

import math
import types

import pytest

from seq2edge.errors import InputError
from seq2edge.evaluation.examples import Example, read_examples
from seq2edge.evaluation.metrics import METRICS, choose_metric, score_answers
from seq2edge.evaluation.speech_times import Timed, read_times, time_errors
from seq2edge.runtime.speech.transcript import Segment, Transcript, Word
from seq2edge.runtime.speech.writers import write_transcript

WORDS = [(" Guten", 0.5, 0.9), (" Tag,", 1.0, 1.5), (" Welt!", 2.0, 2.75)]


def transcript(words=WORDS, *, timed=True):
    """One segment of these words."""
    text = "".join(word for word, _, _ in words)
    segment = Segment(
        text=text,
        start=words[0][1],
        end=words[-1][2],
        ids=(1,),
        temperature=0.0,
        average_logprob=-0.1,
        compression_ratio=1.0,
        no_speech_probability=0.0,
        language="de",
        words=tuple(Word(text=w, start=s, end=e, probability=1.0) for w, s, e in words)
        if timed
        else None,
    )
    return Transcript(
        text=text.strip(),
        language="de",
        language_probability=None,
        duration=3.0,
        segments=(segment,),
    )


@pytest.mark.parametrize("form", ["json", "verbose_json"])
def test_words_are_read_of_json(form, tmp_path):
    """Of ours and of OpenAI's; segments where there are no words."""
    file = tmp_path / "a.json"
    file.write_text(write_transcript(transcript(), form))
    assert [(e.text.strip(), e.start, e.end) for e in read_times(file)] == [
        (word.strip(), start, end) for word, start, end in WORDS
    ]
    file.write_text(write_transcript(transcript(timed=False), form))
    assert [(e.text, e.start, e.end) for e in read_times(file)] == [
        (" Guten Tag, Welt!", 0.5, 2.75)
    ]


@pytest.mark.parametrize("form", ["srt", "tsv"])
def test_segments_are_read_of_subtitles_and_tables(form, tmp_path):
    """As they were written."""
    file = tmp_path / f"a.{form}"
    file.write_text(write_transcript(transcript(timed=False), form))
    assert read_times(file) == (Timed(text="Guten Tag, Welt!", start=0.5, end=2.75),)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.srt", "hello", "a.srt: holds no text with times"),
        ("a.tsv", "1\t2\tx\n3\n", "a.tsv: not times as `transcribe` writes them"),
        ("a.tsv", "-5\t2\tx\n", r"a.tsv: 'x' from -0.005 to 0.002 s"),
        ("a.tsv", "nan\t2\tx\n", r"a.tsv: 'x' from nan"),
        ("a.json", "[1]", "a.json: not times as"),
        ("a.json", '{"segments": [{"text": "x", "start": 2, "end": 1}]}', "'x' from 2.0 to 1.0 s"),
        ("a.json", "[" * 100_000, "a.json: not times as"),
        ("a.txt", "hello", "a.txt: times are read of .srt, .json, .tsv files"),
    ],
)
def test_other_files_are_refused_in_one_line(name, text, message, tmp_path):
    """With their name."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_times(tmp_path / name)


def test_errors_are_those_of_words_that_both_have():
    """What was misheard has none; a segment's ends are those of its first and last word."""
    ours = transcript([(" guten", 0.6, 0.9), (" Abend", 1.0, 1.5), (" Welt", 2.0, 2.5)])
    reference = [Timed(text=word, start=start, end=end) for word, start, end in WORDS]
    starts, ends = time_errors(ours, reference)
    assert starts == pytest.approx([0.1, 0.0])
    assert ends == pytest.approx([0.0, -0.25])
    starts, ends = time_errors(ours, [Timed(text="Guten Tag, Welt!", start=0.5, end=2.75)])
    assert starts == pytest.approx([0.1])
    assert ends == pytest.approx([-0.25])
    starts, ends = time_errors(transcript(timed=False), reference)
    assert (starts, ends) == ([0.0], [0.0])


def test_metrics_of_times_are_means_and_a_share(tmp_path):
    """In milliseconds and percent."""
    file = tmp_path / "a.json"
    file.write_text(write_transcript(transcript(), "json"))
    ours = transcript([(" Guten", 0.6, 0.9), (" Tag", 1.0, 1.5), (" Welt", 2.3, 2.5)])
    example = Example(input="a", times=file)
    values = {
        name: score_answers(METRICS[name], [ours], [example]).estimate().value
        for name in ("start-error", "end-error", "close")
    }
    assert values == pytest.approx(
        {"start-error": 400 / 3, "end-error": 250 / 3, "close": 100 * 4 / 6}
    )
    other = transcript([(" nichts", 0.0, 1.0)])
    nothing = score_answers(METRICS["close"], [other], [example]).sums
    assert math.isnan(METRICS["close"].aggregate(nothing[0]))


def test_a_folder_has_times_beside_its_recordings(tmp_path):
    """They are read where a metric asks for them, and missed where there are none."""
    for name in "ab":
        (tmp_path / f"{name}.wav").write_bytes(b"")
    (tmp_path / "a.srt").write_text("no times")
    first, second = examples = read_examples(tmp_path, "transcribe")
    assert (first.times, second.times) == (tmp_path / "a.srt", None)
    model = types.SimpleNamespace(
        bundle=types.SimpleNamespace(manifest=types.SimpleNamespace(task="transcribe", labels=())),
        dims=types.SimpleNamespace(kind="encoder-decoder"),
    )
    with pytest.raises(InputError, match=r"a.srt: holds no text with times"):
        choose_metric(model, examples, "close")
    with pytest.raises(InputError, match=r"close compares with times, .*b.wav has none: put a"):
        choose_metric(model, [second], "close")
