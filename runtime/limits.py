"""What fits a model: ids of its vocabulary, and as many of them as it has positions for."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from seq2edge.errors import CapacityError, InputError, OptionError
from seq2edge.model.dims import Dims
from seq2edge.runtime.backend import Backend, Lengths
from seq2edge.runtime.memory import check_bytes
from seq2edge.runtime.options import DecodeOptions

ID_BYTES, SCORE_BYTES = 8, 4  # of a token in a row's history, and of its score
MOST_ROWS = 1024  # of one request: beams, or samples
DEFAULT_NEW_TOKENS = 1024  # where neither options, checkpoint nor positions set an end


def check_listed(options: DecodeOptions, listed: Collection[int]) -> None:
    """Raise OptionError where options force, favour or end with a token that is not listed."""
    first = options.forced_bos_token_id
    named = {
        "eos_token_id": options.eos_token_id,
        "forced_bos_token_id": () if first is None else (first,),
        "forced_eos_token_id": options.forced_eos_token_id,
        "sequence_bias": tuple(ids[-1] for ids, _ in options.sequence_bias),
    }
    for name, ids in named.items():
        for token in ids:
            if token not in listed:
                raise OptionError(
                    f"{name}: token {token} is not on the shortlist, nothing makes it likely"
                )


def check_vocabulary(options: DecodeOptions, dims: Dims) -> None:
    """Raise OptionError where options name a token that the decoder's vocabulary does not have."""
    for name, ids in _tokens_of(options, dims).items():
        largest = max(ids, default=0)
        if largest >= dims.vocab:
            raise OptionError(f"{name}: token {largest}, the vocabulary has {dims.vocab}")


