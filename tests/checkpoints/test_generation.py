"""Generation settings: every one becomes an option, a remark or an extra."""

from __future__ import annotations

import pytest
from published_configs import CONFIGS
from transformers import GenerationConfig

from seq2edge.checkpoints.generation import fit_defaults, read_generation, with_decoder_defaults
from seq2edge.errors import OptionError
from seq2edge.model.dims import Dims, StackDims
from seq2edge.runtime.limits import check_vocabulary
from seq2edge.runtime.options import DecodeOptions


def read(generation=None, config=None):
    """The sorted settings."""
    return read_generation(generation, config or {})


def test_a_decoder_of_its_own_has_defaults_too():
    """As transformers reads them: where the config itself says nothing."""
    decoder = {"eos_token_id": 2, "pad_token_id": 1, "num_beams": 3, "d_model": 8}
    config = with_decoder_defaults({"decoder": decoder, "pad_token_id": 7, "eos_token_id": None})
    wanted = {"eos_token_id": 2, "pad_token_id": 7, "num_beams": 3}
    assert config == {"decoder": decoder, **wanted}
    assert read(config=config).options == wanted
    assert with_decoder_defaults({"decoder": None, "x": 1}) == {"decoder": None, "x": 1}


def test_options_are_taken_as_they_are():
    """The names are the same."""
    found = read({"num_beams": 4, "length_penalty": 2.0, "eos_token_id": [1, 2]})
    assert found.options == {"num_beams": 4, "length_penalty": 2.0, "eos_token_id": [1, 2]}
    assert (found.ignored, found.extras) == ({}, {})


def test_defaults_of_transformers_become_nothing_but_options():
    """A file with every setting at its default asks for nothing that we lack."""
    found = read(GenerationConfig().to_dict())
    assert found.ignored == {}
    assert found.extras == {}
    DecodeOptions.from_dict(found.options)


STACK = StackDims(
    layers=1, heads=1, kv_heads=1, head_dim=8, hidden=8, activation="relu", max_positions=64
)
DIMS = Dims(width=8, vocab=100, decoder=STACK)


def test_tokens_that_the_model_does_not_have_are_left_out():
    """With a remark, where that changes nothing: many a GPT-2 of few tokens still names 50256."""
    settings = {
        "bos_token_id": 50256,
        "eos_token_id": [2, 50256],
        "pad_token_id": 100,
        "suppress_tokens": [99, 100],
        "begin_suppress_tokens": [7],
        "max_new_tokens": 64,
    }
    fitting = fit_defaults(read(settings), DIMS)
    kept = {"eos_token_id": [2], "suppress_tokens": [99], "begin_suppress_tokens": [7]}
    assert fitting.options == kept
    assert fitting.ignored == {
        "bos_token_id": 50256,
        "eos_token_id": [50256],
        "pad_token_id": 100,
        "suppress_tokens": [100],
        "max_new_tokens": 64,
    }
    for settings in ({"forced_bos_token_id": 100}, {"max_new_tokens": 63, "eos_token_id": 99}):
        assert fit_defaults(read(settings), DIMS).options == settings
    with pytest.raises(OptionError, match="forced_bos_token_id: token 100, the vocabulary has 100"):
        check_vocabulary(DecodeOptions(forced_bos_token_id=100), DIMS)


def test_sampling_is_kept_with_its_settings():
    """As Llama and Qwen ask for it; without do_sample nobody reads the temperature."""
    chat = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": None}
    kept = {name: value for name, value in chat.items() if value is not None}
    assert (read(chat).options, read(chat).ignored) == (kept, {})
    greedy = read({**chat, "do_sample": False})
    assert (greedy.options, greedy.ignored) == ({"do_sample": False}, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beam_groups", 2),
        ("guidance_scale", 1.5),
        ("diversity_penalty", 0.5),
        ("watermarking_config", {"bias": 2.0}),
        ("penalty_alpha", 0.6),
        ("dola_layers", "high"),
        ("token_healing", True),
        ("forced_decoder_ids", [[1, 5]]),
        ("setting_of_tomorrow", 1),
    ],
)
def test_what_cannot_be_applied_is_remarked(name, value):
    """Also what is not known yet."""
    assert read({name: value}).ignored == {name: value}


def test_rare_settings_are_options():
    """With the values that checkpoints give them; of draws only where tokens are drawn."""
    rare = {
        "encoder_no_repeat_ngram_size": 3,
        "encoder_repetition_penalty": 1.2,
        "exponential_decay_length_penalty": [5, 1.1],
        "renormalize_logits": True,
    }
    drawn = {"do_sample": True, "epsilon_cutoff": 3e-4, "eta_cutoff": 4e-3}
    assert (read(rare).options, read(rare).ignored) == (rare, {})
    assert read(drawn).options == drawn
    assert read({**drawn, "do_sample": False}).options == {"do_sample": False}
    assert read({"do_sample": True, "top_h": 0.4}).ignored == {"top_h": 0.4}
    assert DecodeOptions.from_dict(rare).to_dict() == rare


def test_the_first_token_of_the_first_barts():
    """Their configs force it by a switch of its own."""
    old = {"force_bos_token_to_be_generated": True, "bos_token_id": 0}
    assert read(config=old).options == {"forced_bos_token_id": 0, "bos_token_id": 0}
    assert read({}, config=old).options == {"bos_token_id": 0}


def test_speech_settings_are_extras():
    """Languages and tasks are chosen with each clip."""
    settings = {"lang_to_id": {"<|en|>": 5}, "no_timestamps_token_id": 9}
    assert read(settings).extras == settings


def test_special_tokens_fall_back_to_the_config():
    """The generation config goes first."""
    found = read({"eos_token_id": 2}, {"eos_token_id": 9, "pad_token_id": 1, "bos_token_id": None})
    assert found.options == {"eos_token_id": 2, "pad_token_id": 1}


def test_negative_suppressed_tokens_mean_none():
    """Old Whisper configs write [-1]."""
    assert read({"suppress_tokens": [-1]}).options == {"suppress_tokens": []}


def test_old_checkpoints_keep_their_settings_in_the_config():
    """Where there is no generation_config.json; lengths nobody chose are not taken for a choice."""
    found = read(config=CONFIGS["bart-large-cnn"])
    assert found.options == {
        "num_beams": 4,
        "length_penalty": 2.0,
        "early_stopping": True,
        "no_repeat_ngram_size": 3,
        "max_length": 142,
        "min_length": 56,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    }
    assert read(config={"max_length": 20, "min_length": 0}).options == {}
    assert read({"max_length": 20}).options == {"max_length": 20}


@pytest.mark.parametrize("name", CONFIGS)
def test_settings_of_published_configs_are_valid_options(name):
    """Whatever they hold; what is not applied is remarked."""
    found = read(config=CONFIGS[name])
    DecodeOptions.from_dict(found.options)
    remarked = {"whisper": {"forced_decoder_ids"}}  # the old way of naming languages
    assert set(found.ignored) <= set().union(*(v for k, v in remarked.items() if k in name))
