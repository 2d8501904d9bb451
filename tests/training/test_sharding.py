"""States of sharded optimizers; whole sharded trainings are in `test_distributed.py`."""

from __future__ import annotations

import torch
from torch import nn

from seq2edge.training.sharding import by_index, by_name


def test_an_optimizers_state_by_names_and_by_numbers_are_inverse() -> None:
    """Numbers follow the order of the groups, not that of the model."""
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    first, *others = model.parameters()
    optimizer = torch.optim.AdamW([{"params": others, "weight_decay": 0.0}, {"params": [first]}])
    model(torch.ones(1, 2)).square().sum().backward()
    optimizer.step()
    numbered = optimizer.state_dict()
    named = by_name(numbered, optimizer, model)
    assert [group["params"] for group in named["param_groups"]] == [
        ["0.bias", "1.weight", "1.bias"],
        ["0.weight"],
    ]
    assert torch.equal(named["state"]["0.weight"]["exp_avg"], numbered["state"][3]["exp_avg"])
    back = by_index(named)
    assert back["param_groups"] == numbered["param_groups"]
    assert back["state"].keys() == numbered["state"].keys()
    assert all(back["state"][i] is numbered["state"][i] for i in numbered["state"])
