"""Words have the times that transformers finds, and the parts that OpenAI's lists give them."""

from __future__ import annotations

import dataclasses
import itertools

import byte_tokens
import numpy as np
import pytest
import speech_models
import torch
import transformers
from transformers.models.whisper import generation_whisper

from seq2edge.bundle.manifest import TokenizerRecord
from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.errors import OptionError
from seq2edge.export.eager import EagerBackend
from seq2edge.runtime.sequences import GeneratedSequence, TokenLogprob
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.transcriber import Transcriber
from seq2edge.runtime.speech.transcript import Segment
from seq2edge.runtime.speech.words import (
    STEP,
    running_median,
    split_words,
    times_of_words,
    token_times,
    warp,
)
from seq2edge.runtime.tokenizer import Tokenizer

END, START, TIMES = 40, 41, 47  # text is below END, times are from TIMES on
HEADS = [[0, 1], [1, 0], [1, 3]]
GENERATION = {
    "eos_token_id": END,
    "pad_token_id": END,
    "decoder_start_token_id": START,
    "is_multilingual": True,
    "lang_to_id": {"<|en|>": 42, "<|de|>": 43},
    "task_to_id": {"transcribe": 44, "translate": 45},
    "no_timestamps_token_id": TIMES - 1,
    "alignment_heads": HEADS,
    "max_initial_timestamp_index": 10,
}


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory):
    """A random Whisper that knows two languages, as transformers has it, and its folder."""
    torch.manual_seed(5)
    config = transformers.WhisperConfig(
        vocab_size=98,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_mel_bins=8,
        max_source_positions=50,
        max_target_positions=64,
        init_std=0.6,
        **{key: GENERATION[key] for key in list(GENERATION)[:3]},
        bos_token_id=END,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = transformers.WhisperForConditionalGeneration(config).eval()
    model.generation_config = transformers.GenerationConfig(**GENERATION)
    folder = tmp_path_factory.mktemp("whisper")
    model.save_pretrained(folder)
    model.set_attn_implementation("eager")
    return model, folder


def aligned(folder, clip, prompt, ids):
    """What each of these ids is chosen by, (ids, heads, source), decoded one by one."""
    backend = EagerBackend(load_checkpoint(folder).model, tuple(map(tuple, HEADS)))
    cache = backend.start(backend.encode(clip[None], np.array([50])), 1, None)
    weights, fed = [], prompt
    for token in ids:
        backend.step(np.array([fed]), np.array([len(fed)]), cache)
        weights.append(cache.alignment[0].copy())
        fed = [token]
    return np.array(weights)


@pytest.mark.parametrize("frames", [100, 62])
def test_tokens_have_the_times_of_transformers(multilingual, frames):
    """Of what it generates with times; within one position, of a whole window and a part."""
    model, folder = multilingual
    rng = np.random.default_rng(2)
    clips = rng.standard_normal((2, 8, 100), dtype=np.float32) * 2
    for clip in clips:
        answer = model.generate(
            torch.from_numpy(clip[None]),
            language="de",
            return_timestamps=True,
            return_token_timestamps=True,
            attention_mask=torch.arange(100)[None] < frames,
            return_segments=True,
            max_new_tokens=30,
        )
        window = answer["segments"][0][0]["result"]
        prompt = [START, 43, 44]
        ids = window["sequences"].tolist()
        ids = ids[len(prompt) :] if ids[: len(prompt)] == prompt else ids
        times = window["token_timestamps"].tolist()[-len(ids) :]
        assert len(set(ids)) > 5
        weights = aligned(folder, clip, prompt, ids)
        ours = token_times(weights[1:], frames // 2)
        np.testing.assert_allclose(ours, times[:-1], rtol=0, atol=STEP + 1e-6)
        assert max(ours) > 0.3


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (3, 3), (7, 4), (12, 60)])
def test_the_path_is_that_of_transformers(shape):
    """Found row by row with whole arrays, not cell by cell."""
    for seed in range(4):
        costs = np.random.default_rng(seed).standard_normal(shape)
        rows, columns = generation_whisper._dynamic_time_warping(costs)
        jumps = np.pad(np.diff(rows), (1, 0), constant_values=1).astype(bool)
        np.testing.assert_array_equal(warp(costs), columns[jumps])


