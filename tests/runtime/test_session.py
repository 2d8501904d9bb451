"""A conversation computes nothing twice, and answers as if it computed all anew."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
from limited import limited

import seq2edge
from seq2edge.errors import InputError
from seq2edge.runtime.scheduler import Scheduler, decode
from seq2edge.runtime.session import prefix_ids

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] == 'u' and 'w3 ' or 'w4 ' }}{{ m.content }} {% endfor %}w4"
)


@pytest.fixture(scope="module")
def bundle(speaking):
    """A small Llama that can chat."""
    return speaking("llama", template=TEMPLATE, max_position_embeddings=256)


@pytest.fixture
def model(bundle):
    """It, loaded."""
    return seq2edge.load(bundle, device="cpu", threads=1)


def options_of(model, **changes):
    """Few tokens without an end."""
    values = {"max_new_tokens": 6, "max_length": None, "eos_token_id": (), **changes}
    return model.options.replace(**values)


def assert_same(answer, wanted):
    """The same text and ids; a score of sums in another order."""
    assert answer.score == pytest.approx(wanted.score, abs=1e-4)
    assert dataclasses.replace(answer, score=0.0) == dataclasses.replace(wanted, score=0.0)


@pytest.mark.parametrize(
    "changes",
    [{}, {"num_beams": 3}, {"do_sample": True, "seed": 3}, {"repetition_penalty": 1.3}],
    ids=["greedy", "beams", "sampled", "penalty"],
)
def test_every_turn_is_answered_as_without_a_session(model, changes):
    """From what is in the cache; only the new tokens are read."""
    options = options_of(model, **changes)
    session = model.session(options, system="w9 w9 w8")
    messages = [{"role": "system", "content": "w9 w9 w8"}]
    for turn in ("w10 w11 w12", "w13", "w14 w15 w16 w17"):
        messages.append({"role": "user", "content": turn})
        wanted = model.chat(messages, options)[0]
        assert_same(session.chat(turn), wanted)
        messages.append({"role": "assistant", "content": wanted.text})
    assert session.messages == messages
    prompt = len(model.encode_chat(messages[:-1]))
    assert session.reused > prompt - 15


def test_a_session_reads_what_is_new(model, monkeypatch):
    """Steps of the second turn hold its own tokens alone."""
    session = model.session(options_of(model))
    session.chat("w10 w11 w12 w13 w14 w15 w16")
    fed = []
    step = model.backend.step

    def counted(tokens, new_length, cache):
        fed.append(tokens.shape[1])
        return step(tokens, new_length, cache)

    monkeypatch.setattr(model.backend, "step", counted)
    session.chat("w20 w21")
    assert fed[0] < 8
    assert fed[1:] == [1] * 5


def test_what_was_said_can_be_taken_back(model):
    """The last turn, or all; a stream that was dropped counts for nothing."""
    session = model.session(options_of(model), system="w9")
    first = session.chat("w10 w11")
    session.chat("w12")
    session.undo()
    assert session.messages[-1] == {"role": "assistant", "content": first.text}
    again = session.chat("w12")
    stream = session.stream("w13")
    next(stream)
    session.undo()
    wanted = model.chat([*session.messages, {"role": "user", "content": "w13"}], options_of(model))
    assert_same(session.chat("w13"), wanted[0])
    session.reset()
    assert session.messages == [{"role": "system", "content": "w9"}]
    assert_same(session.chat("w10 w11"), first)
    assert_same(session.chat("w12"), again)


def test_a_prefix_is_saved_and_restored(model, bundle, tmp_path, speaking):
    """In another process's place: the same answer, of which the old part is not read again."""
    options = options_of(model)
    session = model.session(options)
    with pytest.raises(InputError, match="nothing was said yet"):
        session.save(tmp_path / "prefix.npz")
    session.chat("w10 w11 w12 w13")
    session.save(tmp_path / "prefix.npz")
    other = seq2edge.load(bundle, device="cpu", threads=1)
    restored = other.session(options, prefix=tmp_path / "prefix.npz")
    anew = model.session(options)
    assert_same(restored.chat("w10 w11 w12 w13"), anew.chat("w10 w11 w12 w13"))
    assert restored.reused > 4
    foreign = seq2edge.load(speaking("gpt2", template=TEMPLATE), device="cpu")
    with pytest.raises(InputError, match="prefix of another bundle"):
        foreign.session(prefix=tmp_path / "prefix.npz")
    data = (tmp_path / "prefix.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cut\.npz: not a prefix"):
        model.session(prefix=tmp_path / "cut.npz")
    arrays = dict(np.load(tmp_path / "prefix.npz"))
    arrays["key_0"][0, 0, 0] += 1
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(InputError, match="damaged, its hash is another one"):
        model.session(prefix=tmp_path / "other.npz")


