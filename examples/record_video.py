"""Records episodes side by side with what the agent's model sees and imagines.

    python examples/record_video.py --agent pusht --episodes 3
    python examples/record_video.py --agent random --env-id gbp/Wall-v0

They show the episode, the goal, the observation, and what the model decodes of its predictions.
"""

from dataclasses import dataclass
from pathlib import Path

import gbp_envs  # noqa: F401  (registers gbp/…)
import tyro
from evaluate import source_of

from gbp_agent import EVALUATION_SEEDS_BEGIN, RandomAgent, WorldModelMPCAgent, record_episodes


@dataclass
class Args:
    agent: str = "pusht-online"
    """A shipped model's name, a checkpoint folder, hf://owner/repo, or "random"."""
    planner: str = "gradient"
    """gradient, cem, gradcem or mppi."""
    env_id: str | None = None
    """Environment; the one that the model was trained for by default."""
    episodes: int = 3
    """Held-out episodes, one after the other."""
    seed: int = 0
    """The first of them."""
    device: str = "cpu"
    """Where to plan."""
    out: Path | None = None
    """The mp4 file; videos/ and the name of the model or of the random agent's environment by
    default."""


def main(args: Args) -> None:
    if args.agent != "random":
        agent = WorldModelMPCAgent.from_pretrained(args.agent, args.planner, args.device)
        env_id = args.env_id or agent.model.config.env_id
    elif args.env_id is None:
        raise SystemExit('agent "random" knows no environment; give --env-id')
    else:
        env_id = args.env_id
        agent = RandomAgent.for_env(env_id)
    out = args.out or Path("videos") / f"{source_of(args.agent, env_id)}.mp4"
    first = EVALUATION_SEEDS_BEGIN + args.seed
    outcomes = record_episodes(agent, env_id, range(first, first + args.episodes), out)
    print(f"{sum(outcomes)} of {len(outcomes)} reached the goal; video in {out}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
