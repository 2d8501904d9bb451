"""Text as it is generated: whole characters, right spaces, and nothing that is taken back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from seq2edge.runtime.backend import Backend
from seq2edge.runtime.group import Group
from seq2edge.runtime.request import Request
from seq2edge.runtime.scheduler import Scheduler
from seq2edge.runtime.sequences import GeneratedText

if TYPE_CHECKING:
    from seq2edge.runtime.tokenizer import Tokenizer
    from seq2edge.runtime.tool_format import CallReader

REPLACEMENT = "\ufffd"  # what incomplete characters are decoded to
LONGEST_CLEANED = 5  # characters of a cleaned part, and the one before it
BYTE = re.compile("<0x[0-9A-F]{2}>")  # a token that is a byte of a character


class Detokenizer:
    """The text of ids that become more, up to where no later id changes it."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop_strings: Sequence[str] = (),
        calls: CallReader | None = None,
    ) -> None:
        """With `calls` what is said before these."""
        self._tokenizer = tokenizer
        self._stop_strings = (*stop_strings, *(() if calls is None else calls.stop_strings))
        self._calls = calls
        self._given = 0  # characters

    @classmethod
    def of(cls, tokenizer: Tokenizer, request: Request) -> Detokenizer:
        """That of an answer to a request."""
        return cls(tokenizer, request.options.stop_strings, request.calls)

    def certain(self, ids: Sequence[int]) -> str:
        """What is certain of these ids' text and was not given out yet."""
        tokenizer = self._tokenizer
        if self._calls is not None:
            ids = self._calls.said(ids)
        raw = tokenizer.decode(ids[: self._whole(ids)], clean=False).rstrip(REPLACEMENT)
        if tokenizer.cleaned:
            # What loses a space may overlap: from the first space near the end on, all may change.
            space = raw.find(" ", max(0, len(raw) - LONGEST_CLEANED))
            raw = _without_start_of(tokenizer.cleaned, raw if space < 0 else raw[:space])
        text = cut_at_stop(tokenizer.clean(raw), self._stop_strings)
        return self._next(_without_start_of(self._stop_strings, text))

    def _whole(self, ids: Sequence[int]) -> int:
        """How many ids come before those bytes at the end that a later byte may make a character.

        Ids without a text may lie between them.
        """
        end = place = len(ids)
        while place:
            place -= 1
            if BYTE.fullmatch(self._tokenizer.token(ids[place])):
                end = place
            elif self._tokenizer.decode(ids[place : place + 1]):
                break
        return end

    def rest(self, text: str) -> str:
        """What was not given out yet of the whole text."""
        return self._next(text)

    def _next(self, text: str) -> str:
        new = text[self._given :]
        self._given += len(new)
        return new


def _without_start_of(patterns: Sequence[str], text: str) -> str:
    """The text up to where one of the patterns may begin and go on behind it."""
    longest = max(map(len, patterns), default=0)
    for place in range(max(0, len(text) - longest), len(text)):
        if any(pattern.startswith(text[place:]) for pattern in patterns):
            return _without_start_of(patterns, text[:place])  # which may have cut another in two
    return text


def cut_at_stop(text: str, stop_strings: Sequence[str]) -> str:
    """The text before the first stop string in it."""
    places = [place for stop in stop_strings if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


class StopStrings:
    """Says whether the text of generated ids holds a stop string."""

    def __init__(self, tokenizer: Tokenizer, strings: Sequence[str]) -> None:
        self._tokenizer, self._strings = tokenizer, strings
        # Every token but special ones has a byte at least; those have no text and are passed over.
        self._window = max(len(string.encode()) for string in strings) + 8

    def __call__(self, ids: Sequence[int]) -> bool:
        """Looked for near the end alone, since it was not there before the last token."""
        text = self._tokenizer.decode(ids[-self._window :])
        if not any(string in text for string in self._strings):
            return False
        whole = self._tokenizer.decode(ids)  # a part's first token may be decoded otherwise
        return any(string in whole for string in self._strings)


class TextStream:
    """Pieces of one answer's text, as an iterator; together they are `result.text`.

    Whoever asks for the next piece runs the model, so a stream that is dropped runs no further.
    For one thread at a time, but for `cancel`: a second one that asks is refused with a ValueError.
    """

    def __init__(
        self,
        backend: Backend,
        request: Request,
        tokenizer: Tokenizer,
        result: Callable[[Group], GeneratedText],
    ) -> None:
        self._scheduler = Scheduler(backend, rows=request.rows)
        self._group = self._scheduler.submit(request)
        self._pieces = self._generate(Detokenizer.of(tokenizer, request))
        self._make_result = result
        self._result: GeneratedText | None = None

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def result(self) -> GeneratedText:
        """The best answer; what remains of the stream is generated first, and dropped."""
        for _ in self._pieces:
            pass
        assert self._result is not None
        return self._result

    def cancel(self) -> None:
        """Let it end with the next token. From any thread."""
        self._group.cancel()

    def _generate(self, detokenizer: Detokenizer) -> Iterator[str]:
        group = self._group
        while not group.done:
            self._scheduler.step()
            if not group.done:
                piece = group.request.ranked and detokenizer.certain(group.search.certain()[0])
                if piece:
                    yield piece
        self._result = self._make_result(group)
        rest = detokenizer.rest(self._result.text)
        if rest:
            yield rest
