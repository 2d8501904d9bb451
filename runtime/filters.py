"""Filters change the scores of a step before a token is chosen.

A filter takes the history and scores (rows, vocab) and changes the scores in place; a token that
must not be chosen gets minus infinity. They run in the order of `make_filters`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from seq2edge.runtime.backend import Logits
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.sequences import History

NEVER = -np.inf
# The options that may forbid tokens, here and as rules of `runtime/constraints.py`.
FORBIDDING = (
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids"),
    *("min_length", "min_new_tokens"),
    *("forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"),
    *("json_schema", "regex", "grammar"),
)

Filter: TypeAlias = Callable[[History, Logits], None]


def make_filters(options: DecodeOptions) -> list[Filter]:
    """The filters that these options ask for, in the order in which transformers applies them."""
    eos = np.array(options.eos_token_id, dtype=np.int64)
    chosen: list[tuple[object, Filter]] = [
        (options.sequence_bias, functools.partial(add_bias, options.sequence_bias)),
        (
            options.encoder_repetition_penalty != 1.0,
            functools.partial(favour_source, options.encoder_repetition_penalty),
        ),
        (
            options.repetition_penalty != 1.0,
            functools.partial(penalise_repetition, options.repetition_penalty),
        ),
        (
            options.frequency_penalty or options.presence_penalty,
            functools.partial(
                penalise_generated, options.frequency_penalty, options.presence_penalty
            ),
        ),
        (
            options.no_repeat_ngram_size,
            functools.partial(forbid_repeated_ngrams, options.no_repeat_ngram_size),
        ),
        (
            options.encoder_no_repeat_ngram_size,
            functools.partial(forbid_ngrams_of_source, options.encoder_no_repeat_ngram_size),
        ),
        (options.bad_words_ids, functools.partial(forbid_words, _allowed_words(options))),
        (
            options.min_length and not options.min_new_tokens and len(eos),
            functools.partial(forbid_end_before_length, options.min_length, eos),
        ),
        (
            options.min_new_tokens and len(eos),
            functools.partial(forbid_end_before_new_tokens, options.min_new_tokens, eos),
        ),
        (
            options.forced_bos_token_id is not None,
            functools.partial(force_first, options.forced_bos_token_id or 0),
        ),
        (options.forced_eos_token_id, functools.partial(force_last, options.forced_eos_token_id)),
        (
            options.exponential_decay_length_penalty and len(eos),
            functools.partial(
                favour_end, *(options.exponential_decay_length_penalty or (0, 1.0)), eos
            ),
        ),
        (options.suppress_tokens, functools.partial(suppress, options.suppress_tokens)),
        (
            options.begin_suppress_tokens,
            functools.partial(
                suppress_first,
                options.begin_suppress_tokens,
                options.forced_bos_token_id is not None,
            ),
        ),
    ]
    return [filter_ for needed, filter_ in chosen if needed]


def may_increase_scores(options: DecodeOptions, history: History) -> bool:
    """Whether a filter of these options may make a token likelier at this step."""
    first = options.forced_bos_token_id is not None and _stands_alone(history)
    last = bool(options.forced_eos_token_id) and _is_last(history)
    penalties = (options.frequency_penalty, options.presence_penalty)
    rewards = options.repetition_penalty < 1.0 or min(penalties) < 0
    rewards = rewards or options.encoder_repetition_penalty > 1.0
    after, factor = options.exponential_decay_length_penalty or (0, 1.0)
    ending = factor > 1.0 and history.generated > after
    positive = any(bias > 0 for _, bias in options.sequence_bias)
    return first or last or rewards or ending or positive


def only_forbids(options: DecodeOptions) -> bool:
    """Whether the filters of these options change no score that they leave possible.

    But for steps at which `may_increase_scores` says otherwise.
    """
    changing = (
        options.sequence_bias,
        options.repetition_penalty != 1.0,
        options.encoder_repetition_penalty != 1.0,
        options.frequency_penalty,
        options.presence_penalty,
        options.exponential_decay_length_penalty,
    )
    return not any(changing)


def add_bias(
    biases: tuple[tuple[tuple[int, ...], float], ...], history: History, scores: Logits
) -> None:
    """Add to the score of a sequence's last token where the others stand before it."""
    for ids, bias in biases:
        scores[_preceded(ids[:-1], history), ids[-1]] += np.float32(bias)


def _preceded(before: tuple[int, ...], history: History) -> NDArray[np.bool_]:
    """Whether these tokens are the last ones of each row (rows,)."""
    rows, width = history.tokens.shape
    if len(before) > width:
        return np.zeros(rows, dtype=np.bool_)
    end = history.tokens[:, width - len(before) :]
    return np.asarray((end == np.array(before, dtype=np.int64)).all(axis=1))


def penalise_generated(frequency: float, presence: float, history: History, scores: Logits) -> None:
    """Take from each generated token's score, once and for every time that it was generated."""
    for row, tokens in enumerate(history.new_tokens):
        present, counts = np.unique(tokens, return_counts=True)
        scores[row, present] -= (frequency * counts + presence).astype(np.float32)


