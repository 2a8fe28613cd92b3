"""Puts every kind of agent through the same held-out episodes: one table, one plot.

    python examples/compare_baselines.py --tasks wall --episodes 50
    python examples/compare_baselines.py --out results   # the shipped table

Random actions, the environment's own behaviour policy, Stable-Baselines3's SAC + HER and PPO on
the simulator's state, behaviour cloning on pictures, and world-model agents on pictures. Writes one
JSON file per row into OUT, by the names of evaluate.py's table, and does not play again what is
there, with however many episodes that was. baselines.md and baselines.png hold the table and the
plot.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gbp_envs  # noqa: F401  (registers gbp/…)
import gymnasium as gym
import matplotlib
import torch
import tyro
from figures import write

from gbp_agent import (
    EvaluationReport,
    RandomAgent,
    WorldModelMPCAgent,
    baseline_names,
    evaluate,
    load_baseline,
    pretrained_names,
    wilson_interval,
)
from gbp_agent.report import short_number

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Task = Literal["pusht", "point_maze", "wall"]
TASKS: dict[Task, str] = {
    "pusht": "gbp/PushT-v0", "point_maze": "gbp/PointMaze-v0", "wall": "gbp/Wall-v0",
}  # fmt: skip
TITLES = {"pusht": "PushT", "point_maze": "PointMaze", "wall": "Wall"}
# Environment steps that world models are trained on: the data's, and what the agent of an online
# model acted out besides (rounds x trajectories x model steps x frameskip).
DATA_STEPS = {"pusht": 400_000, "point_maze": 300_000, "wall": 400_000}
ONLINE_STEPS = {"pusht": 128_000, "point_maze": 64_000, "wall": 80_000}
BASELINES = {"sac": "SAC + HER", "ppo": "PPO", "bc": "behaviour cloning"}
SEES = {"sac": "state", "ppo": "state", "random": "nothing", "behavior": "state, no goal"}
COLORS = {"sac": "#cc6677", "ppo": "#ddaa33", "bc": "#117733"}


@dataclass
class Args:
    tasks: tuple[Task, ...] = ("pusht", "point_maze", "wall")
    """Which environments."""
    planners: tuple[str, ...] = ("gradient", "cem", "gradcem", "mppi")
    """Planners of the world-model agents."""
    episodes: int = 200
    """Held-out episodes, the same for every agent."""
    num_envs: int = 50
    """Environments that are played, and decided for, at once."""
    threads: int | None = None
    """Processor threads of PyTorch."""
    out: Path = Path("runs/baselines")
    """Folder of the JSON files, the table and the plot."""


class Behavior(gym.Wrapper):
    """Acts by itself, as the data's agent does; it knows no goal."""

    def step(self, action: Any) -> Any:
        """The action is not used."""
        simulator: Any = self.unwrapped
        return self.env.step(simulator.behavior_action())


def behavior_id(env_id: str) -> str:
    """The id of an environment that acts by itself, registered here."""
    name = f"behavior/{env_id.split('/')[-1]}"
    if name not in gym.registry:
        gym.register(name, lambda **options: Behavior(gym.make(env_id, **options)))
    return name


@dataclass(frozen=True)
class Row:
    """An agent of the table."""

    task: Task
    key: str
    name: str
    sees: str = "pictures"
    env_steps: int = 0


def rows(task: Task, args: Args) -> Iterator[Row]:
    """What there is for a task."""
    yield Row(task, "random", "random", SEES["random"])
    yield Row(task, "behavior", "behaviour policy", SEES["behavior"])
    for kind, name in BASELINES.items():
        if f"{task}-{kind}" in baseline_names():
            _, about = load_baseline(f"{task}-{kind}")
            yield Row(task, kind, name, SEES.get(kind, "pictures"), about["env_steps"])
    for model, more in (("", 0), ("online", ONLINE_STEPS.get(task, 0))):
        if "-".join(filter(None, (task, model))) not in pretrained_names():
            continue
        for planner in args.planners if not model else args.planners[:1]:
            name = f"world model{', ' + model if model else ''}: {planner}"
            key = "-".join(filter(None, (model, planner)))
            yield Row(task, key, name, env_steps=DATA_STEPS[task] + more)


