"""Planning with models of other libraries, whose interface is a cost of candidate plans.

stable-worldmodel calls a model "costable" that has `get_cost(info_dict, action_candidates)`. The
first says what each of B problems is about, in tensors (B, S, …) repeated for S candidates; the
second are plans (B, S, H, M); it returns costs (B, S). That is a planner's cost function here, but
for the repetition.
Protocol: github.com/galilai-group/stable-worldmodel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .planners import make_planner
from .types import CostFunction, Planner, PlannerResult


class Costable(Protocol):
    """A model with stable-worldmodel's interface."""

    def get_cost(self, info_dict: dict[str, Any], action_candidates: Tensor) -> Tensor:
        """Costs (B, S) of candidates (B, S, H, M)."""


def cost_function(model: Costable, info: Mapping[str, Any]) -> CostFunction:
    """What our planners minimise, from a costable model.

    info: tensors and arrays with leading dimension B; other values are handed on as they are.
    """

    def cost(plans: Tensor) -> Tensor:
        samples = plans.shape[1]
        repeated = {key: _repeat(value, samples, plans) for key, value in info.items()}
        return model.get_cost(repeated, plans)

    return cost


def plan(
    model: Costable,
    info: Mapping[str, Any],
    planner: str | Planner = "gradient",
    *,
    horizon: int,
    low: Tensor,
    high: Tensor,
    initial: Tensor | None = None,
    seed: int = 0,
) -> PlannerResult:
    """Plan once with a costable model.

    low, high: (M,), bounds of a model action. initial: (B, H, M), a plan to start from; zeros by
        default, where the planner's own initialisation applies.

    Raises:
        ValueError: `info` holds no tensor or array, or they are of different lengths.
    """
    lengths = {k: len(v) for k, v in info.items() if isinstance(v, (Tensor, np.ndarray))}
    if len(set(lengths.values())) != 1:
        raise ValueError(
            f"info has entries of lengths {lengths}, expected tensors or arrays of one length, "
            "the number of problems"
        )
    problems = next(iter(lengths.values()))
    start = low.new_zeros(problems, horizon, len(low)) if initial is None else initial
    return make_planner(planner)(
        cost_function(model, info),
        start,
        warm=torch.full((problems,), initial is not None, device=low.device),
        proposals=low.new_zeros(0, horizon, len(low)),
        low=low,
        high=high,
        generator=torch.Generator(low.device).manual_seed(seed),
    )


def _repeat(value: Any, samples: int, like: Tensor) -> Any:
    """(B, …) → (B, S, …); floating-point tensors take the plans' dtype and device."""
    if isinstance(value, Tensor):
        dtype = like.dtype if value.is_floating_point() else value.dtype
        value = value.to(device=like.device, dtype=dtype).unsqueeze(1)
        return value.expand(-1, samples, *value.shape[2:])
    if isinstance(value, np.ndarray):
        return np.repeat(value[:, None], samples, axis=1)
    return value
