"""Recordings say what transformers' long-form generation says, alone and together."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import speech_models
import torch
from speech_models import RATE, features_of, recording

from seq2edge.errors import OptionError
from seq2edge.runtime.scheduler import Scheduler
from seq2edge.runtime.speech.exact_windows import ExactWindows
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.transcriber import Transcriber

HEARD = []  # of the last windows

EXACT = SpeechOptions(
    language="en",
    temperatures=(0.0,),
    compression_ratio_threshold=None,
    logprob_threshold=None,
    no_speech_threshold=None,
    skip_silence=False,
    condition_on_previous=False,
)


def original_ids(original, samples, **settings):
    """What transformers generates of a long recording, and the segments' times."""
    settings = {"temperature": 0.0, "language": "en", "return_timestamps": True, **settings}
    if "prompt_ids" in settings:
        settings["prompt_ids"] = torch.tensor(settings["prompt_ids"])
    model = copy.copy(original)
    model.generation_config = copy.deepcopy(original.generation_config)
    answer = model.generate(features_of(samples, 8), return_segments=True, **settings)
    times = [(float(s["start"]), float(s["end"])) for s in answer["segments"][0]]
    return answer["sequences"][0].tolist(), times


def ids_of(model, samples, options, decode=None):
    """Ours, and the times of all segments."""
    transcriber = Transcriber(model, options, decode)
    taken = []

    def watched(self, window, heard, take=ExactWindows.take):
        parts = take(self, window, heard)
        taken.extend(parts)
        return parts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExactWindows, "take", watched)
        transcriber.transcribe(samples)
    HEARD[:] = dict.fromkeys(part.heard for part in taken)
    ids = [token for part in taken for token in part.ids]
    return ids, [(part.start / 100, part.end / 100) for part in taken]


