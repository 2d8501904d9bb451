"""The reference backend keeps the seam's promises."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from requests_of import decode_prompts
from transformers.generation import GenerationMixin

from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.errors import CapacityError
from seq2edge.export.eager import GROWTH, EagerBackend
from seq2edge.runtime.options import DecodeOptions

ENDLESS = DecodeOptions(pad_token_id=1)


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    """A Llama with room for many positions."""
    folder = tmp_path_factory.mktemp("llama")
    tiny_models.save("llama", folder, max_position_embeddings=512)
    return EagerBackend(load_checkpoint(folder).model)


def test_a_cache_that_grows_gives_what_a_large_one_gives(backend):
    """Beyond its first size, in steps."""
    prompts = [[5, 6, 7], [8]]
    new = GROWTH + 20
    grown = decode_prompts(backend, prompts, ENDLESS, max_new_tokens=new)
    fixed = decode_prompts(backend, prompts, ENDLESS.replace(capacity=200), max_new_tokens=new)
    assert [found[0].ids for found in grown] == [found[0].ids for found in fixed]
    assert len(grown[0][0].ids) == new


def test_a_capacity_that_was_set_is_kept(backend):
    """It neither grows nor overwrites."""
    cache = backend.start(None, 1, 4)
    backend.step(np.array([[5, 6, 7, 8]]), np.array([4]), cache)
    with pytest.raises(CapacityError, match="5 tokens do not fit 4"):
        backend.step(np.array([[9]]), np.array([1]), cache)
    assert cache.length.tolist() == [4]


def test_reordered_rows_go_on_as_their_parents(backend):
    """From fewer rows to more, and with one left out."""
    tokens = np.array([[5, 6], [7, 8]])
    cache = backend.start(None, 2, None)
    backend.step(tokens, np.array([2, 1]), cache)
    cache.reorder(np.array([1, 1, 0]))
    assert cache.length.tolist() == [1, 1, 2]
    logits = backend.step(np.array([[9], [9], [9]]), np.array([1, 1, 1]), cache)
    for row, history in ((0, [7, 9]), (2, [5, 6, 9])):
        alone = backend.start(None, 1, None)
        wanted = backend.step(np.array([history]), np.array([len(history)]), alone)
        np.testing.assert_allclose(logits[row], wanted[0], atol=2e-5)
    np.testing.assert_array_equal(logits[0], logits[1])


NEW = 12
PAD = 1
# Options that no published checkpoint of ours sets in the table of test_equivalence.py.
RARE = {
    "plain": {},
    "no token of the source": {"encoder_no_repeat_ngram_size": 1},
    "no pair of the source": {"encoder_no_repeat_ngram_size": 2},
    "source likelier": {"encoder_repetition_penalty": 1.9},
    "source less likely": {"encoder_repetition_penalty": 0.4, "repetition_penalty": 0.8},
    "sooner an end": {"exponential_decay_length_penalty": (2, 1.4)},
    "later an end": {"exponential_decay_length_penalty": (1, 0.5)},
    "renormalised": {"renormalize_logits": True, "repetition_penalty": 1.6},
}


@pytest.fixture(scope="module")
def rare(tmp_path_factory):
    """The reference model of that name, ours behind the seam, and prompts of the model's words."""

    def make(name):
        folder = tmp_path_factory.mktemp(name)
        reference = tiny_models.save(name, folder)
        backend = EagerBackend(load_checkpoint(folder).model)
        seeds = [[17, 40, 9], [33, 8], [61, 20, 11, 5]]
        prompts = []
        for seed in seeds:
            said = generated(reference, [seed], {"num_beams": 1})[0][0]
            prompts.append([*seed, *said[:8]])
        return reference, backend, prompts

    return make


def generated(reference, prompts, case):
    """Tokens and scores of `transformers.generate` without padding, and the end it took."""
    width = max(map(len, prompts))
    left = not reference.config.is_encoder_decoder
    rows = [[PAD] * (width - len(p)) + p if left else p + [PAD] * (width - len(p)) for p in prompts]
    ids = torch.tensor(rows)
    with torch.no_grad():
        answer = GenerationMixin.generate(
            reference,
            input_ids=ids,
            attention_mask=(ids != PAD).long(),
            max_new_tokens=NEW,
            suppress_tokens=[PAD],
            eos_token_id=case.get("eos_token_id", [2]),
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            **{name: value for name, value in case.items() if name != "eos_token_id"},
        )
    start = width if left else 1
    scores = answer.sequences_scores.tolist() if case["num_beams"] > 1 else None
    return [[t for t in row[start:].tolist() if t != PAD] for row in answer.sequences], scores


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", ["bart", "llama"])
def test_rare_options_give_the_tokens_of_transformers(rare, name, beams):
    """Alone and in a batch; each changes something."""
    reference, backend, prompts = rare(name)
    ends = [generated(reference, prompts[:1], {"num_beams": 1})[0][0][7]]
    answers = {}
    for label, case in RARE.items():
        options = DecodeOptions(
            **case,
            num_beams=beams,
            eos_token_id=ends,
            forced_eos_token_id=reference.generation_config.forced_eos_token_id,
            pad_token_id=PAD,
            suppress_tokens=(PAD,),
        )
        for rows in (prompts[:1], prompts[2:], prompts):
            wanted, scores = generated(
                reference, rows, {**case, "num_beams": beams, "eos_token_id": ends}
            )
            read = (rows, None) if name == "llama" else ([[2]] * len(rows), rows)
            found = decode_prompts(backend, read[0], options, max_new_tokens=NEW, sources=read[1])
            assert [list(best.ids) for (best,) in found] == wanted, label
            if beams > 1:
                assert [best.score for (best,) in found] == pytest.approx(scores, abs=1e-4), label
        answers[label] = (wanted, scores)
    unchanged = {label for label, answer in answers.items() if answer == answers["plain"]}
    assert unchanged - ({"no pair of the source"} if name == "llama" else set()) == {"plain"}
