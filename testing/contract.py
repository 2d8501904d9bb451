"""The rules that a backend keeps, a function each, in the table `CHECKS`.

Whether it runs the right model is another question, which `seq2edge verify` answers: here a backend
is compared with itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from seq2edge.errors import BackendError
from seq2edge.runtime.backend import Backend, Candidates, SavedCache, all_logits
from seq2edge.runtime.likelihood import log_sum_exp
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.request import Request
from seq2edge.runtime.scheduler import Scheduler, decode
from seq2edge.testing.examples import Examples
from seq2edge.testing.tracked import DifferenceError, Tracked, Trial


class ContractError(AssertionError):
    """A backend breaks the rule `rule` of `CHECKS`; the message says which one, and where."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


# Raises ContractError, or says why there is nothing to check.
Check: TypeAlias = Callable[[Backend, Examples], "str | None"]
Moves: TypeAlias = Callable[[Trial], "str | None"]
CHECKS: dict[str, Check] = {}


def check_backend(backend: Backend, examples: Examples) -> dict[str, str]:
    """Check every rule; of those that say nothing about this backend, the reasons.

    Raises ContractError for the first rule that is broken, also where the backend raises what it
    should not.
    """
    reasons = {name: check(backend, examples) for name, check in CHECKS.items()}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _rule(moves: Moves) -> Moves:
    """Put a check into the table; the first line of its docstring is the rule."""

    @functools.wraps(moves)
    def check(backend: Backend, examples: Examples) -> str | None:
        if bool(examples.prompts) == (moves is pooled):
            return "no model that pools" if moves is pooled else "no model that decodes"
        try:
            return moves(Trial(backend, examples))
        except Exception as error:  # whatever it raises breaks the rule
            what = str(error) if isinstance(error, DifferenceError) else repr(error)
            rule = (moves.__doc__ or "").split("\n", maxsplit=1)[0]
            raise ContractError(moves.__name__, f"{what}. The rule: {rule}") from error

    CHECKS[moves.__name__] = check
    return moves


@_rule
def parts(trial: Trial) -> None:
    """Tokens that are read one by one, or in parts, are answered as those read in one call."""
    for i, prompt in enumerate(trial.prompts):
        one = Tracked(trial, [i])
        for token in prompt:
            one.read([[token]])
    together = Tracked(trial, trial.inputs)
    together.read([prompt[:1] for prompt in trial.prompts])
    together.read([prompt[1:] for prompt in trial.prompts])


@_rule
def padding(trial: Trial) -> None:
    """What stands behind a row's tokens, or behind a source's, is not looked at."""
    tracked = Tracked(trial, trial.inputs, fill=True)
    tracked.read(trial.prompts)
    tracked.go_on()


@_rule
def rows(trial: Trial) -> None:
    """What a row is answered does not depend on the rows beside it, nor on its place."""
    for inputs in (trial.inputs, trial.inputs[::-1]):
        tracked = trial.read(inputs)
        tracked.go_on()


