"""Forms become options of speech, and transcripts the bodies that OpenAI's API has."""

from __future__ import annotations

import json

import pytest
from openai.types.audio import TranscriptionVerbose

from seq2edge.errors import InputError, OptionError
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.transcript import Segment, Transcript, Word
from seq2edge.runtime.speech.writers import write_transcript
from seq2edge.serve.routes.audio import (
    SpeechRequest,
    delta_event,
    done_event,
    form_fields,
    text_deltas,
)


def segment(text, start, end):
    """A segment of one word."""
    return Segment(
        text=text,
        start=start,
        end=end,
        ids=(1, 2),
        temperature=0.0,
        average_logprob=-0.5,
        compression_ratio=1.25,
        no_speech_probability=0.125,
        language="de",
        words=(Word(text=text, start=start, end=end, probability=0.5),),
    )


SEGMENTS = (segment(" Guten Tag.", 0.0, 1.5), segment(" Wie geht's? ", 1.5, 2.0))
TRANSCRIPT = Transcript(
    text="Guten Tag. Wie geht's?",
    language="de",
    language_probability=0.75,
    duration=2.25,
    segments=SEGMENTS,
)


def request(*fields, task="transcribe"):
    """That of these fields."""
    return SpeechRequest.of(form_fields(fields), task)


def test_a_form_without_fields_is_the_library_s_default():
    """JSON, nothing streamed, and the options that a Transcriber has by itself."""
    asked = request()
    assert (asked.options, asked.form, asked.stream) == (SpeechOptions(), "json", False)
    assert request(task="translate").options == SpeechOptions(task="translate")


def test_fields_become_options():
    """OpenAI's by other names, the library's own as JSON; temperature 0 and null change nothing."""
    asked = request(
        ("language", "German"),
        ("prompt", "Grüße"),
        ("temperature", "0.25"),
        ("mode", "batched"),
        ("batch", "3"),
        ("logprob_threshold", "-2"),
        ("no_speech_threshold", "null"),
        ("skip_silence", "false"),
        ("hotwords", "5"),
    )
    assert asked.options == SpeechOptions(
        language="German",
        initial_prompt="Grüße",
        temperatures=(0.25,),
        mode="batched",
        batch=3,
        logprob_threshold=-2,
        skip_silence=False,
        hotwords="5",
    )
    assert request(("temperature", "0")).options == SpeechOptions()
    words = request(("response_format", "verbose_json"), ("timestamp_granularities[]", "word"))
    assert words.options.words


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([("chunking_strategy", "auto")], "chunking_strategy: no field of this request, known: "),
        ([("words", "true")], "words: no field of this request"),
        ([("language", "de"), ("language", "en")], "language: comes twice"),
        ([("response_format", "tsv")], "response_format: 'tsv', needs one of json, text"),
        ([("temperature", "warm")], "temperature: 'warm' is no JSON value"),
        ([("temperature", "1.5")], "temperature: 1.5, needs a number from 0 to 1"),
        ([("temperature", "NaN")], "temperature: nan, needs a number"),
        ([("stream", "yes")], "stream: 'yes' is no JSON value"),
        ([("stream", "true"), ("response_format", "srt")], "stream: srt comes as a whole"),
        ([("timestamp_granularities[]", "word")], "timestamp_granularities.*json has no times of"),
        (
            [("response_format", "verbose_json"), ("timestamp_granularities[]", "line")],
            "timestamp_granularities.*needs segment or word",
        ),
        ([("batch", "[" * 100_000)], "batch: .* is no JSON value"),
        ([("batch", "0")], "batch: 0, needs 1 to"),
        ([("skip_silence", "1")], "skip_silence: 1, needs"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields, message):
    """Unknown fields, values out of range, and what does not go together."""
    with pytest.raises((InputError, OptionError), match=message):
        request(*fields)


def test_bodies_are_the_library_s_formats():
    """Subtitles as its writer has them; text is the transcript's, on a line."""
    for form in ("srt", "vtt"):
        body = request(("response_format", form)).body(TRANSCRIPT)
        assert body == write_transcript(TRANSCRIPT, form)
    assert request(("response_format", "text")).body(TRANSCRIPT) == f"{TRANSCRIPT.text}\n"
    usage = {"type": "duration", "seconds": 3}
    assert json.loads(request().body(TRANSCRIPT)) == {"text": TRANSCRIPT.text, "usage": usage}


def test_verbose_json_has_the_times_that_were_asked_for():
    """Segments unless words alone are asked for; the openai client reads it."""
    form, name = ("response_format", "verbose_json"), "timestamp_granularities[]"
    for marks in ([], ["segment"], ["word"], ["word", "segment"]):
        asked = request(form, *((name, mark) for mark in marks))
        values = json.loads(asked.body(TRANSCRIPT))
        assert ("segments" in values) == (marks != ["word"])
        assert [each["word"] for each in values["words"]] == ["Guten Tag.", "Wie geht's?"]
        read = TranscriptionVerbose.model_validate(values)
        assert (read.text, read.language, read.duration) == (TRANSCRIPT.text, "german", 2.25)
        assert read.usage.seconds == 3


def test_deltas_are_the_text():
    """Joined they are the transcript's, without the spaces around it; nothing is sent twice."""
    assert list(text_deltas(SEGMENTS)) == ["Guten Tag.", " Wie geht's?"]
    assert "".join(text_deltas([*SEGMENTS, SEGMENTS[0]])) == "Guten Tag. Wie geht's?  Guten Tag."
    assert json.loads(delta_event("ä")) == {"type": "transcript.text.delta", "delta": "ä"}
    done = json.loads(done_event(TRANSCRIPT))
    assert (done["type"], done["text"]) == ("transcript.text.done", TRANSCRIPT.text)
