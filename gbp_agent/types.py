"""The vocabulary of the library: dimension letters, the three seams, and what planning returns.

Dimension letters, used in every shape of every docstring:

    B  problems planned for at once (rows of a vector env)
    S  samples, candidates or restarts of one problem
    K  proposals: plans to consider as starting points
    N  B·S flattened
    H  horizon in model steps
    F  frameskip: environment steps per model step
    A  numbers in one environment action
    M  F·A, numbers in one model action
    T  history: frames that the model sees
    P  tokens per frame (1 for a compact model, K for an ensemble of K)
    D  width of a token
    E  width of the proprioceptive part of a latent

`action` is in environment units, inside the action space; `model_action` is z-scored and M wide.
This module imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

Observation = Mapping[str, np.ndarray]

CostFunction = Callable[[Tensor], Tensor]
"""Model actions (B, S, H, M) → cost (B, S), differentiable in the actions; lower is better. A
planner whose `init` is "beam" asks for plans of fewer steps as well."""


class Latent(NamedTuple):
    """What a world model knows of one or many frames.

    visual: (..., P, D) float, tokens of the picture.
    proprio: (..., E) float, embedded proprioception.
    """

    visual: Tensor
    proprio: Tensor


CostOf = Callable[[Latent, Tensor, Latent], CostFunction]
"""The planner's view of B problems: start Latent (B, T), past actions (B, T-1, M), goal Latent (B,)
→ what candidate plans (B, S, H, M) cost, (B, S)."""


class WorldModel(Protocol):
    """Predicts latents from latents and model actions. Seam one of three."""

    @property
    def history(self) -> int:
        """T, the number of frames that `rollout` starts from."""

    @property
    def model_action_dim(self) -> int:
        """M, the width of a model action."""

    def encode(self, pixels: Tensor, proprio: Tensor) -> Latent:
        """Pixels (..., S, S, 3) uint8 and proprioception (..., p) in env units → Latent (...)."""

    def rollout(self, start: Latent, past_actions: Tensor, model_actions: Tensor) -> Latent:
        """Predict H frames.

        start: Latent with leading shape (B, T), oldest frame first.
        past_actions: (B, T-1, M), the model actions between those frames.
        model_actions: (N, H, M), N a multiple of B: the first N/B plans are for the first start,
            and so on.
        Returns a Latent with leading shape (N, H): the frames after each model action.
        """


class Objective(Protocol):
    """Says how far predicted latents are from the goal. Seam two of three."""

    def __call__(self, predicted: Latent, goal: Latent) -> Tensor:
        """Predicted Latent (N, H) and goal Latent (N,) → cost (N,) ≥ 0."""


class Planner(Protocol):
    """Finds model actions of low cost. Seam three of three; knows only a cost function."""

    def __call__(
        self,
        cost: CostFunction,
        initial: Tensor,
        *,
        warm: Tensor,
        proposals: Tensor,
        low: Tensor,
        high: Tensor,
        generator: torch.Generator,
    ) -> PlannerResult:
        """Minimise `cost` for B problems at once.

        initial: (B, H, M), the plan to start from: the rest of the last plan in rows that are
            `warm`, zeros in the others, where the planner's own initialisation applies.
        warm: (B,) bool; an agent plans for warm rows and for the others in calls of their own.
        proposals: (K, H, M), K ≥ 0, plans that any row may start from, such as those of the
            training data, or (B, K, H, M), each row's own; a planner whose `init` is not
            "proposals" ignores them.
        low, high: (M,), bounds of a model action; every returned number lies within.
        generator: the only source of randomness. Noise is drawn once and shared by all B rows,
            so that a row's plan does not depend on the rows beside it.
        """


@dataclass(frozen=True)
class PlannerResult:
    """What a planner returns.

    model_actions: (B, H, M), the best plan that was evaluated, within the bounds.
    cost: (B,), its cost; +inf where no finite cost was found.
    cost_trace: (I, B), the best cost so far after each iteration.
    evaluations: roll-outs of H steps that one problem took.
    gradient_steps: back-propagations of H steps that one problem took.
    """

    model_actions: Tensor
    cost: Tensor
    cost_trace: Tensor
    evaluations: int
    gradient_steps: int


@dataclass(frozen=True)
class Plan:
    """A planner's result with what the model expects of it, from `WorldModelMPCAgent.plan`.

    actions: (B, H·F, A) in environment units, inside the action space.
    model_actions: (B, H, M).
    rollout: rolls the plan out through the model; `predicted` calls it.
    goal: Latent with leading shape (B,).
    cost: (B,), cost_trace: (I, B). In rows that the dead band holds back (see MPCConfig) the plan
        is to do nothing, cost is that of staying as it is, which is what is predicted, and the
        trace is of what was found.
    evaluations, gradient_steps: per problem, as in PlannerResult, or their means where some rows
        go on with a plan and others do not.
    seconds: wall-clock time of encoding and planning for the whole batch.
    """

    actions: np.ndarray
    model_actions: Tensor
    rollout: Callable[[], Latent] = field(repr=False)
    goal: Latent
    cost: Tensor
    cost_trace: Tensor
    evaluations: int
    gradient_steps: int
    seconds: float

    @cached_property
    def predicted(self) -> Latent:
        """Latent with leading shape (B, H), the frames that the model expects; computed when it is
        first asked for, since acting needs none of it."""
        return self.rollout()
