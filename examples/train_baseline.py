"""Trains a Stable-Baselines3 agent on the state version of an environment, to compare with.

    python examples/train_baseline.py --env-id gbp/Wall-v0 --algorithm sac --steps 100000

SAC learns from hindsight (HER): goals that were reached by accident are goals too. A killed run
goes on from its last checkpoint when the same command is given again.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gbp_envs  # noqa: F401  (registers gbp/…)
import tyro
from stable_baselines3 import PPO, SAC, HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env

from gbp_agent import evaluate
from gbp_agent.sb3 import ScaledObservations

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


@dataclass
class Args:
    env_id: str = "gbp/Wall-v0"
    """A goal-reaching environment with obs_type="state"."""
    algorithm: Literal["sac", "ppo"] = "sac"
    """SAC with HER, or PPO."""
    steps: int = 100_000
    """Environment steps."""
    num_envs: int = 4
    """Environments that are played side by side."""
    seed: int = 0
    """Of weights, exploration and resets."""
    out: Path | None = None
    """Folder of the run; runs/ENV-ALGORITHM by default."""
    save_every: int = 20_000
    """Environment steps between checkpoints."""
    episodes: int = 50
    """Held-out episodes that are played at the end; 0 plays none."""
    device: str = "cpu"
    """Where to train."""


def build(args: Args, out: Path) -> BaseAlgorithm:
    """A new agent, or the last checkpoint's with its replay buffer."""
    kind = {"sac": SAC, "ppo": PPO}[args.algorithm]
    envs = make_vec_env(
        args.env_id, args.num_envs, seed=args.seed, env_kwargs={"obs_type": "state"}
    )
    saved = {steps_of(path): path for path in (out / "checkpoints").glob("model_*_steps.zip")}
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


def steps_of(path: Path) -> int:
    """The number in a checkpoint's name."""
    return int(re.findall(r"_(\d+)_steps", path.name)[0])


def main(args: Args) -> None:
    task = re.sub("([a-z])([A-Z][a-z])", r"\1_\2", args.env_id.split("/")[-1])
    task = task.removesuffix("-v0").lower()
    out = args.out or Path("runs") / f"{task}-{args.algorithm}"
    agent = build(args, out)
    checkpoints = CheckpointCallback(
        max(1, args.save_every // args.num_envs),
        str(out / "checkpoints"),
        name_prefix="model",
        save_replay_buffer=args.algorithm == "sac",
    )
    left = args.steps - agent.num_timesteps
    if left > 0:
        agent.learn(left, checkpoints, reset_num_timesteps=False, progress_bar=True)
    agent.save(out / "model.zip")
    print(f"agent in {out / 'model.zip'}; curves: tensorboard --logdir {out / 'tensorboard'}")
    if args.episodes:
        report = evaluate(agent, args.env_id, args.episodes, obs_type="state")
        low, high = report.interval
        print(f"success {report.success_rate:.0%} ({low:.0%} to {high:.0%})")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
