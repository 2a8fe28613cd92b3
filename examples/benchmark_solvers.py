"""Times our planners against the solvers of other libraries, on the same cost with the same budget.

    pip install 'gbp_agent[benchmark]'
    python examples/benchmark_solvers.py --json results/benchmark-solvers.json

stable-worldmodel's GradientSolver and CEMSolver, torchrl's CEMPlanner and pytorch_mppi's MPPI,
which plans for one problem at a time. All start from zero, without proposals, and see the agent's
cost function alone. Two costs are timed: the shipped model's, where what differs is small beside
the model's arithmetic, and a parabola, which is all but free, so that the planner's own share is
left.

Times are processor seconds of this process, which other programs disturb less than the clock's. The
compared ones take turns; ratios are theirs to ours, of medians. The model's cost is the mean over
problems of what the found plan costs within the bounds, since no other can be acted out.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gbp_envs  # noqa: F401  (registers gbp/…)
import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor

from gbp_agent import (
    EVALUATION_SEEDS_BEGIN,
    CEMConfig,
    CEMPlanner,
    GradientConfig,
    GradientPlanner,
    MPPIConfig,
    MPPIPlanner,
    Planner,
    WorldModelMPCAgent,
)
from gbp_agent.planners.common import evaluate
from gbp_agent.report import machine, write_text
from gbp_agent.types import CostFunction

PACKAGES = ("stable-worldmodel", "torchrl", "tensordict", "pytorch-mppi")


@dataclass
class Args:
    agent: str = "pusht"
    """Shipped model's name or checkpoint folder."""
    problems: int = 8
    """Problems that are solved one by one."""
    batch: int = 25
    """Problems that are solved at once, by those that can; 0 leaves this part out."""
    batch_repeats: int = 3
    """Times that the batch is solved."""
    first_seed: int = EVALUATION_SEEDS_BEGIN + 100_000
    """Of the problems."""
    steps: int = 30
    """Gradient steps."""
    restarts: int = 4
    """Plans that gradient solvers improve side by side."""
    learning_rate: float = 0.2
    """Adam's."""
    samples: int = 100
    """Plans per iteration of CEM and MPPI."""
    iterations: int = 10
    """Of CEM and MPPI."""
    elites: int = 10
    """Of CEM."""
    noise_std: float = 0.5
    """Of MPPI's samples."""
    temperature: float = 0.0003
    """Of MPPI, in units of the cost; the best of 0.3, 0.1, 0.03 … 0.0003 on other problems."""
    threads: int = 1
    """Processor threads of PyTorch."""
    json: Path | None = None
    """Also write the figures there."""


def our_planners(args: Args) -> dict[str, Planner]:
    """Ours with the settings that the others have."""
    gradient = GradientConfig(
        learning_rate=args.learning_rate, steps=args.steps, init="zeros", restarts=args.restarts,
        noise_std=0.0,
    )  # fmt: skip
    cem = CEMConfig(args.samples, args.iterations, args.elites, init="zeros")
    mppi = MPPIConfig(
        args.samples, args.iterations, init="zeros", temperature=args.temperature,
        noise_std=args.noise_std, normalize=False,
    )  # fmt: skip
    return {
        "gradient": GradientPlanner(gradient), "cem": CEMPlanner(cem), "mppi": MPPIPlanner(mppi),
    }  # fmt: skip


def our_solve(planner: Planner, problems: int, horizon: int, low: Tensor, high: Tensor) -> Any:
    """A planner as a function of a cost."""

    def solve(cost: CostFunction) -> Tensor:
        return planner(
            cost,
            low.new_zeros(problems, horizon, len(low)),
            warm=torch.zeros(problems, dtype=torch.bool),
            proposals=low.new_zeros(0, horizon, len(low)),
            low=low,
            high=high,
            generator=torch.Generator().manual_seed(0),
        ).model_actions

    return solve


def bounds(agent: WorldModelMPCAgent) -> tuple[Tensor, Tensor]:
    """Lowest and highest model action, (M,) each."""
    shape = agent.model.config
    space = (np.asarray(bound, np.float32) for bound in (shape.action_low, shape.action_high))
    limit = agent.config.action_limit
    return agent.model.action_normalizer.bounds(*space, shape.frameskip, limit)


