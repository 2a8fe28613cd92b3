"""Other libraries' solvers as functions of a cost, for benchmark_solvers.py.

Each maker returns `solve(cost) -> plans (B, H, M)` for a cost of B problems; what can be made
before the cost is known is made by the maker, outside of what is timed.
"""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from pytorch_mppi import MPPI
from stable_worldmodel.policy import PlanConfig
from stable_worldmodel.solver import CEMSolver, GradientSolver
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import EnvBase
from torchrl.modules.planners import CEMPlanner

from gbp_agent.types import CostFunction

Solve = Callable[[CostFunction], Tensor]


@dataclass(frozen=True)
class Budget:
    """Sizes of a plan and of a search, on the device of `low`; see benchmark_solvers.Args."""

    problems: int
    horizon: int
    low: Tensor
    high: Tensor
    steps: int
    restarts: int
    learning_rate: float
    samples: int
    iterations: int
    elites: int
    noise_std: float
    temperature: float

    @property
    def width(self) -> int:
        """M."""
        return len(self.low)

    @property
    def device(self) -> torch.device:
        """Where to search."""
        return self.low.device


class Costed:
    """A model of stable-worldmodel's interface that knows nothing but a cost."""

    cost: CostFunction

    def get_cost(self, info: dict[str, Any], candidates: Tensor) -> Tensor:
        """Costs (B, S) of candidates (B, S, H, M)."""
        return self.cost(candidates)


def _stable_worldmodel(solver: Any, model: Costed, budget: Budget) -> Solve:
    box = gym.spaces.Box(-np.inf, np.inf, (budget.problems, budget.width))
    config = PlanConfig(budget.horizon, receding_horizon=budget.horizon)
    solver.configure(action_space=box, n_envs=budget.problems, config=config)

    problem = {"problem": torch.arange(budget.problems, device=budget.device)}
    # Its own zeros would be on the processor.
    zeros = torch.zeros(budget.problems, budget.horizon, budget.width, device=budget.device)

    def solve(cost: CostFunction) -> Tensor:
        model.cost = cost
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its time
            found: Tensor = solver.solve(problem, init_action=zeros)["actions"]
        return found.to(budget.device)  # it hands them out on the processor

    return solve


def stable_worldmodel_gradient(budget: Budget) -> Solve:
    """stable-worldmodel's GradientSolver, with torch's Adam."""
    model = Costed()
    solver = GradientSolver(
        model, budget.steps, num_samples=budget.restarts, optimizer_cls=torch.optim.Adam,
        optimizer_kwargs={"lr": budget.learning_rate}, device=budget.device,
    )  # fmt: skip
    return _stable_worldmodel(solver, model, budget)


def stable_worldmodel_cem(budget: Budget) -> Solve:
    """stable-worldmodel's CEMSolver, with all problems in one batch."""
    model = Costed()
    solver = CEMSolver(
        model, budget.problems, budget.samples, n_steps=budget.iterations, topk=budget.elites,
        device=budget.device,
    )  # fmt: skip
    return _stable_worldmodel(solver, model, budget)


class OneStep(EnvBase):
    """An environment whose action is a whole plan (H·M) and whose reward is minus its cost.

    torchrl's planner steps through an environment and returns the first action of its plan, so
    this is the shortest way to give it a cost of whole plans and to get one back.
    """

    cost: CostFunction

    def __new__(cls, *args: Any, **kwargs: Any) -> "OneStep":
        return super().__new__(cls, *args, _batch_locked=False, **kwargs)  # any number of plans

    def __init__(self, budget: Budget):
        super().__init__(device=budget.device, batch_size=())
        self.plan_shape = (budget.horizon, budget.width)
        low, high = (bound.repeat(budget.horizon) for bound in (budget.low, budget.high))
        where = budget.device
        self.observation_spec = Composite(problem=Unbounded((1,), device=where), device=where)
        self.action_spec = Bounded(low, high, device=where)
        self.reward_spec = Unbounded((1,), device=where)

    def _reset(self, tensordict: Any) -> TensorDict:
        return TensorDict({"problem": torch.zeros(1, device=self.device)}, [])

    def _step(self, tensordict: TensorDict) -> TensorDict:
        plans = tensordict["action"].unflatten(-1, self.plan_shape)
        reward = -self.cost(plans).unsqueeze(-1)
        entries = {"problem": tensordict["problem"], "reward": reward}
        return TensorDict({**entries, "done": reward > 0}, tensordict.batch_size)

    def _set_seed(self, seed: int | None) -> None:
        torch.manual_seed(seed or 0)


def torchrl_cem(budget: Budget) -> Solve:
    """torchrl's CEMPlanner."""
    env = OneStep(budget)
    planner = CEMPlanner(env, 1, budget.iterations, budget.samples, budget.elites)
    known = {"problem": torch.zeros(budget.problems, 1)}
    state = TensorDict(known, [budget.problems], device=budget.device)

    def solve(cost: CostFunction) -> Tensor:
        env.cost = cost
        with torch.no_grad():
            found: Tensor = planner(state.clone())["action"]
        return found.unflatten(-1, env.plan_shape)

    return solve


def pytorch_mppi(budget: Budget) -> Solve:
    """pytorch_mppi's MPPI, which plans for one problem. Its dynamics leave the state as it is, and
    the terminal cost, which is given the actions, is the whole cost."""
    model = Costed()
    solver = MPPI(
        lambda state, action: state,
        lambda state, action: state[:, 0],
        nx=1,
        noise_sigma=torch.eye(budget.width, device=budget.device) * budget.noise_std**2,
        num_samples=budget.samples,
        horizon=budget.horizon,
        lambda_=budget.temperature,
        u_min=budget.low,
        u_max=budget.high,
        terminal_state_cost=lambda states, actions: model.cost(actions),
        device=budget.device,
    )

    def solve(cost: CostFunction) -> Tensor:
        model.cost = cost
        solver.U = torch.zeros(budget.horizon, budget.width, device=budget.device)
        with torch.no_grad():
            for _ in range(budget.iterations):
                solver.command(torch.zeros(1), shift_nominal_trajectory=False)
        return solver.get_action_sequence()[None]

    return solve