CASES = {
    "plain": ({}, {}, 1),
    "conditioned": ({"condition_on_prev_tokens": True}, {"condition_on_previous": True}, 1),
    "beams": ({"condition_on_prev_tokens": True}, {"condition_on_previous": True}, 3),
    "translated": ({"task": "translate"}, {"task": "translate"}, 1),
    "German": ({"language": "German"}, {"language": "German"}, 1),
    "prompted": (
        {"condition_on_prev_tokens": True, "prompt_ids": [speech_models.PREVIOUS, 9, 8, 17]},
        {"condition_on_previous": True, "initial_prompt": "w9 w8 w17"},
        1,
    ),
    "prompted alone": (
        {"prompt_ids": [speech_models.PREVIOUS, 9, 8, 17]},
        {"initial_prompt": "w9 w8 w17"},
        1,
    ),
    "detected": ({"language": None, "task": "transcribe"}, {"language": "auto"}, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_long_form_is_that_of_transformers(model, original, long, name):
    """Token by token and time by time."""
    theirs, ours, beams = CASES[name]
    expected, times = original_ids(original, long, num_beams=beams, **theirs)
    decode = model.options.replace(num_beams=beams)
    ids, own = ids_of(model, long, EXACT.replace(**ours), decode)
    assert ids == expected
    np.testing.assert_allclose(own, times, atol=1e-9)
    assert len(times) > 3


@pytest.mark.parametrize("reason", ["unlikely", "repeated", "silent"])
def test_doubtful_windows_are_decoded_again_or_dropped(model, original, long, reason):
    """By log-probability, compression and silence; what was drawn is not gone on from."""
    options = EXACT.replace(condition_on_previous=True)
    ids_of(model, long, options)
    logprobs = sorted(heard.average_logprob for heard in HEARD)
    least = (logprobs[0] + logprobs[1]) / 2 if reason != "repeated" else None
    most = max(heard.compression_ratio for heard in HEARD) - 0.01
    most = most if reason == "repeated" else None
    silence = 1e-9 if reason == "silent" else None
    windows = len(HEARD)
    expected, times = original_ids(
        original,
        long,
        condition_on_prev_tokens=True,
        temperature=(0.0, 0.6),
        logprob_threshold=least,
        compression_ratio_threshold=most,
        no_speech_threshold=silence,
        top_k=1,  # what is drawn is the likeliest one
    )
    options = options.replace(
        temperatures=(0.0, 0.6),
        logprob_threshold=least,
        compression_ratio_threshold=most,
        no_speech_threshold=silence,
    )
    ids, own = ids_of(model, long, options, model.options.replace(top_k=1))
    assert ids == expected
    np.testing.assert_allclose(own, times, atol=1e-9)
    if reason == "silent":
        assert len(HEARD) < windows
    else:
        assert 0.6 in {heard.temperature for heard in HEARD}


def test_averages_are_those_of_transformers(model, original, long):
    """Among the tokens that filters and rules leave, the end counted in; and no-speech."""
    answer = original.generate(
        features_of(long, 8)[..., :3000],
        language="en",
        return_timestamps=True,
        return_dict_in_generate=True,
        output_scores=True,
        temperature=0.0,
        logprob_threshold=-1e3,
        return_segments=True,
    )
    result = answer["segments"][0][0]["result"]
    ids = result["sequences"][3:]
    expected = original._retrieve_avg_logprobs(result["scores"], ids, 0.0)
    ratio = original._retrieve_compression_ratio(ids, speech_models.VOCAB)
    ids_of(model, long, EXACT)
    assert HEARD[0].average_logprob == pytest.approx(float(expected), abs=1e-4)
    assert HEARD[0].compression_ratio == ratio
    with torch.no_grad():
        logits = original(
            features_of(long, 8)[..., :3000],
            decoder_input_ids=torch.tensor([[speech_models.START]]),
        ).logits[0, -1]
    silence = torch.softmax(logits, -1)[speech_models.NO_SPEECH]
    assert HEARD[0].no_speech_probability == pytest.approx(silence.item(), abs=1e-6)


def test_languages_are_as_likely_as_transformers_has_them(model, original, long):
    """Softmax over the languages' tokens behind the start; the transcript says its own."""
    with torch.no_grad():
        logits = original(
            features_of(long, 8)[..., :3000],
            decoder_input_ids=torch.tensor([[speech_models.START]]),
        ).logits[0, -1]
    expected = torch.softmax(logits[list(speech_models.LANGUAGES.values())], -1).tolist()
    # The recording's first window alone has other features: its loudest band is another one.
    transcriber = Transcriber(model, EXACT.replace(language="auto"))
    transcript = transcriber.transcribe(long)
    best = max(range(5), key=expected.__getitem__)
    assert transcript.language == list(speech_models.LANGUAGES)[best]
    assert transcript.language_probability == pytest.approx(expected[best], abs=1e-5)
    clip = long[: 20 * RATE]
    likely = transcriber.detect_language(clip)
    assert sum(likely.values()) == pytest.approx(1.0)
    assert transcriber.transcribe(clip).language == next(iter(likely))


def said(transcript):
    """All but likelihoods, whose last digits depend on how many rows there are."""
    return (
        transcript.text,
        transcript.language,
        [(s.ids, s.start, s.end) for s in transcript.segments],
    )


@pytest.mark.parametrize("mode", ["exact", "batched"])
def test_recordings_together_say_what_they_say_alone(model, long, mode):
    """Windows of several are decoded in one batch; segments come as they are found."""
    options = SpeechOptions(mode=mode, temperatures=(0.0, 0.4), skip_silence=False, batch=3)
    transcriber = Transcriber(model, options)
    recordings = [long, long[: 12 * RATE], recording(34, seed=4), recording(3, seed=5)]
    alone = [transcriber.transcribe(each) for each in recordings]
    together = list(transcriber.transcribe_each(recordings))
    assert list(map(said, together)) == list(map(said, alone))
    assert all(transcript.segments for transcript in alone)
    done = []
    stream = transcriber.stream(long, progress=lambda now, all_: done.append((now, all_)))
    assert len(list(stream)) == len(alone[0].segments)
    assert said(stream.transcript) == said(alone[0])
    assert [now for now, _ in done] == sorted(now for now, _ in done)
    assert done[-1] == (50.0, 50.0)


def test_hints_and_languages_of_windows(model, long):
    """A prefix begins the text; each window says its language, also behind what was said."""
    options = EXACT.replace(prefix="w9 w8", hotwords="w4", condition_on_previous=True)
    transcriber = Transcriber(model, options)
    assert transcriber.transcribe(long).text.startswith("w9 w8")
    options = options.replace(prefix=None, language="auto", language_per_window=True)
    transcript = Transcriber(model, options).transcribe(long)
    assert {segment.language for segment in transcript.segments} <= {*speech_models.LANGUAGES}
    assert transcript.language == transcript.segments[0].language
    assert 0 < transcript.language_probability <= 1


def test_silence_says_nothing(model):
    """Where nobody speaks no window is decoded, in either mode; the language is still told."""
    samples = np.zeros(40 * RATE, np.float32)
    for mode in ("exact", "batched"):
        transcript = Transcriber(model, SpeechOptions(mode=mode)).transcribe(samples)
        assert (transcript.text, transcript.segments, transcript.duration) == ("", (), 40.0)
        assert transcript.language in speech_models.LANGUAGES


def test_without_times_every_window_is_a_segment(model, original, long):
    """Of 30 s, with the tokens that transformers gives that window alone.

    No times are possible in either: of what a random model writes of them transformers would cut
    segments here too.
    """
    never = [*speech_models.GENERATION["suppress_tokens"]]
    never += range(speech_models.NO_TIMESTAMPS, speech_models.VOCAB)
    decode = model.options.replace(suppress_tokens=tuple(never))
    transcriber = Transcriber(model, EXACT.replace(timestamps=False), decode)
    segments = transcriber.transcribe(long).segments
    assert [(segment.start, segment.end) for segment in segments] == [(0.0, 30.0), (30.0, 50.0)]
    silent = copy.copy(original)
    silent.generation_config = copy.deepcopy(original.generation_config)
    silent.generation_config.suppress_tokens = never
    window = features_of(long, 8)[..., :3000]
    settings = {"language": "en", "task": "transcribe", "temperature": 0.0}
    expected = silent.generate(window, return_timestamps=False, **settings)
    assert list(segments[0].ids) == expected[0].tolist()


HOT = EXACT.replace(temperatures=(0.6,))


@pytest.fixture
def rows(monkeypatch):
    """How many rows the steps of the test's schedulers had."""
    counts = []

    def step(self, take=Scheduler.step):
        more = take(self)
        counts.append(sum(group.request.rows for group in self.running))
        return more

    monkeypatch.setattr(Scheduler, "step", step)
    return counts


# Rows that the backend takes, options, and how many rows are decoded at a time.
DRAWN = {
    "by default": (None, HOT, 5),
    "two": (None, HOT.replace(best_of=2), 2),
    "of two windows": (None, HOT.replace(mode="batched", batch=2), 10),
    "three, where no more fit": (3, HOT, 3),
    "two of one window after the other": (3, HOT.replace(best_of=2, mode="batched"), 2),
    "one, where no more fit": (1, HOT, 1),
}


@pytest.mark.parametrize("name", DRAWN)
def test_as_many_texts_are_drawn_as_the_backend_takes(model, long, monkeypatch, rows, name):
    """Of one window and of several together; by default 5 where it takes any number."""
    most, options, drawn = DRAWN[name]
    monkeypatch.setattr(model.backend, "rows", most)
    assert Transcriber(model, options).transcribe(long).text
    assert max(rows) == drawn


def test_a_large_batch_draws_few_windows_at_a_time(model, long, rows):
    """So that it takes no more memory than one that is searched for its likeliest tokens."""
    options = HOT.replace(batch=20, best_of=16, skip_silence=False)
    recordings = [long[: 2 * RATE]] * 6
    texts = [each.text for each in Transcriber(model, options).transcribe_each(recordings)]
    assert texts == [texts[0]] * 6
    assert max(rows) == 64


def test_more_texts_than_can_be_decoded_are_refused(model, long, monkeypatch):
    """With the number that can; beams are left to the backend, whose word on them is better."""
    monkeypatch.setattr(model.backend, "rows", 2)
    with pytest.raises(OptionError, match=r"best_of: 3, onnxruntime decodes 2 texts .*--beams"):
        Transcriber(model, HOT.replace(best_of=3))
    beams = model.options.replace(num_beams=3)
    assert Transcriber(model, EXACT, beams).transcribe(long).text


def test_one_text_is_drawn_where_tokens_are_guessed(model, long, monkeypatch, rows):
    """Guesses are of one row; more are refused."""
    guessed = model.options.replace(prompt_lookup_num_tokens=3)
    assert Transcriber(model, HOT, guessed).transcribe(long).text
    assert max(rows) == 1
    with pytest.raises(OptionError, match=r"best_of: 2, tokens are guessed .*prompt_lookup_num"):
        Transcriber(model, HOT.replace(best_of=2), guessed)
    monkeypatch.setattr(model, "_draft", model)
    with pytest.raises(OptionError, match=r"best_of: 2, tokens are guessed .* the draft"):
        Transcriber(model, HOT.replace(best_of=2))
