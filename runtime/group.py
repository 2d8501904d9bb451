"""A request on its way, from its prompt to its last token."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import cast

from seq2edge.runtime.backend import Answer, Candidates, Logits, Memory
from seq2edge.runtime.beam import BeamSearch
from seq2edge.runtime.request import Prefix, Request
from seq2edge.runtime.search import Choice, RowSearch, Search
from seq2edge.runtime.sequences import FinishReason, GeneratedSequence, History, Usage, is_signal


class Group:
    """A request on its way: its history, the search that chooses for it, and how it ended."""

    def __init__(self, request: Request) -> None:
        self.request = request
        ids = () if is_signal(request.source) else cast("Sequence[int] | None", request.source)
        self.history = History(request.prompt, request.rows, request.max_new_tokens, ids)
        kind = BeamSearch if request.options.num_beams > 1 else RowSearch
        self.search: Search = kind(
            self.history,
            request.options,
            processors=request.processors,
            allowed=request.allowed,
            holds_stop=request.holds_stop,
        )
        self.error: BaseException | None = None
        self.kept: Prefix | None = None  # where the request asked for it
        self.memory: Memory | None = None  # the same, of one that was decoded alone
        self.steps = self.guessed = self.right = 0  # calls of the graph; tokens guessed, and right
        self._begin = time.monotonic()
        self._first = self._end = 0.0  # when the first token was chosen, and the last
        limit = request.options.max_time
        self._deadline = None if limit is None else self._begin + limit
        self._cancelled = False

    @property
    def done(self) -> bool:
        """Whether nothing more will be decoded."""
        return self.error is not None or self.search.done

    def cancel(self) -> None:
        """Let it end at the next step, with what there is. From any thread."""
        self._cancelled = True

    def results(self) -> list[GeneratedSequence]:
        """Its sequences, best first. Raises the error that ended it."""
        if self.error is not None:
            raise self.error
        usage = self.usage()
        return [dataclasses.replace(each, usage=usage) for each in self.search.results()]

    def usage(self) -> Usage:
        """What it took so far."""
        request = self.request
        return Usage(
            prompt_tokens=len(request.prompt),
            reused_tokens=0 if request.prefix is None else len(request.prefix.ids),
            steps=self.steps,
            guessed_tokens=self.guessed,
            accepted_tokens=self.right,
            first_token_seconds=max(0.0, self._first - self._begin),
            seconds=max(0.0, self._end - self._begin),
        )

    def check(self) -> bool:
        """Whether it goes on: it is neither done, nor cancelled, nor out of time."""
        if self._cancelled:
            self._stop("cancelled")
        elif self._deadline is not None and time.monotonic() > self._deadline:
            self._stop("time")
        return not self.done

    def guesses(self) -> list[int]:
        """What the request's drafter thinks comes next; nothing where it has none."""
        drafter = self.request.drafter
        room = self.history.limit - self.history.generated - 1
        if drafter is None or room < 1:
            return []
        return drafter.guess(self.history.tokens[0], room)

    def verified(self, guessed: int, right: int) -> None:
        """So many of the last guesses were right."""
        self.guessed, self.right = self.guessed + guessed, self.right + right
        if self.request.drafter is not None:
            self.request.drafter.verified(guessed, right)

    def fail(self, error: BaseException) -> None:
        """Let it end with this error, unless it ended already."""
        if not self.done:
            self.error = error

    def _stop(self, reason: FinishReason) -> None:
        if not self.done:
            self.search.stop(reason)

    def read(self, logits: Logits) -> None:
        """Tell the request what follows its prompt so far (vocab,); it may change the rest."""
        request = self.request
        assert request.on_prompt is not None
        try:
            rest = request.on_prompt(logits)
        except Exception as error:  # noqa: BLE001 - of the caller's code; `results` raises it
            self.error = error
            return
        if rest is not None:
            assert len(rest) == request.after
            before = request.prompt[: len(request.prompt) - request.after]
            self.request = dataclasses.replace(request, prompt=(*before, *rest))
            self.history.tokens[:, : self.history.start] = self.request.prompt

    def choose(self, answer: Answer) -> Choice:
        """The rows to go on from and their tokens, now also in the history."""
        if isinstance(answer, Candidates) and answer.alignment is not None:
            answer = dataclasses.replace(
                answer, alignment=answer.alignment[..., : self.request.source_length]
            )
        try:
            parents, tokens = self.search.choose(answer)
            self.history.append(tokens, parents)
            self._end = time.monotonic()
            self._first = self._first or self._end
            if self.request.on_tokens is not None:
                self.request.on_tokens(self)
        except Exception as error:  # noqa: BLE001 - of the caller's code; `results` raises it
            self.error = error
            return None, [0] * self.request.rows
        return parents, tokens