def test_a_file_of_a_prefix_is_for_its_user_alone(model, tmp_path):
    """It tells what was said; its ids can be read without the rest."""
    session = model.session(options_of(model))
    session.chat("w10 w11 w12 w13")
    session.save(tmp_path / "prefix.npz")
    assert (tmp_path / "prefix.npz").stat().st_mode & 0o777 == 0o600
    assert tuple(prefix_ids(tmp_path / "prefix.npz")) == session.prefix.ids
    np.savez(tmp_path / "other.npz", ids=np.zeros(1))
    with pytest.raises(InputError, match=r"other\.npz: not a prefix of this version"):
        prefix_ids(tmp_path / "other.npz")


@pytest.mark.parametrize("changes", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_requests_that_are_decoded_together_leave_what_each_was(model, changes):
    """A cache of its own, from which the next request goes on as from nothing."""
    options = options_of(model, **changes)
    prompts = [[5, 6, 7, 8], [9, 10, 11, 12]]
    scheduler = Scheduler(model.backend)
    groups = [
        scheduler.submit(
            dataclasses.replace(
                model.request(ids, options_of(model, **changes, max_new_tokens=6 - i)), keep=True
            )
        )
        for i, ids in enumerate(prompts)
    ]
    scheduler.run()
    for ids, group in zip(prompts, groups, strict=True):
        length = 4 if changes else 3 + group.request.max_new_tokens
        assert group.kept.ids == (*ids, *group.results()[0].ids)[:length]
        request = model.request([*ids, 13], options)
        wanted = decode(model.backend, [request])[0]
        answers = decode(model.backend, [request.with_prefix(group.kept)])[0]
        assert [each.ids for each in answers] == [each.ids for each in wanted]
        assert answers[0].usage.reused_tokens == 4


def test_other_models_have_no_sessions(speaking):
    """And one without a template cannot chat."""
    with pytest.raises(InputError, match="kind encoder-decoder cannot chat"):
        seq2edge.load(speaking("bart"), device="cpu").session()
    with pytest.raises(InputError, match="no chat template"):
        seq2edge.load(speaking("gpt2"), device="cpu").session().chat("w5")


@pytest.mark.parametrize(
    "arrays",
    [
        {"format": np.zeros(3), "ids": np.zeros(1), "bundle": np.array("a")},
        {"format": np.array("a"), "ids": np.zeros(1), "bundle": np.array("a")},
        {"format": np.array(float("inf")), "ids": np.zeros(1), "bundle": np.array("a")},
        {"format": np.array(2), "ids": np.zeros(()), "bundle": np.array("\x1b[31m\n")},
        None,
    ],
)
def test_prefixes_of_any_kind_are_refused_in_one_line(model, tmp_path, arrays):
    """Also a pipe, which would be read for ever."""
    path = tmp_path / "prefix.npz"
    np.savez(path, **arrays) if arrays else os.mkfifo(path)
    with limited(), pytest.raises(InputError, match=r"prefix\.npz: (not a|damaged)") as refusal:
        model.session(prefix=path)
    assert str(refusal.value).isprintable()
