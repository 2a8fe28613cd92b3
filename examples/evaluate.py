"""Evaluates an agent on held-out episodes, or makes the table of all tasks and agents.

    python examples/evaluate.py --agent pusht --planner gradient
    python examples/evaluate.py --agent runs/wall/checkpoint --planner cem --open-loop
    python examples/evaluate.py --agent random --env-id gbp/PointMaze-v0
    python examples/evaluate.py --table

Writes JSON and CSV into results/. Rows of the table that are there already are not run again.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gbp_envs  # noqa: F401  (registers gbp/…)
import torch
import tyro

from gbp_agent import EvaluationReport, MPCConfig, RandomAgent, WorldModelMPCAgent, evaluate

# The table: shipped model → environment, and what is compared on each of them.
TASKS = {"pusht": "gbp/PushT-v0", "point_maze": "gbp/PointMaze-v0", "wall": "gbp/Wall-v0"}
ROWS = (
    ("gradient", False),
    ("cem", False),
    ("gradient", True),
    ("cem", True),
    ("random", False),
)  # planner or "random", open loop


@dataclass
class Args:
    agent: str = "pusht"
    """A shipped model's name, a checkpoint folder, hf://owner/repo, or "random"."""
    planner: str = "gradient"
    """gradient, cem, gradcem or mppi, with the settings that the checkpoint has for it."""
    env_id: str | None = None
    """Environment; the one that the model was trained for by default."""
    open_loop: bool = False
    """Plan once and act the whole plan out; the episode ends with it."""
    execute: int | None = None
    """Model steps that are acted out before the next plan, instead of the checkpoint's."""
    episodes: int = 200
    """Held-out episodes, the same for every agent."""
    seed: int = 0
    """The first of them."""
    num_envs: int = 50
    """Environments played, and planned for, at once."""
    device: str = "cpu"
    """Where to plan."""
    threads: int | None = None
    """Processor threads of PyTorch."""
    video: Path | None = None
    """Also write an mp4 of the first few episodes."""
    out: Path = Path("results")
    """Folder of the JSON and CSV files."""
    table: bool = False
    """Run every task with every agent of ROWS in this file and print the table; `agent`,
    `planner`, `env_id`, `open_loop` and `execute` are then unused."""


def evaluate_one(args: Args) -> EvaluationReport:
    """Evaluate what `args` says."""
    agent: Any
    env_id, label, plan_steps = args.env_id, "random", 25
    if args.agent != "random":
        agent = load_agent(args)
        label = f"{args.planner} {'open loop' if args.open_loop else 'MPC'}"
        env_id = env_id or agent.model.config.env_id
        plan_steps = agent.config.horizon * agent.model.config.frameskip
    elif env_id is None:
        raise SystemExit('agent "random" knows no environment; give --env-id')
    else:
        agent = RandomAgent.for_env(env_id)
    env_kwargs: dict[str, Any] = {"max_episode_steps": plan_steps} if args.open_loop else {}
    report = evaluate(
        agent, env_id, args.episodes, args.seed, args.num_envs, args.video, **env_kwargs
    )
    return replace(report, agent=label)


def load_agent(args: Args) -> WorldModelMPCAgent:
    """The agent that `args` says, with its checkpoint's settings where it says nothing."""
    agent = WorldModelMPCAgent.from_pretrained(args.agent, args.planner, args.device)
    execute = agent.config.horizon if args.open_loop else args.execute
    if execute is None:
        return agent
    config: MPCConfig = replace(agent.config, execute=execute)
    return WorldModelMPCAgent.from_pretrained(args.agent, args.planner, args.device, config=config)


def save(report: EvaluationReport, out: Path, name: str) -> None:
    """Write the report and its episodes."""
    report.to_json(out / f"{name}.json")
    report.to_csv(out / f"{name}.csv")


def table(args: Args) -> list[EvaluationReport]:
    """Every row, from its file where there is one."""
    reports = []
    for task, env_id in TASKS.items():
        for planner, open_loop in ROWS:
            name = f"{task}-{planner}{'-open-loop' if open_loop else ''}"
            file = args.out / f"{name}.json"
            if not file.exists():
                agent = "random" if planner == "random" else task
                one = replace(
                    args, agent=agent, planner=planner, env_id=env_id, open_loop=open_loop,
                    execute=None, video=None,
                )  # fmt: skip
                save(evaluate_one(one), args.out, name)
            reports.append(EvaluationReport.from_json(file))
    return reports


def main(args: Args) -> None:
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.table:
        reports = table(args)
    else:
        report = evaluate_one(args)
        source = Path(args.agent).name if args.agent != "random" else report.env_id.split("/")[-1]
        source = Path(args.agent).parent.name if source == "checkpoint" else source
        name = f"{source}-{report.agent.replace(' ', '-')}".lower()
        save(report, args.out, name)
        print(f"{report}\n{args.out / name}.json, .csv\n")
        reports = [report]
    print(EvaluationReport.markdown_header())
    for report in reports:
        print(report.markdown_row())


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
