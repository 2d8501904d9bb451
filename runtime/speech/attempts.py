"""A window's text: decoded, judged, and decoded again at a higher temperature where it is doubtful.

The judgement is that of transformers' `generate_with_fallback` (Radford et al. 2022, section 4.5):
how far the tokens can be compressed, how likely they are on average, and whether the model finds
it likely that nobody speaks.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import OptionError
from seq2edge.runtime.backend import Logits, Memory
from seq2edge.runtime.group import Group
from seq2edge.runtime.likelihood import log_sum_exp
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.request import Request
from seq2edge.runtime.sequences import GeneratedSequence
from seq2edge.runtime.speech.language import language_probabilities
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.timestamps import TimestampRules
from seq2edge.runtime.speech.tokens import LATEST, STEP, SpeechTokens
from seq2edge.runtime.speech.windows import Heard, Window

if TYPE_CHECKING:
    from seq2edge.runtime.model import Model

DRAWN = 5  # texts of a window at temperatures above 0, where nobody says


class Attempts:
    """One window, from its first attempt to a text that passes or the last temperature's."""

    def __init__(
        self,
        model: Model,
        tokens: SpeechTokens,
        options: SpeechOptions,
        decode: DecodeOptions,
        window: Window,
        language: str | None,
    ) -> None:
        """`language` is the code of the window's; None: it is detected on the way."""
        self._model, self._tokens, self._options, self._decode = model, tokens, options, decode
        self.window, self.language = window, language
        # Those of the languages, where they were asked for.
        self.probabilities: dict[str, float] | None = None
        self._number = 0
        self._no_speech = 0.0
        self._memory: Memory | None = None  # the encoder's, where it was decoded alone before
        self._likelihood = _Likelihood(None)

    @property
    def asks(self) -> bool:
        """Whether it first has to be asked, by a request of its own, what its language is.

        Behind what was said before, the model answers something else.
        """
        return self.language is None and bool(self.window.before)

    def question(self) -> Request:
        """The request that only asks for the language."""
        options = DecodeOptions(
            decoder_start_token_id=self._tokens.start, capacity=self._decode.capacity
        )
        request = self._model.request(self.window.features, options.replace(max_new_tokens=1))
        return dataclasses.replace(request, on_prompt=self._hear_language, holds_memory=True)

    def asked(self, group: Group) -> None:
        """Its question is answered. Raises what ended the group."""
        group.results()
        self._memory = group.memory

    def request(self) -> Request:
        """The next attempt."""
        tokens, options, window = self._tokens, self._options, self.window
        asking = tokens.asking(self.language, options)
        prompt = (*window.before, tokens.start, *asking, *window.prefix)
        decode = self._decode.replace(
            decoder_start_token_id=prompt[0],
            decoder_prompt=prompt[1:],
            max_length=None,
            **self._drawn(),
        )
        if options.words:
            decode = decode.replace(alignments=True, logprobs=decode.logprobs or 0)
        room = tokens.positions - len(prompt)
        if decode.max_new_tokens is not None and tokens.positions:
            decode = decode.replace(max_new_tokens=min(decode.max_new_tokens, max(1, room)))
        request = self._model.request(window.features, decode)
        rules = None
        if tokens.with_times(options):
            assert tokens.first_timestamp is not None
            assert tokens.no_timestamps is not None
            rules = TimestampRules(
                first=tokens.first_timestamp,
                end=tokens.end,
                no_timestamps=tokens.no_timestamps,
                start=len(prompt) - len(window.prefix),
                latest=self._latest(),
            )
        self._likelihood = _Likelihood(rules)
        beams = decode.num_beams > 1
        own: Sequence[TimestampRules | _Likelihood] = [self._likelihood]
        if beams:  # whose score is the same
            own = [rules] if rules is not None else []
        return dataclasses.replace(
            request,
            processors=[*request.processors, *own],
            on_tokens=None if beams else self._likelihood.add,
            on_prompt=self._hear,
            after=len(asking) + len(window.prefix),
            holds_memory=len(options.temperatures) > 1,
            memory=self._memory,
        )

    def _drawn(self) -> dict[str, object]:
        """What the temperature changes of the search."""
        temperature = self._temperature
        if temperature == 0.0:
            return {"do_sample": False, "num_return_sequences": 1}
        rows = drawn_rows(self._model, self._options, self._decode)
        # The same window draws the same, whatever is decoded beside it.
        seed = (self._decode.seed or 0) + self._number + 100 * self.window.first
        return {
            "do_sample": True,
            "num_beams": 1,
            "num_return_sequences": rows,
            "temperature": temperature,
            "seed": seed,
        }

    @property
    def _temperature(self) -> float:
        return self._options.temperatures[self._number]

    @property
    def _last(self) -> bool:
        """Whether no other temperature is left."""
        return self._number + 1 == len(self._options.temperatures)

    def _latest(self) -> int | None:
        """Steps of time in which the window's first segment begins."""
        seconds = self._options.max_initial_timestamp
        if seconds is None and self._tokens.latest is not None:
            return self._tokens.latest
        return round((LATEST if seconds is None else seconds) / STEP)

    def _hear(self, logits: Logits) -> Sequence[int] | None:
        """Take in what follows the start; what the prompt goes on with, where that shows it."""
        if self._tokens.no_speech is not None:
            self._no_speech = float(np.exp(logits[self._tokens.no_speech] - log_sum_exp(logits)))
        if self.language is not None:
            return None
        self._hear_language(logits)
        return (*self._tokens.asking(self.language, self._options), *self.window.prefix)

    def _hear_language(self, logits: Logits) -> None:
        self.probabilities = language_probabilities(logits, self._tokens.languages)
        self.language = next(iter(self.probabilities))

    def judge(self, group: Group) -> Heard | None:
        """What the window says, None where another attempt is due. Raises what ended the group."""
        options = self._options
        logprob, ratio, sequence = self._best(group)
        least, most = options.logprob_threshold, options.compression_ratio_threshold
        doubtful = least is not None and logprob < least
        silent = (
            doubtful
            and options.no_speech_threshold is not None
            and self._no_speech > options.no_speech_threshold
        )
        again = (doubtful or (most is not None and ratio > most)) and not silent
        if again and not self._last:
            self._number += 1
            self._memory = group.memory
            return None
        assert self.language is not None
        ids = sequence.ids
        if ids and ids[-1] in group.request.options.eos_token_id:
            ids = ids[:-1]
        return Heard(
            ids=(*self.window.prefix, *ids),
            temperature=self._temperature,
            average_logprob=logprob,
            compression_ratio=ratio,
            no_speech_probability=self._no_speech,
            silent=silent,
            language=self.language,
            answer=sequence,
        )

    def _best(self, group: Group) -> tuple[float, float, GeneratedSequence]:
        """The likeliest text on average, behind its log-probability and its compression ratio.

        At the last temperature one that does not repeat itself, where there is any: text that goes
        round in a loop becomes likelier with every round. Before it, that the likeliest is a loop
        says that a higher temperature is due, where the others are better too.
        """
        beams = group.request.options.num_beams > 1
        texts = [
            (
                sequence.score if beams else self._likelihood.average(sequence),
                compression_ratio(sequence.ids, self._model.dims.vocab),
                sequence,
            )
            for sequence in group.results()
        ]
        most = self._options.compression_ratio_threshold
        passing = [text for text in texts if most is None or text[1] <= most]
        kept = passing if passing and self._last else texts
        return max(kept, key=lambda text: text[0])


