"""Fully sharded training (Zhao et al. 2023) through Lightning."""

from __future__ import annotations

from lightning.pytorch.strategies import FSDPStrategy


def sharded() -> FSDPStrategy:
    """Weights, gradients and optimizer states shared out over all processes."""
    return FSDPStrategy(state_dict_type="full")
