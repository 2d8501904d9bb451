"""Sequences of token ids: padded into one array, while they are decoded, and when they are done."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backend import Features, Lengths, Tokens
from seq2edge.runtime.tools import ToolCall

Source: TypeAlias = "Sequence[int] | NDArray[np.float32]"  # ids; features, samples or pixels

FinishReason = Literal["stop", "stop_string", "length", "time", "cancelled"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Usage:
    """What an input's results took together.

    `prompt_tokens` stood before what was generated: a decoder-only model's prompt, or what an
    encoder-decoder starts from; `reused_tokens` of them were in a cache already. `steps` are calls
    of the decoder. Of `guessed_tokens`, `accepted_tokens` were right (prompt lookup or a draft).
    Seconds count from the request on: to the first token, and to the end.
    """

    prompt_tokens: int
    reused_tokens: int
    steps: int
    guessed_tokens: int
    accepted_tokens: int
    first_token_seconds: float
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """A generated token's log-probability, and the likeliest tokens at its place with theirs."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratedSequence:
    """One decoded sequence.

    `ids` are the generated tokens, without the prompt and with the end token where there is one.
    `score` is the sum of log-probabilities; in beam search divided by length ** length_penalty.
    `finish_reason` is "stop" for an end token, "stop_string" for a text that ends it, "length" for
    the limit of tokens, "time" for `max_time`, "cancelled" for whoever asked for it. `logprobs` are
    the model's own, one for each id, where the options ask for them. So is `alignment` (ids,
    source): how much each id attended to each position of the source, a row sums to 1; of speech
    (ids, heads, source), each head's own. `usage` is that of its input. `index` is its number among
    its input's answers while they come in pieces: of those that are drawn any, of others its rank.
    These three do not count when sequences are compared.
    """

    ids: tuple[int, ...]
    score: float
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] | None = None
    alignment: NDArray[np.float32] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )
    usage: Usage | None = dataclasses.field(default=None, compare=False, repr=False)
    index: int = dataclasses.field(default=0, compare=False, repr=False)

    @property
    def finished(self) -> bool:
        """Whether it ended by itself: with an end token or a stop string."""
        return self.finish_reason in ("stop", "stop_string")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratedText(GeneratedSequence):
    """A decoded sequence with its text, without special tokens and stop string.

    `tool_calls` are what it asks for of `Tools`, which are no part of the text. One that a limit
    of tokens cut is none, and `finish_reason` says so.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def message(self) -> dict[str, Any]:
        """It as the next message of its chat."""
        calls = [call.record for call in self.tool_calls]
        return {
            "role": "assistant",
            "content": self.text,
            **({"tool_calls": calls} if calls else {}),
        }


class History:
    """The tokens of a request's rows so far, its prompt included.

    `start` counts the prompt's tokens, `generated` what came after it, `limit` how many may.
    `source` (length,) is what the answer is about: the ids that an encoder read, none of features;
    by default the prompt.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        rows: int,
        max_new_tokens: int,
        source: Sequence[int] | None = None,
    ) -> None:
        self.start = len(prompt)
        self.source = np.array(prompt if source is None else source, dtype=np.int64)
        self.limit = max_new_tokens
        self.generated = 0
        self._tokens: Tokens = np.empty((rows, self.start + max_new_tokens), dtype=np.int64)
        self._tokens[:, : self.start] = prompt

    @property
    def tokens(self) -> Tokens:
        """Everything so far, (rows, prompt + generated)."""
        return self._tokens[:, : self.start + self.generated]

    @property
    def new_tokens(self) -> Tokens:
        """What was generated, (rows, generated)."""
        return self._tokens[:, self.start : self.start + self.generated]

    def append(self, tokens: Sequence[int], parents: Sequence[int] | None = None) -> None:
        """Row i goes on from row `parents[i]`, by default from itself, with `tokens[i]`."""
        end = self.start + self.generated
        if parents is not None:
            self._tokens[:, self.start : end] = self._tokens[parents, self.start : end]
        self._tokens[:, end] = tokens
        self.generated += 1


def pad(sequences: Sequence[Sequence[int]], kind: Any = np.int64) -> tuple[Tokens, Lengths]:
    """Right-padded ids (rows, longest) and lengths (rows,); no graph looks at the padding."""
    lengths = np.array([len(ids) for ids in sequences], dtype=np.int64)
    tokens = np.zeros((len(sequences), int(lengths.max())), dtype=kind)
    for row, ids in enumerate(sequences):
        tokens[row, : len(ids)] = ids
    return tokens, lengths


def rounded_up(size: int, step: int) -> int:
    """The least multiple of `step` that is no smaller: room of few sizes."""
    return -(-size // step) * step


def is_signal(source: Source | None) -> bool:
    """Whether a source is a clip's features or samples, or an image's pixels, not ids."""
    return isinstance(source, np.ndarray) and source.dtype.kind == "f"


def pad_sources(
    sources: Sequence[Source], positions: Sequence[int]
) -> tuple[Tokens | Features, Lengths]:
    """What `Backend.encode` takes: padded ids or samples, or features with their positions."""
    if not is_signal(sources[0]):
        return pad(cast("Any", sources))
    if np.ndim(sources[0]) == 1:  # samples
        return pad(cast("Any", sources), np.float32)
    return np.stack(cast("Any", sources)), np.array(positions, dtype=np.int64)


def common_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many items, or characters, both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
