"""Evaluates an agent on held-out episodes, or makes the table of all tasks and agents.

    python examples/evaluate.py --agent pusht --planner gradient
    python examples/evaluate.py --agent runs/wall/checkpoint --planner cem --open-loop
    python examples/evaluate.py --agent random --env-id gbp/PointMaze-v0
    python examples/evaluate.py --agent wall --episodes 20 --report out
    python examples/evaluate.py --agent wall --seed 100000 --settings gradient.steps=5 mpc.horizon=4
    python examples/evaluate.py --table

Writes JSON and CSV into results/. Rows of the table that are there already are not run again. With
--report also a web page, out/index.html, with plots and with clips of successes and failures.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gbp_envs  # noqa: F401  (registers gbp/…)
import torch
import tyro

from gbp_agent import (
    EvaluationReport,
    NoOpAgent,
    RandomAgent,
    WorldModelMPCAgent,
    evaluate,
)
from gbp_agent.clips import EpisodeRecorder, clips_again
from gbp_agent.page import Section, write_page

# The table: shipped model → environment, and what is compared on each of them.
TASKS = {"pusht": "gbp/PushT-v0", "point_maze": "gbp/PointMaze-v0", "wall": "gbp/Wall-v0"}
BLIND = {"random": RandomAgent, "no-op": NoOpAgent}
ROWS = (
    ("gradient", False),
    ("cem", False),
    ("gradient", True),
    ("cem", True),
    ("random", False),
    ("no-op", False),
)  # planner or name in BLIND, open loop


@dataclass
class Args:
    agent: str = "pusht"
    """A shipped model's name, a checkpoint folder, hf://owner/repo, "random" or "no-op"."""
    planner: str = "gradient"
    """gradient, cem, gradcem or mppi, with the settings that the checkpoint has for it."""
    env_id: str | None = None
    """Environment; the one that the model was trained for by default."""
    open_loop: bool = False
    """Plan once and act the whole plan out; the episode ends with it."""
    continuing: bool = False
    """Episodes go on after a success, to the end of their steps; for the envs of this library."""
    execute: int | None = None
    """Model steps that are acted out before the next plan, instead of the checkpoint's."""
    settings: tuple[str, ...] = ()
    """Settings of planning instead of the checkpoint's, each as WHERE.NAME=VALUE: where is mpc,
    objective or a planner's name, and the value is JSON or else text. Choose them on other episodes
    than those that are reported: --seed 100000."""
    episodes: int = 200
    """Held-out episodes, the same for every agent."""
    seed: int = 0
    """The first of them; those of the tables are from 0 on."""
    num_envs: int = 50
    """Environments played, and planned for, at once."""
    device: str = "cpu"
    """Where to plan."""
    threads: int | None = None
    """Processor threads of PyTorch."""
    video: Path | None = None
    """Also write an mp4 of the first few episodes."""
    report: Path | None = None
    """Also write index.html into this folder: results, plots, clips of episodes, settings."""
    clips: int = 2
    """Successes, and failures, of each agent that the page shows. For rows of the table that are
    read from a file they are played again, which takes its time; 0 for none."""
    out: Path = Path("results")
    """Folder of the JSON and CSV files."""
    table: bool = False
    """Run every task with every agent of ROWS in this file and print the table; `agent`,
    `planner`, `env_id`, `open_loop`, `continuing` and `execute` are then unused."""


def evaluate_one(args: Args, name: str = "") -> Section:
    """Evaluate what `args` says and write its files; clips are made for --report alone."""
    agent, env_id, label, plan_steps = make_agent(args)
    env_kwargs: dict[str, Any] = {"max_episode_steps": plan_steps} if args.open_loop else {}
    env_kwargs |= {"continuing_task": True} if args.continuing else {}
    recorder = EpisodeRecorder(args.clips if args.report else 0)
    report = evaluate(
        agent, env_id, args.episodes, args.seed, args.num_envs, args.video, recorder=recorder,
        **env_kwargs,
    )  # fmt: skip
    report = replace(report, agent=label)
    name = name or name_of(args, report)
    save(report, args.out, name)
    return Section(name, report, recorder.clips(agent, report))


