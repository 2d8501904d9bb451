"""`transcribe`: what is printed and written, what goes on after a bad file, and what is refused."""

from __future__ import annotations

import io
import json
import re
import sys
import wave
from types import SimpleNamespace

import numpy as np
import pysubs2
import pytest
import speech_models
from command_line import call

import seq2edge
from seq2edge.commands import speech
from seq2edge.commands.speech import Meter
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.transcriber import Transcriber

FAST = ("--device", "cpu", "--threads", 1, "--temperatures", "0")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of two recordings, one longer than a window, and one that is none."""
    folder = tmp_path_factory.mktemp("clips")
    for name, seconds in (("a", 34.0), ("b", 3.0)):
        samples = speech_models.recording(seconds, seed=len(name))
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes((samples * 20_000).astype("<i2").tobytes())
    (folder / "c.wav").write_text("hello")
    (folder / "notes.txt").write_text("no sound")
    return folder


@pytest.fixture(scope="module")
def transcripts(hearing, clips):
    """What the library makes of both."""
    model = seq2edge.load(hearing, device="cpu", threads=1)
    options = SpeechOptions(language="de", temperatures=(0.0,))
    transcriber = Transcriber(model, options)
    return [transcriber.transcribe(clips / f"{name}.wav") for name in "ab"]


def plain(text):
    """With single spaces."""
    return " ".join(text.split())


def said(transcript):
    """All segments; the tokenizer here writes no space before their first words."""
    return plain(" ".join(segment.text for segment in transcript.segments))


def test_one_recording_is_printed_segment_by_segment(hearing, clips, transcripts):
    """A line each, of any length; the language by its name."""
    result = call("transcribe", hearing, clips / "a.wav", *FAST, "--language", "German")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [plain(each.text) for each in transcripts[0].segments]
    assert len(transcripts[0].segments) > 1


def test_a_folder_goes_on_after_a_bad_file(hearing, clips, transcripts):
    """Each recording is a line; what cannot be read is one on stderr, and the exit code is 1."""
    result = call("transcribe", hearing, clips, *FAST, "--language", "de")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [said(each) for each in transcripts]
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1
    assert "c.wav" in errors[0]


def test_every_format_holds_the_same_text(hearing, clips, transcripts, tmp_path):
    """A file for each recording and format, with words."""
    formats = [part for form in speech.FORMATS for part in ("--format", form)]
    result = call(
        "transcribe", hearing, clips, *FAST, *formats, "-o", tmp_path / "out", "--language", "de",
        "--words",
    )  # fmt: skip
    assert result.exit_code == 1
    assert result.stdout == ""
    names = {f"{name}{end}" for name in "ab" for end in (".txt", ".json", ".verbose.json")}
    names |= {f"{name}{end}" for name in "ab" for end in (".srt", ".vtt", ".tsv")}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    for name, made in zip("ab", transcripts, strict=True):
        file = tmp_path / "out" / name
        assert plain(file.with_suffix(".txt").read_text()) == said(made)
        values = json.loads(file.with_suffix(".json").read_text())
        assert values["text"] == made.text
        assert all(segment["words"] for segment in values["segments"])
        verbose = json.loads(file.with_suffix(".verbose.json").read_text())
        assert plain(" ".join(s["text"] for s in verbose["segments"])) == said(made)
        assert " ".join(word["word"] for word in verbose["words"]) == said(made)
        rows = file.with_suffix(".tsv").read_text().splitlines()[1:]
        assert plain(" ".join(row.split("\t")[2] for row in rows)) == said(made)
        for end in (".srt", ".vtt"):
            lines = pysubs2.load(str(file.with_suffix(end)))
            assert plain(" ".join(line.plaintext for line in lines)) == said(made)


def test_json_of_a_recording_names_it(hearing, clips, transcripts):
    """One object a line."""
    result = call(
        "transcribe", hearing, clips / "a.wav", clips / "b.wav", *FAST, "--format", "json",
        "--language", "DE",
    )  # fmt: skip
    values = [json.loads(line) for line in result.stdout.splitlines()]
    assert [value["input"] for value in values] == [str(clips / "a.wav"), str(clips / "b.wav")]
    assert [value["text"] for value in values] == [each.text for each in transcripts]


def test_json_of_results_has_ids_scores_and_log_probabilities(hearing, clips):
    """Of clips that one window holds, as before; a longer one is named, and the others go on."""
    result = call(
        "transcribe", hearing, clips / "a.wav", clips / "b.wav", "--device", "cpu", "--json",
        "-b", 2, "-n", 2, "--logprobs", 1, "--max-new-tokens", 6,
    )  # fmt: skip
    assert result.exit_code == 1
    (line,) = result.stdout.splitlines()
    values = json.loads(line)
    assert values["input"] == str(clips / "b.wav")
    assert [sorted(each) for each in values["results"]] == [
        ["finish_reason", "finished", "ids", "logprobs", "score", "text"]
    ] * 2
    assert re.search(r"Error: .*a\.wav: ", result.stderr)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.wav", "--format", "srt", "--format", "vtt"], 2, "--format: several need --output"),
        (["a.wav", "b.wav", "--format", "srt"], 2, "--format srt: several recordings need --out"),
        (["a.wav", "--json", "--words"], 2, "--json goes without --format, --output and --words"),
        (["a.wav", "--logprobs", 1], 2, "--logprobs goes with --json"),
        (["a.wav", "--highlight"], 2, "--highlight goes with --words and --format vtt"),
        (["a.wav", "--temperatures", "0,x"], 1, "temperatures: '0,x', needs numbers with commas"),
        (["a.wav", "--best-of", 0], 2, "'--best-of': 0 is not in the range x>=1"),
        (["a.wav", "--best-of", 101], 1, "best_of: 101, needs 1 to 100 texts, or None"),
        (["a.wav", "--language", "klingon"], 1, "language: this model does not know 'klingon'"),
        (["a.wav", "a.wav", "-o", "out"], 1, "out: several recordings are called a, rename"),
        (["."], 1, ".: holds no recording"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    hearing, clips, tmp_path, monkeypatch, arguments, code, message
):
    """By the name of the option, before anything is decoded."""
    monkeypatch.chdir(tmp_path if arguments == ["."] else clips)
    if code == 2:
        monkeypatch.setattr(speech, "load_model", None)
    result = call("transcribe", hearing, *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self):
        """It is one."""
        return True


def test_a_meter_shows_seconds_and_speed_on_terminals_alone(monkeypatch):
    """And makes room for what is printed."""
    times = iter([0.0, 2.0])
    monkeypatch.setattr(speech, "time", SimpleNamespace(monotonic=lambda: next(times)))
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Meter() as meter:
        meter.move("folder/talk.wav", 30.0, 60.0)
        assert "talk.wav" in sys.stderr.getvalue()
        assert "30 of 60 s  15.0x" in sys.stderr.getvalue()
        meter.clear()
        assert sys.stderr.getvalue().endswith(" \r")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(speech, "time", SimpleNamespace(monotonic=lambda: 0.0))
    with Meter() as meter:
        meter.move("folder/talk.wav", 30.0, 60.0)
    assert sys.stderr.getvalue() == ""


def test_a_silent_recording_has_no_text(hearing, tmp_path):
    """Nothing is printed, and nothing fails."""
    with wave.open(str(tmp_path / "silence.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.zeros(16_000, "<i2").tobytes())
    result = call("transcribe", hearing, tmp_path / "silence.wav", *FAST, "--format", "vtt")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == ["WEBVTT"]