def solvers_for(args: Args, agent: WorldModelMPCAgent, problems: int) -> dict[str, Any]:
    """Name → solve(cost), ours and theirs."""
    import foreign_solvers as foreign  # needs packages that --help does without

    horizon, (low, high) = agent.config.horizon, bounds(agent)
    taken = {k: getattr(args, k) for k in foreign.Budget.__dataclass_fields__ if hasattr(args, k)}
    budget = foreign.Budget(**{**taken, "problems": problems}, horizon=horizon, low=low, high=high)
    solvers: dict[str, Callable[[CostFunction], Tensor]] = {
        name: our_solve(planner, problems, horizon, low, high)
        for name, planner in our_planners(args).items()
    }
    solvers["stable-worldmodel gradient"] = foreign.stable_worldmodel_gradient(budget)
    solvers["stable-worldmodel cem"] = foreign.stable_worldmodel_cem(budget)
    solvers["torchrl cem"] = foreign.torchrl_cem(budget)
    if problems == 1:
        solvers["pytorch_mppi mppi"] = foreign.pytorch_mppi(budget)
    else:
        del solvers["mppi"]
    return solvers


def parabola(plans: Tensor) -> Tensor:
    """Squared distance of plans (B, S, H, M) to 1, all but free."""
    return (plans - 1.0).square().mean((-2, -1))


def timed(solvers: dict[str, Any], costs: list[CostFunction]) -> dict[str, list[float]]:
    """Milliseconds of each solver on each cost in turn, after one that warms up; every other turn
    goes backwards, so that none always comes after the same one."""
    spent: dict[str, list[float]] = {name: [] for name in solvers}
    for turn, cost in enumerate([costs[0], *costs]):
        for name, solve in list(solvers.items())[:: -1 if turn % 2 else 1]:
            begun = time.process_time()
            solve(cost)
            spent[name].append(1000 * (time.process_time() - begun))
    return {name: times[1:] for name, times in spent.items()}


def compare(args: Args, agent: WorldModelMPCAgent, problems: int) -> dict[str, dict[str, float]]:
    """Milliseconds, costs and ratios of every solver with so many problems at once."""
    observations = []
    with gym.make(agent.model.config.env_id) as env:
        for row in range(args.problems if problems == 1 else problems):
            observations.append(env.reset(seed=args.first_seed + row)[0])
    if problems > 1:
        stacked = {key: np.stack([o[key] for o in observations]) for key in observations[0]}
        observations = [stacked] * args.batch_repeats
    costs = [agent.cost(observation) for observation in observations]
    solvers = solvers_for(args, agent, problems)
    model_ms, planner_ms = timed(solvers, costs), timed(solvers, [parabola] * 2 * len(costs))
    figures: dict[str, dict[str, float]] = {}
    for name, solve in solvers.items():
        plans = [solve(cost).clamp(*bounds(agent))[:, None] for cost in costs]
        found = [float(evaluate(c, plan).mean()) for c, plan in zip(costs, plans, strict=True)]
        ours = name.split()[-1]
        figures[name] = {
            "ms": statistics.median(model_ms[name]),
            "ratio": statistics.median(model_ms[name]) / statistics.median(model_ms[ours]),
            "planner_ms": statistics.median(planner_ms[name]),
            "planner_ratio": statistics.median(planner_ms[name])
            / statistics.median(planner_ms[ours]),
            "cost": statistics.fmean(found),
        }
    return figures


def main(args: Args) -> None:
    try:
        import foreign_solvers  # noqa: F401
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}; pip install 'gbp_agent[benchmark]'") from None
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)  # some of the solvers draw from torch's own generator
    agent = WorldModelMPCAgent.from_pretrained(args.agent)
    settings = {k: v for k, v in asdict(args).items() if k != "json"}
    figures: dict[str, Any] = {
        "machine": machine(), "versions": {name: version(name) for name in PACKAGES},
        "settings": settings, "batches": {},
    }  # fmt: skip
    print(f"{figures['machine']}, {args.threads} thread(s); {figures['versions']}\n")
    print("| solver | problems at once | ms | theirs/ours | ms without the model | theirs/ours "
          "| cost |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for problems in (1, args.batch) if args.batch else (1,):
        found = figures["batches"][str(problems)] = compare(args, agent, problems)
        for name, row in found.items():
            print(
                f"| {name} | {problems} | {row['ms']:.0f} | {row['ratio']:.2f} "
                f"| {row['planner_ms']:.1f} | {row['planner_ratio']:.2f} | {row['cost']:.4f} |",
                flush=True,
            )
    if args.json is not None:
        write_text(args.json, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
