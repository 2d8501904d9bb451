"""Every format holds the same text and times, as players and other programs read them."""

from __future__ import annotations

import csv
import io
import json

import pysubs2
import pytest
import webvtt

from seq2edge.errors import OptionError
from seq2edge.runtime.speech.transcript import Segment, Transcript, Word
from seq2edge.runtime.speech.writers import FORMATS, SUFFIXES, Layout, clock, write_transcript

HOUR = 3600


def segment(text, start, end, words=None, **changes):
    """A segment with those words and times, if any."""
    values = {
        "ids": (1, 2),
        "temperature": 0.2,
        "average_logprob": -0.5,
        "compression_ratio": 1.25,
        "no_speech_probability": 0.125,
        "language": "de",
    }
    made = None
    if words is not None:
        made = tuple(
            Word(text=word, start=begin, end=until, probability=0.5) for word, begin, until in words
        )
    return Segment(text=text, start=start, end=end, words=made, **(values | changes))


def transcript(*segments):
    """Of these segments."""
    return Transcript(
        text="".join(each.text for each in segments).strip(),
        language="de",
        language_probability=0.75,
        duration=12.5,
        segments=segments,
    )


PLAIN = transcript(
    segment(" Guten Tag.", 0.0, 1.5),
    segment("  ", 1.5, 1.5),
    segment(" A < B & C --> D > 5 <i>x</i>", 1.5, HOUR + 2.0),
    segment("\n5", HOUR + 2.0, 2 * HOUR + 3.0004),
)
TEXTS = ["Guten Tag.", "A < B & C --> D > 5 <i>x</i>", "5"]
TIMES = [(0, 1500), (1500, 3602000), (3602000, 7203000)]


def read_srt(text):
    """Texts and times in milliseconds, as pysubs2 reads them."""
    lines = pysubs2.SSAFile.from_string(text, format_="srt")
    return [(line.plaintext.replace("\u2060", ""), (line.start, line.end)) for line in lines]


def start_of(time):
    """Milliseconds of webvtt-py's time."""
    return ((time.hours * 60 + time.minutes) * 60 + time.seconds) * 1000 + time.milliseconds


def test_subrip_is_read_as_it_was_written():
    """An arrow loses a dash, since the format has no escapes; what looks like a tag stays text."""
    wanted = [text.replace("-->", "->") for text in TEXTS]
    assert read_srt(write_transcript(PLAIN, "srt")) == list(zip(wanted, TIMES, strict=True))


