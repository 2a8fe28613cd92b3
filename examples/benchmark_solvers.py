"""Times our planners against the solvers of other libraries, on the same cost with the same budget.

    pip install 'gbp_agent[benchmark]'
    python examples/benchmark_solvers.py --json results/benchmark-solvers.json

stable-worldmodel's GradientSolver and CEMSolver, torchrl's CEMPlanner and pytorch_mppi's MPPI,
which plans for one problem at a time. All start from zero, without proposals, and see nothing but a
cost function. Three costs are timed: the shipped model's, as our agent gives it to its planners,
where what differs is small beside the model's arithmetic; the same numbers as PyTorch's modules
compute them one after the other, which is what a solver meets that does not come with its model,
for the others alone; and a parabola, which is all but free, so that the planner's own share is
left.

Times are processor seconds of this process, which other programs disturb less than the clock's; on
a GPU (`--device cuda`), which works on its own, seconds of the clock. The compared ones take turns;
ratios are theirs to ours, of medians. The model's cost is the mean over problems of what the found
plan costs within the bounds, since no other can be acted out.
"""

import json
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import benchmark_patch
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
    GoalObjective,
    GradientConfig,
    GradientPlanner,
    MPCConfig,
    MPPIConfig,
    MPPIPlanner,
    Planner,
    WorldModelMPCAgent,
)
from gbp_agent.graphs import RECORD_AT, CostGraphs
from gbp_agent.mpc import uses_cuda_graphs
from gbp_agent.planners.common import evaluate
from gbp_agent.report import machine, write_text
from gbp_agent.types import CostFunction
from gbp_agent.vector import VectorWorldModel

Costs = dict[str, CostFunction]
GIVEN, MODULES = "given", "modules"
OURS = ("gradient", "cem", "mppi")
PACKAGES = ("stable-worldmodel", "torchrl", "tensordict", "pytorch-mppi")


@dataclass
class Args:
    agent: str = "pusht"
    """Shipped model's name or checkpoint folder; "dino-wm" for random weights of DINO-WM's size."""
    problems: int = 16
    """Problems that are solved one by one."""
    batch: int = 25
    """Problems that are solved at once, by those that can; 0 leaves this part out."""
    batch_repeats: int = 9
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
    device: str = "cpu"
    """Where to search."""
    json: Path | None = None
    """Also write the figures there."""


def load(name: str, device: str) -> WorldModelMPCAgent:
    """The agent whose cost is searched."""
    if name != "dino-wm":
        return WorldModelMPCAgent.from_pretrained(name, device=device)
    size = benchmark_patch.Args(device=device)
    config = MPCConfig(size.horizon, precision="auto")
    model = benchmark_patch.random_model(size)
    return WorldModelMPCAgent(model, "gradient", GoalObjective(), config)


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
    """A planner as a function of a cost; what else it takes is made before, as for the others."""
    given = {
        "warm": torch.zeros(problems, dtype=torch.bool, device=low.device),
        "proposals": low.new_zeros(0, horizon, len(low)),
        "low": low,
        "high": high,
        "generator": torch.Generator(low.device).manual_seed(0),
    }
    zeros = low.new_zeros(problems, horizon, len(low))
    return lambda cost: planner(cost, zeros, **given).model_actions


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


def as_given_to_planners(agent: WorldModelMPCAgent) -> WorldModelMPCAgent:
    """The agent, with a `cost` that is what its planners see: on a GPU one of CUDA graphs."""
    twin = WorldModelMPCAgent(agent.model, agent.planner, agent.objective, agent.config)
    if uses_cuda_graphs(agent.config, agent.objective, agent.device):
        twin.cost_of = CostGraphs(agent.cost_of)  # type: ignore[method-assign]
    return twin


def by_modules(agent: WorldModelMPCAgent) -> WorldModelMPCAgent:
    """The agent of a VectorWorldModel, rolled out by PyTorch's modules."""
    model = deepcopy(agent.model)
    predictor: Any = model.predictor
    predictor.unroll = predictor.unroll_by_modules
    return WorldModelMPCAgent(model, agent.planner, agent.objective, agent.config)