@pytest.mark.parametrize("length", [1, 3, 4, 30])
def test_the_median_is_that_of_transformers(length):
    """Also of fewer values than its width."""
    values = np.random.default_rng(0).standard_normal((2, 3, length)).astype(np.float32)
    wanted = generation_whisper._median_filter(torch.from_numpy(values)[None], 7)[0].numpy()
    np.testing.assert_array_equal(running_median(values), wanted)


def test_weights_that_tell_nothing_give_times_all_the_same():
    """One token, tokens that attend alike, none."""
    alike = np.full((3, 2, 20), 0.05, dtype=np.float32)
    assert np.isfinite(token_times(alike, 20)).all()
    assert token_times(alike[:1], 20).tolist() == [0]
    assert token_times(alike[:0], 20).tolist() == []


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """One that has a token for every byte."""
    folder = tmp_path_factory.mktemp("bytes")
    byte_tokens.write(folder / "tokenizer.json")
    return Tokenizer(folder, TokenizerRecord(source="tokenizer.json"))


@pytest.mark.parametrize(
    ("text", "language", "words"),
    [
        (" How are you?", "en", [" How", " are", " you?"]),
        (' He said, "Go!" (twice)', "en", [" He", " said,", ' "Go!"', " (twice)"]),
        (" state-of-the-art", "en", [" state", "-of", "-the", "-art"]),
        (" don't Größe 5.", "de", [" don", "'t", " Größe", " 5."]),
        ("你好。再见", "zh", ["你", "好。", "再", "见"]),
        ("こん、", "ja", ["こ", "ん、"]),
        ("你好", "en", ["你好"]),
        (" ...", "en", [" ..."]),
        ("", "en", []),
        ("  ", "en", []),
    ],
)
def test_tokens_become_words(tokenizer, text, language, words):
    """By spaces, or by characters in languages without them; marks stand at a word."""
    ids = tokenizer.encode(text, special_tokens=False) if text else []
    pieces = split_words(tokenizer, ids, language)
    assert [piece.text for piece in pieces] == words
    assert "".join(words) == text or not text.strip()


def test_a_character_that_never_ends_is_a_word_of_its_own(tokenizer):
    """What the model broke off is shown as the text shows it."""
    ids = [*tokenizer.encode(" a", special_tokens=False), tokenizer.encode("ß")[0]]
    assert [piece.text for piece in split_words(tokenizer, ids, "zh")] == [" a", "\ufffd"]


def segment(ids, start=0.0, end=10.0):
    """A segment of these tokens."""
    return Segment(
        text="",
        start=start,
        end=end,
        ids=tuple(ids),
        temperature=0.0,
        average_logprob=-0.1,
        compression_ratio=1.0,
        no_speech_probability=0.0,
        language="en",
    )


def from_start(time, _):
    """The clock of a window that begins where the recording does."""
    return time


def answer(ids, positions, logprobs):
    """One whose token i attends to the positions from positions[i] up to the next."""
    ends = [*positions[1:], positions[-1] + 8]
    weights = np.full((len(ids), 2, 500), 1e-3, dtype=np.float32)
    for i, (begin, end) in enumerate(zip(positions, ends, strict=True)):
        weights[i, :, begin:end] = 1
    return GeneratedSequence(
        ids=tuple(ids),
        score=0.0,
        finish_reason="stop",
        logprobs=tuple(TokenLogprob(logprob=float(value)) for value in logprobs),
        alignment=weights,
    )


