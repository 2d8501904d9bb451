"""Answers are the best spans of what transformers' model says, found by trying all."""

from __future__ import annotations

import itertools

import pytest
import torch
from eager_models import eager_model
from small_tokenizers import corpus

from seq2edge.errors import InputError, OptionError

QUESTION, CONTEXT = "hello  world?", " ".join(corpus("latin")[:3])
LONG = " ".join(corpus("latin")[3:30])


@pytest.fixture(scope="module", params=["bert", "roberta", "distilbert"])
def reader(request, tmp_path_factory):
    """A random model that answers, with each kind of tokenizer."""
    folder = tmp_path_factory.mktemp("reader")
    return eager_model(folder, f"{request.param}-span", request.param)


def all_spans(reference, tokenizer, context, *, size, stride, longest=15):
    """Every span of whole words with its probability, of the window where it is likeliest.

    And the least probability that a window has no answer.
    """
    inputs = tokenizer(
        QUESTION,
        context,
        truncation="only_second",
        max_length=size,
        stride=stride,
        return_overflowing_tokens=True,
    )
    best, none = {}, 1.0
    for window in range(len(inputs["input_ids"])):
        names = [n for n in ("input_ids", "token_type_ids") if n in inputs]
        with torch.no_grad():
            output = reference(**{name: torch.tensor([inputs[name][window]]) for name in names})
        encoding, spans = inputs.encodings[window], {}
        inside = [i for i, text in enumerate(encoding.sequence_ids) if text == 1]
        logits = (output.start_logits[0], output.end_logits[0])
        starts, ends = (each[[0, *inside]].double().softmax(0).tolist() for each in logits)
        none = min(none, starts[0] * ends[0])
        for (i, first), (j, last) in itertools.product(enumerate(inside, 1), repeat=2):
            if i <= j < i + longest:
                words = (encoding.token_to_word(first), encoding.token_to_word(last))
                start = encoding.word_to_chars(words[0], 1)[0]
                end = encoding.word_to_chars(words[1], 1)[1]
                if start < end:
                    spans.setdefault((start, end), []).append(starts[i] * ends[j])
        for span, scores in spans.items():
            best[span] = max(best.get(span, 0.0), sum(scores))
    return best, none


@pytest.mark.parametrize(
    ("context", "size", "stride"), [(CONTEXT, None, None), (LONG, None, None), (LONG, 30, 5)]
)
def test_the_best_span_is_found(reader, context, size, stride):
    """In one window or several, of whole words, with its place in the context."""
    reference, tokenizer, model = reader
    taken = size or model.text_positions
    shared = stride if stride is not None else taken // 2
    spans, none = all_spans(reference, tokenizer, context, size=taken, stride=shared)
    found = model.answer(QUESTION, context, window=size, overlap=stride, batch=2)[0]
    assert found.text == context[found.start : found.end]
    assert (found.start, found.end) == max(spans, key=spans.get)
    assert found.score == pytest.approx(max(spans.values()), rel=1e-3)
    several = model.answer(
        QUESTION, context, top_k=5, window=size, overlap=stride, may_be_empty=True
    )
    assert [each.score for each in several] == sorted((e.score for e in several), reverse=True)
    empty = [each for each in several if not each.text]
    if none > sorted(spans.values())[-4]:
        assert [each.score for each in empty] == [pytest.approx(none, rel=1e-3)]


def test_an_answer_is_no_longer_than_asked(reader):
    """In tokens, before whole words are made of them."""
    reference, tokenizer, model = reader
    taken = model.text_positions
    spans, _ = all_spans(reference, tokenizer, CONTEXT, size=taken, stride=9, longest=1)
    found = model.answer(QUESTION, CONTEXT, longest=1)[0]
    assert (found.start, found.end) == max(spans, key=spans.get)


def test_no_answer_is_one_where_that_is_asked_for(reader):
    """And then as likely as the window that is surest of an answer says."""
    reference, tokenizer, model = reader
    _, none = all_spans(
        reference, tokenizer, LONG, size=model.text_positions, stride=model.text_positions // 2
    )
    found = model.answer(QUESTION, LONG, top_k=5000, may_be_empty=True)
    empty = [each for each in found if not each.text]
    assert [(each.start, each.end) for each in empty] == [(0, 0)]
    assert empty[0].score == pytest.approx(none, rel=1e-2)
    assert all(each.text for each in model.answer(QUESTION, LONG, top_k=5000))


def test_what_cannot_be_read_is_refused(reader):
    """An empty context, a question without room, numbers that are none."""
    _, _, model = reader
    with pytest.raises(InputError, match="answer: the context has no tokens"):
        model.answer(QUESTION, "")
    with pytest.raises(
        InputError, match=r"'hello  world\?' takes \d+ of the 9 tokens that .* nothing is left"
    ):
        model.answer(QUESTION, CONTEXT, window=9)
    with pytest.raises(OptionError, match=r"window: 999 tokens, the model takes \d+"):
        model.answer(QUESTION, CONTEXT, window=999)
    with pytest.raises(OptionError, match="top_k: 0, needs 1 or more"):
        model.answer(QUESTION, CONTEXT, top_k=0)
    with pytest.raises(InputError, match="made to answer, it cannot tag"):
        model.tag([CONTEXT])
