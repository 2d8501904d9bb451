"""Fully sharded training (Zhao et al. 2023; PyTorch's second implementation) through Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from seq2edge.model.layers import CrossAttention, Layer
from seq2edge.training.training_module import TrainingModule

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class ShardedModule(TrainingModule):
    """A module whose weights, gradients and optimizer states are shared out over all processes.

    A layer's weights are whole while it computes; what stands outside of layers (tables, last
    norms) is whole during a step.
    """

    def configure_model(self) -> None:
        """See Lightning: called when the processes know each other."""
        assert self.device_mesh is not None
        mesh = self.device_mesh["data_parallel"]
        for module in self.modules():
            if isinstance(module, CrossAttention):  # used before its layer is called
                fully_shard(module.key_value, mesh=mesh)
        for module in self.modules():
            if isinstance(module, Layer):
                fully_shard(module, mesh=mesh)
        fully_shard(self, mesh=mesh, reshard_after_forward=False)
        register_fsdp_forward_method(self, "loss")


class Sharded(ModelParallelStrategy):
    """Lightning's strategy, with checkpoints that a training of any number of processes resumes."""

    def __init__(self, processes: int) -> None:
        super().__init__(
            data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False
        )

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state, as an optimizer of one process would save it; in the first process."""
        assert self.model is not None
        optimizer = getattr(optimizer, "_optimizer", optimizer)  # out of Lightning's wrapper
        named = get_optimizer_state_dict(self.model, optimizer, options=WHOLE)
        return by_index(named) if self.is_global_zero else {}

    def load_checkpoint(
        self,
        checkpoint_path: Any,
        weights_only: bool | None = None,  # noqa: FBT001 - Lightning's
    ) -> dict[str, Any]:
        """Read a whole checkpoint and keep this process's share of it."""
        assert self.model is not None
        path = Path(self.broadcast(checkpoint_path))
        checkpoint = self.checkpoint_io.load_checkpoint(path, weights_only=weights_only)
        set_model_state_dict(self.model, checkpoint["state_dict"], options=WHOLE)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_optimizer_state_dict(
                self.model, optimizer, by_name(state, optimizer, self.model), options=WHOLE
            )
        return checkpoint


def by_index(state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's state by parameter names as `Optimizer.state_dict` gives it, by numbers."""
    names = [name for group in state["param_groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(names)}
    groups = [
        {**group, "params": [numbers[name] for name in group["params"]]}
        for group in state["param_groups"]
    ]
    return {
        "state": {numbers[name]: values for name, values in state["state"].items()},
        "param_groups": groups,
    }


def by_name(state: Mapping[str, Any], optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """The inverse of `by_index`, for an optimizer with the same groups."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    ordered = [
        names[parameter] for group in optimizer.param_groups for parameter in group["params"]
    ]
    groups = [
        {**group, "params": [ordered[number] for number in group["params"]]}
        for group in state["param_groups"]
    ]
    return {
        "state": {ordered[number]: values for number, values in state["state"].items()},
        "param_groups": groups,
    }
