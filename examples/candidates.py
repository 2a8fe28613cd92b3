"""The models that reproduce.py compares, trained where they are missing, and agents that plan with
them."""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from comparison import (
    FROM_ZEROS,
    GRADIENT_DESCENT_RATE,
    LONG,
    LONG_PROPOSALS,
    MORE_DATA,
    RADII,
    SETTINGS,
    SHARED,
    STEPS_FROM_ZEROS,
    TUNED,
)
from pretrain import data_folder
from tasks import TASKS

from gbp_agent import (
    CEMConfig,
    CEMPlanner,
    EvaluationReport,
    FinetuneConfig,
    GradientConfig,
    GradientPlanner,
    MPCConfig,
    Planner,
    PretrainConfig,
    TrajectoryDataset,
    WorldModelMPCAgent,
    collect,
    evaluate,
    finetune,
    load_checkpoint,
    pretrain,
)
from gbp_agent.checkpoint import pretrained_names
from gbp_agent.planners.settings import planner_from_settings
from gbp_agent.planning_settings import changed_for_open_loop
from gbp_agent.world_model import WorldModelConfig


@dataclass(frozen=True)
class Column:
    """A column of the table. `whole`: acts its plans out even where it may plan anew; `mpc`: fields
    of MPCConfig that differ from the shipped ones."""

    planner: Planner
    whole: bool = False
    mpc: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidates:
    """Models of all tasks, and agents of them.

    data: folder of the datasets, one per task. runs: of the finetuning runs, TASK-METHOD. device:
    where to train and to plan. horizon: model steps of a plan; the model's own number if None.
    seed: of the finetuning.
    """

    data: Path
    runs: Path
    device: str = "cpu"
    horizon: int | None = None
    seed: int = 0

    def dataset(self, task: str) -> TrajectoryDataset:
        """The data that the base model was trained on."""
        return collect(folder=data_folder(self.data, task), seed=0, **TASKS[task]["data"])

    def more_data(self, task: str, name: str, settings: dict[str, Any]) -> TrajectoryDataset:
        """The same and as many further steps as online training takes in the simulator."""
        online = settings["online"]
        frameskip = TASKS[task]["model"].get("frameskip", WorldModelConfig.frameskip)
        rounds = math.ceil(settings["steps"] / online.every)
        taken = rounds * online.trajectories * online.model_steps * frameskip
        collection = dict(TASKS[task]["data"])
        collection["episodes"] += math.ceil(taken / collection["steps"])
        return collect(folder=self.data / f"{task}-{name}", seed=0, **collection)

    def checkpoint(self, task: str, model: str) -> str:
        """Where a model of the table is: a shipped base model, a run's, another shipped one."""
        if model == "base" and task in pretrained_names():
            return task
        folder, name = self.runs / f"{task}-{model}" / "checkpoint", f"{task}-{model}"
        return name if not folder.exists() and name in pretrained_names() else str(folder)

    def train_base(self, task: str) -> None:
        """Pre-train the base model of a task, unless one is shipped or has been trained."""
        if Path(self.checkpoint(task, "base")).exists() or task in pretrained_names():
            return
        print(f"models: {task}-base", flush=True)
        self.dataset(task)
        settings = {key: value for key, value in TASKS[task].items() if key != "data"}
        out = self.runs / f"{task}-base"
        data = data_folder(self.data, task)
        pretrain(PretrainConfig(data=data, out=out, device=self.device, **settings))

    def train(self, task: str, name: str, settings: dict[str, Any]) -> None:
        """Finetune the base model of a task, unless it has been."""
        out = self.runs / f"{task}-{name}"
        if (out / "checkpoint").exists():
            return
        print(f"models: {out.name}", flush=True)
        chosen = {**SHARED, **SETTINGS[task], **settings}
        more = name in MORE_DATA
        data = (self.more_data(task, name, chosen) if more else self.dataset(task)).folder
        source = f"{task}-{name}" if more else task
        latents = self.runs / f"{source}-latents.npy"
        shared = {"data": data, "out": out, "latents": latents}
        shared |= {"device": self.device, "seed": self.seed}
        if name == "online-from-zeros":
            chosen["online"] = replace(chosen["online"], planner=FROM_ZEROS)
        if name in TUNED:
            chosen["adversarial"] = replace(RADII[task], attack_steps=int(name != "noise"))
        finetune(FinetuneConfig(model=self.checkpoint(task, "base"), **chosen, **shared))

    def columns(self, task: str, open_loop: bool = False) -> dict[str, Column]:
        """As published, from zeros; and with the base model's settings, with `open_loop` those for
        a plan that is acted out."""
        _, planning = load_checkpoint(self.checkpoint(task, "base"))
        mpc: dict[str, Any] = {}
        if open_loop:
            planning = changed_for_open_loop(planning, {}, ("mpc", "gradient"))
            mpc["horizon"] = planning["mpc"].get("horizon", MPCConfig.horizon)
        column = partial(Column, mpc=mpc)
        shipped = planning["planners"]
        own = shipped.get("gradient", {})
        rate = GRADIENT_DESCENT_RATE[task]
        long = planner_from_settings("gradient", {"gradient": {**own, **LONG}})
        return {
            "gd": column(GradientPlanner(GradientConfig("sgd", rate, STEPS_FROM_ZEROS, "zeros"))),
            "adam": column(GradientPlanner(GradientConfig("adam", 0.2, STEPS_FROM_ZEROS, "zeros"))),
            "gradient": column(planner_from_settings("gradient", shipped)),
            "gradient-long": Column(long, mpc={"proposals": LONG_PROPOSALS, **mpc}),
            "cem": column(CEMPlanner(CEMConfig(300, 30, 30, "zeros")), whole=True),
            "cem-tuned": column(planner_from_settings("cem", shipped)),
        }

    def agent(
        self, task: str, model: str, planner: Planner, whole: bool, **mpc: Any
    ) -> WorldModelMPCAgent:
        """An agent; with `whole` it acts a plan out before it plans again. mpc: as of a Column."""
        agent = WorldModelMPCAgent.from_pretrained(
            self.checkpoint(task, model), planner, self.device
        )
        if self.horizon is not None:
            mpc["horizon"] = self.horizon
        config = replace(agent.config, execute=1, **mpc)
        if whole:
            config = replace(config, execute=config.horizon)
        return WorldModelMPCAgent(agent.model, planner, agent.objective, config)


def play(
    agent: WorldModelMPCAgent,
    episodes: int,
    open_loop: bool,
    goal_steps: int | None = None,
    continuing: bool = False,
    **options: int,
) -> EvaluationReport:
    """Evaluate on the held-out episodes, which are the same for all; options: evaluate()'s seed and
    num_envs. continuing: they go on after a success."""
    kwargs: dict[str, Any] = dict(options)
    if continuing:
        kwargs["continuing_task"] = True
    if goal_steps is not None:
        kwargs |= {"goal_steps": goal_steps, "max_episode_steps": 2 * goal_steps}
    if open_loop:
        kwargs["max_episode_steps"] = agent.config.horizon * agent.model.config.frameskip
    return evaluate(agent, agent.model.config.env_id, episodes, **kwargs)
