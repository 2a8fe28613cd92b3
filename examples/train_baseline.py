"""Trains an agent to compare with: SAC + HER or PPO on states, or behaviour cloning on pictures.

    python examples/train_baseline.py --algorithm sac --env-id gbp/Wall-v0 --steps 100000
    python examples/train_baseline.py --algorithm bc --env-id gbp/Wall-v0 --model wall

SAC and PPO are Stable-Baselines3's and learn from the simulator's state; SAC learns from hindsight
(HER): goals that were reached by accident are goals too. Behaviour cloning learns from the data of
a world model, on the latents of its encoder. A killed run goes on from its last checkpoint when
the same command is given again. The trained agent is one file without pickle, for `load_baseline`.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gbp_envs  # noqa: F401  (registers gbp/…)
import tyro
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env

from gbp_agent import CloningConfig, TrajectoryDataset, clone, evaluate
from gbp_agent.baselines.files import write_weights
from gbp_agent.baselines.sb3 import ALGORITHMS, ScaledObservations, save_policy

SETTINGS: dict[str, dict[str, Any]] = {
    "sac": {
        "replay_buffer_class": HerReplayBuffer,
        "replay_buffer_kwargs": {"n_sampled_goal": 4, "goal_selection_strategy": "future"},
        "learning_starts": 2000,
        "batch_size": 512,
        "gamma": 0.95,
        "learning_rate": 1e-3,
    },
    "ppo": {"n_steps": 512, "batch_size": 512, "gamma": 0.98},
}
STATE = {"obs_type": "state"}
VALIDATION_SEED = 100_000  # of the learning curve; comparisons play other episodes


@dataclass
class Args:
    env_id: str = "gbp/Wall-v0"
    """A goal-reaching environment of gbp_envs."""
    algorithm: Literal["sac", "ppo", "bc"] = "sac"
    """SAC with HER, PPO, or behaviour cloning."""
    steps: int = 100_000
    """Environment steps; optimiser steps of behaviour cloning."""
    num_envs: int = 4
    """Environments that are played side by side."""
    seed: int = 0
    """Of weights, exploration and resets."""
    out: Path | None = None
    """Folder of the run; runs/TASK-ALGORITHM by default."""
    save_every: int = 20_000
    """Environment steps between checkpoints, which are the points of the learning curve."""
    episodes: int = 50
    """Held-out episodes for each of these points; 0 plays none."""
    model: str = "wall"
    """bc: the world model whose encoder is used; a shipped name or a folder."""
    data: Path = Path("data/wall")
    """bc: the dataset folder to clone from."""
    goal_steps: int = 25
    """bc: goals are 1 to so many steps away in the data."""
    device: str = "cpu"
    """Where to train."""


def build(args: Args, out: Path) -> BaseAlgorithm:
    """A new agent, or the last checkpoint's with its replay buffer."""
    kind = ALGORITHMS[args.algorithm]
    envs = make_vec_env(args.env_id, args.num_envs, seed=args.seed, env_kwargs=STATE)
    saved = checkpoints(out)
    if saved:
        last = max(saved)
        agent = kind.load(saved[last], envs, device=args.device)
        if args.algorithm == "sac":
            agent.load_replay_buffer(out / "checkpoints" / f"model_replay_buffer_{last}_steps.pkl")
        print(f"goes on from step {last}")
        return agent
    return kind(
        "MultiInputPolicy",
        envs,
        policy_kwargs={"features_extractor_class": ScaledObservations},
        tensorboard_log=str(out / "tensorboard"),
        seed=args.seed,
        device=args.device,
        **SETTINGS[args.algorithm],
    )


def checkpoints(out: Path) -> dict[int, Path]:
    """Environment steps → file, in order."""
    files = (out / "checkpoints").glob("model_*_steps.zip")
    found = {int(re.findall(r"_(\d+)_steps", file.name)[0]): file for file in files}
    return dict(sorted(found.items()))


def train(args: Args, out: Path, file: Path) -> None:
    """Train with Stable-Baselines3, play every checkpoint, and write the last policy."""
    agent = build(args, out)
    saver = CheckpointCallback(
        max(1, args.save_every // args.num_envs),
        str(out / "checkpoints"),
        name_prefix="model",
        save_replay_buffer=args.algorithm == "sac",
    )
    left = args.steps - agent.num_timesteps
    if left > 0:
        agent.learn(left, saver, reset_num_timesteps=False, progress_bar=True)
    agent.save(out / "model.zip")
    points = {**checkpoints(out), agent.num_timesteps: out / "model.zip"}
    curve = [
        {"env_steps": steps, **success(type(agent).load(point, agent.env), args, **STATE)}
        for steps, point in points.items()
        if args.episodes
    ]
    about = {"env_kwargs": STATE, "env_steps": agent.num_timesteps, "curve": curve}
    save_policy(agent, file, {"kind": args.algorithm, "env_id": args.env_id, **about})


def imitate(args: Args, out: Path, file: Path) -> None:
    """Clone the behaviour in the data and write the network."""
    config = CloningConfig(
        args.model, args.data, out, steps=args.steps, goal_steps=args.goal_steps, seed=args.seed
    )
    agent = clone(config)
    data = TrajectoryDataset(args.data)
    taken = data.frames - len(data)
    curve = [{"env_steps": taken, **success(agent, args)}] if args.episodes else []
    about = {
        "kind": "bc", "env_id": args.env_id, "env_kwargs": {}, "env_steps": taken, "curve": curve,
        "world_model": args.model, "width": config.width,
    }  # fmt: skip
    write_weights(file, agent.network.state_dict(), about)


def success(agent: Any, args: Args, **env_kwargs: Any) -> dict[str, float]:
    """A point of the learning curve."""
    report = evaluate(
        agent, args.env_id, args.episodes, VALIDATION_SEED, progress=False, **env_kwargs
    )
    low, high = report.interval
    print(f"success {report.success_rate:.0%} ({low:.0%} to {high:.0%})")
    return {"success_rate": report.success_rate, "episodes": len(report.episodes)}


def main(args: Args) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    task = re.sub("([a-z])([A-Z][a-z])", r"\1_\2", args.env_id.split("/")[-1])
    name = f"{task.removesuffix('-v0').lower()}-{args.algorithm}"
    out = args.out or Path("runs") / name
    file = out / f"{name}.safetensors"
    run = imitate if args.algorithm == "bc" else train
    run(args, out, file)
    print(f"agent in {file}; curves: tensorboard --logdir {out / 'tensorboard'}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
