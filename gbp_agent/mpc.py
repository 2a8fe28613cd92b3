"""How plans become actions: settings, whether planner and model fit them, and which plans are not
worth acting out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from .objectives import GoalObjective
from .observations import ObservationKeys
from .planners import GradientPlanner
from .planners.common import check_choice, check_count, check_number, take_plain_numbers
from .precision import Precision
from .types import Latent, Objective, Planner, PlannerResult
from .world_model import LatentWorldModel


@dataclass(frozen=True)
class MPCConfig:
    """How plans become actions.

    horizon: H, model steps that are planned. execute: model steps that are acted out before the
    next plan, 1…H. action_limit: bound of a model action, in standard deviations of the training
    data (the action space bounds it as well). precision: of the roll-outs. "bf16" is slightly less
    exact, and large patch models are about twice as fast with it on processors that multiply it
    faster (AVX-512 BF16), more with matrix instructions (AMX, GPUs); "auto" takes it with the
    latter alone, since small models gain little from the former. proposals: at most so many of
    the model's proposals are considered, the nearest ones where it has keys, otherwise others for
    every plan of an episode; None takes as many as it has.
    checkpoint_activations: for long horizons of large models, where memory runs out in gradient
    planning: backward computes every model step once more, instead of keeping what was computed
    in it. It changes no number but the time of a gradient step. compile: pass the roll-outs
    through torch.compile, which needs a C++ compiler, at the first decision. It is off because it
    takes minutes, which steps that are hardly faster do not pay back within an episode.
    dead_band: ≥ 0, in units of the objective; a plan is acted out only if it costs less by at least
    so much than if every frame stayed like the present one. Otherwise the agent does nothing, by
    zero actions, until its next plan. That goes on from doing nothing and is another one only where
    it may start from other proposals, which it may unless the model has keys. As a distance is
    squared, a prediction's mean squared error is what the frame that comes true costs more on
    average than the predicted one, so that gains far below it are none. 0 acts every plan out;
    anything else is for envs whose zero action changes nothing.
    cuda_graphs: on a GPU, record what a planner does with the model as CUDA graphs and replay them
    (see `CostGraphs`), which changes no number but the time. None does so with a `GoalObjective`;
    an objective of your own, for which True asks, must then neither wait for the GPU (as `item()`
    does) nor change its settings later. Without a GPU it has no effect.
    """

    horizon: int = 5
    execute: int = 1
    action_limit: float = 3.0
    precision: Precision = "fp32"
    proposals: int | None = None
    checkpoint_activations: bool = False
    compile: bool = False
    cuda_graphs: bool | None = None
    dead_band: float = 0.0

    def __post_init__(self) -> None:
        take_plain_numbers(self)
        check_count("horizon", self.horizon, 1, "5 model steps are the default.")
        check_count("execute", self.execute, 1, "1 plans anew after every model step.")
        if self.execute > self.horizon:
            raise ValueError(
                f"execute must lie in 1…horizon, got {self.execute} and horizon={self.horizon}"
            )
        check_choice("precision", self.precision, get_args(Precision), "'auto' decides itself.")
        if not self.action_limit > 0:
            raise ValueError(f"action_limit must be above 0, got {self.action_limit}")
        if self.proposals is not None:
            check_count("proposals", self.proposals, 0, "give None to take all.")
        check_number("dead_band", self.dead_band, "give 0 to act every plan out.")
        for name in ("checkpoint_activations", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.cuda_graphs not in (True, False, None):
            raise ValueError(f"cuda_graphs must be True, False or None, got {self.cuda_graphs!r}")


def uses_cuda_graphs(config: MPCConfig, objective: Objective, device: torch.device | str) -> bool:
    """Whether planning on this device replays CUDA graphs."""
    if torch.device(device).type != "cuda":
        return False
    if config.cuda_graphs is None:
        return isinstance(objective, GoalObjective)
    return config.cuda_graphs


@torch.no_grad()
def hold_still(
    result: PlannerResult,
    start: Latent,
    goal: Latent,
    model: LatentWorldModel,
    objective: Objective,
    config: MPCConfig,
) -> tuple[PlannerResult, Tensor]:
    """The result with zero actions, and what it costs to stay as it is, in the rows whose plans
    gain less than the dead band; see MPCConfig. Plans without a finite cost are left. Also which
    rows these are, (B,) bool.

    start: Latent (B, T); goal: Latent (B,).
    """
    stay = objective(staying(start, config.horizon), goal)
    idle = torch.isfinite(result.cost) & (result.cost > stay - config.dead_band)
    frameskip = model.config.frameskip
    zeros = torch.zeros(1, frameskip, model.config.action_dim, device=model.device)
    still = model.action_normalizer.to_model(zeros, frameskip)
    actions = torch.where(idle[:, None, None], still, result.model_actions)
    cost = torch.where(idle, stay, result.cost)
    return replace(result, model_actions=actions, cost=cost), idle


@torch.no_grad()
def expected_frames(
    model: LatentWorldModel, start: Latent, past: Tensor, plans: Tensor, idle: Tensor
) -> Latent:
    """The frames that are expected of plans (B, H, M): the model's, or where nothing is done,
    idle (B,), the present one."""
    frames = model.rollout(start, past, plans)
    parts = zip(frames, staying(start, plans.shape[1]), strict=True)
    return Latent(*(torch.where(idle.view(-1, *[1] * (f.dim() - 1)), s, f) for f, s in parts))


def staying(start: Latent, horizon: int) -> Latent:
    """The last frame of Latent (B, T) so many times: Latent (B, H)."""
    return Latent(*(part[:, -1:].expand(-1, horizon, *part.shape[2:]) for part in start))


def check_parts(objective: Any, config: Any, keys: Any) -> None:
    """Raise TypeError unless an agent can be made of these."""
    if isinstance(objective, type) or not callable(objective) or not isinstance(config, MPCConfig):
        raise TypeError(
            f"objective is {objective!r} and config {config!r}, expected an Objective, such as "
            "GoalObjective(), and an MPCConfig"
        )
    if not isinstance(keys, ObservationKeys):
        raise TypeError(f"keys is {keys!r}, expected ObservationKeys(...)")


def actions_within(low: Sequence[float], high: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest float32 action (A,) inside bounds that may be finer."""
    lowest, highest = np.asarray(low, np.float32), np.asarray(high, np.float32)
    up, down = np.nextafter(lowest, np.float32(np.inf)), np.nextafter(highest, np.float32(-np.inf))
    inner = np.where(lowest < low, up, lowest), np.where(highest > high, down, highest)
    none = inner[0] > inner[1]  # where there is no such number, the nearest one
    return np.where(none, lowest, inner[0]), np.where(none, highest, inner[1])


