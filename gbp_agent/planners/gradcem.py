"""GradCEM: the cross-entropy method on samples that first take gradient steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gbp_agent.planners.cem import CEMConfig, CEMPlanner
from gbp_agent.planners.common import (
    BestPlan,
    check_count,
    check_number,
    cost_and_gradient,
    evaluate,
)
from gbp_agent.planners.optimizers import BETAS, adam_step
from gbp_agent.types import CostFunction


@dataclass(frozen=True)
class GradCEMConfig(CEMConfig):
    """Settings of `GradCEMPlanner`: those of `CEMConfig`, with fewer samples and iterations, as a
    sample costs several roll-outs; and how samples are refined.

    gradient_steps: ≥ 1, Adam steps of each sample before it is ranked.
    learning_rate: > 0, of these steps; 0.3 is published, for more samples than the default here.

    Raises ValueError for a value outside these ranges.
    """

    samples: int = 64
    iterations: int = 10
    elites: int = 8
    gradient_steps: int = 1
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("gradient_steps", self.gradient_steps, 1, "give 1, or plan with 'cem'.")
        check_number("learning_rate", self.learning_rate, "0.1 is the default.", above=0)


class GradCEMPlanner(CEMPlanner):
    """Cross-entropy method whose samples take Adam steps before they are ranked.

    The elites are the refined samples, clamped into the bounds after each step. Points on the
    way there are evaluated too and may be returned if one of them is the best. Adam starts
    afresh for each sample. Everything else is as in `CEMPlanner`.

    Raises ValueError for arguments that do not fit together and for a cost that is not
    differentiable in the actions.
    Source: Bharadhwaj, Xie & Shkurti, Model-Predictive Control via Cross-Entropy and
    Gradient-Based Optimization, arXiv 2004.08763.
    """

    config: GradCEMConfig

    def __init__(self, config: GradCEMConfig | None = None) -> None:
        super().__init__(GradCEMConfig() if config is None else config)

    @property
    def _gradient_steps_per_sample(self) -> int:
        return self.config.gradient_steps

    def _score(
        self, cost: CostFunction, samples: Tensor, low: Tensor, high: Tensor, best: BestPlan
    ) -> tuple[Tensor, Tensor]:
        points = samples.clone()
        moments = (torch.zeros_like(points), torch.zeros_like(points))
        for step in range(1, self.config.gradient_steps + 1):
            costs, gradient = cost_and_gradient(cost, points)
            best.update(points, costs)
            adam_step(points, gradient, moments, step, self.config.learning_rate, BETAS)
            points.clamp_(low, high)
        return points, evaluate(cost, points)