def penalise_repetition(penalty: float, history: History, scores: Logits) -> None:
    """Make every token of the history less likely (Keskar et al. 2019)."""
    for row, tokens in enumerate(history.tokens):
        _penalise(penalty, tokens, scores[row])


def favour_source(penalty: float, history: History, scores: Logits) -> None:
    """Make every token of the source likelier: the same, the other way round."""
    for row in scores:
        _penalise(1 / penalty, history.source, row)


def _penalise(penalty: float, tokens: NDArray[np.int64], scores: Logits) -> None:
    """Change each of these tokens' scores (vocab,) once."""
    present = np.unique(tokens)
    values = scores[present]
    scores[present] = np.where(values < 0, values * penalty, values / penalty)


def forbid_repeated_ngrams(size: int, history: History, scores: Logits) -> None:
    """No sequence of `size` tokens appears twice in a row's history (Paulus et al. 2018)."""
    for row, known in enumerate(history.tokens):
        _forbid_ngrams(size, known, known, scores[row])


def forbid_ngrams_of_source(size: int, history: History, scores: Logits) -> None:
    """No sequence of `size` tokens of the source appears in a row's history."""
    for row, known in enumerate(history.tokens):
        _forbid_ngrams(size, history.source, known, scores[row])


def _forbid_ngrams(
    size: int, known: NDArray[np.int64], before: NDArray[np.int64], scores: Logits
) -> None:
    """Forbid what follows the last size - 1 tokens of `before` wherever they are `known`."""
    if min(len(known), len(before) + 1) < size:
        return
    windows = sliding_window_view(known, size)  # (places, size)
    same = (windows[:, :-1] == before[len(before) - size + 1 :]).all(axis=1)
    scores[windows[same, -1]] = NEVER


def _allowed_words(options: DecodeOptions) -> tuple[tuple[int, ...], ...]:
    """An end token is no bad word, whatever the list says."""
    ends = {(token,) for token in options.eos_token_id}
    return tuple(word for word in options.bad_words_ids if word not in ends)


def forbid_words(words: tuple[tuple[int, ...], ...], history: History, scores: Logits) -> None:
    """The last token of a forbidden sequence does not follow the others."""
    for word in words:
        scores[_preceded(word[:-1], history), word[-1]] = NEVER


def forbid_end_before_length(
    least: int, eos: NDArray[np.int64], history: History, scores: Logits
) -> None:
    """No end before `least` tokens, the prompt included."""
    if history.start + history.generated < least:
        scores[:, eos] = NEVER


def forbid_end_before_new_tokens(
    least: int, eos: NDArray[np.int64], history: History, scores: Logits
) -> None:
    """No end before `least` generated tokens."""
    if history.generated < least:
        scores[:, eos] = NEVER


def force_first(token: int, history: History, scores: Logits) -> None:
    """The token after a decoder's start, where that stands alone."""
    if _stands_alone(history):
        _force((token,), scores)


def force_last(tokens: tuple[int, ...], history: History, scores: Logits) -> None:
    """The last token that the limit allows."""
    if _is_last(history):
        _force(tokens, scores)


def _stands_alone(history: History) -> bool:
    return history.start + history.generated == 1


def _is_last(history: History) -> bool:
    return history.generated == history.limit - 1


def _force(tokens: tuple[int, ...], scores: Logits) -> None:
    scores[:] = NEVER
    scores[:, list(tokens)] = 0.0


def forbid_others(others: NDArray[np.bool_], history: History, scores: Logits) -> None:
    """Tokens (vocab,) that a source's lexical shortlist does not have."""
    del history
    np.copyto(scores, NEVER, where=others)


def favour_end(
    after: int, factor: float, eos: NDArray[np.int64], history: History, scores: Logits
) -> None:
    """Behind so many tokens the end becomes likelier with each, or with a factor below 1 less."""
    power = history.generated - after
    if power <= 0:
        return
    values = scores[:, eos].astype(np.float64)
    likely = np.isfinite(values)
    most = np.finfo(np.float32).max  # more would be infinite
    with np.errstate(over="ignore"):
        growth = min(np.float64(factor) ** power - 1, most)
    values[likely] += np.abs(values[likely]) * growth
    scores[:, eos] = np.where(likely, values.clip(-most, most), NEVER)


def suppress(tokens: tuple[int, ...], history: History, scores: Logits) -> None:
    """These tokens never appear."""
    del history
    scores[:, list(tokens)] = NEVER


def suppress_first(tokens: tuple[int, ...], forced: bool, history: History, scores: Logits) -> None:  # noqa: FBT001 - bound once
    """These tokens are not the first of the model's own choice."""
    begin = 1 if forced and history.start == 1 else 0
    if history.generated == begin:
        scores[:, list(tokens)] = NEVER