class _Likelihood:
    """How likely the chosen tokens of each row are among those that the rules leave."""

    def __init__(self, rules: TimestampRules | None) -> None:
        self._rules = rules
        self._scores: Logits
        self._logprobs: list[NDArray[np.float64]] = []  # of each step's tokens (rows,)

    def __call__(self, tokens: NDArray[np.int64], scores: Logits) -> Logits:
        """See Processor."""
        self._scores = scores if self._rules is None else self._rules(tokens, scores)
        return self._scores

    def add(self, group: Group) -> None:
        """Count in the tokens that were chosen. See Request."""
        scores, tokens = self._scores, group.history.tokens[:, -1]
        chosen = scores[np.arange(len(tokens)), tokens]
        self._logprobs.append(chosen - log_sum_exp(scores))

    def average(self, sequence: GeneratedSequence) -> float:
        """The mean log-probability of its tokens; behind them its row is padding."""
        count, row = len(sequence.ids), sequence.index
        total = sum(float(logprobs[row]) for logprobs in self._logprobs[:count])
        return total / max(1, count)


def drawn_rows(model: Model, options: SpeechOptions, decode: DecodeOptions) -> int:
    """How many texts are drawn at a temperature above 0.

    Raises OptionError for more than can be decoded at a time.
    """
    rows, most = options.best_of, model.backend.rows
    guessed = model.draft is not None or decode.prompt_lookup_num_tokens > 0
    if rows is None:
        return 1 if guessed else min(DRAWN, most or DRAWN)
    if guessed and rows > 1:
        raise OptionError(
            f"best_of: {rows}, tokens are guessed for one text alone; leave out best_of, or the "
            f"{'prompt_lookup_num_tokens' if model.draft is None else 'draft'}"
        )
    if most is not None and rows > most:
        raise OptionError(
            f"best_of: {rows}, {model.backend.name} decodes {most} texts at a time; draw so many "
            "at most, or build with a larger --beams or --batch"
        )
    return rows


def compression_ratio(ids: Sequence[int], vocab: int) -> float:
    """How many times shorter zlib makes the ids of a vocabulary, each in as few bytes as hold it.

    Of ids and not of their text, as transformers has it, so that it does not depend on the script.
    """
    width = int(math.log2(vocab) / 8) + 1
    data = b"".join(token.to_bytes(width, "little") for token in ids)
    return len(data) / len(zlib.compress(data))
