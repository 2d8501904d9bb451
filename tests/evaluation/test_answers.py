"""What a model answers to examples, where this is more than one call."""

from __future__ import annotations

import numpy as np
import sound_files
import speech_models

import seq2edge
from seq2edge.evaluation.answers import ModelRequest, texts
from seq2edge.evaluation.examples import Example
from seq2edge.runtime.speech.options import SpeechOptions


def test_recordings_beyond_a_window_are_read_by_windows(made_once, tmp_path):
    """Those of one window are heard as `Model.transcribe` does, in the order of the examples."""
    model = seq2edge.load(made_once(speech_models.speech_bundle), threads=1)
    files = []
    for name, seconds in (("short", 9), ("long", 34), ("window", 30)):
        files.append(tmp_path / f"{name}.flac")
        samples = speech_models.recording(seconds, seed=seconds)
        files[-1].write_bytes(sound_files.file_of("flac", (2**14 * samples).astype(np.int16)))
    request = ModelRequest(options=model.options.replace(max_new_tokens=6), language="de", batch=3)
    answers = list(texts(model, [Example(input=file) for file in files], request))
    short, window = model.transcribe([str(files[0]), str(files[2])], request.options, language="de")
    transcriber = seq2edge.Transcriber(model, SpeechOptions(language="de"), request.options)
    right = [short[0].text, transcriber.transcribe(files[1]).text, window[0].text]
    assert [answer.text for answer in answers] == right
    assert len(set(right)) == 3