def test_webvtt_is_read_as_it_was_written():
    """With its escapes, by two readers."""
    text = write_transcript(PLAIN, "vtt")
    found = [
        (cue.text, (start_of(cue.start_time), start_of(cue.end_time)))
        for cue in webvtt.from_string(text)
    ]
    unescaped = [
        (said.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"), times)
        for said, times in found
    ]
    assert unescaped == list(zip(TEXTS, TIMES, strict=True))
    lines = pysubs2.SSAFile.from_string(text, format_="vtt")
    assert [(line.start, line.end) for line in lines] == TIMES
    assert text.count("-->") == len(TEXTS)


def test_tables_have_milliseconds():
    """One line a segment, tabs nowhere else."""
    text = write_transcript(transcript(segment(" a\tb", 0.25, 1.0), *PLAIN.segments), "tsv")
    head, *rows = csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    assert head == ["start", "end", "text"]
    assert rows[0] == ["250", "1000", "a b"]
    assert [row[2] for row in rows[1:]] == TEXTS
    assert [(int(row[0]), int(row[1])) for row in rows[1:]] == TIMES


def test_text_is_a_line_a_segment():
    """Those that say something."""
    assert write_transcript(PLAIN, "text").splitlines() == TEXTS


def test_json_is_what_the_transcript_holds():
    """By its own names."""
    values = json.loads(write_transcript(PLAIN, "json"))
    assert values["language_probability"] == 0.75
    assert values["segments"][0] == {
        "text": " Guten Tag.",
        "start": 0.0,
        "end": 1.5,
        "ids": [1, 2],
        "temperature": 0.2,
        "average_logprob": -0.5,
        "compression_ratio": 1.25,
        "no_speech_probability": 0.125,
        "language": "de",
        "words": None,
    }


def test_verbose_json_has_the_names_of_openai():
    """And words where there are any."""
    words = [(" Guten", 0.0, 0.5), (" Tag.", 0.5, 1.5)]
    made = transcript(segment(" Guten Tag.", 0.0, 1.5, words), segment(" Ja.", 1.5, 2.0, []))
    values = json.loads(write_transcript(made, "verbose_json"))
    assert list(values) == ["task", "language", "duration", "text", "segments", "words"]
    assert (values["task"], values["language"]) == ("transcribe", "german")
    assert values["segments"][1] == {
        "id": 1,
        "seek": 150,
        "start": 1.5,
        "end": 2.0,
        "text": " Ja.",
        "tokens": [1, 2],
        "temperature": 0.2,
        "avg_logprob": -0.5,
        "compression_ratio": 1.25,
        "no_speech_prob": 0.125,
    }
    assert values["words"] == [
        {"word": "Guten", "start": 0.0, "end": 0.5},
        {"word": "Tag.", "start": 0.5, "end": 1.5},
    ]
    assert "words" not in json.loads(write_transcript(PLAIN, "verbose_json"))


@pytest.mark.parametrize("form", ["srt", "vtt"])
@pytest.mark.parametrize("timed", [True, False])
def test_long_segments_become_cues_of_short_lines(form, timed):
    """At the times of words, or without them in proportion to their characters."""
    texts = [f" word{i}" for i in range(8)]
    times = [(i * 0.5, i * 0.5 + 0.4) for i in range(8)]
    words = [(text, *time) for text, time in zip(texts, times, strict=True)]
    made = segment("".join(texts), 0.0, 4.0, words if timed else None)
    text = write_transcript(transcript(made), form, Layout(width=12, lines=2))
    found = pysubs2.SSAFile.from_string(text, format_=form)
    said = [line.plaintext.split("\n") for line in found]
    assert said[0] == ["word0 word1", "word2 word3"]
    assert " ".join(" ".join(lines) for lines in said) == "".join(texts).strip()
    assert all(len(line) <= 12 for lines in said for line in lines)
    assert max(map(len, said)) == 2
    if timed:
        assert [(line.start, line.end) for line in found][:2] == [(0, 1900), (2000, 3900)]
    else:
        assert (found[0].start, found[-1].end) == (0, 4000)
        assert all(abs(line.end - line.start - 2000) < 250 for line in found)


def test_text_without_spaces_is_cut_where_a_line_is_full():
    """By characters that have times, or by their number."""
    text = "你好世界再见朋友"
    words = [(character, i * 1.0, i + 1.0) for i, character in enumerate(text)]
    for made in (segment(text, 0.0, 8.0, words), segment(text, 0.0, 8.0)):
        found = read_srt(write_transcript(transcript(made), "srt", Layout(width=3, lines=1)))
        assert found == [
            ("你好世", (0, 3000)),
            ("界再见", (3000, 6000)),
            ("朋友", (6000, 8000)),
        ]


def test_words_are_highlighted_when_they_are_said():
    """Times inside a cue stand in the order of the words, and its text is the same without."""
    words = [(" Guten", 0.0, 0.5), (" <Tag>,", 0.5, 1.0), (" ja", 1.0, 1.5)]
    made = transcript(segment(" Guten <Tag>, ja", 0.0, 1.5, words))
    text = write_transcript(made, "vtt", Layout(highlight=True))
    assert "<c>Guten</c> <00:00:00.500><c>&lt;Tag&gt;,</c> <00:00:01.000><c>ja</c>" in text
    assert next(iter(webvtt.from_string(text))).text == "Guten &lt;Tag&gt;, ja"


def test_cues_neither_overlap_nor_end_before_they_begin():
    """Where rounding and segments of no length would let them."""
    made = transcript(
        segment(" a", 0.0, 1.00051),
        segment(" b", 1.0004, 1.0004),
        segment(" c", 1.0005, 1.0006),
        segment(" d", 0.9, 2.0),
    )
    times = [times for _, times in read_srt(write_transcript(made, "srt"))]
    assert times == [(0, 1001), (1001, 1002), (1002, 1003), (1003, 2000)]


@pytest.mark.parametrize(
    ("milliseconds", "written"),
    [(0, "00:00:00.000"), (3599999, "00:59:59.999"), (360000000, "100:00:00.000")],
)
def test_times_have_hours(milliseconds, written):
    """Two digits, or as many as it takes."""
    assert clock(milliseconds) == written


def test_webvtt_of_more_than_a_hundred_hours_is_read():
    """SubRip's readers stop there."""
    made = transcript(segment(" spät", 100 * HOUR, 100 * HOUR + 1))
    (cue,) = webvtt.from_string(write_transcript(made, "vtt"))
    assert start_of(cue.start_time) == 100 * HOUR * 1000


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_said_is_written_too(form):
    """Each format can be empty."""
    text = write_transcript(transcript(), form)
    assert "Guten" not in text
    if form in ("json", "verbose_json"):
        assert json.loads(text)["segments"] == []
    if form == "vtt":
        assert list(webvtt.from_string(text)) == []


def test_unknown_formats_and_layouts_that_hold_nothing_are_refused():
    """By name, with what is known."""
    assert set(SUFFIXES) == set(FORMATS)
    with pytest.raises(OptionError, match="format: 'docx' is unknown, known: text, json, verb"):
        write_transcript(PLAIN, "docx")
    with pytest.raises(OptionError, match="width: 0 of subtitles, at least 1"):
        Layout(width=0)
    with pytest.raises(OptionError, match="lines: 0 of subtitles, at least 1"):
        Layout(lines=0)
