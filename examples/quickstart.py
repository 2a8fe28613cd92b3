"""Watches the shipped agent push a T block: a few held-out episodes, their figures and a video.

make demo
"""

from dataclasses import dataclass
from pathlib import Path

import gbp_envs  # noqa: F401  (registers gbp/…)
import tyro

from gbp_agent import WorldModelMPCAgent, evaluate


@dataclass
class Args:
    agent: str = "pusht-online"
    """A shipped model's name or a checkpoint folder."""
    planner: str = "gradient"
    """gradient, cem, gradcem or mppi."""
    episodes: int = 20
    """Held-out episodes."""
    video: Path = Path("videos/quickstart.mp4")
    """Where the first few of them are shown."""


def main(args: Args) -> None:
    agent = WorldModelMPCAgent.from_pretrained(args.agent, planner=args.planner)
    env_id = agent.model.config.env_id
    print(
        f"Playing {args.episodes} episodes of {env_id} at once, then a video of the first few ..."
    )
    report = evaluate(agent, env_id, args.episodes, num_envs=args.episodes, video=args.video)
    low, high = report.interval
    print(
        f"success    {report.successes} of {args.episodes} = {report.success_rate:.0%} "
        f"(95 % interval {low:.0%} to {high:.0%})\n"
        f"planning   {report.planning.median_ms:.1f} ms per decision, "
        f"{report.planning.batch_size:.0f} planned together\n"
        f"video      {args.video}"
    )


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
