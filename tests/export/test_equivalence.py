"""The main promise: what the command line exports gives transformers' tokens, family by family."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest
import tiny_models
import torch
from transformers.generation import GenerationMixin

import seq2edge
from seq2edge.runtime.parity import TOLERANCES

NEW = 12
# Sums of up to NEW log-probabilities, each as far off as a logit may be.
SCORE_TOLERANCE = NEW * TOLERANCES["float32"].absolute

CASES = {
    "greedy": {},
    "beam 4, 2 results": {"num_beams": 4, "num_return_sequences": 2},
    "no length penalty": {"num_beams": 4, "length_penalty": 0.0},
    "high length penalty": {"num_beams": 4, "length_penalty": 2.0, "num_return_sequences": 2},
    "negative length penalty": {"num_beams": 4, "length_penalty": -1.0},
    "early stopping": {"num_beams": 4, "early_stopping": True, "num_return_sequences": 2},
    "never stopping": {"num_beams": 4, "early_stopping": "never", "num_return_sequences": 2},
    "never, negative": {"num_beams": 4, "early_stopping": "never", "length_penalty": -1.0},
    "no repeated bigram": {"no_repeat_ngram_size": 2},
    "no repeated bigram, beam": {"num_beams": 4, "no_repeat_ngram_size": 2},
    "repetition penalty": {"repetition_penalty": 1.5},
    "repetition penalty, beam": {"num_beams": 4, "repetition_penalty": 1.5},
    "suppressed": {"suppress_tokens": [5, 6, 7], "begin_suppress_tokens": [8, 9, 10, 11]},
    "bad words": {"bad_words_ids": [[12], [30, 31], [40, 41, 42]], "num_beams": 2},
    "forced": {"forced_bos_token_id": 7, "forced_eos_token_id": 2, "num_beams": 2},
    "minimum": {"min_new_tokens": 6, "num_beams": 2},
    "sequence bias": {"sequence_bias": [[[12], -4.0], [[30], 2.5], [[30, 31], 3.0]]},
    "sequence bias, beam": {"sequence_bias": [[[30], 2.5], [[30, 30], -9.0]], "num_beams": 4},
    "guessed": {"prompt_lookup_num_tokens": 4},
    # The first prompt has a 7, behind which there is something to guess.
    "guessed, forced": {"prompt_lookup_num_tokens": 4, "forced_bos_token_id": 7},
}
# Theirs is of one row alone, and promises the tokens that come without it.
OURS = ("prompt_lookup_num_tokens",)


@pytest.fixture
def opened(exported):
    """The reference model of that name and the loaded bundle that the command line made of it."""

    def get(name: str) -> tuple[object, seq2edge.Model]:
        reference, folder, _ = exported(name)
        return reference, seq2edge.load(folder / "bundle", device="cpu", threads=1)

    return get


def prompts_of(name: str) -> list[list[int]]:
    """Three prompts of unequal lengths, without special tokens."""
    generator = torch.Generator().manual_seed(11)
    top = tiny_models.VOCAB - 16
    return [torch.randint(3, top, (n,), generator=generator).tolist() for n in (7, 4, 9)]


def reference_tokens(reference, model, prompts, features, case):
    """Tokens and scores of `transformers.generate`, cut at the end token.

    Clips of samples one by one: a norm of theirs counts the padding of a batch.
    """
    if model.dims.samples is not None and len(features) > 1:
        each = [reference_tokens(reference, model, prompts, [clip], case) for clip in features]
        scores = None if each[0][1] is None else [score for _, those in each for score in those]
        return [ids for those, _ in each for ids in those], scores
    width, pad = max(map(len, prompts)), model.options.pad_token_id
    left = model.dims.kind == "decoder"
    padding = [[pad] * (width - len(prompt)) for prompt in prompts]
    ids = [(p + t if left else t + p) for p, t in zip(padding, prompts, strict=True)]
    mask = [[int(left) * 0] * len(p) for p in padding]
    ones = [[1] * len(t) for t in prompts]
    attention = [(m + o if left else o + m) for m, o in zip(mask, ones, strict=True)]
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(attention)}
    if features is not None:
        inputs = {reference.main_input_name: torch.from_numpy(np.stack(features))}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        found = GenerationMixin.generate(
            reference,
            **inputs,
            max_new_tokens=NEW,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            **{name: value for name, value in case.items() if name not in OURS},
        )
    start = width if left else 1
    sequences = [cut(row[start:].tolist(), case["eos_token_id"]) for row in found.sequences]
    scores = found.sequences_scores.tolist() if case.get("num_beams", 1) > 1 else None
    return sequences, scores


def cut(tokens, ends):
    """Everything up to the first end token."""
    for i, token in enumerate(tokens):
        if token in ends:
            return tokens[: i + 1]
    return tokens


def end_token(model, prompts, features):
    """A token that this random model says late and once, to be its end: else few would end."""
    free = {"eos_token_id": (), "forced_eos_token_id": ()}
    greedy, *_ = our_tokens(model, prompts, features, free)
    said = Counter(token for ids in greedy for token in ids)
    return min((token for ids in greedy for token in ids[NEW // 3 :]), key=said.get)


def our_tokens(model, prompts, features, case):
    """The same from the bundle, and how many tokens were guessed."""
    options = model.options.replace(max_new_tokens=NEW, max_length=None, **case)
    if features is None:
        results = model.generate_ids(prompts, options)
    else:
        decode = model.read_ids if model.dims.image else model.transcribe_ids
        results = decode(features, options)
    flat = [sequence for sequences in results for sequence in sequences]
    guessed = sum(sequence.usage.guessed_tokens for sequence in flat)
    return [list(s.ids) for s in flat], [s.score for s in flat], guessed


@pytest.mark.parametrize("name", tiny_models.GENERATORS)
def test_tokens_are_those_of_transformers(opened, name):
    """Greedy, beam search and every filter, alone and in a batch of unequal lengths."""
    reference, model = opened(name)
    prompts = prompts_of(name)
    features = None
    if model.dims.source_shape:
        shape = (3, *model.dims.source_shape)
        features = np.random.default_rng(3).standard_normal(shape, dtype=np.float32)
    elif model.dims.samples is not None:
        rng = np.random.default_rng(3)
        features = [rng.standard_normal(n, dtype=np.float32) for n in (4000, 895, 9001)]
    ends = [end_token(model, prompts, features)]
    finished, guesses = Counter(), Counter()
    for label, settings in CASES.items():
        case = {**settings, "eos_token_id": ends}
        if model.dims.kind == "decoder":
            # transformers counts the padding of a batch as history; then padding may not be a word.
            suppressed = [*case.get("suppress_tokens", []), model.options.pad_token_id]
            case = {**case, "suppress_tokens": suppressed}
        for rows in ([0], [2], [0, 1, 2]):
            chosen = [prompts[row] for row in rows]
            clips = None if features is None else [features[row] for row in rows]
            wanted, wanted_scores = reference_tokens(reference, model, chosen, clips, case)
            found, scores, guessed = our_tokens(model, chosen, clips, case)
            assert found == wanted, f"{name}, {label}, inputs {rows}"
            finished.update(ids[-1] in ends for ids in found)
            guesses[label] += guessed
            if wanted_scores is not None:
                assert scores == pytest.approx(wanted_scores, abs=SCORE_TOLERANCE)
    assert min(finished[True], finished[False]) >= 5, "sequences end both ways in this table"
    assert {"guessed, forced"} <= set(+guesses) <= {"guessed", "guessed, forced"}


@pytest.mark.parametrize("name", tiny_models.ENCODERS)
def test_classes_and_embeddings_are_those_of_transformers(opened, name):
    """Logits of classifiers and mean-pooled embeddings, alone and in an unequal batch."""
    reference, model = opened(name)
    prompts = prompts_of(name)
    for rows in ([0], [2], [0, 1, 2]):
        chosen = [prompts[row] for row in rows]
        width = max(map(len, chosen))
        pad = tiny_models.ALL[name].settings["pad_token_id"]
        ids = torch.tensor([p + [pad] * (width - len(p)) for p in chosen])
        mask = torch.tensor([[1] * len(p) + [0] * (width - len(p)) for p in chosen])
        with torch.no_grad():
            output = reference(input_ids=ids, attention_mask=mask)
        if model.bundle.manifest.task == "classify":
            wanted = output.logits.softmax(-1).numpy()
            found = model.classify_ids(chosen)
        else:
            hidden = output.last_hidden_state * mask[:, :, None]
            wanted = (hidden.sum(1) / mask.sum(1, keepdim=True)).numpy()
            found = model.embed_ids(chosen)
        np.testing.assert_allclose(found, wanted, atol=TOLERANCES["float32"].absolute)


@pytest.mark.parametrize("name", tiny_models.HEADS)
def test_what_answers_each_token_is_that_of_transformers(opened, name):
    """Logits of tags, spans and masked words, of texts and pairs of unequal lengths."""
    reference, model = opened(name)
    prompts = prompts_of(name)
    types = [[int(i > 2) for i in range(len(prompt))] for prompt in prompts]
    found = model._pool(prompts, types if model.dims.token_types else None)
    for row, (ids, kinds) in enumerate(zip(prompts, types, strict=True)):
        known = {"token_type_ids": torch.tensor([kinds])} if model.dims.token_types else {}
        with torch.no_grad():
            output = reference(input_ids=torch.tensor([ids]), **known)
        wanted = torch.stack(tuple(output.values()), dim=-1) if len(output) > 1 else output[0]
        np.testing.assert_allclose(
            found[row, : len(ids)], wanted[0], atol=TOLERANCES["float32"].absolute
        )
    assert model.bundle.manifest.parity.max_absolute < TOLERANCES["float32"].absolute
    graph = tiny_models.canonical_graph(model.bundle, "encoder").graph
    table = model.dims.vocab * model.dims.width
    assert sum(v.const_value.size == table for v in graph.initializers.values()) == 1
    assert (
        model.bundle.manifest.task
        == {
            "tokens": "tag",
            "span": "answer",
            "masked": "fill",
        }[name.partition("-")[2]]
    )


@pytest.mark.parametrize("name", ["bert", "bert-embedding"])
def test_pairs_are_those_of_transformers(opened, name):
    """Token types tell the texts of a pair apart, in a batch of unequal lengths; none are 0."""
    reference, model = opened(name)
    ids, types = torch.randint(3, 80, (2, 9)), torch.tensor([[0] * 4 + [1] * 5, [0] * 3 + [1] * 6])
    lengths = torch.tensor([9, 6])
    mask = (torch.arange(9) < lengths[:, None]).long()

    def wanted(token_types):
        with torch.no_grad():
            output = reference(input_ids=ids, attention_mask=mask, token_type_ids=token_types)
        if name == "bert":
            return output.logits
        hidden = output.last_hidden_state * mask[:, :, None]
        return hidden.sum(1) / lengths[:, None]

    for given in (types, None):
        found = model.backend.pool(
            ids.numpy(), lengths.numpy(), None if given is None else given.numpy()
        )
        expected = wanted(torch.zeros_like(ids) if given is None else given)
        np.testing.assert_allclose(found, expected, atol=TOLERANCES["float32"].absolute)
    assert not np.allclose(wanted(types), expected, atol=1e-2), "types matter to this model"
