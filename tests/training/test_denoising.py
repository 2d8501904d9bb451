import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seq2edge.training.denoising import corrupt_spans, infill

SENTINELS = np.arange(900, 1000)


def restored(source, target):
    """The text that a corrupted one and its answer stand for."""
    spans, current = {}, None
    for token in target:
        if token >= 900:
            current = spans.setdefault(int(token), [])
        else:
            current.append(int(token))
    return [t for s in source for t in (spans[int(s)] if s >= 900 else [int(s)])]


@given(st.integers(2, 300), st.integers(0, 2**31), st.floats(0.05, 0.8), st.floats(1.0, 9.0))
def test_spans_and_their_answer_hold_the_whole_text(count, seed, density, span):
    """Putting the answer's spans in place of the sentinels restores the text."""
    ids = np.arange(count)
    rng = np.random.default_rng(seed)
    source, target = corrupt_spans(ids, rng, density=density, span=span, sentinels=SENTINELS)
    assert restored(source, target) == ids.tolist()
    hidden = int((target < 900).sum())
    assert hidden == min(max(1, round(density * count)), count - 1)


@given(st.integers(2, 300), st.integers(0, 2**31))
def test_hidden_spans_never_touch(count, seed):
    """A token that stays stands between two sentinels."""
    rng = np.random.default_rng(seed)
    source, _ = corrupt_spans(np.arange(count), rng, density=0.5, span=2.0, sentinels=SENTINELS)
    places = np.flatnonzero(source >= 900)
    assert (np.diff(places) > 1).all()


def test_spans_are_as_long_as_asked_on_average():
    """Over 200 texts the mean length of a hidden span is the recipe's."""
    rng, lengths = np.random.default_rng(0), []
    for _ in range(200):
        _, target = corrupt_spans(np.arange(200), rng, density=0.15, span=3.0, sentinels=SENTINELS)
        lengths += np.diff([*np.flatnonzero(target >= 900), len(target)]).tolist()
    assert np.mean(lengths) - 1 == pytest.approx(3.0, abs=0.1)


@given(st.integers(2, 300), st.integers(0, 2**31), st.floats(0.05, 0.6))
def test_infilling_hides_the_asked_part_and_keeps_the_order(count, seed, density):
    """Masks replace the recipe's part of the tokens; the others stay in order."""
    rng = np.random.default_rng(seed)
    source = infill(np.arange(count), rng, density=density, span=3.0, mask=999)
    kept = source[source != 999]
    assert len(kept) == count - round(density * count)
    assert (np.diff(kept) > 0).all()
    assert (source == 999).any() or round(density * count) == 0
