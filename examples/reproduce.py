"""Makes the evidence for finetuning: who plans how well with which model, and why.

    python examples/reproduce.py
    python examples/reproduce.py --tasks wall --stages models table --planners gradient

models       finetunes a shipped model by every method, with two controls; where none is shipped
             it is trained first
table        success of every model with every planner, open loop and MPC
gap          model error along expert trajectories and along the planner's own
landscape    planning cost round the expert's plan, and how fast its gradient turns
plans        what the plans that are found cost the model, beside the expert's
efficiency   success against milliseconds per decision
ablations    radii, attack steps, initialisation of the planner
cards        writes a finetuned model's rows of the table into its model card
figures      PNG and Markdown of all that is there

What is there already is not made again: a killed run goes on with the same command. Everything
takes hours on two processor cores, and one call can do a part of it.
"""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import figures
import gbp_envs  # noqa: F401  (registers gbp/…)
import numpy as np
import torch
import tyro
from candidates import Candidates, Column, play
from comparison import GRADIENT_DESCENT_RATE, METHODS, RADII, SETTINGS, TUNED

from gbp_agent import (
    AdversarialConfig,
    CEMConfig,
    CEMPlanner,
    GradientConfig,
    GradientPlanner,
    MPPIConfig,
    MPPIPlanner,
    Planner,
    WorldModelMPCAgent,
    bootstrap_interval,
    load_checkpoint,
)
from gbp_agent.data.simulate import Simulator
from gbp_agent.gap import from_first_to_last, train_test_gap
from gbp_agent.landscape import cost_slice, gradient_variation
from gbp_agent.planners.common import evaluate
from gbp_agent.types import CostFunction, PlannerResult

Stage = Literal[
    "models", "table", "gap", "landscape", "plans", "efficiency", "ablations", "cards", "figures"
]
STAGES: tuple[Stage, ...] = get_args(Stage)
Mode = Literal["mpc", "open-loop", "continuing"]

LATENT_RADII, ACTION_RADII = (0.0, 0.05, 0.2), (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)  # of ablations
ABLATION_EPISODES, ABLATION_SEED = 100, 100_000  # apart from the held-out episodes
ABLATION_STEPS = 2500
TIMED_EPISODES, TIMED_MODELS = 3, ("base", "online", "adversarial-tuned")
ABLATION_CELLS: tuple[tuple[str, Mode], ...] = (
    ("gradient", "mpc"),
    ("adam", "mpc"),
    ("adam", "open-loop"),
)
CARD_HEADING = "## Closed-loop success"
GAP_WINDOWS, LANDSCAPE_WINDOWS, PLANS_WINDOWS = 512, 64, 128


@dataclass
class Args:
    stages: tuple[Stage, ...] = STAGES
    """What to make."""
    tasks: tuple[str, ...] = tuple(SETTINGS)
    """For which of the tasks in tasks.py."""
    models: tuple[str, ...] = tuple(METHODS)
    """Rows of the table."""
    planners: tuple[str, ...] = ("gd", "adam", "gradient", "cem", "cem-tuned")
    """Columns of the table; see columns() in candidates.py."""
    modes: tuple[Mode, ...] = ("mpc", "open-loop")
    """Planning anew after each model step, acting one plan out, and "continuing": as "mpc" in
    episodes that go on after a success."""
    episodes: int = 200
    """Held-out episodes of a cell of the table."""
    goal_steps: int | None = None
    """Goals of the table where the behaviour policy is that many steps later, with twice as many
    for the agent, instead of the environment's; wants an --out of its own."""
    horizon: int | None = None
    """Model steps of a plan, instead of the model's own number; wants an --out of its own."""
    seed: int = 0
    """Of the finetuning; another one wants --runs and an --out of its own."""
    data: Path = Path("data")
    """Folder of the datasets, one per task, collected where missing."""
    runs: Path = Path("runs/evidence")
    """Folder of the finetuning runs, TASK-METHOD; the models are in their `checkpoint`s."""
    out: Path = Path("results/evidence")
    """Folder of the figures."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to train and to plan."""

    @property
    def candidates(self) -> Candidates:
        return Candidates(self.data, self.runs, self.device, self.horizon, self.seed)

    def models_of(self, task: str) -> tuple[str, ...]:
        """The rows that there are for this task: tuned radii only where they were searched for."""
        return tuple(name for name in self.models if name not in TUNED or task in RADII)


