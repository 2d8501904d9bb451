"""Where a token stands: sinusoidal tables, rotary angles, T5's and DeBERTa's relative biases."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from seq2edge.model.dims import StackDims


def sinusoidal_table(positions: int, width: int) -> Tensor:
    """Sines in the first half, cosines in the second (Vaswani et al. 2017), (positions, width)."""
    frequency = 10000.0 ** (-2 * torch.arange((width + 1) // 2, dtype=torch.float64) / width)
    angle = torch.arange(positions, dtype=torch.float64)[:, None] * frequency
    return torch.cat((angle.sin(), angle.cos()[:, : width // 2]), dim=1).float()


class Rotary(nn.Module):
    """Cosines and sines of rotary positions (Su et al. 2021)."""

    frequency: Tensor

    def __init__(self, stack: StackDims, *, windowed: bool = False) -> None:
        """With `windowed` those of layers that have a window."""
        super().__init__()
        self.windowed = windowed
        self.restore(stack)

    def restore(self, stack: StackDims) -> None:
        """Make the table, which is not a weight."""
        even = torch.arange(0, stack.rotated, 2, dtype=torch.int64).float()
        own = self.windowed and stack.window_theta > 0
        theta = stack.window_theta if own else stack.rotary_theta
        wavelength = theta ** (even / stack.rotated)
        if stack.rotary_divisors and not own:
            wavelength = wavelength * torch.tensor(stack.rotary_divisors)
        self.register_buffer("frequency", 1.0 / wavelength, persistent=False)
        self.magnitude = 1.0 if own else stack.rotary_magnitude

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions (rows, new) -> cos, sin (rows, new, rotated / 2)."""
        angle = positions[:, :, None].float() * self.frequency  # (rows, new, rotated / 2)
        if self.magnitude == 1.0:
            return angle.cos(), angle.sin()
        return angle.cos() * self.magnitude, angle.sin() * self.magnitude


class RelativeBias(nn.Module):
    """T5's bias per head and bucket of distance (Raffel et al. 2020)."""

    buckets: Tensor

    def __init__(self, stack: StackDims, *, bidirectional: bool) -> None:
        super().__init__()
        self.farthest = stack.relative_distance
        self.bidirectional = bidirectional
        self.weight = nn.Parameter(torch.empty(stack.relative_buckets, stack.heads))
        self.restore(stack)

    def restore(self, stack: StackDims) -> None:
        """Make the table, which is not a weight."""
        self.register_buffer("buckets", self._bucket_table(stack), persistent=False)

    def _bucket_table(self, stack: StackDims) -> Tensor:
        """The bucket of every distance (query - key) up to the farthest, as one table."""
        nearest = -self.farthest if self.bidirectional else 0
        distance = torch.arange(nearest, self.farthest + 1)
        count = stack.relative_buckets // 2 if self.bidirectional else stack.relative_buckets
        exact = count // 2
        size = distance.abs()
        far = exact + (
            torch.log(size.clamp(min=1).float() / exact)
            / math.log(self.farthest / exact)
            * (count - exact)
        ).to(torch.int64)
        bucket = torch.where(size < exact, size, far.clamp(max=count - 1))
        return bucket + count * (distance < 0)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """query (rows, new), key (total,) positions -> (rows, heads, new, total)."""
        nearest = -self.farthest if self.bidirectional else 0
        distance = (query[:, :, None] - key).clamp(nearest, self.farthest) - nearest
        bias = self.weight[self.buckets][distance]  # (rows, new, total, heads)
        return bias.permute(0, 3, 1, 2)  # (rows, heads, new, total)


class RelativePlaces(nn.Module):
    """Which rows of DeBERTa's tables of relative positions a pair of tokens reads."""

    rows: Tensor

    def __init__(self, stack: StackDims) -> None:
        super().__init__()
        self.farthest = stack.relative_distance or stack.relative_span
        self.restore(stack)

    def restore(self, stack: StackDims) -> None:
        """Make the table, which is not a weight: the row of every distance (query - key).

        After He et al. 2021: small distances have rows of their own, larger ones share them in
        steps of a logarithm. In float32 as in the original: its rounding decides about the limits
        between two rows. Without `relative_distance` every distance has a row, up to the span.
        """
        span = stack.relative_span
        distance = torch.arange(-self.farthest, self.farthest + 1)
        exact = span // 2
        size = torch.where(distance.abs() < exact, exact - 1, distance.abs())
        steps = torch.log(size / exact) / torch.log(torch.tensor((self.farthest - 1) / exact))
        far = torch.ceil(steps * (exact - 1)) + exact
        bucket = torch.where(size <= exact, distance.float(), far * distance.sign()).long()
        if not stack.relative_distance:
            bucket = distance
        rows = (bucket + span).clamp(0, 2 * span - 1)
        self.register_buffer("rows", rows, persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        """positions (source,) -> places (2, source, source), one for each kind of scores.

        Of a query i and a key j in flat scores (rows, source): those of all rows with query i, and
        those with key j.
        """
        query, key = positions[:, None], positions[None]
        distance = (query - key).clamp(-self.farthest, self.farthest) + self.farthest
        first = self.rows[distance] * positions.shape[0]
        return torch.stack((first + query, first + key))
