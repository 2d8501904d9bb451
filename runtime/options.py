"""How to decode: one frozen record with the names that Hugging Face generation configs use."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from seq2edge.errors import OptionError

EarlyStopping = bool | Literal["never"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How to decode. Every option is honoured by every backend; construction raises OptionError."""

    # The search: 1 beam is greedy, more are beam search, which keeps so many sequences an input.
    num_beams: int = 1
    # Results of each input, best first; num_beams at most.
    num_return_sequences: int = 1
    # The most tokens that are generated; None leaves it to max_length.
    max_new_tokens: int | None = None
    # The most tokens with the prompt, or the decoder's start; where both are None, 256 new ones.
    max_length: int | None = None
    # No end token before so many tokens were generated.
    min_new_tokens: int = 0
    # No end token before so many tokens, the prompt or the decoder's start counted in.
    min_length: int = 0
    # Beam search divides the log-probability of a sequence by its length to this power: above 0
    # favours long sequences, below 0 short ones.
    length_penalty: float = 1.0
    # When an input is done: True as soon as num_beams sequences have ended, False when a better one
    # is unlikely, "never" when there cannot be one.
    early_stopping: EarlyStopping = False
    # Any of these ends a sequence; without one every sequence is as long as the limit.
    eos_token_id: tuple[int, ...] = ()
    # What rows that have ended are fed; by default the first end token.
    pad_token_id: int | None = None
    # What an encoder-decoder starts from where decoder_start_token_id is None.
    bos_token_id: int | None = None
    # What an encoder-decoder starts from.
    decoder_start_token_id: int | None = None
    # What follows the start token, read and not generated: language and task of a speech model.
    decoder_prompt: tuple[int, ...] = ()

    # The first token that is generated after a decoder's start, such as a target language.
    forced_bos_token_id: int | None = None
    # The only tokens that may be the last one of the limit.
    forced_eos_token_id: tuple[int, ...] = ()
    # Tokens that are never generated.
    suppress_tokens: tuple[int, ...] = ()
    # Tokens that are not generated first.
    begin_suppress_tokens: tuple[int, ...] = ()
    # Sequences of tokens that are never completed; one of an end token alone is ignored.
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    # No sequence of so many tokens appears twice, in prompt and output together; 0: any may.
    no_repeat_ngram_size: int = 0
    # Above 1 makes tokens of the prompt and the output so far less likely, below 1 likelier.
    repetition_penalty: float = 1.0

    # Tokens that the cache of a row holds, allocated at once; None lets it grow.
    capacity: int | None = None

    def __post_init__(self) -> None:
        for name in _SEQUENCES:
            object.__setattr__(self, name, _ids(name, getattr(self, name)))
        words = self.bad_words_ids
        if not isinstance(words, (list, tuple)):
            raise OptionError(f"bad_words_ids: {words!r}, needs a list of lists of token ids")
        object.__setattr__(self, "bad_words_ids", tuple(_ids("bad_words_ids", w) for w in words))
        for name, least in _LEAST.items():
            _check_integer(name, getattr(self, name), least)
        for name in ("length_penalty", "repetition_penalty"):
            _check_number(name, getattr(self, name))
        self._check_together()

    def _check_together(self) -> None:
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise OptionError(
                f"early_stopping: {self.early_stopping!r}, needs True, False or 'never'"
            )
        if self.num_return_sequences > self.num_beams:
            raise OptionError(
                f"num_return_sequences: {self.num_return_sequences} of {self.num_beams} beams; "
                "raise num_beams"
            )
        if self.repetition_penalty <= 0:
            raise OptionError(f"repetition_penalty: {self.repetition_penalty}, needs more than 0")
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise OptionError(
                f"min_new_tokens: {self.min_new_tokens} is more than max_new_tokens "
                f"{self.max_new_tokens}"
            )
        if not all(self.bad_words_ids):
            raise OptionError("bad_words_ids: holds an empty sequence")

    def replace(self, **changes: Any) -> DecodeOptions:
        """A copy with some fields changed. Raises OptionError for unknown ones."""
        _check_known(changes)
        return dataclasses.replace(self, **changes)

    def greedy(
        self, *, max_new_tokens: int | None = None, max_length: int | None = None, ends: bool = True
    ) -> DecodeOptions:
        """A copy for greedy decoding of so many tokens, for measuring: nothing keeps an end away.

        Without `ends` nothing ends a sequence before the limit either.
        """
        options = self.replace(
            num_beams=1,
            num_return_sequences=1,
            max_new_tokens=max_new_tokens,
            max_length=max_length,
            min_new_tokens=0,
            min_length=0,
        )
        return options if ends else options.replace(eos_token_id=(), forced_eos_token_id=())

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON values."""
        values = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                values[field.name] = _plain(value)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DecodeOptions:
        """The inverse of `to_dict`. Raises OptionError for unknown keys and bad values."""
        _check_known(values)
        return cls(**values)


_SEQUENCES = (
    "eos_token_id",
    "forced_eos_token_id",
    "decoder_prompt",
    "suppress_tokens",
    "begin_suppress_tokens",
)
# The least value of every integer; those which default to None may be None.
_LEAST = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "max_new_tokens": 1,
    "max_length": 1,
    "min_new_tokens": 0,
    "min_length": 0,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "decoder_start_token_id": 0,
    "forced_bos_token_id": 0,
    "no_repeat_ngram_size": 0,
    "capacity": 1,
}


def _check_known(values: Mapping[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(DecodeOptions)]
    for name in values:
        if name not in known:
            raise OptionError(f"{name}: no such option, known: {', '.join(known)}")


def _check_integer(name: str, value: Any, least: int) -> None:
    optional = DecodeOptions.__dataclass_fields__[name].default is None
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise OptionError(f"{name}: {value!r}, needs an integer of at least {least}")


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise OptionError(f"{name}: {value!r}, needs a finite number")


def _ids(name: str, value: Any) -> tuple[int, ...]:
    """One id or a list of ids as a tuple."""
    tokens = (value,) if isinstance(value, int) and not isinstance(value, bool) else value
    if tokens is None:
        return ()
    if not isinstance(tokens, (list, tuple)):
        raise OptionError(f"{name}: {value!r}, needs token ids")
    for token in tokens:
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise OptionError(f"{name}: {token!r} is not a token id")
    return tuple(tokens)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
