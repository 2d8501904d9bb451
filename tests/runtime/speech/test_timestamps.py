"""Times follow transformers' rules, and cut a window as it does."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from requests_of import decode_prompts
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

from seq2edge.runtime.fake import FakeBackend, random_answer
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.speech.timestamps import Piece, TimestampRules, cut

VOCAB, END, NO_TIMESTAMPS, FIRST = 60, 30, 39, 40
START = 3


def histories():
    """Answers of every kind: nothing, texts, times alone, whole and half pairs, at random."""
    rng = np.random.default_rng(5)
    yield from ([], [40], [40, 3], [40, 3, 45], [40, 3, 45, 45], [40, 3, 45, 47], [3], [3, 4])
    for length in rng.integers(1, 12, 60):
        times = np.sort(rng.integers(FIRST, VOCAB - 2, length))
        texts = rng.integers(0, END, length)
        yield np.where(rng.random(length) < 0.5, times, texts).tolist()


@pytest.mark.parametrize("latest", [None, 0, 7])
@pytest.mark.parametrize("peak", [0.0, 6.0])
def test_scores_are_those_of_transformers(latest, peak):
    """Value by value, also where times together outweigh the likeliest text."""
    config = types.SimpleNamespace(
        no_timestamps_token_id=NO_TIMESTAMPS,
        eos_token_id=END,
        bos_token_id=END,
        max_initial_timestamp_index=latest,
    )
    theirs = WhisperTimeStampLogitsProcessor(config, begin_index=START)
    ours = TimestampRules(
        first=FIRST, end=END, no_timestamps=NO_TIMESTAMPS, start=START, latest=latest
    )
    rng, outweighed = np.random.default_rng(1), 0
    for history in histories():
        ids = np.array([[31, 32, 33, *history], [31, 32, 33, *history[::-1]]])
        scores = rng.standard_normal((2, VOCAB)).astype(np.float32)
        scores[:, rng.integers(0, END)] += peak
        expected = theirs(torch.tensor(ids), torch.tensor(scores)).numpy()
        outweighed += int((expected[:, :FIRST] == -np.inf).all())
        np.testing.assert_array_equal(ours(ids, scores), expected)
    assert outweighed < 60 if peak else outweighed > 0


@pytest.mark.parametrize(
    "ids",
    [
        [],
        [5, 6],
        [40],
        [40, 5],
        [40, 5, 45],
        [40, 5, 45, 6],
        [40, 5, 45, 45],
        [40, 5, 45, 45, 6, 49],
        [40, 5, 45, 45, 6, 49, 50],
        [40, 5, 45, 47, 6],
        [40, 40, 5],
        [5, 40, 6],
        [40, 5, 44, 44, 6, 46, 46, 7, 7],
    ],
)
@pytest.mark.parametrize("frames", [3000, 33])
def test_a_window_is_cut_as_transformers_cuts_it(ids, frames):
    """Into segments with times, and to where the next window begins."""
    if not ids:
        assert cut(ids, FIRST, frames) == ([Piece((), 0, frames // 2)], frames)
        return
    segments, offset = WhisperGenerationMixin._retrieve_segment(
        seek_sequence=torch.tensor(ids),
        seek_outputs=[None],
        time_offset=torch.zeros(1, dtype=torch.float64),
        timestamp_begin=FIRST,
        seek_num_frames=torch.tensor([frames]),
        time_precision=0.02,
        time_precision_features=0.01,
        input_stride=2,
        prev_idx=0,
        idx=0,
        return_token_timestamps=False,
        decoder_input_ids=torch.zeros(1, 1),
    )
    pieces, after = cut(ids, FIRST, frames)
    assert after == int(offset)
    assert [(list(p.ids), p.start, p.end) for p in pieces] == [
        (s["tokens"].tolist(), round(float(s["start"]) / 0.02), round(float(s["end"]) / 0.02))
        for s in segments
    ]


def test_rules_hold_of_every_search():
    """Beams and drawn tokens obey them as greedy ones do, rows of a batch by their own history."""
    rules = TimestampRules(first=FIRST, end=END, no_timestamps=NO_TIMESTAMPS, start=2, latest=4)
    searches = [
        DecodeOptions(eos_token_id=(END,)),
        DecodeOptions(eos_token_id=(END,), num_beams=3, num_return_sequences=3),
        DecodeOptions(eos_token_id=(END,), do_sample=True, num_return_sequences=3, seed=3),
    ]
    for options in searches:
        backend = FakeBackend(random_answer(VOCAB))
        prompts = [(31, 32), (31, 33), (32, 34)]
        groups = decode_prompts(backend, prompts, options, max_new_tokens=24, processors=[rules])
        for ids in (list(s.ids) for group in groups for s in group):
            assert FIRST <= ids[0] <= FIRST + 4
            times = [token for token in ids if token >= FIRST]
            assert times == sorted(times)
            assert NO_TIMESTAMPS not in ids
