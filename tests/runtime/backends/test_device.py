"""Copies and recorded work on a device, on the double that is strict about memory."""

from __future__ import annotations

import fake_cuda
import numpy as np
import pytest

from seq2edge.errors import BackendError
from seq2edge.runtime.backends.device import ALIGNMENT, Block, Device, Upload

BLOCK = Block(pitch=64, lines=8, row_lines=2, tensors=3)  # 4 rows of 2 lines


@pytest.fixture
def cuda():
    """The runtime's double."""
    return fake_cuda.FakeCuda()


def contents(cuda, address, size=BLOCK.size):
    """What lies on the device."""
    return cuda.find(address, size)


def filled(device, cuda, seed=0):
    """A block of random bytes."""
    address = device.allocate(BLOCK.size, zero=True)
    device.wait()
    contents(cuda, address)[:] = np.random.default_rng(seed).integers(0, 255, BLOCK.size)
    return address


def rows_of(cuda, address):
    """The block as (tensors, rows, lines of a row, bytes)."""
    return contents(cuda, address).reshape(BLOCK.tensors, -1, BLOCK.row_lines, BLOCK.pitch)


@pytest.mark.parametrize(
    ("chosen", "copies"), [([3, 0, 0], 3), ([1, 2, 3], 1), ([2, 3, 1], 2), ([0], 1)]
)
def test_rows_are_gathered_in_all_tensors_up_to_the_width(cuda, chosen, copies):
    """What is beyond the width, and rows that are not named, stay as they are.

    Rows that follow each other are one copy.
    """
    device = Device(cuda)
    source, target = filled(device, cuda, 1), filled(device, cuda, 2)
    before, rows = rows_of(cuda, target).copy(), np.array(chosen)
    device.copy_rows(target, source, BLOCK, rows, 20)
    device.wait()
    found, wanted = rows_of(cuda, target), rows_of(cuda, source)[:, rows]
    count = len(chosen)
    np.testing.assert_array_equal(found[:, :count, :, :20], wanted[..., :20])
    np.testing.assert_array_equal(found[..., 20:], before[..., 20:])
    np.testing.assert_array_equal(found[:, count:], before[:, count:])
    assert cuda.calls.count("cudaMemcpy3DAsync") == copies


def test_no_width_is_no_copy(cuda):
    """CUDA refuses an empty one."""
    device = Device(cuda)
    source, target = filled(device, cuda), filled(device, cuda)
    device.copy_rows(target, source, BLOCK, np.array([1, 0]), 0)
    assert not cuda.calls.count("cudaMemcpy3DAsync")


def test_an_upload_has_aligned_parts_and_waits_before_it_is_written_again(cuda):
    """The device reads pinned memory when its stream gets there."""
    device = Device(cuda)
    upload = Upload(device, {"lengths": 3 * 8, "tokens": 5 * 8})
    assert upload.address("tokens") - upload.address("lengths") == ALIGNMENT
    kept = device.allocate(ALIGNMENT)
    for tokens in ([1, 2, 3], [4, 5, 6]):
        upload.send(lengths=np.array([7]), tokens=np.array(tokens))
        source, size = upload.address("tokens"), 3 * 8
        kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        cuda.cudaMemcpyAsync(kept, source, size, kind, device.stream)
        if tokens[0] == 1:
            first = kept
            kept = device.allocate(ALIGNMENT)
    device.wait()
    assert contents(cuda, first, 24).view(np.int64).tolist() == [1, 2, 3]
    assert contents(cuda, kept, 24).view(np.int64).tolist() == [4, 5, 6]


def test_recorded_work_is_done_at_every_launch(cuda):
    """And not while it is recorded."""
    device = Device(cuda)
    done = []

    def work():
        cuda.enqueue(device.handle, lambda: done.append(1))
        return True

    graph = device.capture(work)
    device.wait()
    assert not done
    device.launch(graph)
    device.launch(graph)
    device.wait()
    assert done == [1, 1]
    device.discard(graph)
    assert not cuda.graphs[0].alive


@pytest.mark.parametrize("kind", ["the work fails", "something cannot be recorded", "no graph"])
def test_work_that_cannot_be_recorded_leaves_no_error_behind(cuda, kind, monkeypatch):
    """The next call is as if nothing had been."""
    device = Device(cuda)

    def work():
        if kind == "something cannot be recorded":
            cuda.cudaStreamSynchronize(device.stream)
        return kind != "the work fails"

    if kind == "no graph":
        failed = (cuda.cudaError_t.cudaErrorNotSupported, None)
        monkeypatch.setattr(cuda, "cudaGraphInstantiate", lambda *_: failed)
    assert device.capture(work) is None
    assert cuda.cudaGetLastError() == (cuda.cudaError_t.cudaSuccess,)
    device.wait()


def test_errors_name_the_call_and_the_reason(cuda, monkeypatch):
    """In CUDA's own words."""
    device = Device(cuda)
    failed = (cuda.cudaError_t.cudaErrorLaunchFailure,)
    monkeypatch.setattr(cuda, "cudaStreamSynchronize", lambda _: failed)
    with pytest.raises(BackendError, match="cudaStreamSynchronize failed, cudaErrorLaunchFailure"):
        device.wait()


def test_the_double_notices_memory_that_is_not_there(cuda):
    """Freed, never allocated, of the wrong kind, or too small; and new memory is no number."""
    device = Device(cuda)
    address, pinned = device.allocate(ALIGNMENT), device.pinned(ALIGNMENT)
    assert np.isnan(contents(cuda, address, 8).view(np.float32)).all()
    device.send(address, pinned)
    device.fetch(pinned, address)
    device.wait()
    device.fetch(pinned, address + 1)
    with pytest.raises(fake_cuda.IllegalAddressError, match="are not allocated"):
        device.wait()
    device.fetch(pinned, pinned.ctypes.data)
    with pytest.raises(fake_cuda.IllegalAddressError, match="is pinned memory"):
        device.wait()
    device.send(address, pinned)
    cuda.cudaFree(address)
    with pytest.raises(fake_cuda.IllegalAddressError, match="were freed"):
        device.wait()
