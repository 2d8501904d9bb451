"""Which tokens ask a speech model for what, of bundles old and new."""

from __future__ import annotations

import dataclasses
import types

import pytest
from speech_models import END, FIRST, LANGUAGES, NO_SPEECH, NO_TIMESTAMPS, PREVIOUS, TRANSCRIBE

from seq2edge.errors import InputError, OptionError
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.tokens import SpeechTokens

ENGLISH = SpeechTokens(
    start=41,
    end=40,
    positions=48,
    languages={},
    tasks={},
    no_timestamps=None,
    first_timestamp=None,
    no_speech=None,
    previous=None,
    latest=None,
)


def test_a_bundle_says_its_tokens(model):
    """As the checkpoint's generation settings have them."""
    speech = model.bundle.manifest.speech
    assert (speech.no_timestamps, speech.first_timestamp) == (NO_TIMESTAMPS, FIRST)
    assert (speech.no_speech, speech.previous) == (NO_SPEECH, PREVIOUS)
    assert speech.max_initial_timestamp == 50
    assert speech.languages == LANGUAGES


def test_tokens_of_older_bundles_are_derived(model):
    """From where Whisper's vocabularies have them."""
    speech = model.bundle.manifest.speech
    bare = dict.fromkeys(("first_timestamp", "no_speech", "previous", "max_initial_timestamp"))
    manifest = dataclasses.replace(
        model.bundle.manifest, speech=dataclasses.replace(speech, **bare)
    )
    old = types.SimpleNamespace(
        bundle=types.SimpleNamespace(manifest=manifest),
        dims=model.dims,
        options=model.options,
        start_tokens=model.start_tokens,
    )
    now = SpeechTokens.of(model)
    assert SpeechTokens.of(old) == dataclasses.replace(now, latest=None)
    assert now.text_ids([FIRST, 3, 5, END, FIRST + 2]) == [3, 5]


def test_a_prompt_asks_for_language_task_and_times(model):
    """Times are asked for by nothing, and refused by a token."""
    tokens = SpeechTokens.of(model)
    asked = (LANGUAGES["de"], TRANSCRIBE)
    assert tokens.asking("de", SpeechOptions()) == asked
    assert tokens.asking("de", SpeechOptions(timestamps=False)) == (*asked, NO_TIMESTAMPS)
    assert tokens.language(SpeechOptions(language="AUTO")) is None
    assert tokens.language(SpeechOptions(language="spanish")) == "es"


def test_what_an_english_model_cannot_do_is_refused():
    """Other languages, other tasks, times without tokens for them."""
    assert ENGLISH.language(SpeechOptions()) == "en"
    assert ENGLISH.language(SpeechOptions(language="English")) == "en"
    assert ENGLISH.asking("en", SpeechOptions()) == ()
    with pytest.raises(InputError, match="does not know 'de', known: en"):
        ENGLISH.language(SpeechOptions(language="de"))
    with pytest.raises(InputError, match="this model knows English and no other task"):
        ENGLISH.asking("en", SpeechOptions(task="translate"))
    with pytest.raises(OptionError, match="no tokens of time; use timestamps=False"):
        ENGLISH.with_times(SpeechOptions(timestamps=True))
