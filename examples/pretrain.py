"""Pre-trains the world model of a task: collects the data if need be, trains, judges, saves.

A killed run goes on when the same command is given again.

    python examples/pretrain.py --task pusht
    python examples/evaluate.py --agent runs/pusht/checkpoint
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gbp_envs  # noqa: F401  (registers gbp/…)
import torch
import tyro
from tasks import TASKS

from gbp_agent import InitializerConfig, PretrainConfig, TrajectoryDataset, collect, pretrain
from gbp_agent.data.dataset import read_metadata

Task = Literal[
    "pusht",
    "point_maze",
    "wall",
    "rope",
    "granular",
    "rope-mlp",
    "rope-linear",
    "granular-linear",
    "pusht-small",
    "wall-small",
    "wall-patch",
    "pusht-patch",
    "pusht-patch-one-step",
]


@dataclass
class Args:
    task: Task = "pusht"
    """Which environment, with the settings in TASKS of tasks.py."""
    data: Path | None = None
    """Dataset folder, data/TASK by default, without "-patch…", "-mlp" and "-linear". What is there
    is taken, with whatever settings it was collected; what is not is collected."""
    out: Path | None = None
    """Folder of the run; runs/TASK by default. The model is in its `checkpoint`."""
    seed: int = 0
    """Of the weights and the batches; the data have seeds of their own."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to train."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bfloat16 where the processor has matrix instructions for it, unless told otherwise."""
    episodes: int | None = None
    """Episodes to collect, instead of the task's, where there are no data."""
    representation_steps: int | None = None
    """Optimiser steps of the first phase (the encoder), instead of the task's."""
    dynamics_steps: int | None = None
    """Optimiser steps of the second phase (predictor), instead of the task's."""
    initializer_steps: int | None = None
    """Optimiser steps of the third phase (first guesses of plans), instead of the default."""
    workers: int | None = None
    """Processes that collect; one per processor by default."""


def data_folder(root: Path, task: str) -> Path:
    """Of a task's dataset; models of other kinds learn from the same as the shipped one."""
    return root / task.split("-patch")[0].removesuffix("-linear").removesuffix("-mlp")


def data_in(folder: Path, collection: dict[str, Any], workers: int | None) -> TrajectoryDataset:
    """What a folder holds of the task's env, with whatever settings; collected if it is not there,
    or not all of it."""
    if (folder / "metadata.json").exists():
        env_id = read_metadata(folder)["env_id"]
        if env_id != collection["env_id"]:
            raise SystemExit(f"{folder} holds data of {env_id}; give another --data")
        try:
            return TrajectoryDataset(folder)
        except FileNotFoundError:  # a part is missing
            pass
    return collect(folder=folder, workers=workers, **collection)


def main(args: Args) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    task = dict(TASKS[args.task])
    data = args.data or data_folder(Path("data"), args.task)
    out = args.out or Path("runs") / args.task

    collection = {"seed": 0, **task.pop("data")}
    if args.episodes is not None:
        collection["episodes"] = args.episodes
    dataset = data_in(data, collection, args.workers)
    print(f"{len(dataset)} episodes, {dataset.frames} frames in {data}")

    if args.representation_steps is not None:
        phase = "masked" if task.get("family") == "patch" else "representation"
        task[phase] = replace(task[phase], steps=args.representation_steps)
    if args.dynamics_steps is not None:
        task["dynamics"] = replace(task["dynamics"], steps=args.dynamics_steps)
    if args.initializer_steps is not None:
        task["initializer"] = InitializerConfig(steps=args.initializer_steps)
    config = PretrainConfig(
        data=data, out=out, seed=args.seed, device=args.device, precision=args.precision, **task
    )
    pretrain(config)
    print(f"model in {out / 'checkpoint'}; curves: tensorboard --logdir {out / 'tensorboard'}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