def _tokens_of(options: DecodeOptions, dims: Dims) -> dict[str, Iterable[int]]:
    """Every token that decoding with these options may feed, forbid, favour or wait for."""
    start = options.decoder_start_token_id
    if start is None and dims.kind == "encoder-decoder":
        start = options.bos_token_id
    single = {
        "pad_token_id": options.pad_token_id,
        "decoder_start_token_id": start,
        "forced_bos_token_id": options.forced_bos_token_id,
    }
    sequences = {
        "bad_words_ids": options.bad_words_ids,
        "sequence_bias": [ids for ids, _ in options.sequence_bias],
    }
    return {
        **{name: () if token is None else (token,) for name, token in single.items()},
        "eos_token_id": options.eos_token_id,
        "decoder_prompt": options.decoder_prompt,
        "forced_eos_token_id": options.forced_eos_token_id,
        "suppress_tokens": options.suppress_tokens,
        "begin_suppress_tokens": options.begin_suppress_tokens,
        **{name: itertools.chain.from_iterable(words) for name, words in sequences.items()},
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Of a model of these sizes on a backend, whose caches may hold fewer tokens.

    `listed` are the tokens that it can generate, None: all. `longest` are the tokens of a text that
    an encoder-only model reads, where its positions do not say it.
    """

    dims: Dims
    backend: Backend
    listed: frozenset[int] | None = None
    longest: int | None = None

    def check_ids(self, sequences: Sequence[Sequence[int]], vocab: int, first: int = 0) -> None:
        """Raise InputError for an empty sequence, or ids outside of the vocabulary.

        Sequences are numbered from `first` on, as in the other checks.
        """
        for number, ids in enumerate(sequences, first):
            if not len(ids):
                raise InputError(f"prompt {number}: has no tokens")
            for token in ids:
                if not 0 <= token < vocab:
                    raise InputError(f"prompt {number}: id {token}, the vocabulary has {vocab}")

    def check_prompts(self, prompts: Sequence[Sequence[int]], first: int = 0) -> None:
        """Raise InputError for prompts, or sources of an encoder, that the model cannot read."""
        if self.dims.encoder is None:
            self.check_ids(prompts, self.dims.vocab, first)
            return
        self.check_ids(prompts, self.dims.source_vocab or self.dims.vocab, first)
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        self.check_source(lengths, first)

    def check_source(self, lengths: Lengths, first: int = 0) -> None:
        """Raise InputError for sources (batch,) longer than the encoder's positions."""
        assert self.dims.encoder is not None
        limit = self.dims.encoder.max_positions
        if limit and lengths.max() > limit:
            raise InputError(
                f"source {first + int(lengths.argmax())}: {lengths.max()} tokens, the model takes "
                f"{limit}; shorten it, or load the model with cut (--cut)"
            )

    def check_text(self, ids: Sequence[int], text: object) -> None:
        """Raise InputError for a text that an encoder-only model cannot read whole."""
        if self.dims.encoder is None or self.dims.decoder is not None:
            return
        limit = self.longest or self.dims.encoder.max_positions
        if limit and len(ids) > limit:
            allows = "the checkpoint's tokenizer allows" if self.longest else "the model takes"
            raise InputError(
                f"text {text!r:.60}: {len(ids)} tokens, {allows} {limit}; shorten it, or load the "
                "model with cut (--cut)"
            )

    def check_options(self, options: DecodeOptions) -> None:
        """Raise OptionError for options that the model or a shortlist cannot honour."""
        check_vocabulary(options, self.dims)
        for name in ("num_beams", "num_return_sequences"):
            if getattr(options, name) > MOST_ROWS:
                raise OptionError(f"{name}: {getattr(options, name)}, at most {MOST_ROWS} work")
        for name in ("encoder_no_repeat_ngram_size", "encoder_repetition_penalty"):
            changed = getattr(options, name) != DecodeOptions.__dataclass_fields__[name].default
            if changed and self.dims.task != "generate":
                raise OptionError(f"{name}: the model reads no tokens that could be repeated")
        if self.listed is not None:
            check_listed(options, self.listed)

    def check_targets(self, sequences: Sequence[Sequence[int]]) -> None:
        """Raise InputError for tokens that are to be scored and are not on the shortlist."""
        for number, ids in enumerate(sequences if self.listed is not None else ()):
            for token in ids:
                if self.listed is not None and token not in self.listed:
                    raise InputError(
                        f"score: token {token} of sequence {number} is not on the shortlist; "
                        "score with the whole bundle"
                    )

    def check_scored(self, length: int) -> None:
        """Raise CapacityError for a sequence that is longer than the decoder's positions."""
        positions, has = self._decoder_positions()
        if positions is not None and length > positions:
            raise CapacityError(f"score: {length} tokens, {has}")

    def text_positions(self, new_tokens: int) -> int | None:
        """How many ids of a text have a position; None where any number has.

        An encoder's positions hold the text alone. Those of a decoder-only model hold its answer
        too, of which `new_tokens` are kept free.
        """
        if self.dims.encoder is not None:
            return self.longest or self.dims.encoder.max_positions or None
        positions, _ = self._decoder_positions()
        return None if positions is None else max(1, positions - new_tokens)

    def new_tokens(self, prompt: int, options: DecodeOptions) -> int:
        """How many tokens may follow the prompt; what positions or an engine's cache leave.

        Raises CapacityError where they leave too little, OptionError where max_length does.
        """
        positions, has = self._decoder_positions()
        room = positions - prompt if positions is not None else None
        if room is not None and room < 1:
            raise CapacityError(f"prompt: {prompt} tokens, {has}")
        limit = options.max_new_tokens
        if limit is None and options.max_length is not None:
            limit = options.max_length - prompt
            if limit < 1:
                raise OptionError(f"max_length: {options.max_length}, the prompt has {prompt}")
            limit = limit if room is None else min(limit, room)
        if limit is not None and room is not None and limit > room:
            raise CapacityError(f"max_new_tokens: {limit} after a prompt of {prompt}, {has}")
        if limit is None and options.capacity is not None:
            limit = min(max(1, options.capacity - prompt), room or options.capacity)
        limit = limit or room or DEFAULT_NEW_TOKENS
        if options.capacity is not None and prompt + limit > options.capacity:
            raise CapacityError(
                f"capacity: a prompt of {prompt} and {limit} new tokens do not fit "
                f"{options.capacity}; set a larger capacity, none, or a lower max_new_tokens"
            )
        return limit

    def check_memory(self, rows: int, prompt: int, new_tokens: int, capacity: int | None) -> None:
        """Raise CapacityError for a request of so many rows that the machine cannot hold.

        Counted is what is taken in any case, keys and values as a byte each; what they need as they
        are kept is known to the backend.
        """
        stack = self.dims.decoder
        assert stack is not None
        cached = (capacity or prompt + 1) * stack.layers * 2 * stack.kv_heads * stack.head_dim
        row = cached + ID_BYTES * (prompt + new_tokens) + SCORE_BYTES * self.dims.vocab
        check_bytes(
            rows * row,
            f"{rows:,} rows of {prompt + new_tokens:,} tokens (of a cache for "
            f"{capacity or prompt + 1:,} each, {stack.layers:,} layers)",
        )

    def _decoder_positions(self) -> tuple[int | None, str]:
        """How many tokens its positions or an engine's cache hold, and words on which it is."""
        assert self.dims.decoder is not None
        positions, capacity = self.dims.decoder.max_positions, self.backend.capacity
        if capacity is not None and (not positions or capacity < positions):
            has = f"the engine was built for {capacity} tokens; build with a larger --capacity"
            return capacity, has
        return positions or None, f"the model has {positions} positions"
