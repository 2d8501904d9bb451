"""Models that read samples as they are: clips of any length, alone and beside others."""

from __future__ import annotations

import dataclasses
import wave

import numpy as np
import pytest

import seq2edge
from seq2edge.bundle import Bundle
from seq2edge.errors import BackendError, BundleError, InputError, OptionError
from seq2edge.export.tensorrt.build import plan_request
from seq2edge.export.tensorrt.sizes import BuildSizes
from seq2edge.model.dims import SampleDims
from seq2edge.quantize.pipeline import quantize_bundle
from seq2edge.runtime.rehearsal import rehearse
from seq2edge.runtime.sound.activity import speech_spans
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.transcriber import Transcriber
from seq2edge.testing import check_backend, examples_of

SHORTEST = 895


@pytest.fixture(scope="module")
def model(speaking):
    """A tiny Moonshine that writes words."""
    return seq2edge.load(speaking("moonshine"), device="cpu", threads=1)


def write(path, samples, rate=16_000):
    """A WAVE file of 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def test_files_and_arrays_of_any_length_become_text(model, tmp_path):
    """A batch answers each clip as it is alone; a file is its samples."""
    rng = np.random.default_rng(0)
    clips = [rng.uniform(-1, 1, count).astype(np.float32) for count in (SHORTEST, 20_000, 7_001)]
    options = model.options.replace(max_new_tokens=8, max_length=None)
    together = model.transcribe(clips, options)
    alone = [model.transcribe([clip], options)[0] for clip in clips]
    assert [best.ids for best, *_ in together] == [best.ids for best, *_ in alone]
    assert len({best.text for best, *_ in together}) > 1
    assert together[1][0].text.startswith("w")
    file = write(tmp_path / "a.wav", clips[1])
    np.testing.assert_allclose(model.features(file), clips[1], atol=1e-4)
    assert model.transcribe([file], options)[0][0].ids == together[1][0].ids


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.zeros(894, np.float32), r"samples: shape \(894,\), the encoder takes .* 895 to 1,024"),
        (np.zeros(65 * 16_000, np.float32), "audio: 65.00 s, at most 64 s fit one window"),
        (np.zeros((2, 2000), np.float32), r"samples of shape \(2, 2000\), one non-empty axis"),
        (np.full(2000, np.nan, np.float32), "some samples are infinite or not a number"),
    ],
)
def test_clips_that_cannot_be_heard_are_refused(model, clip, message):
    """Too short, too long, of two axes, no numbers."""
    with pytest.raises(InputError, match=message):
        model.transcribe([clip])


def test_a_long_file_is_refused_before_it_is_decoded(model, tmp_path):
    """By its name and length."""
    path = write(tmp_path / "long.wav", np.zeros(65 * 8_000, np.float32), 8_000)
    with pytest.raises(InputError, match=r"long.wav: .* 64 s, cut it"):
        model.transcribe([path])


def test_a_long_recording_is_heard_by_the_parts_in_which_somebody_speaks(model):
    """In both modes: each part is what the model says of it alone, in its place."""
    rng = np.random.default_rng(2)
    samples = np.zeros(70 * 16_000, np.float32)
    for second in (2, 30, 61):
        place = slice(second * 16_000, (second + 3) * 16_000)
        swell = np.abs(np.sin(np.arange(3 * 16_000) / 3000))
        samples[place] = rng.uniform(-0.5, 0.5, 3 * 16_000) * swell
    spans = speech_spans(samples)
    assert len(spans) == 3
    options = SpeechOptions(temperatures=(0.0,))
    decode = model.options.replace(max_new_tokens=8)
    transcript = Transcriber(model, options, decode).transcribe(samples)
    alone = model.transcribe([samples[first:last] for first, last in spans], decode)
    assert [segment.text for segment in transcript.segments] == [best.text for best, *_ in alone]
    for segment, second in zip(transcript.segments, (2, 30, 61), strict=True):
        assert second - 0.5 < segment.start < second + 0.1
        assert second + 2.9 < segment.end < second + 3.6
    batched = Transcriber(model, options.replace(mode="batched"), decode)
    assert batched.transcribe(samples).text == transcript.text
    assert Transcriber(model, options, decode).transcribe(samples[:16_000]).segments == ()
    with pytest.raises(OptionError, match="prefix: parts in which somebody speaks"):
        Transcriber(model, SpeechOptions(prefix="w5"))


def test_the_backend_keeps_the_contract_and_the_task_is_rehearsed(model):
    """Of sources of unequal lengths; lengths beyond the samples never reach a kernel."""
    check_backend(model.backend, examples_of(model.dims))
    assert list(rehearse(model))[-1].startswith("transcribe: answered with")
    for length, message in ((2001, "sample_length: 2001, it is 0 to 2000"), (894, "samples: 894")):
        with pytest.raises(BackendError, match=message):
            model.backend.encode(np.zeros((1, 2000), np.float32), np.array([length]))


def test_it_is_quantized_with_clips_and_not_for_tensorrt(model, tmp_path):
    """Calibrated on clips of their own lengths."""
    from seq2edge.evaluation.examples import Example

    rng = np.random.default_rng(1)
    files = [
        write(tmp_path / f"{count}.wav", rng.uniform(-1, 1, count)) for count in (16_000, 24_000)
    ]
    examples = [Example(input=str(file)) for file in files]
    source = model.bundle.path
    quantize_bundle(source, tmp_path / "small", "int8-static", calibration=examples)
    small = seq2edge.load(tmp_path / "small", device="cpu", threads=1)
    options = small.options.replace(max_new_tokens=4, max_length=None)
    assert len(small.transcribe(files, options)) == 2
    with pytest.raises(OptionError, match="reads samples, for which TensorRT has no graphs"):
        quantize_bundle(source, tmp_path / "half", "fp16")
    with pytest.raises(BundleError, match="reads samples, for which no engines are built"):
        plan_request(Bundle.open(source), None, BuildSizes())


def test_a_manifest_must_fit(model):
    """Rates, seconds and sizes of convolutions come from strangers."""
    manifest = model.bundle.manifest
    for change, message in (
        ({"sampling_rate": 8000}, "rate, window and hop are"),
        ({"seconds": 30}, "30 seconds, but the dims take 64"),
    ):
        record = dataclasses.replace(manifest.audio, **change)
        with pytest.raises(BundleError, match=message):
            dataclasses.replace(manifest, audio=record)
    with pytest.raises(BundleError, match="audio: missing"):
        dataclasses.replace(manifest, audio=None)
    for convolutions, message in (
        ((), "1 to 8 convolutions"),
        (((3, 0, 1),), "convolutions of 1 to 4096"),
        (((3, 1),), "of taps, step, widths each"),
        (((3, 1, 2),), "the last convolution gives another width"),
    ):
        with pytest.raises(seq2edge.errors.UnsupportedError, match=message):
            SampleDims(convolutions=convolutions)
