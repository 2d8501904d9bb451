"""Spans of a recording's samples, and what they are when they are put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from seq2edge.runtime.sound.log_mel import HOP, SAMPLING_RATE
from seq2edge.runtime.sound.resampling import Samples

LEAST = 2 * SAMPLING_RATE  # samples at which a window is filled up with part of a span
APART = 30 * SAMPLING_RATE  # samples between spans that share no window: a sentence has not both

Span: TypeAlias = tuple[int, int]  # the first sample, and the one behind the last


def filled(spans: Sequence[Span], most: int, samples: Samples) -> tuple[list[Span], list[Span]]:
    """The first of these spans of samples, no more than `most` together, and the others.

    They end where the next one is far away. One that does not fit is cut where it is quietest in
    the second half of what fits; where less than `LEAST` does, it is left.
    """
    group, others, room = list[Span](), list(spans), most
    while others and room >= (LEAST if group else 1):
        if group and others[0][0] - group[-1][1] > APART:
            break
        first, last = others.pop(0)
        if last - first > room:
            middle = quietest(samples, first + room // 2, first + room)
            others.insert(0, (middle, last))
            return [*group, (first, middle)], others
        group.append((first, last))
        room -= last - first
    return group, others


def behind(spans: Sequence[Span], length: int) -> list[Span]:
    """What is left of spans without their first samples."""
    left = []
    for first, last in spans:
        begin = first + length
        if begin < last:
            left.append((max(first, begin), last))
        length = max(0, length - (last - first))
    return left


def quietest(samples: Samples, first: int, last: int) -> int:
    """The middle of the 0.3 s between these samples that have the least energy."""
    width = 3 * SAMPLING_RATE // 10
    if last - first <= width:
        return last
    sums = np.cumsum(np.square(samples[first:last], dtype=np.float64))
    return first + width // 2 + int(np.argmin(sums[width:] - sums[:-width]))


def in_recording(spans: Sequence[Span], frame: int, *, end: bool = False) -> int:
    """The frame of the recording that is this frame of the spans' samples, put together.

    Where one span ends and another begins, the end of something is in the first of them.
    """
    sample = frame * HOP
    for first, last in spans:
        length = last - first
        if sample < length or (end and sample <= length):
            return (first + sample) // HOP
        sample -= length
    return spans[-1][1] // HOP
