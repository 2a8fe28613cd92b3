"""How far predicted latents are from the goal: the cost that a planner minimises."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gbp_agent.normalize import Standardizer
from gbp_agent.planners.common import take_plain_numbers
from gbp_agent.types import Latent


@dataclass(frozen=True)
class GoalObjective:
    """Mean squared distance to the goal's latent: visual + `proprio_weight` · proprio.

    proprio_weight: ≥ 0, weight of the proprioceptive part; 0 leaves it out. A sequence (E,) weighs
        each of its numbers, for instance positions but not velocities.
    frames: "last" compares the last predicted frame alone; "all" sums over the H predicted
        frames with weights ∝ base^i, i = 0..H-1, that add up to 1. The start frame is no
        prediction and has no part in it.
    base: > 0, used with "all"; above 1 late frames weigh more, 1 weighs all alike.
    step_cost: ≥ 0, used with "all": a plan may arrive early. Its cost is the least, over h = 1..H,
        of its first h frames' cost, weighted as above, plus step_cost·(h-1). An agent that plans
        anew after every step puts off for ever what costs nothing to put off, and late frames that
        weigh more make it so. None always counts all H frames.

    Raises ValueError for a value outside these ranges.
    Source: arXiv 2512.09929 (goal loss and weighted goal loss); DINO-WM, arXiv 2411.04983; the
    free final time of optimal control for step_cost.
    """

    proprio_weight: float | tuple[float, ...] = 1.0
    frames: Literal["last", "all"] = "last"
    base: float = 2.0
    step_cost: float | None = None

    def __post_init__(self) -> None:
        take_plain_numbers(self)
        if isinstance(self.proprio_weight, (np.ndarray, Tensor)):
            object.__setattr__(self, "proprio_weight", self.proprio_weight.tolist())
        if isinstance(self.proprio_weight, (list, tuple)):
            object.__setattr__(self, "proprio_weight", tuple(self.proprio_weight))
        if not all(0 <= weight < math.inf for weight in self._proprio_weights):
            raise ValueError(
                f"proprio_weight is {self.proprio_weight!r}, expected finite numbers ≥ 0; "
                "give 0 to leave proprioception out of the cost."
            )
        if self.frames not in ("last", "all"):
            raise ValueError(
                f"frames is {self.frames!r}, expected 'last' or 'all'; "
                "give 'last' to compare the final predicted frame alone."
            )
        if not 0 < self.base < math.inf:
            raise ValueError(
                f"base is {self.base!r}, expected a finite number > 0; "
                "give 1 to weigh all predicted frames alike."
            )
        if self.step_cost is not None and not 0 <= self.step_cost < math.inf:
            raise ValueError(
                f"step_cost is {self.step_cost!r}, expected a finite number ≥ 0 or None; "
                "give None to count all predicted frames."
            )

    @property
    def _proprio_weights(self) -> tuple[float, ...]:
        weight = self.proprio_weight
        return weight if isinstance(weight, tuple) else (weight,)

    def __call__(self, predicted: Latent, goal: Latent) -> Tensor:
        """Cost of predicted frames.

        predicted: visual (N, H, P, D), proprio (N, H, E).
        goal: visual (N, P, D), proprio (N, E); a leading 1 or none is broadcast over N.
        Returns (N,) ≥ 0: means over P and D, and over E. An E of 0 adds nothing.

        Raises ValueError where the shapes do not fit together.
        """
        return self.total(self._frame_costs(predicted, goal))

    def total(self, cost: Tensor) -> Tensor:
        """Cost (N,) of plans whose predicted frames are at these distances (N, H) from the goal; of
        the last one alone with frames="last"."""
        if self.frames == "last":
            return cost[:, -1]
        if self.step_cost is None:
            return (cost * frame_weights(cost.shape[1], self.base, like=cost)).sum(dim=1)
        return self._arrival_costs(cost).min(dim=1).values

    def scales(self, visual_width: int, proprio_width: int) -> Tensor:
        """Factors (1 + E,), of the visual part and of each number of the proprioception, with which
        the squared distance of two scaled latents is what a frame costs.

        Raises ValueError where proprio_weight has another number of weights.
        """
        return torch.tensor([1 / max(1, visual_width), *self._shares(proprio_width)]).sqrt()

    def arrival(self, predicted: Latent, goal: Latent) -> Tensor:
        """Index (N,) of the predicted frame that a plan ends with: what comes after it does not
        count. The last one, H - 1, without a step cost. Arguments and errors as for a call."""
        cost = self._frame_costs(predicted, goal)
        if self.frames == "last" or self.step_cost is None:
            return torch.full((len(cost),), predicted.visual.shape[1] - 1, device=cost.device)
        return self._arrival_costs(cost).argmin(dim=1)

    def _frame_costs(self, predicted: Latent, goal: Latent) -> Tensor:
        """Cost of each frame (N, frames), of the last one alone with frames="last"."""
        _check_shapes(predicted, goal)
        shares = self._shares(predicted.proprio.shape[-1])
        if self.frames == "last":
            predicted = Latent(*(part[:, -1:] for part in predicted))
        visual = predicted.visual - goal.visual.unsqueeze(-3)
        cost = visual.square().sum((-2, -1)) / max(1, visual.shape[-2:].numel())
        if any(shares):
            proprio = predicted.proprio - goal.proprio.unsqueeze(-2)
            cost = cost + proprio.square() @ _constant(tuple(shares), like=proprio)
        return cost

    def _shares(self, width: int) -> list[float]:
        """What the square of each of E proprioceptive numbers counts in a frame's cost."""
        weights = self._proprio_weights
        if len(weights) not in (1, width):
            raise ValueError(
                f"proprio_weight has {len(weights)} numbers, expected {width}, the width of the "
                "proprioceptive latent; or give one number for all."
            )
        return [weight / width for weight in weights * (width // len(weights))]

    def _arrival_costs(self, cost: Tensor) -> Tensor:
        """From the frames' costs (N, H), what a plan costs (N, H) that ends with the first, …,
        the last of them."""
        horizon, step_cost = cost.shape[1], self.step_cost or 0.0
        waiting = _constant(tuple((step_cost * h,) for h in range(horizon)), like=cost)
        # Plans along the columns: a look-up compares tens of thousands, and long rows are fast.
        return torch.addmm(waiting, prefix_weights(horizon, self.base, like=cost), cost.T).T


class StateCost:
    """A cost of states instead of the distance to a goal, so that an agent can follow any reward
    that can be written as a differentiable function of the state.

    function: states (N, H, p) in env units → cost (N, H), lower is better; differentiable.
    normalizer: the model's `proprio_normalizer`. The model's proprioception has to be its z-scores,
        as with the families "state" and "compact".
    """

    needs_goal = False

    def __init__(self, function: Callable[[Tensor], Tensor], normalizer: Standardizer):
        self.function = function
        self.normalizer = normalizer

    def __call__(self, predicted: Latent, goal: Latent) -> Tensor:
        """Cost (N,), the mean over the H predicted frames; `goal` is not looked at.

        Raises ValueError where the function returns another shape.
        """
        cost = self.function(self.normalizer.denormalize(predicted.proprio))
        if cost.shape != predicted.proprio.shape[:2]:
            raise ValueError(
                f"the cost function returned shape {tuple(cost.shape)} for states of shape "
                f"{tuple(predicted.proprio.shape)}, expected {tuple(predicted.proprio.shape[:2])}"
            )
        return cost.mean(1)


def frame_weights(horizon: int, base: float, *, like: Tensor) -> Tensor:
    """Weights (H,) ∝ base^i that add up to 1, with the dtype and device of `like`."""
    return _constant(_weights(horizon, base), like=like)


def prefix_weights(horizon: int, base: float, *, like: Tensor) -> Tensor:
    """Rows (H, H): for h = 1..H the weights of the first h frames, and 0 for the others."""
    rows = tuple(_weights(h, base) + (0.0,) * (horizon - h) for h in range(1, horizon + 1))
    return _constant(rows, like=like)


def _constant(values: tuple[Any, ...], *, like: Tensor) -> Tensor:
    """These numbers, with the dtype and device of `like`; never to be written to."""
    return _constant_on(values, like.dtype, like.device)


@lru_cache
def _constant_on(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Kept: to copy them to a GPU anew for every cost would wait for it each time, and must not be
    # done while a CUDA graph is recorded.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


@lru_cache
def _weights(horizon: int, base: float) -> tuple[float, ...]:
    """∝ base^i, i = 0..H-1, adding up to 1; relative to the largest, so that none overflows."""
    last = (horizon - 1) * max(0.0, math.log(base))
    powers = [math.exp(i * math.log(base) - last) for i in range(horizon)]
    return tuple(power / sum(powers) for power in powers)


def _check_shapes(predicted: Latent, goal: Latent) -> None:
    if predicted.visual.dim() != 4 or predicted.proprio.dim() != 3 or predicted.visual.size(1) < 1:
        raise ValueError(
            f"predicted has visual {tuple(predicted.visual.shape)} and proprio "
            f"{tuple(predicted.proprio.shape)}, expected (N, H, P, D) and (N, H, E) with H ≥ 1; "
            "pass what `rollout` returns."
        )
    count = predicted.visual.shape[0]
    for name, ours, theirs in (
        ("visual", predicted.visual.shape[2:], goal.visual.shape),
        ("proprio", predicted.proprio.shape[2:], goal.proprio.shape),
    ):
        lead = tuple(theirs[: len(theirs) - len(ours)])
        if theirs[len(lead) :] != ours or lead not in ((), (1,), (count,)):
            raise ValueError(
                f"goal.{name} has shape {tuple(theirs)}, expected {(count, *ours)} "
                "or one goal for all rows; encode the goal with the model that predicts."
            )
