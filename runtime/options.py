"""How to decode: one frozen record with the names that Hugging Face generation configs use."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal

from seq2edge.errors import OptionError, foreign_errors

LARGEST, LARGEST_ID = 2**63 - 1, 2**31 - 1
MOST_STRINGS = 1000  # stop strings
MOST_SEQUENCES = 100_000  # sequences of tokens that are forbidden or favoured
LONGEST_RULES = 2**20  # characters of a schema, an expression or a grammar, and of stop strings

EarlyStopping = bool | Literal["never"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How to decode. Every option is honoured by every backend; construction raises OptionError."""

    # The search: 1 beam is greedy, more are beam search, which keeps so many sequences an input.
    num_beams: int = 1
    # Results of each input, best first; num_beams at most, unless tokens are drawn by one beam.
    num_return_sequences: int = 1
    # Whether tokens are drawn by their probabilities. What is drawn for an input depends on its
    # request alone, whatever is decoded beside it.
    do_sample: bool = False
    # The same number draws the same tokens again; None draws others every time.
    seed: int | None = None
    # Scores are divided by it before a draw: below 1 makes likely tokens likelier.
    temperature: float = 1.0
    # A draw is between so many of the likeliest tokens; 0: all.
    top_k: int = 50
    # A draw is between the likeliest tokens that have this probability together.
    top_p: float = 1.0
    # A draw leaves out what has less than this part of the likeliest token's probability.
    min_p: float = 0.0
    # A draw is between the tokens of about expected surprise that have this probability together.
    typical_p: float = 1.0
    # A draw leaves out what has less probability than this.
    epsilon_cutoff: float = 0.0
    # The same, where probabilities are spread less than that: its root times exp(-entropy).
    eta_cutoff: float = 0.0
    # The most tokens that are generated; None leaves it to max_length.
    max_new_tokens: int | None = None
    # The most tokens with the prompt, or the decoder's start; where both are None, as many as the
    # model has positions for, or 1,024 new ones where it takes any number.
    max_length: int | None = None
    # No end token before so many tokens were generated.
    min_new_tokens: int = 0
    # No end token before so many tokens, the prompt or the decoder's start counted in; set aside
    # where min_new_tokens is given.
    min_length: int = 0
    # Beam search divides the log-probability of a sequence by its length to this power: above 0
    # favours long sequences, below 0 short ones.
    length_penalty: float = 1.0
    # When an input is done: True as soon as num_beams sequences have ended, False when a better one
    # is unlikely, "never" when there cannot be one.
    early_stopping: EarlyStopping = False
    # Any of these ends a sequence; without one every sequence is as long as the limit.
    eos_token_id: tuple[int, ...] = ()
    # Any of these in the text ends a sequence; it is cut off, and may lie across tokens.
    stop_strings: tuple[str, ...] = ()
    # Seconds after which a sequence ends where it is.
    max_time: float | None = None
    # What rows that have ended are fed; by default the first end token.
    pad_token_id: int | None = None
    # What an encoder-decoder starts from where decoder_start_token_id is None.
    bos_token_id: int | None = None
    # What an encoder-decoder starts from.
    decoder_start_token_id: int | None = None
    # What follows the start token, read and not generated: language and task of a speech model.
    decoder_prompt: tuple[int, ...] = ()

    # What is added to the score of the last token of a sequence where the others stand before it.
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    # What each token generated so far loses for every time that it was generated, as OpenAI's.
    frequency_penalty: float = 0.0
    # What each token generated so far loses, however often it was.
    presence_penalty: float = 0.0
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
    # No sequence of so many tokens of the source, or of a decoder-only model's prompt, appears in
    # the output; 0: any may.
    encoder_no_repeat_ngram_size: int = 0
    # Above 1 makes tokens of the prompt and the output so far less likely, below 1 likelier.
    repetition_penalty: float = 1.0
    # The same of tokens of the source, or of a decoder-only model's prompt, the other way round.
    encoder_repetition_penalty: float = 1.0
    # A number of generated tokens, and a factor to whose power end tokens gain behind these: the
    # power is 1 at the next token, and grows by 1 with each.
    exponential_decay_length_penalty: tuple[int, float] | None = None
    # Beam search adds probabilities up to 1 again when options have changed them.
    renormalize_logits: bool = False

    # Results tell each token's log-probability, as the model gave it, and those of so many of the
    # likeliest tokens at its place; None: neither.
    logprobs: int | None = None
    # Results tell how much each token attended to each position of the source; of an
    # encoder-decoder that was exported with alignments.
    alignments: bool = False

    # The answer is JSON of this schema (its text, or a dict), or matches this regular expression as
    # a whole, or follows this grammar in llguidance's form of Lark; needs seq2edge[constraints].
    json_schema: str | None = None
    regex: str | None = None
    grammar: str | None = None

    # Guessing tokens that one step verifies; they stay what they are without. So many at most are
    # guessed at a time, that the prompt or an encoder's source goes on so: for answers that copy.
    prompt_lookup_num_tokens: int = 0
    # So many at most are guessed at a time by the draft, where the model was loaded with one.
    num_assistant_tokens: int = 8

    # Tokens that the cache of a row holds, allocated at once; None lets it grow.
    capacity: int | None = None

    def __post_init__(self) -> None:
        for name, plain in _PLAIN.items():
            object.__setattr__(self, name, plain(name, getattr(self, name)))
        for name, least in _LEAST.items():
            _check_integer(name, getattr(self, name), least)
        for name in _NUMBERS:
            _check_number(name, getattr(self, name))
        for name, (needs, fits) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not fits(value):
                raise OptionError(f"{name}: {value}, needs {needs}")
        for name in ("do_sample", "alignments", "renormalize_logits"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise OptionError(f"{name}: {value!r}, needs True or False")
        self._check_together()

    def _check_together(self) -> None:
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise OptionError(
                f"early_stopping: {self.early_stopping!r}, needs True, False or 'never'"
            )
        rules = [name for name in _RULES if getattr(self, name) is not None]
        if len(rules) > 1:
            raise OptionError(f"{' and '.join(rules)}: give one of them")
        drawn = self.do_sample and self.num_beams == 1
        if self.num_return_sequences > self.num_beams and not drawn:
            raise OptionError(
                f"num_return_sequences: {self.num_return_sequences} of {self.num_beams} beams; "
                "raise num_beams, or draw them with do_sample"
            )
        if self.prompt_lookup_num_tokens and max(self.num_beams, self.num_return_sequences) > 1:
            raise OptionError(
                f"prompt_lookup_num_tokens: {self.prompt_lookup_num_tokens} with num_beams "
                f"{self.num_beams} and num_return_sequences {self.num_return_sequences}; tokens "
                "are guessed for one sequence alone, so both have to be 1"
            )
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

    @property
    def constraint(self) -> tuple[str, str] | None:
        """Which of json_schema, regex and grammar is given, and its text."""
        for name in _RULES:
            text = getattr(self, name)
            if text is not None:
                return name, text
        return None

    def greedy(
        self, *, max_new_tokens: int | None = None, max_length: int | None = None, ends: bool = True
    ) -> DecodeOptions:
        """A copy for greedy decoding of so many tokens, for measuring: nothing keeps an end away.

        Without `ends` nothing ends a sequence before the limit either.
        """
        options = self.replace(
            num_beams=1,
            num_return_sequences=1,
            do_sample=False,
            stop_strings=(),
            max_time=None,
            logprobs=None,
            prompt_lookup_num_tokens=0,
            **dict.fromkeys(_RULES),
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


_RULES = ("json_schema", "regex", "grammar")
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
    "encoder_no_repeat_ngram_size": 0,
    "seed": 0,
    "top_k": 0,
    "logprobs": 0,
    "prompt_lookup_num_tokens": 0,
    "num_assistant_tokens": 1,
    "capacity": 1,
}
_NUMBERS = (
    "length_penalty",
    "repetition_penalty",
    "encoder_repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "max_time",
)
# What a number has to be, in words and as a check.
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "repetition_penalty": ("more than 0", lambda value: value > 0),
    "encoder_repetition_penalty": ("more than 0", lambda value: value > 0),
    "epsilon_cutoff": ("0 to less than 1", lambda value: 0 <= value < 1),
    "eta_cutoff": ("0 to less than 1", lambda value: 0 <= value < 1),
    "temperature": ("more than 0; to take the likeliest, do_sample=False", lambda value: value > 0),
    "top_p": ("0 to 1", lambda value: 0 <= value <= 1),
    "min_p": ("0 to 1", lambda value: 0 <= value <= 1),
    "typical_p": ("more than 0, up to 1", lambda value: 0 < value <= 1),
    "max_time": ("more than 0 seconds", lambda value: value > 0),
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
        raise OptionError(f"{name}: {value!r:.60}, needs an integer of at least {least}")
    if value > LARGEST:
        raise OptionError(f"{name}: of {value.bit_length()} bits, needs an integer of 63 at most")


def _check_number(name: str, value: Any) -> None:
    field = DecodeOptions.__dataclass_fields__[name]
    if value is None and field.default is None:
        return
    # Compared and not made a float, which long integers cannot become.
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not -sys.float_info.max <= value <= sys.float_info.max:
        raise OptionError(f"{name}: {value!r}, needs a finite number")


def _check_count(name: str, value: Any) -> None:
    """Of sequences that are looked for at every token."""
    if isinstance(value, (list, tuple)) and len(value) > MOST_SEQUENCES:
        raise OptionError(f"{name}: {len(value):,} entries, at most {MOST_SEQUENCES:,} are used")


def _ids(name: str, value: Any) -> tuple[int, ...]:
    """One id or a list of ids as a tuple."""
    tokens = (value,) if isinstance(value, int) and not isinstance(value, bool) else value
    if tokens is None:
        return ()
    if not isinstance(tokens, (list, tuple)):
        raise OptionError(f"{name}: {value!r}, needs token ids")
    for token in tokens:
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token <= LARGEST_ID:
            raise OptionError(f"{name}: {token!r:.60} is not a token id")
    return tuple(tokens)


def _biases(name: str, value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Pairs of token ids and what is added."""
    _check_count(name, value)
    needs = "needs pairs of token ids and a number"
    if not isinstance(value, (list, tuple)):
        raise OptionError(f"{name}: {value!r}, {needs}")
    pairs = []
    for pair in value:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise OptionError(f"{name}: {pair!r}, {needs}")
        ids = _ids(name, pair[0])
        if not ids:
            raise OptionError(f"{name}: {pair!r} has no token ids")
        _check_number(name, pair[1])
        pairs.append((ids, float(pair[1])))
    return tuple(pairs)


def _decay(name: str, value: Any) -> tuple[int, float] | None:
    """A number of tokens and a factor."""
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise OptionError(f"{name}: {value!r}, needs a number of tokens and a factor")
    start, factor = value
    if not isinstance(start, int) or isinstance(start, bool) or not 0 <= start <= LARGEST:
        raise OptionError(f"{name}: {start!r}, needs an integer of at least 0")
    if (
        isinstance(factor, bool)
        or not isinstance(factor, (int, float))
        or not 0 < factor <= sys.float_info.max
    ):
        raise OptionError(f"{name}: {factor!r}, needs a factor of more than 0")
    return start, float(factor)


def _stop_strings(name: str, value: Any) -> tuple[str, ...]:
    """One string or a list of them as a tuple."""
    strings = (value,) if isinstance(value, str) else value
    if strings is None:
        return ()
    if not isinstance(strings, (list, tuple)) or not all(isinstance(s, str) for s in strings):
        raise OptionError(f"{name}: {value!r}, needs strings")
    if not all(strings):
        raise OptionError(f"{name}: holds an empty string, which is in every text")
    if len(strings) > MOST_STRINGS or sum(map(len, strings)) > LONGEST_RULES:
        raise OptionError(
            f"{name}: {len(strings):,} strings of {sum(map(len, strings)):,} characters, at most "
            f"{MOST_STRINGS:,} of {LONGEST_RULES:,} are looked for"
        )
    return tuple(strings)


def _words(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    """A list of lists of ids as tuples."""
    _check_count(name, value)
    if not isinstance(value, (list, tuple)):
        raise OptionError(f"{name}: {value!r}, needs a list of lists of token ids")
    return tuple(_ids(name, word) for word in value)


def _rules(name: str, value: Any) -> str | None:
    """A text, also of a schema that is given as what it says."""
    text = value
    if isinstance(value, Mapping) and name == "json_schema":
        with foreign_errors(OptionError, f"{name}: cannot be written as JSON"):
            text = json.dumps(value)
    if text is not None and (not isinstance(text, str) or not text):
        raise OptionError(f"{name}: {value!r:.60}, needs text")
    if text is not None and len(text) > LONGEST_RULES:
        raise OptionError(f"{name}: {len(text):,} characters, {LONGEST_RULES:,} are allowed")
    return text


# What makes the value of a field one that is kept: frozen, and of one type.
_PLAIN: dict[str, Callable[[str, Any], Any]] = {
    "eos_token_id": _ids,
    "forced_eos_token_id": _ids,
    "decoder_prompt": _ids,
    "suppress_tokens": _ids,
    "begin_suppress_tokens": _ids,
    "bad_words_ids": _words,
    "sequence_bias": _biases,
    "exponential_decay_length_penalty": _decay,
    "stop_strings": _stop_strings,
    "json_schema": _rules,
    "regex": _rules,
    "grammar": _rules,
}


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
