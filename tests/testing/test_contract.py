"""The checks of backends pass the fake one, and each finds what breaks its rule."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from seq2edge.errors import BackendError, CapacityError, InputError
from seq2edge.runtime.fake import FakeBackend, FakeCache, random_answer
from seq2edge.testing import CHECKS, ContractError, Examples, check_backend

PROMPTS = [[1, 2, 3, 4], [5, 6, 7, 8, 9, 10], [11, 12, 13]]
TEXT = Examples(prompts=PROMPTS)
SOURCES = Examples(prompts=PROMPTS, sources=[[1, 2, 3], [4, 5, 6, 7], [8]])
POOLED = Examples(sources=SOURCES.sources)
ANSWER = random_answer(30, spread=3.0)


@pytest.mark.parametrize("top_k", [0, 6, 30])
@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("examples", [TEXT, SOURCES])
def test_the_fake_backend_keeps_every_rule(examples, running, top_k):
    """But for those about what it has not."""
    backend = FakeBackend(ANSWER, running=running, top_k=top_k)
    unchecked = {"saved", "pooled"} | (set() if running else {"keep", "join"})
    assert set(check_backend(backend, examples)) == unchecked | (set() if top_k else {"candidates"})


def test_a_backend_that_answers_the_last_token_alone_says_so():
    """And is asked no more."""
    backend = FakeBackend(ANSWER, top_k=6, verifies=False)
    unchecked = check_backend(backend, TEXT)
    assert set(unchecked) == {"saved", "pooled", "verifies"}
    assert unchecked["verifies"] == "verifies is false: it answers the last token alone"


def test_an_encoder_alone_and_features_are_checked():
    """Of the former, what `pool` gives."""
    assert set(check_backend(FakeBackend(ANSWER), POOLED)) == {*CHECKS} - {"pooled"}
    tokens = FakeBackend(lambda _, source: np.array([[1.5 * i, -i] for i in source]))
    assert set(check_backend(tokens, POOLED)) == {*CHECKS} - {"pooled"}
    features = [np.full((2, 4), i, dtype=np.float32) for i in range(3)]
    heard = Examples(prompts=PROMPTS, sources=features, positions=2)
    assert set(check_backend(FakeBackend(ANSWER), heard)) == {"candidates", "saved", "pooled"}


class SavingCache(FakeCache):
    """One whose tokens can be read and written."""

    def read(self, row=0):
        """(1, length, 1), and the same again, as of another layer."""
        values = history_of(self, row)
        return {"key": values, "value": values}

    def write(self, values, length):
        """What `read` gave."""
        if set(values) != {"key", "value"} or values["key"].shape != (1, length, 1):
            raise ValueError("not whole")
        self.histories = [tuple(values["key"].ravel().tolist())]


def history_of(cache, row):
    """A row's tokens (1, length, 1)."""
    return np.array(cache.histories[row]).reshape(1, -1, 1)


class SavingBackend(FakeBackend):
    """With caches of that kind, whose class a test replaces."""

    def start(self, memory, rows, capacity):
        """See Backend."""
        cache = super().start(memory, rows, capacity)
        cache.__class__ = SavingCache
        return cache


@pytest.mark.parametrize("examples", [TEXT, SOURCES])
def test_a_cache_that_can_be_saved_is_checked(examples):
    """Read, written, and what does not fit refused."""
    assert set(check_backend(SavingBackend(ANSWER, top_k=6), examples)) == {"pooled"}


step, append, pool = FakeBackend.step, FakeCache.append, FakeBackend.pool
keep, join, candidates = FakeCache.keep, FakeCache.join, FakeBackend._candidates


def several_on_a_past(self, tokens, new_length, cache):
    """Other logits for several tokens on a past."""
    past = cache.length.any()
    logits = step(self, tokens, new_length, cache)
    return -logits if past and tokens.shape[1] > 1 else logits


