"""Collects a trajectory dataset with an environment's own behaviour policy.

A killed collection goes on when the same command is given again.

    python examples/collect.py --env-id gbp/PushT-v0 --episodes 2000
"""

import re
from dataclasses import dataclass
from pathlib import Path

import gbp_envs  # noqa: F401  (registers gbp/…)
import tyro

from gbp_agent import collect


@dataclass
class Args:
    env_id: str = "gbp/PushT-v0"
    """Any registered environment; one without a behaviour policy is acted in at random."""
    episodes: int = 2000
    """Number of episodes."""
    steps: int = 100
    """Environment steps of an episode."""
    seed: int = 0
    """Episode i is reset with seed + i; the seeds from 1,000,000,000 on are for evaluation."""
    image_size: int | None = None
    """Pixels per side; the environment's default (64) unless given."""
    random_share: float = 0.0
    """Share of the steps, 0…1, at which a random action is taken instead of the policy's."""
    out: Path | None = None
    """Dataset folder; data/ and the environment's name by default: data/pusht, data/point_maze."""
    workers: int | None = None
    """Processes; one per processor by default."""


def main(args: Args) -> None:
    name = re.sub("([a-z])([A-Z][a-z])", r"\1_\2", args.env_id.split("/")[-1])
    out = args.out or Path("data") / name.removesuffix("-v0").lower()
    env_kwargs = {} if args.image_size is None else {"image_size": args.image_size}
    dataset = collect(
        args.env_id,
        args.episodes,
        args.seed,
        out,
        steps=args.steps,
        workers=args.workers,
        random_share=args.random_share,
        **env_kwargs,
    )
    print(f"{len(dataset)} episodes, {dataset.frames} frames in {out}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