def test_words_stand_where_their_tokens_attend_to(tokenizer):
    """In two segments of a window that begins at 30 s; marks lengthen no word."""
    first = tokenizer.encode(" ab cd.", special_tokens=False)
    second = tokenizer.encode(" ef", special_tokens=False)
    ids = [*first, *second, byte_tokens.END]
    positions = [0, *range(10, 10 * len(ids), 10)]
    likely = np.linspace(0.5, 0.9, len(ids))
    made = answer(ids, positions, np.log(likely))
    one, other = times_of_words(
        [segment(first, 30.0, 31.4), segment(second, 31.4, 32.0)],
        made,
        tokenizer,
        clock=lambda time, _: 30.0 + time,
        seconds=2.2,
    )
    assert one.words is not None
    assert other.words is not None
    assert [w.text for w in one.words] == [" ab", " cd."]
    assert [w.text for w in other.words] == [" ef"]
    wanted = [(30.0, 30.6), (30.6, 31.2), (31.4, 32.0)]
    found = [(w.start, w.end) for w in (*one.words, *other.words)]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.08)
    assert one.words[0].probability == pytest.approx(likely[:3].mean())
    assert one.words[1].probability == pytest.approx(likely[3:6].mean())


def test_a_pause_is_no_part_of_the_word_beside_it(tokenizer):
    """Behind a sentence's end, and where a segment begins or ends much earlier or later."""
    ids = tokenizer.encode(" a b. c d e", special_tokens=False)
    positions = [150, 152, 165, 170, 182, 184, 300, 302, 315, 317, 330]
    made = answer([*ids, byte_tokens.END], [*positions, 345], np.zeros(len(ids) + 1))
    (timed,) = times_of_words(
        [segment(ids, 3.0, 6.9)], made, tokenizer, clock=from_start, seconds=10.0
    )
    assert timed.words is not None
    first, second, third = timed.words[:3]
    assert first.start == pytest.approx(3.0, abs=0.3)  # the path begins at 0
    assert second.end < 4.0
    assert third.end - third.start < 1.4  # not from the end of the sentence on
    for one, other in itertools.pairwise(timed.words):
        assert one.end <= other.start + 1e-9


def test_words_need_each_head_and_log_probabilities(tokenizer):
    """Bundles of before give the mean, and an answer may have been decoded without."""
    made = answer([65, byte_tokens.END], [0, 5], [0, 0])
    mean = dataclasses.replace(made, alignment=made.alignment.mean(axis=1))
    with pytest.raises(OptionError, match=r"words: this bundle gives the mean .* --alignments"):
        times_of_words([segment([65])], mean, tokenizer, clock=from_start, seconds=1)
    with pytest.raises(OptionError, match="words: the answer has no alignment or no log-prob"):
        times_of_words(
            [segment([65])],
            dataclasses.replace(made, logprobs=None),
            tokenizer,
            clock=from_start,
            seconds=1,
        )


@pytest.mark.parametrize("mode", ["exact", "batched"])
def test_transcripts_have_words(model, mode):
    """All of each segment, one after the other, inside the recording, wherever it was put apart."""
    samples = speech_models.recording(40.0)
    options = SpeechOptions(language="de", words=True, mode=mode, temperatures=(0.0,))
    made = Transcriber(model, options).transcribe(samples)
    assert made.segments
    for each in made.segments:
        assert each.words
        assert "".join(word.text for word in each.words).split() == each.text.split()
    words = [word for each in made.segments for word in each.words]
    assert all(0 <= word.start <= word.end <= 40.0 for word in words)
    assert all(0 < word.probability <= 1 for word in words)
    plain = Transcriber(model, options.replace(words=False)).transcribe(samples)
    assert [each.ids for each in plain.segments] == [each.ids for each in made.segments]
    assert plain.segments[0].words is None


def test_words_and_a_prefix_do_not_go_together():
    """The prefix is not heard."""
    with pytest.raises(OptionError, match="prefix: its words are not heard"):
        SpeechOptions(words=True, prefix="Hello")
