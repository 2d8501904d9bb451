"""`/v1/audio/...`: forms become options of speech, transcripts the bodies that OpenAI's API has."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import serving
import sound_files
import speech_models
from openai.types.audio import TranscriptionVerbose

from seq2edge.errors import InputError, OptionError
from seq2edge.runtime.speech.exact_windows import ExactWindows
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.transcriber import Transcriber
from seq2edge.runtime.speech.transcript import Segment, Transcript, Word
from seq2edge.runtime.speech.writers import write_transcript
from seq2edge.serve.calls.settings import Settings
from seq2edge.serve.routes.audio import SpeechRequest, form_fields, text_deltas


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
        ("best_of", "2"),
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
        best_of=2,
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
        ([("best_of", "two")], "best_of: 'two' is no JSON value"),
        ([("best_of", "0")], "best_of: 0, needs 1 to"),
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


LARGE = 40  # seconds of a recording of several windows, which is kept in a file


def wave(seconds, kind="wav16"):
    """A recording's name and bytes."""
    samples = np.clip(speech_models.recording(seconds), -1, 1)
    return f"clip.{kind}", sound_files.file_of(kind, (samples * 32767).astype(np.int16))


@pytest.fixture(scope="module")
def bundle(made_once):
    """A tiny multilingual Whisper."""
    return made_once(speech_models.speech_bundle)


@pytest.fixture(scope="module")
def model(bundle):
    """The same, to compare with."""
    return serving.load(bundle)


@pytest.fixture(scope="module")
def served(bundle, speaking):
    """A server of it, and of a model that does not hear."""
    folders = {"whisper": bundle, "translator": speaking("bart")}
    with serving.serve(folders, Settings(upload=2**21, recordings=1)) as server:
        yield server


def post(served, fields, file=None):
    """The answer to a form."""
    files = {"file": file or wave(2)}
    data = {"model": "whisper", **fields}
    url = f"{served.url}/v1/audio/transcriptions"
    return httpx.post(url, data=data, files=files, timeout=serving.SECONDS)


@pytest.mark.parametrize("kind", ["wav16", "flac", "mp3", "m4a", "webm"])
def test_a_recording_of_any_format_says_what_the_library_hears(served, model, kind):
    """By OpenAI's client."""
    name, data = wave(6, kind)
    answer = served.openai().audio.transcriptions.create(model="whisper", file=(name, data))
    wanted = Transcriber(model).transcribe(data)
    assert (answer.text, answer.usage.seconds) == (wanted.text, math.ceil(wanted.duration))
    assert wanted.text


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client's word on it
def test_translations_are_the_library_s(served, model):
    """Another task; of a source language that may be said."""
    name, data = wave(LARGE)
    options = SpeechOptions(task="translate", language="de", initial_prompt="w3 w4")
    answer = served.openai().audio.translations.create(
        model="whisper",
        file=(name, data),
        prompt="w3 w4",
        response_format="verbose_json",
        extra_body={"language": "de"},
    )
    wanted = Transcriber(model, options).transcribe(data)
    assert (answer.text, answer.task, answer.language) == (wanted.text, "translate", "german")
    assert [each.tokens for each in answer.segments] == [list(each.ids) for each in wanted.segments]


def test_words_and_subtitles_are_the_library_s(served, model):
    """Times of words by OpenAI's field, WebVTT as a text."""
    name, data = wave(6)
    wanted = Transcriber(model, SpeechOptions(words=True)).transcribe(data)
    ask = served.openai().audio.transcriptions.create
    answer = ask(
        model="whisper",
        file=(name, data),
        response_format="verbose_json",
        timestamp_granularities=["word"],
    )
    words = [word for segment in wanted.segments for word in segment.words]
    assert [(word.word, word.start) for word in answer.words] == [
        (word.text.strip(), word.start) for word in words
    ]
    wanted = Transcriber(model).transcribe(data)
    answer = ask(model="whisper", file=(name, data), response_format="vtt")
    assert answer == write_transcript(wanted, "vtt")


def test_a_stream_has_the_text_in_pieces(served, model):
    """A segment an event, and the whole as the last one."""
    name, data = wave(LARGE)
    events = list(
        served.openai().audio.transcriptions.create(
            model="whisper", file=(name, data), stream=True, language="en"
        )
    )
    wanted = Transcriber(model, SpeechOptions(language="en")).transcribe(data)
    assert "".join(each.delta for each in events[:-1]) == events[-1].text == wanted.text
    assert len(events) == len(wanted.segments) + 1 > 2
    assert {each.type for each in events[:-1]} == {"transcript.text.delta"}
    assert events[-1].type == "transcript.text.done"


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "translator"}, "made to generate, it cannot transcribe"),
        ({"language": "tlh"}, "language"),
        ({"known_speaker_names[]": "Anna"}, "known_speaker_names[]: no field of this request"),
        ({"file": ("clip.wav", b"RIFFRIFF")}, "audio: begins with b'RIFFRIFF', no recording"),
        ({"file": ("clip.wav", b"")}, "audio: empty, not a byte of a recording"),
    ],
)
def test_what_cannot_be_heard_is_refused(served, change, message, stream):
    """With 400 and in one line, of a stream too."""
    fields = {"stream": stream, **change}
    answer = post(served, fields, fields.pop("file", None))
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_a_form_needs_a_recording_that_is_not_too_large(served):
    """Without one 400, with the name of the field; of too many bytes 413."""
    answer = httpx.post(f"{served.url}/v1/audio/translations", data={"model": "whisper"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
    answer = post(served, {}, ("clip.wav", b"RIFF" * 2**20))
    assert answer.status_code == 413
    with pytest.raises(openai.BadRequestError, match=r"temperature: 2\.0, needs a number from 0"):
        served.openai().audio.transcriptions.create(
            model="whisper", file=("clip.wav", b"RIFF"), temperature=2.0
        )


def nameless_files():
    """Files of this process that are open and belong to no folder any more."""
    links = (link for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
    return {name for name in map(os.readlink, links) if name.endswith("(deleted)")}


@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_client_that_hangs_up_ends_its_transcription(served, model, monkeypatch, stream):
    """Between two windows; the file of the recording is closed."""
    windows, alone = [], threading.Event()

    def slowly(self, window, heard, take=ExactWindows.take):
        windows.append(window)
        time.sleep(0 if alone.is_set() else 0.1)
        return take(self, window, heard)

    monkeypatch.setattr(ExactWindows, "take", slowly)
    before = nameless_files()
    file = wave(LARGE)
    url = f"{served.url}/v1/audio/transcriptions"
    data = {"model": "whisper", "language": "en", "stream": stream}
    request = httpx.Request("POST", url, data=data, files={"file": file})
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with served.connect() as connection:
        connection.sendall(f"POST {request.url.path} HTTP/1.1\r\n{head}\r\n".encode())
        connection.sendall(request.read())
        serving.soon(lambda: windows, "no window was decoded")
        assert nameless_files() > before
    serving.soon(lambda: not served.serving.calls, "the call goes on")
    assert nameless_files() == before
    heard = len(windows)
    alone.set()
    Transcriber(model, SpeechOptions(language="en")).transcribe(file[1])
    assert heard < len(windows) - heard
