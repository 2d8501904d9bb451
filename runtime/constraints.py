"""Answers that follow a JSON schema, a regular expression or a grammar, by llguidance."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import BackendError, InputError, OptionError, foreign_errors
from seq2edge.runtime.backend import Logits
from seq2edge.runtime.filters import NEVER
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.timed import within

SECONDS = 20.0  # for rules to be understood


class Constraint:
    """What a processor of scores is for one request: tokens that break its rules get no chance.

    Its state for a row is found by the row's tokens, so that it follows beams wherever they go.
    """

    def __init__(
        self,
        options: DecodeOptions,
        tokenizer: Path,
        vocab: int,
        prompt: int,
        *,
        grammar: str | None = None,
        named: Collection[int] = (),
    ) -> None:
        """`tokenizer` is the file whose tokens the model of `vocab` of them writes.

        By a `grammar`, or the rules of the options. Special tokens are no part of a text, but for
        those that the grammar has `named`. Raises OptionError for rules that llguidance does not
        understand whole, BackendError where it is not installed.
        """
        rules = options.constraint if grammar is None else ("tools", grammar)
        name, text = rules or ("", "")
        self._prompt = prompt
        self._vocab = vocab
        self._named = frozenset(named)
        self._tokens = _tokens_of(tokenizer, vocab, options.eos_token_id)
        first = options.forced_bos_token_id
        forced = (*options.forced_eos_token_id, *([] if first is None else [first]))
        self._special = {token for token in forced if self._tokens.is_special_token(token)}
        self._states: dict[tuple[int, ...], Any] = {(): _matcher(self._tokens, name, text)}

    def __call__(self, tokens: NDArray[np.int64], scores: Logits) -> Logits:
        """Scores (rows, vocab) for what comes after tokens (rows, length), prompt included."""
        states = {}
        for row, ids in enumerate(tokens[:, self._prompt :].tolist()):
            state = states[tuple(ids)] = self._state(tuple(ids))
            # An error is one of padding, in a row that has ended.
            if not state.is_error() and not self._forced(scores[row]):
                with foreign_errors(OptionError, "constraints: the rules cannot be followed"):
                    mask = np.frombuffer(state.compute_bitmask(), dtype=np.uint8)
                allowed = np.unpackbits(mask, bitorder="little")[: self._vocab].astype(np.bool_)
                scores[row, : len(allowed)][~allowed] = NEVER
                scores[row, len(allowed) :] = NEVER
        self._states = states
        return scores

    def _forced(self, scores: Logits) -> bool:
        """Whether nothing but special tokens is left that the options force: no part of a text."""
        possible = np.flatnonzero(scores > NEVER).tolist()
        return 0 < len(possible) <= len(self._special) and self._special.issuperset(possible)

    def _state(self, ids: tuple[int, ...]) -> Any:
        """The rules' state behind these tokens; they were one fewer at the step before."""
        if ids in self._states:
            return self._states[ids]
        state = self._states[ids[:-1]].deep_copy()
        if ids[-1] in self._named or not self._tokens.is_special_token(ids[-1]):
            # Others are forced, such as of a language.
            with foreign_errors(OptionError, "constraints: the rules cannot be followed"):
                state.consume_token(ids[-1])
        return state


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise BackendError(
            f"constraints: not usable here ({error}); install seq2edge[constraints]"
        ) from error
    return llguidance


# Of JSON Schema 2020-12, and two that older drafts had. What of these llguidance lacks it refuses.
KEYWORDS = frozenset(
    """
    $schema $id $ref $anchor $comment $defs definitions $vocabulary $dynamicRef $dynamicAnchor
    title description default deprecated readOnly writeOnly examples
    type enum const multipleOf maximum exclusiveMaximum minimum exclusiveMinimum maxLength minLength
    pattern format contentEncoding contentMediaType contentSchema maxItems minItems uniqueItems
    maxContains minContains maxProperties minProperties required dependentRequired dependencies
    prefixItems items contains additionalItems unevaluatedItems properties patternProperties
    additionalProperties unevaluatedProperties propertyNames dependentSchemas allOf anyOf oneOf not
    if then else x-guidance
    """.split()
)
# Whose values are schemas by name; those whose values are no schemas.
BY_NAME = {"$defs", "definitions", "properties", "patternProperties", "dependentSchemas"}
VALUES = {"default", "examples", "enum", "const", "x-guidance", "required", "dependentRequired"}


def _check_keywords(schema: Any) -> None:
    """Raise OptionError for a keyword that JSON Schema does not have: it would mean nothing."""
    if isinstance(schema, list):
        for part in schema:
            _check_keywords(part)
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        if keyword not in KEYWORDS:
            raise OptionError(f"json_schema: {keyword!r} is no keyword of JSON Schema")
        if keyword in BY_NAME and isinstance(value, dict):
            _check_keywords(list(value.values()))
        elif keyword not in VALUES:
            _check_keywords(value)


@functools.lru_cache(maxsize=4)
def _tokens_of(tokenizer: Path, vocab: int, ends: Sequence[int]) -> Any:
    """A vocabulary as the library wants it, which takes a second to make."""
    if not ends:
        raise OptionError("eos_token_id: rules need an end token, with which an answer may end")
    library = _library()
    with foreign_errors(InputError, f"{tokenizer}: llguidance cannot read this tokenizer"):
        text = tokenizer.read_text(encoding="utf-8")
        return library.LLTokenizer(text, n_vocab=vocab, eos_token=list(ends))


def special_tokens(
    added: Mapping[str, int], tokenizer: Path, vocab: int, ends: Sequence[int]
) -> dict[str, int]:
    """Those of the added tokens that rules name by their ids: no text matches them."""
    tokens = _tokens_of(tokenizer, vocab, tuple(ends))
    return {text: i for text, i in added.items() if i < vocab and tokens.is_special_token(i)}


def _matcher(tokens: Any, name: str, rules: str) -> Any:
    """The rules' state before the first token."""
    matcher = _library().LLMatcher
    with foreign_errors(OptionError, name):
        if name == "json_schema":
            _check_keywords(json.loads(rules))
            grammar = matcher.grammar_from_json_schema(rules)
        elif name == "regex":
            grammar = matcher.grammar_from_regex(rules)
        else:
            grammar = matcher.grammar_from_lark(rules)
        _, complaints = within(
            SECONDS, lambda: matcher.validate_grammar_with_warnings(grammar, tokens)
        )
        if complaints:  # also those that the library would only warn of
            raise OptionError(f"{name}: {'; '.join(complaints)}")
        made = within(SECONDS, lambda: matcher(tokens, grammar))
        if made.is_error():
            raise OptionError(f"{name}: {made.get_error()}")
        return made
