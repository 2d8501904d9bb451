"""What a request may ask: a sum is checked before anything is taken, and the error says it."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
from limited import limited

import seq2edge
from seq2edge.bundle.archive import unpack
from seq2edge.errors import BackendError, CapacityError, OptionError
from seq2edge.runtime import memory
from seq2edge.runtime.fake import FakeBackend, random_answer
from seq2edge.runtime.model import Model
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.request import Request
from seq2edge.runtime.scheduler import Scheduler

OLD = Path(__file__).parent.parent / "support" / "old_bundles"


@pytest.fixture(scope="module", params=["decoder-int8", "encoder-decoder"])
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small model of either kind."""
    folder = tmp_path_factory.mktemp("memory") / request.param
    unpack(OLD / f"{request.param}.s2e", folder)
    return seq2edge.load(folder, device="cpu", threads=1)


@pytest.mark.parametrize(
    "options",
    [
        {"capacity": 10**12},
        {"capacity": 2**63 - 1, "num_beams": 1024},
        {"num_return_sequences": 1024, "do_sample": True, "capacity": 10**9},
        {"num_beams": 10**3, "capacity": 10**9, "max_new_tokens": 3},
    ],
)
def test_more_than_the_machine_has_is_refused_with_what_it_takes(
    model: Model, options: dict[str, Any]
) -> None:
    """Beams, results, capacity and tokens, each alone or times each other."""
    with limited(), pytest.raises(CapacityError, match=r"memory: .* need [\d,]+ MB, this process"):
        model.generate_ids([[5, 6, 7]], model.options.replace(**options))


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1025},
        {"num_beams": 2**63 - 1, "num_return_sequences": 2**63 - 1},
        {"num_return_sequences": 10**10, "do_sample": True},
    ],
)
def test_more_rows_than_anybody_needs_are_refused(model: Model, options: dict[str, Any]) -> None:
    """Their sums fit the memory of a small model's, and would take hours."""
    with limited(), pytest.raises(OptionError, match=r"num_\w+: \d+, at most 1024 work"):
        model.generate_ids([[5, 6, 7]], model.options.replace(**options))


@pytest.mark.parametrize("threads", [0, -1, 65536, 2**40])
def test_more_threads_than_a_machine_can_use_are_refused(model: Model, threads: int) -> None:
    """ONNX Runtime would make them all."""
    with limited(), pytest.raises(BackendError, match=rf"threads: {threads}, 1 to \d+ work with"):
        seq2edge.load(model.bundle.path, device="cpu", threads=threads)


def test_caches_are_counted_as_they_are_kept(model: Model, monkeypatch: Any) -> None:
    """Before they are made, and when they grow."""
    backend: Any = model.backend
    sizes = backend.make_caches(2, 64).tensors()
    needed = sum(tensor.nbytes for tensor in sizes.values())
    monkeypatch.setattr(memory, "machine_bytes", lambda: needed)
    assert backend.make_caches(2, 64)
    with pytest.raises(CapacityError, match=f"caches of 3 rows of 64 tokens in {len(sizes)} tens"):
        backend.make_caches(3, 64)


def test_the_limit_of_a_process_counts() -> None:
    """As `ulimit -v` sets it."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    whole = memory.machine_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (2**36, limits[1]))
    try:
        assert memory.machine_bytes() == min(whole, 2**36)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize(
    ("text", "most"),
    [("4096\n", 4096), ("max\n", memory.UNKNOWN), ("9223372036854771712", 9223372036854771712)],
)
def test_the_limit_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, most: int
) -> None:
    """As its control group has it; where there is none, in neither version, any amount."""
    monkeypatch.setattr(memory, "CONTAINER_LIMITS", (str(tmp_path / "a"), str(tmp_path / "b")))
    whole = memory._physical()
    for wanted in (memory.UNKNOWN, most):
        memory._container.cache_clear()
        assert memory._container() == wanted
        assert memory.machine_bytes() <= min(whole, wanted)
        (tmp_path / "b").write_text(text, encoding="ascii")
    memory._container.cache_clear()


class Failing(FakeBackend):
    """One whose memory is full at the second start."""

    starts = 0

    def start(self, *arguments: Any) -> Any:
        """See Backend."""
        self.starts += 1
        if self.starts == 2:
            raise MemoryError("Unable to allocate 9 GiB")
        return super().start(*arguments)


def test_a_batch_without_memory_ends_its_requests_alone() -> None:
    """The others go on."""
    scheduler = Scheduler(Failing(random_answer(20)), rows=64)
    options = [DecodeOptions(num_beams=beams) for beams in (1, 2, 3)]
    groups = [
        scheduler.submit(Request(prompt=[1, 2], options=each, max_new_tokens=3)) for each in options
    ]
    scheduler.run()
    assert len(groups[0].results()[0].ids) == len(groups[2].results()[0].ids) == 3
    with pytest.raises(CapacityError, match=r"memory: there is none left .*9 GiB"):
        groups[1].results()
    with limited(), pytest.raises(CapacityError, match="memory: 1 rows of 9,223"):
        scheduler.submit(Request(prompt=[1], options=DecodeOptions(), max_new_tokens=2**63 - 2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": 2**63}, "of 64 bits, needs an integer of 63 at most"),
        ({"capacity": 10**400}, "bits, needs an integer"),
        ({"temperature": 10**400}, "needs a finite number"),
        ({"temperature": float("inf")}, "needs a finite number"),
        ({"length_penalty": float("nan")}, "needs a finite number"),
        ({"eos_token_id": 2**40}, "is not a token id"),
        ({"suppress_tokens": [10**400]}, "is not a token id"),
        ({"exponential_decay_length_penalty": (10**400, 1.5)}, "needs an integer"),
        ({"exponential_decay_length_penalty": (1, 10**400)}, "needs a factor"),
        ({"stop_strings": ["a"] * 1001}, "1,001 strings of 1,001 characters, at most"),
        ({"stop_strings": ["a" * 2**20, "b"]}, "2 strings of 1,048,577 characters, at most"),
        ({"bad_words_ids": [[1]] * 100_001}, "100,001 entries, at most 100,000"),
        ({"sequence_bias": [[[1], 1.0]] * 100_001}, "100,001 entries, at most 100,000"),
        ({"regex": "a" * (2**20 + 1)}, "1,048,577 characters, 1,048,576 are allowed"),
        ({"json_schema": {"a": object()}}, "json_schema: cannot be written as JSON"),
    ],
)
def test_numbers_and_lists_have_bounds(values: dict[str, Any], message: str) -> None:
    """Also those of a manifest, whose integers may be of any length."""
    with limited(), pytest.raises(OptionError, match=message):
        DecodeOptions(**values)
