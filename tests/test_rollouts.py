"""How the agent calls its model's roll-out: nothing but memory and time may change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FAMILIES, SIZE
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from gbp_agent import MPCConfig
from gbp_agent.planners.common import cost_and_gradient
from gbp_agent.types import CostFunction, Latent

H = 6
WIDE = {"compact": {"predictor_width": 64}, "patch": {"mlp_width": 64}}


def cost_of(agent: Any, rows: int) -> CostFunction:
    """The cost of problems with random frames; the model's actions are four wide."""
    generator = torch.Generator().manual_seed(0)
    frames = agent.model.history
    pixels = torch.randint(256, (rows, frames + 1, SIZE, SIZE, 3), generator=generator).byte()
    with torch.no_grad():
        known = agent.model.encode(pixels, torch.randn(rows, frames + 1, 2, generator=generator))
    start, goal = (Latent(*(part[:, i] for part in known)) for i in (slice(frames), frames))
    past = torch.randn(rows, frames - 1, 4, generator=generator)
    cost: CostFunction = agent.cost_of(start, past, goal)
    return cost


def plans(rows: int, samples: int) -> Tensor:
    return torch.randn(rows, samples, H, 4, generator=torch.Generator().manual_seed(1))


def kept_bytes(cost: CostFunction, candidates: Tensor) -> int:
    """What a gradient of the cost keeps for backward, weights and frames left out."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        cost(candidates.requires_grad_(True))
    return sum(kept.values())


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_activations(
    family: str, history: int, families: Any, make_agent: Any
) -> None:
    model = families[family](history=history, **WIDE[family])
    plain, checkpointed = (
        cost_of(make_agent(model=model, config=config), rows=2)
        for config in (MPCConfig(H), MPCConfig(H, checkpoint_activations=True))
    )
    expected, slope = cost_and_gradient(plain, plans(2, 3))
    found = cost_and_gradient(checkpointed, plans(2, 3))
    torch.testing.assert_close(found, (expected, slope), rtol=1e-6, atol=1e-6)
    assert slope.abs().max() > 0
    assert kept_bytes(checkpointed, plans(2, 3)) < kept_bytes(plain, plans(2, 3)) / 2
