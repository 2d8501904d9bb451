"""Options are checked when they are made, and survive the way through a manifest."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from seq2edge.errors import OptionError
from seq2edge.runtime.options import DecodeOptions

TOKEN = st.integers(0, 500)
TOKENS = st.lists(TOKEN, max_size=4).map(tuple)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "num_beams": st.integers(2, 9),
        "num_return_sequences": st.integers(1, 2),
        "max_new_tokens": st.integers(8, 99),
        "max_length": st.none() | st.integers(1, 99),
        "min_new_tokens": st.integers(0, 8),
        "min_length": st.integers(0, 8),
        "length_penalty": st.floats(-3, 3),
        "early_stopping": st.sampled_from([True, False, "never"]),
        "eos_token_id": TOKENS,
        "pad_token_id": st.none() | TOKEN,
        "decoder_prompt": TOKENS,
        "forced_bos_token_id": st.none() | TOKEN,
        "forced_eos_token_id": TOKENS,
        "suppress_tokens": TOKENS,
        "bad_words_ids": st.lists(st.lists(TOKEN, min_size=1, max_size=3), max_size=3),
        "no_repeat_ngram_size": st.integers(0, 4),
        "repetition_penalty": st.floats(0.1, 3),
        "capacity": st.none() | st.integers(1, 99),
    },
)


@given(OPTIONS)
def test_options_survive_json(settings):
    """What the manifest keeps gives the same record back, and holds no default."""
    settings = {"num_beams": 2, **settings}
    options = DecodeOptions(**settings)
    kept = json.loads(json.dumps(options.to_dict()))
    assert DecodeOptions.from_dict(kept) == options
    defaults = DecodeOptions().to_dict()
    assert defaults == {}
    assert all(getattr(DecodeOptions(), name) != getattr(options, name) for name in kept)


def test_one_id_stands_for_a_list_of_one():
    """Generation configs write both."""
    options = DecodeOptions(eos_token_id=2, suppress_tokens=[5, 6], bad_words_ids=[[1], [2, 3]])
    assert options.eos_token_id == (2,)
    assert options.suppress_tokens == (5, 6)
    assert options.bad_words_ids == ((1,), (2, 3))
    assert DecodeOptions(eos_token_id=None).eos_token_id == ()


def test_options_are_frozen_and_hashable():
    """A record that several threads may share."""
    options = DecodeOptions(num_beams=4, eos_token_id=[2])
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.num_beams = 2  # type: ignore[misc]
    assert hash(options) == hash(DecodeOptions(num_beams=4, eos_token_id=(2,)))
    assert options.replace(num_beams=1) == DecodeOptions(eos_token_id=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 0}, "num_beams: 0, needs an integer of at least 1"),
        ({"num_beams": None}, "num_beams: None, needs an integer"),
        ({"num_beams": True}, "num_beams: True, needs an integer"),
        ({"num_beams": 2.0}, r"num_beams: 2\.0, needs an integer"),
        ({"num_return_sequences": 2}, "num_return_sequences: 2 of 1 beams; raise num_beams"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0, needs an integer of at least 1"),
        ({"max_new_tokens": 3, "min_new_tokens": 4}, "min_new_tokens: 4 is more than .* 3"),
        ({"min_length": -1}, "min_length: -1, needs an integer of at least 0"),
        ({"length_penalty": "1"}, "length_penalty: '1', needs a finite number"),
        ({"length_penalty": float("nan")}, "length_penalty: nan, needs a finite number"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty: inf, needs a finite"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty: 0\.0, needs more than 0"),
        ({"early_stopping": "soon"}, "early_stopping: 'soon', needs True, False or 'never'"),
        ({"early_stopping": 1}, "early_stopping: 1, needs True, False or 'never'"),
        ({"eos_token_id": -1}, "eos_token_id: -1 is not a token id"),
        ({"eos_token_id": "2"}, "eos_token_id: '2', needs token ids"),
        ({"suppress_tokens": [1, None]}, "suppress_tokens: None is not a token id"),
        ({"suppress_tokens": [True]}, "suppress_tokens: True is not a token id"),
        ({"bad_words_ids": 3}, "bad_words_ids: 3, needs a list of lists"),
        ({"bad_words_ids": [[]]}, "bad_words_ids: holds an empty sequence"),
        ({"bad_words_ids": [["a"]]}, "bad_words_ids: 'a' is not a token id"),
        ({"pad_token_id": -100}, "pad_token_id: -100, needs an integer of at least 0"),
        ({"capacity": 0}, "capacity: 0, needs an integer of at least 1"),
        ({"do_sample": 1}, "do_sample: 1, needs True or False"),
        ({"temperature": 0}, "temperature: 0, needs more than 0; to take the likeliest"),
        ({"top_p": 2}, "top_p: 2, needs 0 to 1"),
        ({"min_p": -0.1}, r"min_p: -0\.1, needs 0 to 1"),
        ({"typical_p": 0}, "typical_p: 0, needs more than 0, up to 1"),
        ({"top_k": -1}, "top_k: -1, needs an integer of at least 0"),
        ({"seed": 1.5}, r"seed: 1\.5, needs an integer"),
        ({"max_time": 0}, "max_time: 0, needs more than 0 seconds"),
        ({"frequency_penalty": "1"}, "frequency_penalty: '1', needs a finite number"),
        ({"stop_strings": [1]}, r"stop_strings: \[1\], needs strings"),
        ({"stop_strings": ""}, "stop_strings: holds an empty string"),
        ({"sequence_bias": [[[], 2.0]]}, "has no token ids"),
        ({"sequence_bias": [[[1], "x"]]}, "sequence_bias: 'x', needs a finite number"),
        ({"sequence_bias": [3]}, "sequence_bias: 3, needs pairs"),
        ({"epsilon_cutoff": 1.0}, "epsilon_cutoff: 1.0, needs 0 to less than 1"),
        ({"eta_cutoff": -0.1}, "eta_cutoff: -0.1, needs 0 to less than 1"),
        ({"encoder_no_repeat_ngram_size": -1}, "needs an integer of at least 0"),
        ({"encoder_repetition_penalty": 0.0}, "encoder_repetition_penalty: 0.0, needs more than 0"),
        ({"renormalize_logits": 1}, "renormalize_logits: 1, needs True or False"),
        ({"exponential_decay_length_penalty": 3}, "3, needs a number of tokens and a factor"),
        ({"exponential_decay_length_penalty": [1.5, 2]}, "1.5, needs an integer of at least 0"),
        ({"exponential_decay_length_penalty": [1, 0]}, "0, needs a factor of more than 0"),
        ({"regex": ""}, "regex: '', needs text"),
        ({"regex": "a", "grammar": "b"}, "regex and grammar: give one of them"),
    ],
)
def test_bad_values_are_refused_with_name_and_value(settings, message):
    """At construction, so that no half-valid record exists."""
    with pytest.raises(OptionError, match=message):
        DecodeOptions(**settings)


def test_unknown_options_are_refused_with_the_known_ones():
    """From a manifest and from `replace`; nothing is passed over."""
    with pytest.raises(OptionError, match=r"top_h: no such option, known: num_beams, .*capacity"):
        DecodeOptions.from_dict({"top_h": 0.5})
    with pytest.raises(OptionError, match="heat: no such option"):
        DecodeOptions().replace(heat=0.5)


def test_names_are_those_of_generation_configs():
    """Except what they cannot say: penalties of OpenAI, rules, a seed, what results tell."""
    names = {field.name for field in dataclasses.fields(DecodeOptions)}
    ours = {"decoder_prompt", "capacity", "seed", "frequency_penalty", "presence_penalty"}
    ours |= {"json_schema", "regex", "grammar", "logprobs", "alignments"}
    assert names - set(vars(GenerationConfig())) == ours


def test_greedy_options_keep_what_is_no_search():
    """One beam, nothing that keeps an end away; without ends nothing ends before the limit."""
    options = DecodeOptions(
        num_beams=4, num_return_sequences=2, min_length=3, min_new_tokens=2, max_length=9,
        eos_token_id=2, forced_eos_token_id=2, suppress_tokens=(7,),
    )  # fmt: skip
    greedy = options.greedy(max_new_tokens=5)
    assert greedy == DecodeOptions(
        max_new_tokens=5, eos_token_id=2, forced_eos_token_id=2, suppress_tokens=(7,)
    )
    assert options.greedy(max_length=8, ends=False) == DecodeOptions(
        max_length=8, suppress_tokens=(7,)
    )
