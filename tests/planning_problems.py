"""Problems with known answers, and quick planners to try on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from gbp_agent.planners import (
    PLANNERS,
    CEMConfig,
    CEMPlanner,
    GradCEMConfig,
    GradCEMPlanner,
    GradientConfig,
    GradientPlanner,
    MPPIConfig,
    MPPIPlanner,
)
from gbp_agent.types import CostFunction, Planner, PlannerResult

H, M = 3, 2
RIDGE = 0.1
CHUNKED: dict[str, Callable[..., Planner]] = {
    "cem": lambda **settings: CEMPlanner(CEMConfig(iterations=5, **settings)),
    "gradcem": lambda **settings: GradCEMPlanner(GradCEMConfig(iterations=3, **settings)),
    "mppi": lambda **settings: MPPIPlanner(MPPIConfig(**settings)),
}
every_planner = pytest.mark.parametrize("name", sorted(PLANNERS))


@dataclass(frozen=True)
class LinearProblem:
    """x_{t+1} = x_t + G a_t, cost |x_H - goal|² + RIDGE · Σ|a_t|²; start and goal (B, M)."""

    gain: Tensor
    start: Tensor
    goal: Tensor

    def cost(self, actions: Tensor) -> Tensor:
        reached = self.start[:, None] + actions.sum(dim=2) @ self.gain.T
        miss = (reached - self.goal[:, None]).square().sum(dim=-1)
        return miss + RIDGE * actions.square().sum(dim=(-2, -1))

    def best_plan(self) -> Tensor:
        """Ridge regression on the stacked actions: (B, H, M)."""
        stacked = self.gain.repeat(1, H)
        normal = stacked.T @ stacked + RIDGE * torch.eye(H * M)
        target = (self.goal - self.start) @ stacked
        return torch.linalg.solve(normal, target.T).T.reshape(-1, H, M)

    def best_plan_in_box(self, low: Tensor, high: Tensor) -> Tensor:
        """For a diagonal gain each number is a problem of its own, equal at all H steps."""
        gain = self.gain.diagonal()
        free = gain * (self.goal - self.start) / (H * gain.square() + RIDGE)
        return free.clamp(low, high)[:, None].expand(-1, H, -1)

    def row(self, index: int) -> LinearProblem:
        rows = slice(index, index + 1)
        return replace(self, start=self.start[rows], goal=self.goal[rows])


def linear_problem(problems: int = 4) -> LinearProblem:
    generator = torch.Generator().manual_seed(7)
    return LinearProblem(
        gain=torch.tensor([[0.9, 0.3], [-0.2, 0.7]]),
        start=torch.randn(problems, M, generator=generator),
        goal=torch.randn(problems, M, generator=generator),
    )


def run(
    planner: Planner,
    cost: CostFunction,
    problems: int = 4,
    *,
    initial: Tensor | None = None,
    warm: Tensor | None = None,
    proposals: Tensor | None = None,
    low: Tensor | float = -5.0,
    high: Tensor | float = 5.0,
    seed: int = 0,
) -> PlannerResult:
    """Plan from zeros without proposals, unless told otherwise."""
    initial = torch.zeros(problems, H, M) if initial is None else initial
    return planner(
        cost,
        initial,
        warm=torch.zeros(problems, dtype=torch.bool) if warm is None else warm,
        proposals=initial.new_zeros(0, H, M) if proposals is None else proposals,
        low=torch.as_tensor(low).expand(M),
        high=torch.as_tensor(high).expand(M),
        generator=torch.Generator().manual_seed(seed),
    )


def small(name: str) -> Planner:
    """A quick planner of each kind, far from converged."""
    planners: dict[str, Planner] = {
        "gradient": GradientPlanner(GradientConfig(steps=5)),
        "cem": CEMPlanner(CEMConfig(samples=20, iterations=4, elites=5)),
        "gradcem": GradCEMPlanner(GradCEMConfig(samples=20, iterations=3, elites=5)),
        "mppi": MPPIPlanner(MPPIConfig(samples=20, iterations=4)),
    }
    return planners[name]


def own_cost(cost: CostFunction, result: PlannerResult) -> Tensor:
    return cost(result.model_actions[:, None])[:, 0]


def gap(problem: LinearProblem, result: PlannerResult, optimum: Tensor) -> Tensor:
    """Excess over the optimal cost, as a fraction of what there was to gain from zeros."""
    best = problem.cost(optimum[:, None])[:, 0]
    zeros = problem.cost(torch.zeros_like(optimum)[:, None])[:, 0]
    return (result.cost - best) / (zeros - best)
