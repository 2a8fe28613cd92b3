"""Models with stable-worldmodel's get_cost, planned with by our planners."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gbp_agent import CEMConfig, CEMPlanner, GradientConfig, GradientPlanner
from gbp_agent.interop import cost_function, plan

BOUND = torch.ones(2)


class Linear(torch.nn.Module):
    """Follows the protocol: the end of a walk from `state` by the actions, against `goal`."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.5))
        self.seen: dict[str, Any] = {}

    def get_cost(self, info_dict: dict[str, Any], action_candidates: Tensor) -> Tensor:
        problems, samples = action_candidates.shape[:2]
        assert info_dict["state"].shape == (problems, samples, 2)
        assert info_dict["goal"].shape == (problems, samples, 2)
        self.seen = info_dict
        end = info_dict["state"] + self.scale * action_candidates.sum(2)
        return (end - info_dict["goal"]).square().sum(-1)


def info() -> dict[str, Any]:
    state = torch.tensor([[0.0, 0.0], [1.0, -1.0]], dtype=torch.float64)
    return {"state": state, "goal": torch.tensor([[1.0, 0.5], [0.0, 0.0]]), "name": "walk"}


@pytest.mark.parametrize(
    "planner",
    [
        GradientPlanner(GradientConfig(steps=80, learning_rate=0.05)),
        CEMPlanner(CEMConfig(samples=200, iterations=20, elites=20)),
        "mppi",
        "gradcem",
    ],
)
def test_planners_find_the_goal(planner: Any) -> None:
    model = Linear()
    found = plan(model, info(), planner, horizon=4, low=-BOUND, high=BOUND)
    end = info()["state"].float() + 0.5 * found.model_actions.sum(1)
    torch.testing.assert_close(end, info()["goal"], atol=0.12, rtol=0)
    assert model.scale.grad is None
    assert model.seen["name"] == "walk"


def test_an_initial_plan_is_started_from() -> None:
    exact = torch.zeros(2, 1, 2)
    exact[0, 0] = torch.tensor([1.0, 1.0])
    planner = GradientPlanner(GradientConfig(steps=0))
    found = plan(Linear(), info(), planner, horizon=1, low=-BOUND, high=BOUND, initial=exact)
    torch.testing.assert_close(found.model_actions, exact)


def test_arrays_are_repeated_too() -> None:
    class Cost:
        def get_cost(self, info_dict: dict[str, Any], action_candidates: Tensor) -> Tensor:
            np.testing.assert_array_equal(info_dict["x"], [[5, 5, 5], [6, 6, 6]])
            return action_candidates.sum((-2, -1))

    assert cost_function(Cost(), {"x": np.array([5, 6])})(torch.zeros(2, 3, 1, 2)).shape == (2, 3)


def test_entries_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="expected tensors or arrays of one length"):
        plan(Linear(), {**info(), "more": np.zeros(3)}, horizon=2, low=-BOUND, high=BOUND)
