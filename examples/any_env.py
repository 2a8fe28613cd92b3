"""From any Gymnasium environment with a state vector to an agent that plans to goals in it.

    python examples/any_env.py --env-id Pendulum-v1
    python examples/any_env.py --env-id Reacher-v5 --frameskip 1
    python examples/any_env.py --env-id gymnasium_robotics:PointMaze_UMaze-v3  # extra "robotics"

Collects with random actions, trains a world model of the observation, and plans to goals: states
that random actions reached in held-out episodes. Each trial starts as that episode did, and is a
success when the state comes near enough to the goal within twice the steps that it took there.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import tyro

from gbp_agent import (
    DynamicsConfig,
    GradientConfig,
    GradientPlanner,
    MPCConfig,
    ObservationKeys,
    PretrainConfig,
    RandomAgent,
    WorldModelMPCAgent,
    collect,
    pretrain,
    wilson_interval,
)


@dataclass
class Args:
    env_id: str = "Pendulum-v1"
    """A registered environment, or "module:id" of one that a module registers, whose observation is
    a vector or a dict with "observation"."""
    episodes: int = 400
    """Episodes to collect; the last tenth is held out."""
    steps: int = 60
    """Environment steps of an episode."""
    frameskip: int = 2
    """Environment steps in one step of the model."""
    horizon: int = 10
    """Model steps that are planned."""
    dynamics_steps: int = 2000
    """Optimiser steps of the world model."""
    goal_after: int = 20
    """The goal is where the held-out episode was after so many steps."""
    near: float = 0.2
    """A goal is reached at this root-mean-square distance, in standard deviations of the data."""
    out: Path | None = None
    """Folder of data and model; runs/ENV by default. What is there is not made again."""


def play(
    agent: object, args: Args, starts: list[int], goals: np.ndarray, spread: np.ndarray
) -> int:
    """How many of the goals (N, p) the agent reaches; trial i starts with seed starts[i]."""
    envs = [gym.make(args.env_id) for _ in starts]
    frames = [env.reset(seed=seed)[0] for env, seed in zip(envs, starts, strict=True)]
    reached, state = np.zeros(len(envs), bool), None
    for _ in range(2 * args.goal_after):
        vectors = np.stack([vector(frame) for frame in frames])
        reached |= np.sqrt((((vectors - goals) / spread) ** 2).mean(1)) < args.near
        parts = {"proprio": vectors.astype(np.float32), "goal_proprio": goals}
        actions, state = agent.predict(parts, state)  # type: ignore[attr-defined]
        frames = [env.step(action)[0] for env, action in zip(envs, actions, strict=True)]
    return int(reached.sum())


def vector(observation: object) -> np.ndarray:
    """The state vector in an observation."""
    return np.asarray(observation["observation"] if isinstance(observation, dict) else observation)


def main(args: Args) -> None:
    out = args.out or Path("runs") / re.sub("[/:]", "-", args.env_id)
    with gym.make(args.env_id) as env:
        spec, seen = env.spec, env.observation_space
        nested = isinstance(seen, gym.spaces.Dict)
        parts = gym.spaces.Dict({"proprio": seen["observation"] if nested else seen})
        random = RandomAgent(parts, env.action_space)
    keys = ObservationKeys(pixels=None, proprio="observation" if nested else "proprio")
    dataset = collect(spec, args.episodes, 0, out / "data", steps=args.steps, keys=keys)
    pretrain(
        PretrainConfig(
            data=dataset.folder,
            out=out,
            family="state",
            model={
                "frameskip": args.frameskip,
                "predictor_width": 128,
                "proposal_steps": args.horizon,
            },
            dynamics=DynamicsConfig(steps=args.dynamics_steps),
            held_out=0.1,
        )
    )
    planner = GradientPlanner(GradientConfig(steps=20, restarts=2))
    # Whole plans are acted out: a state with a velocity is passed through, and an agent that always
    # planned to be there at its horizon would never arrive.
    config = MPCConfig(horizon=args.horizon, execute=args.horizon)
    agent = WorldModelMPCAgent.from_pretrained(out / "checkpoint", planner, config=config)

    states = {int(i): dataset.episode(i)["proprio"] for i in dataset.split(0.1)[1]}
    states = {i: passed for i, passed in states.items() if len(passed) > args.goal_after}
    goals = np.stack([passed[args.goal_after] for passed in states.values()])
    spread = agent.model.proprio_normalizer.std.numpy()
    for name, who in (("planning", agent), ("random", random)):
        count = play(who, args, list(states), goals, spread)
        low, high = wilson_interval(count, len(goals))
        print(f"{name}: {count}/{len(goals)} goals reached ({low:.0%} to {high:.0%})")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