class FromScratch(GradientPlanner):
    """Begins every plan as if there were none to go on with."""

    def __call__(
        self, cost: CostFunction, initial: torch.Tensor, *, warm: torch.Tensor, **rest: Any
    ) -> PlannerResult:
        return super().__call__(
            cost, torch.zeros_like(initial), warm=torch.zeros_like(warm), **rest
        )


@dataclass
class Ledger:
    """Rows of one stage by name, in a JSON file that is written after each of them."""

    file: Path
    rows: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file.exists():
            self.rows = json.loads(self.file.read_text())

    def add(self, name: str, make: Callable[[], Any]) -> None:
        """Make a row that is not there yet."""
        if name in self.rows:
            return
        print(f"{self.file.stem}: {name}", flush=True)
        self.rows[name] = make()
        figures.write(self.file, json.dumps(self.rows, indent=1))


# Stages ------------------------------------------------------------------------------------------


def make_models(args: Args, task: str) -> None:
    args.candidates.train_base(task)
    for name in args.models_of(task):
        if name != "base":
            args.candidates.train(task, name, METHODS[name])


def make_table(args: Args, task: str) -> None:
    columns = {mode: args.candidates.columns(task, mode == "open-loop") for mode in args.modes}
    known = next(iter(columns.values()))
    if unknown := [name for name in args.planners if name not in known]:
        raise SystemExit(f"there are no columns {unknown}, expected some of {list(known)}")
    for name in args.planners:
        for model in args.models_of(task):
            for mode in args.modes:
                open_loop, column = mode == "open-loop", columns[mode][name]
                file = args.out / "table" / f"{task}-{model}-{name}-{mode}.json"
                if file.exists():
                    continue
                print(f"table: {file.stem}", flush=True)
                whole = open_loop or column.whole
                agent = args.candidates.agent(task, model, column.planner, whole, **column.mpc)
                goes_on = mode == "continuing"
                report = play(agent, args.episodes, open_loop, args.goal_steps, goes_on)
                replace(report, agent=f"{model}, {name}").to_json(file)


def make_gap(args: Args, task: str) -> None:
    data = args.candidates.dataset(task)
    ledger = Ledger(args.out / "gap.json")
    column = args.candidates.columns(task, open_loop=True)["adam"]
    with Simulator.of(data, os.cpu_count() or 1) as simulator:
        for model in args.models_of(task):
            agent = acting_agent(args, task, model, column)
            windows = data.windows(
                agent.config.horizon + 1, agent.model.config.frameskip, data.split()[1]
            )

            def measure(agent: Any = agent, windows: Any = windows) -> dict[str, Any]:
                errors = train_test_gap(agent, windows, simulator, count=GAP_WINDOWS)
                return {
                    who: {
                        kind: {**spread(error.mean(1)), "steps": error.mean(0).tolist()}
                        for kind, error in found.items()
                    }
                    for who, found in errors.items()
                }

            ledger.add(f"{task} {model}", measure)


def make_landscape(args: Args, task: str) -> None:
    ledger = Ledger(args.out / "landscape.json")
    for model in args.models_of(task):

        def measure(model: str = model) -> dict[str, Any]:
            agent, observation, expert = expert_problems(args, task, model, LANDSCAPE_WINDOWS)
            first = {key: value[:1] for key, value in observation.items()}
            axis, cost = cost_slice(agent.cost(first), expert[:1], span=2.0, points=41)
            return {
                "gradient_variation": spread(gradient_variation(agent.cost(observation), expert)),
                "axis": [round(v, 3) for v in axis.tolist()],
                "cost": [[round(v, 5) for v in row] for row in cost.tolist()],
            }

        ledger.add(f"{task} {model}", measure)


