"""Of the texts that are drawn for a window the likeliest is kept that does not repeat itself."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import speech_models
import torch
from transformers.generation import logits_process

from seq2edge.runtime.scheduler import Scheduler
from seq2edge.runtime.sequences import GeneratedSequence
from seq2edge.runtime.speech.attempts import Attempts, compression_ratio
from seq2edge.runtime.speech.exact_windows import ExactWindows
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.transcriber import Transcriber
from seq2edge.runtime.speech.windows import Hints

OPTIONS = SpeechOptions(
    language="en",
    temperatures=(0.7,),
    compression_ratio_threshold=None,
    logprob_threshold=None,
    no_speech_threshold=None,
)


def first_window(model, samples, options):
    """The attempts of a recording's first window."""
    transcriber = Transcriber(model, options)
    windows = ExactWindows(samples, transcriber.tokens, options, mels=8, hints=Hints())
    return Attempts(
        model, transcriber.tokens, options, transcriber.decode, windows.next(), language="en"
    )


def attempt(model, samples, options=OPTIONS):
    """The first window's first attempt: what judges it, and the group that has ended."""
    attempts, scheduler = first_window(model, samples, options), Scheduler(model.backend)
    group = scheduler.submit(attempts.request())
    scheduler.run()
    return attempts, group


def judged(attempts, group, texts):
    """What is kept where the group has no other texts than these."""
    return attempts.judge(SimpleNamespace(results=lambda: texts, request=group.request))


def average(original, group, ids):
    """The mean log-probability by transformers' model and rules, all ids in one call."""
    prompt, rules = list(group.request.prompt), original.generation_config
    processors = [
        logits_process.SuppressTokensAtBeginLogitsProcessor(
            rules.begin_suppress_tokens, len(prompt)
        ),
        logits_process.SuppressTokensLogitsProcessor(rules.suppress_tokens),
        logits_process.WhisperTimeStampLogitsProcessor(rules, len(prompt)),
    ]
    tokens = torch.tensor([[*prompt, *ids]])
    with torch.no_grad():
        features = torch.tensor(group.request.source)[None]
        logits = original(features, decoder_input_ids=tokens).logits[0]
    total = 0.0
    for place in range(len(prompt), tokens.shape[1]):
        scores = logits[place - 1 : place]
        for processor in processors:
            scores = processor(tokens[:, :place], scores)
        total += float(torch.log_softmax(scores[0].double(), -1)[tokens[0, place]])
    return total / len(ids)


@pytest.fixture(scope="module")
def clip(long):
    """Of which rows draw texts of other lengths, and the likeliest repeats itself most."""
    return long[: 20 * speech_models.RATE]


def test_the_likeliest_of_five_is_kept(model, original, clip):
    """By the average of its own tokens, as the original model has it; rows end at other steps."""
    attempts, group = attempt(model, clip)
    texts = group.results()
    averages = [average(original, group, text.ids) for text in texts]
    own = [judged(attempts, group, [text]).average_logprob for text in texts]
    np.testing.assert_allclose(own, averages, atol=1e-4)
    best = int(np.argmax(averages))
    kept = attempts.judge(group)
    assert (kept.answer, kept.average_logprob) == (texts[best], own[best])
    assert len(texts) == 5
    assert len(texts[0].ids) < len(texts[best].ids)  # it has the largest sum, being short
    assert texts[best].index > 0


def test_one_that_is_drawn_is_the_first_of_several(model, clip):
    """With what it attends to: as it was where only one was drawn."""
    options = OPTIONS.replace(words=True)
    _, several = attempt(model, clip, options)
    attempts, alone = attempt(model, clip, options.replace(best_of=1))
    (text,) = alone.results()
    (first,) = (text for text in several.results() if text.index == 0)
    assert attempts.judge(alone).answer == text
    assert first.ids == text.ids
    np.testing.assert_allclose(first.alignment, text.alignment, atol=1e-5)


def test_a_text_that_repeats_itself_is_kept_where_no_other_passes(model, clip):
    """However likely it is, and only behind the last temperature: before it the next one is due."""
    attempts, group = attempt(model, clip)
    texts, likeliest = group.results(), attempts.judge(group).answer
    ratios = {text: compression_ratio(text.ids, speech_models.VOCAB) for text in texts}
    others = [text for text in texts if text != likeliest]
    second = judged(attempts, group, others).answer
    limits = {second: ratios[likeliest] - 1e-6, likeliest: min(ratios.values()) - 1e-6}
    assert max(ratios[text] for text in others) < ratios[likeliest]
    for wanted, limit in limits.items():
        options = OPTIONS.replace(compression_ratio_threshold=limit)
        kept = Attempts.judge(*attempt(model, clip, options))
        assert (kept.answer, kept.compression_ratio) == (wanted, ratios[wanted])
        ladder = options.replace(temperatures=(*options.temperatures, 0.9))
        assert Attempts.judge(*attempt(model, clip, ladder)) is None


def test_padding_behind_the_end_of_a_row_does_not_count(model, long):
    """Nor does it warn, where the rules leave such a row no token at all."""
    attempts = first_window(model, long, OPTIONS.replace(timestamps=False, best_of=2))
    request = attempts.request()
    likelihood, tokens = request.processors[-1], np.zeros((2, 0), np.int64)
    steps = [([0.5, 0.125], [8, 9]), ([0.25, 0.25], [40, 8]), ([0.0, 0.5], [40, 40])]
    for chances, chosen in steps:
        scores = np.full((2, speech_models.VOCAB), -np.inf, np.float32)
        for row, chance in enumerate(chances):
            if chance:
                scores[row, chosen[row]] = np.log(chance)
                scores[row, 20] = np.log(1 - chance)
        likelihood(tokens, scores)
        tokens = np.concatenate([tokens, np.array(chosen)[:, None]], axis=1)
        request.on_tokens(SimpleNamespace(history=SimpleNamespace(tokens=tokens)))
    texts = [
        GeneratedSequence(ids=ids, score=0.0, finish_reason="stop", index=row)
        for row, ids in enumerate([(8, 40), (9, 8, 40)])
    ]
    attempts.language = "en"
    averages = [
        judged(attempts, SimpleNamespace(request=request), [t]).average_logprob for t in texts
    ]
    assert averages == pytest.approx([np.log(0.125) / 2, np.log(0.125 / 8) / 3])
    assert judged(attempts, SimpleNamespace(request=request), texts).answer == texts[0]