@_rule
def reorder(trial: Trial) -> None:
    """Row i goes on from the old row rows[i], its input's memory is shared by all its rows."""
    tracked = trial.read(trial.inputs)
    tracked.spread()
    tracked.go_on()
    width, count = tracked.width, len(tracked.rows)
    tracked.reorder([row // width * width + width - 1 - row % width for row in range(count)])
    tracked.go_on()
    tracked.reorder([row // width * width + width - 1 for row in range(count)])
    tracked.go_on()
    tracked.reorder([row * width + width - 1 for row in trial.inputs])
    tracked.go_on()


@_rule
def rewind(trial: Trial) -> None:
    """After a rewind, rows go on as if the later tokens had never been read."""
    tracked = trial.read(trial.inputs)
    tracked.go_on()
    for length in (min(map(len, trial.prompts)), 2, 1):
        tracked.rewind(length)
        tracked.go_on()
    tracked.rewind(1)
    tracked.read([trial.tokens(2) for _ in tracked.rows])


@_rule
def verifies(trial: Trial) -> str | None:
    """Several tokens of the only row are answered as single steps are, in their order."""
    if not trial.backend.verifies:
        return "verifies is false: it answers the last token alone"
    prompt = trial.prompts[0]
    for positions in range(1, len(prompt) + 1):
        one = Tracked(trial, [0])
        one.verify(prompt, positions)
        one.verify(trial.tokens(positions + 1), positions)
        one.go_on()
        one.rewind(len(prompt) + 1)  # what was read later was guessed wrongly
        one.verify(trial.tokens(positions), positions)
        one.go_on()
    several = trial.read([0])
    several.spread()
    several.reorder([1])  # as after beams
    several.verify(trial.tokens(3), 3)
    return None


@_rule
def keep(trial: Trial) -> str | None:
    """Input i is the old inputs[i], with its rows and its memory; the others leave."""
    if not trial.backend.running:
        return "running is false: no input leaves"
    tracked = trial.read(trial.inputs)
    tracked.keep([2, 0])
    tracked.go_on()
    tracked.spread()
    tracked.go_on()
    tracked.keep([1])
    tracked.go_on()
    return None


@_rule
def join(trial: Trial) -> str | None:
    """The other's inputs come behind these, longer or shorter, with their rows and memory."""
    if not trial.backend.running:
        return "running is false: no input comes"
    tracked, others = trial.read([0]), trial.read([1, 2])
    others.go_on()
    tracked.join(others)
    tracked.go_on()
    tracked.keep([1, 0])  # what left makes room for who comes
    tracked.spread()
    other = trial.read([2])
    other.spread()
    other.go_on()
    tracked.go_on()
    tracked.join(other)
    tracked.go_on()
    return None


@_rule
def capacity(trial: Trial) -> None:
    """A set capacity is filled; more raises CapacityError, and leaves the cache as it was."""
    prompt = trial.prompts[0]
    one = Tracked(trial, [0], capacity=len(prompt) + 1)
    one.read([prompt])
    one.refuses(2)
    one.go_on()
    one.refuses(1)
    if trial.backend.capacity is not None:
        Tracked(trial, [0]).refuses(trial.backend.capacity + 1)


@_rule
def candidates(trial: Trial) -> str | None:
    """Candidates are the largest of all logits, each id once; log_sum_exp is that of all."""
    tracked = Tracked(trial, trial.inputs)
    answer = tracked.read(trial.prompts)
    if not isinstance(answer, Candidates):
        return "its answers are all logits"
    _check_candidates(answer, trial.examples.tolerance)
    tracked.spread()
    asked = [tracked.go_on, tracked.go_on]
    if trial.backend.verifies:
        asked.append(lambda: trial.read([0]).verify(trial.tokens(3), 3))
    for ask in asked:
        answer = ask()
        if isinstance(answer, Candidates):
            _check_candidates(answer, trial.examples.tolerance)
    return None


def _check_candidates(found: Candidates, tolerance: float) -> None:
    """Raise DifferenceError unless these candidates agree with all logits of their rows."""
    logits = found.logits().copy()
    if found.vocab != logits.shape[1]:
        raise DifferenceError(f"vocab: {found.vocab}, there are {logits.shape[1]} logits")
    if not np.allclose(found.log_sum_exp, log_sum_exp(logits), rtol=0, atol=tolerance):
        raise DifferenceError(f"log_sum_exp: {found.log_sum_exp}, not {log_sum_exp(logits)}")
    for row, (values, ids) in enumerate(zip(found.values, found.ids, strict=True)):
        if len(np.unique(ids)) < len(ids):
            raise DifferenceError(f"row {row}: an id is there twice: {ids.tolist()}")
        if not np.allclose(values, logits[row, ids], rtol=0, atol=tolerance):
            raise DifferenceError(f"row {row}: values are not the logits of their ids")
        others = np.delete(logits[row], ids)
        if len(others) and others.max() > values.min() + tolerance:
            raise DifferenceError(f"row {row}: {others.max()} is missing, {values.min()} is there")
        if found.first_of_equals:
            for value in np.unique(values):
                equal = np.flatnonzero(logits[row] == value)[: int((values == value).sum())]
                if not np.array_equal(ids[values == value], equal):
                    raise DifferenceError(f"row {row}: of equal ones, not {equal} in that order")


@_rule
def answers(trial: Trial) -> None:
    """An answer is valid until its cache's next step; then its logits are refused, or right."""
    one, other = Tracked(trial, [0]), Tracked(trial, [1])
    answer = one.read([trial.prompts[0]])
    logits = all_logits(answer).copy()
    other.read([trial.prompts[1]])
    trial.same(all_logits(answer), logits, "logits after another cache's step")
    other.go_on()
    one.go_on()
    if isinstance(answer, Candidates):
        try:
            late = answer.logits()
        except BackendError:
            return
        trial.same(late, logits, "logits after the next step")


@_rule
def saved(trial: Trial) -> str | None:
    """What `read` gave, another cache can `write` and go on; what does not fit is a ValueError."""
    one = trial.read(trial.inputs[::-1])
    row = len(trial.inputs) - 1
    length = len(trial.prompts[0])
    if not isinstance(one.cache, SavedCache):
        return "its caches cannot be read and written"
    contents = {name: value.copy() for name, value in one.cache.read(row).items()}
    if not contents or any(value.shape[1] != length for value in contents.values()):
        shapes = [value.shape for value in contents.values()]
        raise DifferenceError(f"read: shapes {shapes} of (kv_heads, {length}, head_dim)")
    other = Tracked(trial, [0])
    assert isinstance(other.cache, SavedCache)
    fewer = dict(list(contents.items())[1:])
    for wrong in (fewer, {name: value[:, 1:] for name, value in contents.items()}):
        try:
            other.cache.write(wrong, length)
        except ValueError:
            continue
        raise DifferenceError("write: took what is not whole")
    other.cache.write(contents, length)
    other.rows = one.rows[row:]
    other.go_on()
    one.go_on()
    return None


@_rule
def mixed_load(trial: Trial) -> None:
    """Of a mixed load on one scheduler, each request gets the tokens that it gets alone."""
    examples, tolerance = trial.examples, trial.examples.tolerance
    kinds = [
        DecodeOptions(),
        DecodeOptions(num_beams=examples.beams),
        DecodeOptions(do_sample=True, seed=1),
    ]
    load = [
        Request(
            prompt=prompt,
            source=None if examples.sources is None else examples.sources[i],
            positions=examples.positions,
            options=options,
            max_new_tokens=12 - (3 * i + 2 * k) % 7,
        )
        for k, options in enumerate(kinds)
        for i, prompt in enumerate(trial.prompts)
    ]
    most = len(trial.prompts) * (4 if trial.backend.running else 1)
    scheduler = Scheduler(trial.backend, rows=max(most, examples.beams))
    groups = []
    for request in load:  # a step between two of them
        groups.append(scheduler.submit(request))
        scheduler.step()
    scheduler.run()
    for number, (group, request) in enumerate(zip(groups, load, strict=True)):
        found, wanted = group.results(), decode(trial.backend, [request])[0]
        ids, alone = [each.ids for each in found], [each.ids for each in wanted]
        if ids != alone:
            raise DifferenceError(f"request {number}: tokens {ids}, alone {alone}")
        for each, other in zip(found, wanted, strict=True):
            if abs(each.score - other.score) > tolerance * len(each.ids):
                raise DifferenceError(
                    f"request {number}: score {each.score:.6g}, alone {other.score:.6g}"
                )


@_rule
def pooled(trial: Trial) -> None:
    """What `pool` gives depends neither on other sources nor on what stands behind them."""
    inputs = range(len(trial.examples.sources or ()))
    alone = [trial.backend.pool(*trial.sources([i]))[0].copy() for i in inputs]
    for fill in (False, True):
        together = trial.backend.pool(*trial.sources(inputs, fill=fill))
        for i, wanted in enumerate(alone):
            found = together[i][: len(wanted)] if wanted.ndim > 1 else together[i]
            trial.same(found, wanted, f"source {i} beside the others")