def play(row: Row, args: Args) -> EvaluationReport:
    """Evaluate one agent."""
    env_id = TASKS[row.task]
    agent: Any
    options: dict[str, Any] = {}
    if row.key == "random":
        agent = RandomAgent.for_env(env_id)
    elif row.key == "behavior":
        env_id, options = behavior_id(env_id), {"obs_type": "state"}
        agent = RandomAgent.for_env(env_id, **options)
    elif row.key in BASELINES:
        agent, about = load_baseline(f"{row.task}-{row.key}")
        options = about["env_kwargs"]
    else:
        model, _, planner = f"{row.task}-{row.key}".rpartition("-")
        agent = WorldModelMPCAgent.from_pretrained(model, planner)
    report = evaluate(agent, env_id, args.episodes, num_envs=args.num_envs, **options)
    return replace(report, agent=row.name, env_id=TASKS[row.task])


def compare(args: Args) -> dict[Row, EvaluationReport]:
    """Every row, from its file where there is one."""
    found = {}
    for task in args.tasks:
        for row in rows(task, args):
            file = args.out / f"{task}-{row.key}.json"
            if not file.exists():
                play(row, args).to_json(file)
            found[row] = EvaluationReport.from_json(file)
    return found


def table(found: dict[Row, EvaluationReport]) -> Iterator[str]:
    """Markdown lines."""
    yield (
        "| task | agent | sees | success, % (95 % interval) | episodes "
        "| environment steps for training | ms per decision |"
    )
    yield "|---|---|---|---|---|---|---|"
    for row, report in found.items():
        low, high = report.interval
        yield (
            f"| {TITLES[row.task]} | {row.name} | {row.sees} "
            f"| {100 * report.success_rate:.1f} ({100 * low:.0f}–{100 * high:.0f}) "
            f"| {len(report.episodes)} | {row.env_steps:,} "
            f"| {short_number(report.planning.median_ms)} |"
        )


def draw(found: dict[Row, EvaluationReport], file: Path) -> None:
    """Success against environment steps: learning curves, and world models where their data end."""
    tasks = list(dict.fromkeys(row.task for row in found))
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(4.4 * len(tasks), 3.6), squeeze=False, layout="constrained"
    )
    for axis, task in zip(axes[0], tasks, strict=True):
        for row, report in found.items():
            if row.task != task or row.key in ("random", "behavior"):
                continue
            if row.key in BASELINES:
                error_line(axis, row, load_baseline(f"{task}-{row.key}")[1]["curve"])
            elif row.key.endswith("gradient"):
                rate, (low, high) = report.success_rate, report.interval
                axis.errorbar(
                    row.env_steps, rate, [[rate - low], [high - rate]], fmt="*", ms=10, capsize=2,
                    color="#88ccee" if row.key == "gradient" else "#223377", label=row.name,
                )  # fmt: skip
        random = found[Row(task, "random", "random", SEES["random"])].success_rate
        axis.axhline(random, color="#999999", lw=1, ls=":", label="random")
        axis.set(title=TITLES[task], xlabel="environment steps for training", ylabel="success")
        axis.set(ylim=(-0.03, 1.03), xlim=(0, None))
        axis.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:g}k")
        axis.legend(fontsize=7)
    temporary = file.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=110)
    temporary.replace(file)
    plt.close(figure)


def error_line(axis: Any, row: Row, curve: list[dict[str, Any]]) -> None:
    """A baseline's learning curve with Wilson intervals."""
    rate = [point["success_rate"] for point in curve]
    bounds = [
        wilson_interval(round(p["success_rate"] * p["episodes"]), p["episodes"]) for p in curve
    ]
    error = [[r - low for r, (low, _) in zip(rate, bounds, strict=True)],
             [high - r for r, (_, high) in zip(rate, bounds, strict=True)]]  # fmt: skip
    axis.errorbar(
        [point["env_steps"] for point in curve], rate, error, fmt="o-", ms=3, lw=1.2, capsize=2,
        color=COLORS[row.key], label=row.name,
    )  # fmt: skip


def main(args: Args) -> None:
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    found = compare(args)
    lines = list(table(found))
    write(args.out / "baselines.md", "\n".join(lines))
    draw(found, args.out / "baselines.png")
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
