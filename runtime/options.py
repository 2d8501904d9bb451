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
    """Every option is honoured by every backend. Construction raises OptionError.

    num_beams 1 is greedy search, more is beam search with `num_return_sequences` results each.
    max_new_tokens bounds what is generated; max_length, used where it is None, counts the prompt
    (or the decoder's start) too. A score is divided by its length to the power length_penalty.
    early_stopping: True ends an input at num_beams finished sequences, False when a better one is
    unlikely, "never" when it is impossible. decoder_prompt follows an encoder-decoder's start
    token. forced_bos_token_id is the first and forced_eos_token_id the last possible token.
    suppress_tokens never appear, begin_suppress_tokens not first, bad_words_ids not as sequences.
    capacity fixes the cache's size in tokens; None lets it grow.
    """

    num_beams: int = 1
    num_return_sequences: int = 1
    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int = 0
    min_length: int = 0
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    decoder_start_token_id: int | None = None
    decoder_prompt: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
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
    given = (value,) if isinstance(value, int) and not isinstance(value, bool) else value
    if given is None:
        return ()
    if not isinstance(given, (list, tuple)):
        raise OptionError(f"{name}: {value!r}, needs token ids")
    for token in given:
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise OptionError(f"{name}: {token!r} is not a token id")
    return tuple(given)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