def warn_of_short_proposals(planner: Planner, model: LatentWorldModel, config: MPCConfig) -> None:
    """Tell that the planner would start from sequences of the data, but has none."""
    number, steps, _ = model.proposals.shape
    wanted = getattr(getattr(planner, "config", None), "init", None) in ("proposals", "beam")
    if wanted and number and config.proposals != 0 and steps < config.horizon:
        warnings.warn(
            f"horizon is {config.horizon}, but the model's sequences, where plans may start, have "
            f"{steps} model steps, so that all start from zeros; give a horizon of at most {steps}"
            ", or the planner init='zeros' if that is meant",
            stacklevel=4,
        )


def check_plans(result: PlannerResult, initial: Tensor, planner: Planner) -> None:
    """Raise ValueError unless what a planner returned is of the shape that it was asked for, and
    finite."""
    plans = result.model_actions
    if plans.shape != initial.shape or not bool(torch.isfinite(plans).all()):
        what = "numbers that are not finite" if plans.shape == initial.shape else tuple(plans.shape)
        raise ValueError(
            f"{planner} returned plans of {what}, expected finite ones of {tuple(initial.shape)}"
        )


def planner_from_network(
    planner: Planner, model: LatentWorldModel, config: MPCConfig
) -> Planner | None:
    """What plans from a first guess of the model's initialisation network, which it is given as if
    that were the rest of an earlier plan; None where the planner's settings do not say so. A guess
    gets all steps and starts: those settings of a GradientPlanner that are for warm rows, whose
    plan is good already, are not taken.

    Raises:
        ValueError: they do, and the model has none, or one whose plans are too short.
    """
    settings = getattr(planner, "config", None)
    if getattr(settings, "init", None) != "network":
        return None
    shape = model.config
    if model.initializer is None:
        raise ValueError(
            f"planner has init='network', but the model of {shape.env_id} has no "
            "initialisation network; take init='proposals' or 'zeros'"
        )
    if shape.initializer_steps < config.horizon:
        raise ValueError(
            f"horizon is {config.horizon}, but the initialisation network plans "
            f"{shape.initializer_steps} model steps; give a horizon of at most so many"
        )
    if type(planner) is not GradientPlanner:
        return planner
    alike = replace(planner.config, warm_steps=None, warm_restarts=None, warm_proposals=None)
    return GradientPlanner(alike)