def make_plans(args: Args, task: str) -> None:
    """What the model says that a plan costs, beside the expert's: dearer ones are the search's
    failure, cheaper ones that do not come true are the model's."""
    ledger = Ledger(args.out / "plans.json")
    columns = args.candidates.columns(task)
    for model in args.models_of(task):
        for name in (name for name in columns if name in args.planners):

            def measure(model: str = model, name: str = name) -> dict[str, float]:
                agent, observation, expert = expert_problems(args, task, model, PLANS_WINDOWS)
                agent = WorldModelMPCAgent(
                    agent.model, columns[name].planner, agent.objective, agent.config
                )
                found = agent.plan(observation).cost
                known = evaluate(agent.cost(observation), expert[:, None])[:, 0]
                return {
                    "windows": len(found),
                    "median": round(float(found.median()), 5),
                    "expert_median": round(float(known.median()), 5),
                    "dearer": float((found > known).double().mean()),
                    "twice_as_dear": float((found > 2 * known).double().mean()),
                }

            ledger.add(f"{task} {model} {name}", measure)


def acting_agent(args: Args, task: str, model: str, column: Column) -> WorldModelMPCAgent:
    """Acts every plan out whole, however little it promises."""
    mpc = {**column.mpc, "dead_band": 0.0}
    return args.candidates.agent(task, model, column.planner, whole=True, **mpc)


def expert_problems(
    args: Args, task: str, model: str, count: int
) -> tuple[WorldModelMPCAgent, dict[str, np.ndarray], torch.Tensor]:
    """An agent, the problems that held-out windows of the data pose, the same for all models, and
    the expert's plans for them (count, H, M)."""
    data, column = args.candidates.dataset(task), args.candidates.columns(task, True)["adam"]
    agent = acting_agent(args, task, model, column)
    frameskip = agent.model.config.frameskip
    windows = data.windows(agent.config.horizon + 1, frameskip, data.split()[1])
    window = windows.batch(np.random.default_rng(0).integers(len(windows), size=count))
    expert = agent.model.action_normalizer.to_model(window["action"].flatten(1, 2), frameskip)
    return agent, from_first_to_last(window), expert.to(agent.device)


def make_efficiency(args: Args, task: str) -> None:
    budgets: dict[str, Planner] = {}
    for steps in (10, 30, 100, 300):
        rate = GRADIENT_DESCENT_RATE[task]
        budgets[f"gd {steps}"] = GradientPlanner(GradientConfig("sgd", rate, steps, "zeros"))
        budgets[f"adam {steps}"] = GradientPlanner(GradientConfig("adam", 0.2, steps, "zeros"))
    for steps in (1, 3, 10, 30):
        budgets[f"cem {steps}"] = CEMPlanner(CEMConfig(iterations=steps, init="zeros"))
        budgets[f"mppi {steps}"] = MPPIPlanner(MPPIConfig(iterations=steps, init="zeros"))
    shipped = args.candidates.columns(task)["gradient"].planner
    for steps in (0, 5, 15, 50):
        config = replace(shipped.config, steps=steps)  # type: ignore[attr-defined]
        budgets[f"gradient {steps}"] = GradientPlanner(config)
    ledger = Ledger(args.out / "efficiency.json")
    for name, planner in budgets.items():
        for model in (name for name in TIMED_MODELS if name in args.models_of(task)):
            agent = args.candidates.agent(task, model, planner, whole=False)
            ledger.add(f"{task} {model} {name}", lambda agent=agent: success_and_time(agent))


def success_and_time(agent: WorldModelMPCAgent) -> dict[str, Any]:
    """Success on held-out episodes; `ms_alone`: median milliseconds per decision of one
    environment, on other episodes."""
    success = play(agent, ABLATION_EPISODES, False).summary()
    alone = play(agent, TIMED_EPISODES, False, seed=ABLATION_SEED, num_envs=1)
    return {**success, "ms_alone": alone.planning.median_ms}


