"""What an agent's planner minimises: roll-out, then objective."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .mpc import MPCConfig
from .objectives import GoalObjective
from .precision import uses_bfloat16
from .rollouts import in_parts, rollouts_from
from .types import CostFunction, Latent, Objective
from .world_model import LatentWorldModel, repeat_rows


class PlanningCost:
    """The objective of what the model expects of plans, in the precision and the parts that fit the
    device; see `types.CostOf`."""

    def __init__(self, model: LatentWorldModel, objective: Objective, config: MPCConfig):
        self._objective = objective
        self._rollouts_of = rollouts_from(model, config)
        self._most = model.rollouts_at_once
        half = uses_bfloat16(config.precision, model.device)
        # Autograd's bookkeeping is a fiftieth of 100 roll-outs of a small model. Others' objectives
        # are not told to do without, since they may differentiate something by themselves.
        self._bare = isinstance(objective, GoalObjective) and not config.compile
        self._precision = partial(torch.autocast, model.device.type, torch.bfloat16, enabled=half)

    def __call__(self, start: Latent, past_actions: Tensor, goal: Latent) -> CostFunction:
        """What candidate plans (B, S, H, M) for B problems cost, (B, S).

        start: Latent (B, T); past_actions: (B, T-1, M); goal: Latent (B,).
        """
        with self._precision():
            rollouts = self._rollouts_of(start, past_actions)

        def costs(model_actions: Tensor) -> Tensor:
            samples = model_actions.shape[1]
            with self._precision():
                predicted = rollouts(model_actions.flatten(0, 1))
            goals = Latent(*(repeat_rows(part, samples) for part in goal))
            return self._checked(predicted, goals).unflatten(0, (-1, samples))

        def bare_costs(model_actions: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                return costs(model_actions)
            with torch.inference_mode():
                return costs(model_actions)  # joined outside, to a tensor like any other

        return in_parts(bare_costs if self._bare else costs, self._most)

    def _checked(self, predicted: Latent, goals: Latent) -> Tensor:
        costs = self._objective(predicted, goals)
        rows = len(predicted.proprio)
        if not isinstance(costs, Tensor) or not costs.dim() or len(costs) != rows:
            found = tuple(costs.shape) if isinstance(costs, Tensor) else type(costs).__name__
            raise ValueError(
                f"the objective returned {found} for {rows} plans, expected a tensor ({rows},): "
                "one cost for each"
            )
        return costs