def with_padding(self, tokens, new_length, cache):
    """Looks at the last column, whoever has a token there."""
    return step(self, tokens, new_length, cache) + (tokens[:, -1:] == 2)


def whole_sources(self, source, source_length):
    """Padding and all."""
    return [tuple(row) for row in source.tolist()]


def with_neighbours(self, tokens, new_length, cache):
    """Half of it the mean of the batch."""
    logits = step(self, tokens, new_length, cache)
    return (logits + logits.mean(axis=0)) / 2


def the_last_line_first(self, tokens, new_length, cache, positions=1):
    """What follows several tokens, from the last one on."""
    logits = step(self, tokens, new_length, cache, positions)
    return logits[::-1] if positions > 1 else logits


def from_the_first_token(self, tokens, new_length, cache, positions=1):
    """What follows the first of the tokens, where not all are asked for."""
    logits = step(self, tokens, new_length, cache, tokens.shape[1] if positions > 1 else 1)
    return logits[:positions] if positions > 1 else logits


def with_one_answer(self, tokens, new_length, cache, positions=1):
    """The last one, whatever is asked."""
    return step(self, tokens, new_length, cache)


def in_place_order(self, rows):
    """More rows or fewer, each where it was."""
    spread = [i * len(self.histories) // len(rows) for i in range(len(rows))]
    self.histories = [self.histories[i] for i in spread]
    self.sources = [self.sources[i] for i in spread]


def sources_stay(self, rows):
    """Rows go, what they read in the encoder does not."""
    self.histories = [self.histories[row] for row in rows]
    self.sources = [*self.sources, *self.sources][: len(rows)]


def first_tokens_go(self, length):
    """The last tokens stay."""
    self.histories = [history[-length:] for history in self.histories]


def no_limit(self, tokens, new_length):
    """Takes anything."""
    self._limit = None
    append(self, tokens, new_length)


def another_error(self, tokens, new_length):
    """One that nobody expects."""
    try:
        append(self, tokens, new_length)
    except BackendError as error:
        raise BackendError(str(error)) from None


def added_all_the_same(self, tokens, new_length):
    """Refused when the tokens are there."""
    limit, self._limit = self._limit, None
    append(self, tokens, new_length)
    self._limit = limit
    if limit is not None and max(self.length) > limit:
        raise CapacityError("too late")


def in_ascending_order(self, inputs):
    """Whatever order was asked for."""
    keep(self, np.sort(inputs))


def without_memory(self, inputs):
    """The first sources stay."""
    sources = self.sources
    keep(self, inputs)
    self.sources = sources[: len(self.histories)]


def cut_to_these(self, other):
    """Longer rows lose their end."""
    longest = max(self.length)
    other.histories = [history[:longest] for history in other.histories]
    join(self, other)


def before_these(self, other):
    """In front, and not behind."""
    histories = [*other.histories, *self.histories]
    join(self, other)
    self.histories = histories


def sources_of_these(self, other):
    """The first source serves all."""
    other.sources = self.sources[:1] * len(other.sources)
    join(self, other)


def wrong_once_there_are_many(self, other):
    """What comes to more than two inputs is turned around."""
    if self.inputs > 2:
        other.histories = [history[::-1] for history in other.histories]
    join(self, other)


def changed(**changes):
    """Candidates with some fields computed otherwise."""

    def make(self, logits, cache):
        found = candidates(self, logits, cache)
        return dataclasses.replace(found, **{name: f(found) for name, f in changes.items()})

    return make


def one_missing(self, logits, cache):
    """Of the largest logits the second and on."""
    spoilt = logits.copy()
    np.put_along_axis(spoilt, logits.argmax(axis=1)[:, None], -99, axis=1)
    found = candidates(self, spoilt, cache)
    return dataclasses.replace(
        found, log_sum_exp=candidates(self, logits, cache).log_sum_exp, logits=lambda: logits
    )


def logits_of_now(self, logits, cache):
    """Those of the last step, whichever was asked."""
    cache.now = logits
    return dataclasses.replace(candidates(self, logits, cache), logits=lambda: cache.now)


def in_one_array(self, tokens, new_length, cache):
    """All caches answer in the same memory."""
    logits = step(self, tokens, new_length, cache)
    shared = self.__dict__.setdefault("shared", np.empty((6, 30), dtype=np.float32))
    shared[: len(logits)] = logits
    return shared[: len(logits)]


def summed_over_the_batch(self, source, source_length):
    """Half of it the mean of the batch."""
    pooled = pool(self, source, source_length)
    return (pooled + pooled.mean(axis=0)) / 2


def pools_padding(self, source, source_length):
    """As long as the array."""
    return pool(self, source, np.full(len(source), source.shape[1]))


EQUAL = FakeBackend(lambda *history: np.round(ANSWER(*history) / 4), top_k=6)
PLAIN, CHOOSING = FakeBackend(ANSWER), FakeBackend(ANSWER, top_k=6)
BROKEN = [
    ("parts", FakeBackend, "step", several_on_a_past, PLAIN, TEXT, "differs by"),
    ("padding", FakeBackend, "step", with_padding, PLAIN, TEXT, "differs by"),
    ("padding", FakeBackend, "encode", whole_sources, PLAIN, SOURCES, "differs by"),
    ("rows", FakeBackend, "step", with_neighbours, PLAIN, TEXT, "as row 0 of 3: differs"),
    ("reorder", FakeCache, "reorder", in_place_order, PLAIN, TEXT, "differs by"),
    ("reorder", FakeCache, "reorder", sources_stay, PLAIN, SOURCES, "input 0 after .*: differs"),
    ("rewind", FakeCache, "rewind", first_tokens_go, PLAIN, TEXT, "differs by"),
    ("rewind", FakeCache, "rewind", lambda *_: None, PLAIN, TEXT, r"length: .*, should be \[3, 3"),
    ("verifies", FakeBackend, "step", the_last_line_first, PLAIN, TEXT, "differs by"),
    ("verifies", FakeBackend, "step", from_the_first_token, PLAIN, TEXT, "differs by"),
    ("verifies", FakeBackend, "step", with_one_answer, PLAIN, TEXT, "logits: float32 .* of 2 rows"),
    ("capacity", FakeCache, "append", no_limit, PLAIN, TEXT, "6 tokens were taken"),
    ("capacity", FakeCache, "append", another_error, PLAIN, TEXT, "BackendError.*the 5 tokens"),
    ("capacity", FakeCache, "append", added_all_the_same, PLAIN, TEXT, r"length: \[6\], should"),
    ("capacity", FakeBackend, "capacity", 40, PLAIN, TEXT, "41 tokens were taken"),
    ("keep", FakeCache, "keep", in_ascending_order, PLAIN, TEXT, "length"),
    ("keep", FakeCache, "keep", without_memory, PLAIN, SOURCES, "differs by"),
    ("join", FakeCache, "join", cut_to_these, PLAIN, TEXT, "length"),
    ("join", FakeCache, "join", before_these, PLAIN, TEXT, "length"),
    ("join", FakeCache, "join", sources_of_these, PLAIN, SOURCES, "input 1 after .* as row 1 of 3"),
    ("candidates", FakeBackend, "_candidates", one_missing, CHOOSING, TEXT, "is missing"),
    (
        "candidates",
        FakeBackend,
        "_candidates",
        changed(ids=lambda found: found.ids[:, :1].repeat(6, axis=1)),
        CHOOSING,
        TEXT,
        "an id is there twice",
    ),
    (
        "candidates",
        FakeBackend,
        "_candidates",
        changed(values=lambda found: found.values[:, ::-1]),
        CHOOSING,
        TEXT,
        "not the logits of their ids",
    ),
    (
        "candidates",
        FakeBackend,
        "_candidates",
        changed(log_sum_exp=lambda found: found.log_sum_exp + 1),
        CHOOSING,
        TEXT,
        "log_sum_exp: ",
    ),
    (
        "candidates",
        FakeBackend,
        "_candidates",
        changed(vocab=lambda _: 29),
        CHOOSING,
        TEXT,
        "vocab: 29, there are 30",
    ),
    (
        "candidates",
        FakeBackend,
        "_candidates",
        changed(first_of_equals=lambda _: True),
        EQUAL,
        TEXT,
        "of equal ones, not",
    ),
    ("answers", FakeBackend, "_candidates", logits_of_now, CHOOSING, TEXT, "after the next step"),
    ("answers", FakeBackend, "step", in_one_array, PLAIN, TEXT, "after another cache's step"),
    ("mixed_load", FakeCache, "join", wrong_once_there_are_many, PLAIN, TEXT, "tokens .* alone"),
    ("pooled", FakeBackend, "pool", summed_over_the_batch, PLAIN, POOLED, "source 0 beside"),
    ("pooled", FakeBackend, "pool", pools_padding, PLAIN, POOLED, "source"),
    (
        "saved",
        SavingCache,
        "read",
        lambda self, _: dict.fromkeys(("key", "value"), history_of(self, 0)),
        SavingBackend(ANSWER),
        TEXT,
        "read: shapes",
    ),
    ("saved", SavingCache, "write", lambda *_: None, SavingBackend(ANSWER), TEXT, "took what is"),
    (
        "saved",
        SavingCache,
        "read",
        lambda self, _: {"key": np.zeros((1, 2, 1))},
        SavingBackend(ANSWER),
        TEXT,
        r"read: shapes \[\(1, 2, 1\)\] of \(kv_heads, 4, head_dim\)",
    ),
    (
        "saved",
        SavingCache,
        "read",
        lambda self, row: dict.fromkeys(("key", "value"), 0 * history_of(self, row)),
        SavingBackend(ANSWER),
        TEXT,
        "differs by",
    ),
]


@pytest.mark.parametrize(("rule", "owner", "name", "broken", "backend", "examples", "said"), BROKEN)
def test_what_breaks_a_rule_is_found(
    monkeypatch, rule, owner, name, broken, backend, examples, said
):
    """By the check of that rule, whose name and sentence the error has."""
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(ContractError, match=f"^{rule}: .*{said}.* The rule: .*") as caught:
        CHECKS[rule](backend, examples)
    assert caught.value.rule == rule
    with pytest.raises(AssertionError):
        check_backend(backend, examples)


def test_every_rule_is_broken_once():
    """A check that nothing can fail would say nothing."""
    assert {rule for rule, *_ in BROKEN} == set(CHECKS)


def test_whatever_a_backend_raises_breaks_the_rule_at_hand(monkeypatch):
    """With the cause."""
    monkeypatch.setattr(FakeCache, "rewind", lambda *_: [].pop())
    with pytest.raises(ContractError, match=r"rewind: IndexError\('pop from") as caught:
        CHECKS["rewind"](PLAIN, TEXT)
    assert isinstance(caught.value.__cause__, IndexError)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "needs three inputs"),
        ({"prompts": PROMPTS[:2]}, "needs three inputs"),
        ({"prompts": PROMPTS, "sources": [[1]]}, "needs three inputs"),
        ({"prompts": [[1, 2, 3]] * 3}, r"prompts: \[3, 3, 3\] tokens"),
        ({"prompts": [[1, 2], [1, 2, 3], [4, 5, 6]]}, r"prompts: \[2, 3, 3\] tokens"),
        ({"prompts": PROMPTS, "beams": 1}, "beams: 1, needs two"),
    ],
)
def test_examples_that_show_too_little_are_refused(fields, message):
    """With what they need."""
    with pytest.raises(InputError, match=message):
        Examples(**fields)
