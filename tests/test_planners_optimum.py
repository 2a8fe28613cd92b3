"""Every planner on a linear model with a quadratic cost, whose best plan is known exactly."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from planning_problems import H, M, every_planner, gap, linear_problem, run, small
from torch import Tensor

from gbp_agent.planners import PLANNERS, GradientConfig, GradientPlanner, MPPIConfig, MPPIPlanner


@every_planner
def test_finds_the_closed_form_plan(name: str) -> None:
    problem = linear_problem()
    result = run(PLANNERS[name](), problem.cost)
    excess = gap(problem, result, problem.best_plan())
    assert float(excess.min()) > -1e-5
    assert float(excess.max()) < (0.15 if name == "mppi" else 0.01)


def test_mppi_converges_with_narrow_noise_and_low_temperature() -> None:
    problem = linear_problem()
    planner = MPPIPlanner(MPPIConfig(iterations=60, noise_std=0.1, temperature=0.2))
    assert float(gap(problem, run(planner, problem.cost), problem.best_plan()).max()) < 0.01


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_every_optimizer_finds_the_closed_form_plan(optimizer: str) -> None:
    problem = linear_problem()
    rate = {"sgd": 0.1, "momentum": 0.03, "adam": 0.1, "adamw": 0.1}[optimizer]
    config = GradientConfig(optimizer=optimizer, learning_rate=rate, steps=200, noise_std=0.0)  # type: ignore[arg-type]
    result = run(GradientPlanner(config), problem.cost)
    assert float(gap(problem, result, problem.best_plan()).max()) < 1e-3


@every_planner
def test_finds_the_optimum_on_the_box(name: str) -> None:
    problem = replace(
        linear_problem(),
        gain=torch.diag(torch.tensor([1.0, 0.5])),
        start=torch.zeros(4, M),
        goal=torch.tensor([[2.0, -2.0], [-2.0, 2.0], [0.3, 0.1], [2.0, 0.0]]),
    )
    low, high = torch.tensor([-0.2, -0.5]), torch.tensor([0.4, 0.1])
    optimum = problem.best_plan_in_box(low, high)
    assert bool((optimum == high).any())
    assert bool((optimum == low).any())
    result = run(PLANNERS[name](), problem.cost, low=low, high=high)
    excess = gap(problem, result, optimum)
    assert float(excess.min()) > -1e-5
    assert float(excess.max()) < (0.15 if name == "mppi" else 0.01)


@every_planner
def test_the_best_plan_is_kept_where_the_search_goes_astray(name: str) -> None:
    """The cost is least at the start and its gradient points away from there."""

    class Misleading(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, actions: Tensor) -> Tensor:  # type: ignore[override]
            return actions.square().sum(dim=(-2, -1))

        @staticmethod
        def backward(context: Any, upstream: Tensor) -> Tensor:  # type: ignore[override]
            return -upstream[..., None, None].expand(*upstream.shape, H, M)

    initial = torch.full((4, H, M), 1e-6)
    warm = torch.ones(4, dtype=torch.bool)
    result = run(small(name), Misleading.apply, initial=initial, warm=warm)
    assert torch.equal(result.model_actions, initial)


@every_planner
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_region_without_a_finite_cost_is_avoided(name: str, bad: float) -> None:
    problem = linear_problem()

    def cost(actions: Tensor) -> Tensor:
        outside = actions.abs().amax(dim=(-2, -1)) > 0.2
        return torch.where(outside, problem.cost(actions) * bad, problem.cost(actions))

    result = run(small(name), cost)
    zeros = problem.cost(torch.zeros(4, 1, H, M))[:, 0]
    assert bool((result.cost <= zeros).all())
    assert bool((result.model_actions.abs() <= 0.2).all())


@every_planner
def test_a_row_without_any_finite_cost_harms_no_other(name: str) -> None:
    problem = linear_problem()
    poison = torch.tensor([1.0, math.nan, 1.0, 1.0])[:, None]
    clean = run(small(name), problem.cost)
    result = run(small(name), lambda actions: problem.cost(actions) * poison, low=0.1)
    assert float(result.cost[1]) == math.inf
    assert bool(torch.isfinite(result.model_actions).all())
    assert bool((result.model_actions >= 0.1).all())
    result = run(small(name), lambda actions: problem.cost(actions) * poison)
    keep = torch.tensor([0, 2, 3])
    assert torch.equal(result.model_actions[keep], clean.model_actions[keep])