def make_ablations(args: Args, task: str) -> None:
    """On validation episodes, so that settings may be chosen by them."""
    ledger = Ledger(args.out / "ablations.json")
    columns = args.candidates.columns(task)

    def add(name: str, model: str, planner: Planner, open_loop: bool = False) -> None:
        def measure() -> dict[str, Any]:
            mpc = args.candidates.columns(task, open_loop)["adam"].mpc
            agent = args.candidates.agent(task, model, planner, open_loop, **mpc)
            return play(agent, ABLATION_EPISODES, open_loop, seed=ABLATION_SEED).summary()

        ledger.add(f"{task} {name}", measure)

    for name, config in attacks(task).items():
        run = f"ablation-{name.replace(' ', '-')}"
        settings = {"method": "adversarial", "adversarial": config, "steps": ABLATION_STEPS}
        cells = {f"{planner} {mode} {name}": (planner, mode) for planner, mode in ABLATION_CELLS}
        if any(f"{task} {cell}" not in ledger.rows for cell in cells):
            args.candidates.train(task, run, settings)
        for cell, (planner, mode) in cells.items():
            add(cell, run, columns[planner].planner, open_loop=mode == "open-loop")
    base, _ = load_checkpoint(args.candidates.checkpoint(task, "base"))
    starts = {
        f"init {init}": GradientPlanner(GradientConfig("adam", 0.2, 100, init))
        for init in ("zeros", "normal", "network", "proposals")
        if init != "network" or base.initializer is not None
    }
    for name, planner in starts.items():
        add(f"{name} mpc", "base", planner)
        add(f"{name} open loop", "base", planner, open_loop=True)
    add("init zeros, no warm start mpc", "base", FromScratch(starts["init zeros"].config))


def attacks(task: str) -> dict[str, AdversarialConfig]:
    """What is compared, by name: radii, and variants of the tuned attack."""
    found = {
        f"latent {latent:g} action {action:g}": AdversarialConfig(
            visual=latent, proprio=latent, action=action
        )
        for latent in LATENT_RADII
        for action in ACTION_RADII
    }
    tuned = RADII.get(task, AdversarialConfig())
    found["fixed radii"] = replace(tuned, radii="fixed")
    found["attack steps 0"] = replace(tuned, attack_steps=0)
    found["attack steps 3"] = replace(tuned, attack_steps=3)
    return found


def make_cards(args: Args, task: str) -> None:
    for model in args.models_of(task):
        card = Path(args.candidates.checkpoint(task, model)) / "README.md"
        if model == "base" or not card.exists():
            continue
        before = card.read_text(encoding="utf-8").split(CARD_HEADING)[0].rstrip()
        rows = list(figures.card_rows(args.out, task, model))
        figures.write(card, "\n".join([before, "", CARD_HEADING, "", *rows]))


def spread(values: torch.Tensor) -> dict[str, float]:
    """Mean with its bootstrap 95 % interval, and median, of values (N,)."""
    array = values.double().cpu().numpy()
    low, high = bootstrap_interval(array)
    found = {"mean": array.mean(), "low": low, "high": high, "median": np.median(array)}
    return {key: float(f"{value:.6g}") for key, value in found.items()}


def main(args: Args) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if (args.goal_steps, args.horizon, args.seed) != (None, None, 0) and args.out == Args.out:
        raise SystemExit(
            "other goals, horizons or seeds are other rows: name a folder for them with --out"
        )
    if args.seed != 0 and args.runs == Args.runs:
        raise SystemExit("another seed trains other models: name a folder for them with --runs")
    makers = {
        "models": make_models,
        "table": make_table,
        "gap": make_gap,
        "landscape": make_landscape,
        "plans": make_plans,
        "efficiency": make_efficiency,
        "ablations": make_ablations,
        "cards": make_cards,
    }
    for stage, make in makers.items():
        for task in args.tasks if stage in args.stages else ():
            make(args, task)
    if "figures" in args.stages:
        figures.draw(args.out)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