def clock(device: torch.device) -> float:
    """Seconds that this process has worked or, where a GPU does, of the clock."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def timed(
    solvers: dict[str, Any], problems: list[Callable[[], Costs]], device: torch.device
) -> dict[tuple[str, str], float]:
    """Median milliseconds of each solver on each problem in turn, after those that warm up, for
    both kinds of its cost, ours for the first alone; every other turn goes backwards, so that none
    always comes after the same one. Costs are made as they are needed, since CUDA graphs serve one
    problem at a time; what a solver calls once per problem is recorded at its third."""
    spent: dict[tuple[str, str], list[float]] = {}
    warm_up = 1 if device.type == "cpu" else RECORD_AT
    for turn, make in enumerate([*problems[:1] * warm_up, *problems]):
        costs = make()
        runs = [(name, kind) for name in solvers for kind in costs]
        runs = [(name, kind) for name, kind in runs if kind == GIVEN or name not in OURS]
        for name, kind in runs[:: -1 if turn % 2 else 1]:
            begun = clock(device)
            solvers[name](costs[kind])
            spent.setdefault((name, kind), []).append(1000 * (clock(device) - begun))
    return {run: statistics.median(times[warm_up:]) for run, times in spent.items()}


def compare(args: Args, agent: WorldModelMPCAgent, problems: int) -> dict[str, dict[str, float]]:
    """Milliseconds, costs and ratios of every solver with so many problems at once."""
    observations = []
    shape = agent.model.config
    drawn = {"image_size": shape.image_size} if shape.env_id.startswith("gbp/") else {}
    with gym.make(shape.env_id, **drawn) as env:
        for row in range(args.problems if problems == 1 else problems):
            observations.append(env.reset(seed=args.first_seed + row)[0])
    if problems > 1:
        stacked = {key: np.stack([o[key] for o in observations]) for key in observations[0]}
        observations = [stacked] * args.batch_repeats
    solvers = solvers_for(args, agent, problems)
    costed = {GIVEN: as_given_to_planners(agent)}
    if isinstance(agent.model, VectorWorldModel):  # others are rolled out by modules in any case
        costed[MODULES] = by_modules(agent)

    def costs_of(observation: Any) -> Costs:
        return {kind: twin.cost(observation) for kind, twin in costed.items()}

    ms = timed(solvers, [partial(costs_of, o) for o in observations], agent.device)
    free = [lambda: {GIVEN: parabola}] * 2 * len(observations)
    planner_ms = timed(solvers, free, agent.device)
    costs = [agent.cost(observation) for observation in observations]
    figures: dict[str, dict[str, float]] = {}
    for name, solve in solvers.items():
        plans = [solve(cost).clamp(*bounds(agent))[:, None] for cost in costs]
        found = [float(evaluate(c, plan).mean()) for c, plan in zip(costs, plans, strict=True)]
        reference, own = (name.split()[-1], GIVEN), (name, GIVEN)
        figures[name] = {
            "ms": ms[own],
            "ratio": ms[own] / ms[reference],
            "planner_ms": planner_ms[own],
            "planner_ratio": planner_ms[own] / planner_ms[reference],
            "cost": statistics.fmean(found),
        }
        if (name, MODULES) in ms:
            figures[name]["modules_ms"] = ms[name, MODULES]
            figures[name]["modules_ratio"] = ms[name, MODULES] / ms[reference]
    return figures


def main(args: Args) -> None:
    try:
        import foreign_solvers  # noqa: F401
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}; pip install 'gbp_agent[benchmark]'") from None
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)  # some of the solvers draw from torch's own generator
    agent = load(args.agent, args.device)
    settings = {k: v for k, v in asdict(args).items() if k != "json"}
    figures: dict[str, Any] = {
        "machine": machine(), "versions": {name: version(name) for name in PACKAGES},
        "settings": settings, "batches": {},
    }  # fmt: skip
    print(f"{figures['machine']}, {args.threads} thread(s); {figures['versions']}\n")
    print("| solver | problems at once | ms | theirs/ours | by modules | theirs/ours "
          "| without the model | theirs/ours | cost |\n|---|---|---|---|---|---|---|---|---|"
    )  # fmt: skip
    for problems in (1, args.batch) if args.batch else (1,):
        found = figures["batches"][str(problems)] = compare(args, agent, problems)
        for name, row in found.items():
            slow = "| – | –"
            if "modules_ms" in row:
                slow = f"| {row['modules_ms']:.0f} | {row['modules_ratio']:.2f}"
            print(
                f"| {name} | {problems} | {row['ms']:.0f} | {row['ratio']:.2f} {slow} "
                f"| {row['planner_ms']:.1f} | {row['planner_ratio']:.2f} | {row['cost']:.4f} |",
                flush=True,
            )
    if args.json is not None:
        write_text(args.json, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