def make_agent(args: Args) -> tuple[Any, str, str, int]:
    """The agent that `args` says, its environment, a label for it, and the steps of its plans."""
    if args.agent not in BLIND:
        agent = load_agent(args)
        label = f"{args.planner} {'open loop' if args.open_loop else 'MPC'}"
        label = ", ".join((label, *args.settings))
        plan_steps = agent.config.horizon * agent.model.config.frameskip
        return agent, args.env_id or agent.model.config.env_id, label, plan_steps
    if args.env_id is None:
        raise SystemExit(f'agent "{args.agent}" knows no environment; give --env-id')
    return BLIND[args.agent].for_env(args.env_id), args.env_id, args.agent, 25


def load_agent(args: Args) -> WorldModelMPCAgent:
    """The agent that `args` says, with its checkpoint's settings where it says nothing."""
    settings = dict(map(parsed, args.settings))
    try:
        agent = WorldModelMPCAgent.from_pretrained(
            args.agent, args.planner, args.device, settings=settings, open_loop=args.open_loop
        )
        if args.open_loop or args.execute is None:
            return agent
        config = replace(agent.config, execute=args.execute)
        return WorldModelMPCAgent(agent.model, agent.planner, agent.objective, config, agent.keys)
    except (TypeError, ValueError) as error:
        raise SystemExit(f"{args.agent} cannot be played so: {error}") from error


def parsed(setting: str) -> tuple[str, Any]:
    """WHERE.NAME=VALUE as a name and a value, which is text unless it is JSON."""
    path, found, text = setting.partition("=")
    if not found or not text:
        raise SystemExit(
            f"--settings has {setting!r}, expected WHERE.NAME=VALUE; such as gradient.steps=50"
        )
    try:
        return path, json.loads(text)
    except json.JSONDecodeError:
        return path, text


def name_of(args: Args, report: EvaluationReport) -> str:
    """Names the files: the model, or the environment of a blind agent, the label, another seed."""
    source = source_of(args.agent, report.env_id)
    end = f"-seed-{args.seed}" if args.seed else ""
    end += "-continuing" if args.continuing else ""
    return f"{source}-{report.agent.replace(', ', '-').replace(' ', '-')}{end}".lower()


def source_of(agent: str, env_id: str) -> str:
    """The name of a model, of the folder that its checkpoint is in, or of a blind agent's env."""
    source = Path(agent if agent not in BLIND else env_id)
    return source.parent.name if source.name == "checkpoint" else source.name


def save(report: EvaluationReport, out: Path, name: str) -> None:
    """Write the report and its episodes."""
    report.to_json(out / f"{name}.json")
    report.to_csv(out / f"{name}.csv")


def table(args: Args) -> list[Section]:
    """Every row, from its file where there is one."""
    sections = []
    for task, env_id in TASKS.items():
        for planner, open_loop in ROWS:
            name = f"{task}-{planner}{'-open-loop' if open_loop else ''}"
            agent = planner if planner in BLIND else task
            one = replace(
                args, agent=agent, planner=planner, env_id=env_id, open_loop=open_loop,
                continuing=False, execute=None, video=None,
            )  # fmt: skip
            file = args.out / f"{name}.json"
            sections.append(read_one(one, file) if file.exists() else evaluate_one(one, name))
    return sections


def read_one(args: Args, file: Path) -> Section:
    """An evaluation from its file; for --report some of its episodes are played again."""
    report = EvaluationReport.from_json(file)
    if args.report is None or args.clips == 0:
        return Section(file.stem, report)
    print(f"plays episodes of {file} again for the page", flush=True)
    note = "From a file; an episode is shown if it came out the same when it was played again."
    return Section(file.stem, report, clips_again(make_agent(args)[0], report, args.clips), note)


def main(args: Args) -> None:
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.table:
        sections = table(args)
    else:
        section = evaluate_one(args)
        print(f"{section.report}\n{args.out / section.name}.json, .csv\n")
        sections = [section]
    print(EvaluationReport.markdown_header())
    for section in sections:
        print(section.report.markdown_row())
    if args.report is not None:
        title = "Evaluation" if args.table else f"Evaluation of {sections[0].name}"
        write_page(args.report / "index.html", sections, title)
        print(f"\npage in {args.report / 'index.html'}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
