"""The canonical Transformer: the cache, the beams and the padding change nothing."""

from __future__ import annotations

import functools
import json

import pytest
import tiny_models
import torch

from seq2edge.checkpoints.load import load_checkpoint

CLOSE = {"atol": 2e-5, "rtol": 2e-5}
DECODERS = [n for n, m in tiny_models.GENERATORS.items() if m.kind == "decoder"]
TRANSLATORS = ["t5", "bart", "marian-split", "m2m100"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The loaded tiny model of that name."""

    @functools.cache
    def load(name):
        folder = tmp_path_factory.mktemp(name)
        tiny_models.save(name, folder)
        return load_checkpoint(folder).model

    return load


def random(*shape, seed=0, top=tiny_models.VOCAB - 16):
    """Reproducible token ids."""
    return torch.randint(3, top, shape, generator=torch.Generator().manual_seed(seed))


def start(model, rows, capacity=32, seed=1):
    """An empty cache, with a source of two inputs where there is an encoder."""
    if model.dims.encoder is None:
        return model.start(rows, capacity)
    length = torch.tensor([9, 6])
    source = model.project_source(model.encode(random(2, 9, seed=seed), length))
    return model.start(rows, capacity, source, length)


def count(*values):
    """New tokens of each row."""
    return torch.tensor(values)


@pytest.mark.parametrize("name", [*DECODERS, *TRANSLATORS])
def test_steps_give_what_one_pass_gives(model, name):
    """Token by token, in pieces, or all at once: the same last logits."""
    model, tokens = model(name), random(2, 10)
    whole = model.step(tokens, count(10, 10), start(model, 2))
    single = start(model, 2)
    for token in tokens.split(1, dim=1):
        last = model.step(token, count(1, 1), single)
    torch.testing.assert_close(last, whole, **CLOSE)
    pieces = start(model, 2)
    for piece in tokens.split(4, dim=1):
        last = model.step(piece, count(*[piece.shape[1]] * 2), pieces)
    torch.testing.assert_close(last, whole, **CLOSE)
    assert pieces.length.tolist() == [10, 10]


@pytest.mark.parametrize("name", [*DECODERS, *TRANSLATORS])
def test_padding_of_new_tokens_is_overwritten(model, name):
    """A short row's padding lands in the cache and is replaced before anything sees it."""
    model, tokens = model(name), random(2, 9)
    padded = tokens.clone()
    padded[1, 3:5] = 77
    unequal = start(model, 2)
    first = model.step(padded[:, :5], count(5, 3), unequal)
    then = model.step(torch.stack([tokens[0, 5:8], tokens[1, 3:6]]), count(3, 3), unequal)
    for row, (a, b) in enumerate([(5, 8), (3, 6)]):
        rows = tokens[[row, row]] if row == 0 else tokens[[1, 1]]
        alone = start(model, 2)
        wanted = model.step(rows[:, :a], count(a, a), alone)
        torch.testing.assert_close(first[row], wanted[row], **CLOSE)
        wanted = model.step(rows[:, a:b], count(b - a, b - a), alone)
        torch.testing.assert_close(then[row], wanted[row], **CLOSE)


@pytest.mark.parametrize("name", ["llama", "t5", "bart"])
def test_capacity_changes_nothing(model, name):
    """Empty places of a larger cache are not attended to."""
    model, tokens = model(name), random(2, 6)
    small = model.step(tokens, count(6, 6), start(model, 2, capacity=6))
    large = model.step(tokens, count(6, 6), start(model, 2, capacity=50))
    torch.testing.assert_close(small, large, **CLOSE)


@pytest.mark.parametrize("name", TRANSLATORS)
def test_padding_of_sources_is_not_seen(model, name):
    """Whatever stands there."""
    model, tokens = model(name), random(2, 4)
    length = torch.tensor([9, 5])
    answers = []
    for filler in (0, 50):
        source = random(2, 9, seed=3)
        source[1, 5:] = filler
        projected = model.project_source(model.encode(source, length))
        cache = model.start(2, 8, projected, length)
        answers.append(model.step(tokens, count(4, 4), cache))
    torch.testing.assert_close(answers[0], answers[1], **CLOSE)
    assert not torch.allclose(answers[0][0], answers[0][1], atol=1e-2)


@pytest.mark.parametrize("name", TRANSLATORS)
def test_beams_read_the_source_of_their_input(model, name):
    """Three rows an input with one copy of its keys, as if each had a copy of its own."""
    model, tokens = model(name), random(6, 4)
    together = model.step(tokens, count(*[4] * 6), start(model, 6))
    for beam in range(3):
        rows = torch.tensor([beam, 3 + beam])
        alone = model.step(tokens[rows], count(4, 4), start(model, 2))
        torch.testing.assert_close(together[rows], alone, **CLOSE)


def test_a_window_forgets_what_lies_before_it(model):
    """Two layers of window 6: a token is out of reach after 2 * 5 others, and not before."""
    model, tokens = model("mistral"), random(1, 14)
    other = tokens.clone()
    other[0, 0] += 1

    def answers(length):
        rows = (tokens[:, :length], other[:, :length])
        return [model.step(row, count(length), model.start(1, length)) for row in rows]

    torch.testing.assert_close(*answers(12), **CLOSE)
    assert not torch.allclose(*answers(11), atol=1e-4)


def test_a_window_has_two_sides_in_an_encoder(model):
    """Three tokens on either side are seen, and padding hides none of them."""
    model = model("modernbert-embedding")
    first, *windowed = model.encoder.masks(torch.arange(9)[None], torch.arange(9))
    assert first is None
    for mask in windowed:
        assert (mask[0, 0] == 0).sum(dim=1).tolist() == [4, 5, 6, 7, 7, 7, 6, 5, 4]
    source = random(1, 30)
    padded = model.encode(source, count(4))
    assert padded.isfinite().all(), "also where a window holds padding alone"
    torch.testing.assert_close(padded[:, :4], model.encode(source[:, :4], count(4)), **CLOSE)


@pytest.mark.parametrize("name", ["bert", "bert-embedding", "distilbert-embedding", "modernbert"])
def test_pooling_does_not_see_padding(model, name):
    """An encoder-only model's answer is the same alone and in a longer batch."""
    model, source = model(name), random(2, 9, seed=3)
    together = model.pool(source, torch.tensor([9, 5]))
    alone = model.pool(source[1:, :5], torch.tensor([5]))
    torch.testing.assert_close(together[1:], alone, **CLOSE)


def test_normalised_embeddings_have_length_one(tmp_path):
    """Where sentence-transformers' files ask for it."""
    tiny_models.save("bert-embedding", tmp_path)
    modules = [
        {"path": "1_Pooling" if kind == "Pooling" else "", "type": f"models.{kind}"}
        for kind in ("Transformer", "Pooling", "Normalize")
    ]
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    pooled = load_checkpoint(tmp_path).model.pool(random(2, 5), torch.tensor([5, 3]))
    torch.testing.assert_close(pooled.norm(dim=-1), torch.ones(2))
