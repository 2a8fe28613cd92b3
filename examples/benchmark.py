"""Measures how fast the environments run, how long the planners think, and what caching saves.

python examples/benchmark.py --threads 1 --json results/benchmark.json
"""

import itertools
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gbp_envs  # noqa: F401  (registers gbp/…)
import gymnasium as gym
import numpy as np
import torch
import tyro

from gbp_agent import (
    EVALUATION_SEEDS_BEGIN,
    PLANNERS,
    Plan,
    WorldModelMPCAgent,
)
from gbp_agent.report import machine, write_text
from gbp_agent.world_model import LatentWorldModel, join

EPISODES_BEGIN = EVALUATION_SEEDS_BEGIN + 100_000  # apart from the held-out episodes
# What each environment is meant to reach on one core: steps per second with obs_type="state", and
# milliseconds per 64 px frame.
TARGETS = {
    "gbp/PushT-v0": {"steps": 8000, "frame_ms": 0.4},
    "gbp/PointMaze-v0": {"steps": 8000, "frame_ms": 0.4},
    "gbp/Wall-v0": {"steps": 8000, "frame_ms": 0.4},
}


@dataclass
class Args:
    agents: tuple[str, ...] = ("pusht", "point_maze", "wall")
    """Shipped models' names or checkpoint folders, to time the planners with; the first is also
    timed in finetuning."""
    planners: tuple[str, ...] = tuple(PLANNERS)
    """Which planners, with the checkpoint's settings; the first is what the others are compared
    with."""
    batches: tuple[int, ...] = (1, 50)
    """Problems planned for at once."""
    repeats: int = 5
    """Decisions per figure, taken in turns, of which the median is shown."""
    episodes: int = 0
    """Also play so many whole episodes of one environment, whose first decision is a search from
    scratch, with every planner in turns."""
    env_seconds: float = 2.0
    """Seconds per figure of an environment."""
    device: str = "cpu"
    """Where to plan."""
    threads: int | None = None
    """Processor threads of PyTorch."""
    json: Path | None = None
    """Also write the figures there."""


def env_rate(env_id: str, seconds: float) -> float:
    """Steps per second with random actions, resets left out."""
    env = gym.make(env_id, obs_type="state", max_episode_steps=-1)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(200)]
    steps, spent = 0, 0.0
    while spent < seconds:
        env.reset()
        begun = time.perf_counter()
        for action in actions:
            env.step(action)
        spent += time.perf_counter() - begun
        steps += len(actions)
    env.close()
    return steps / spent


def frame_milliseconds(env_id: str, seconds: float) -> float:
    """Milliseconds to draw one frame of 64 px."""
    env: Any = gym.make(env_id, obs_type="state").unwrapped
    env.reset(seed=0)
    env.action_space.seed(0)
    states = []
    for _ in range(100):
        env.step(env.action_space.sample())
        states.append(env.get_state())
    frames, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for state in states:
            env.draw(state, 64)
        frames += len(states)
    return 1000 * (time.perf_counter() - begun) / frames


def decisions(agent: WorldModelMPCAgent, rows: int) -> Iterator[tuple[bool, Plan]]:
    """Plans `rows` episodes at once, over and over: whether a decision is an episode's first, and
    its plan. Others follow once all goals are reached."""
    env_id, seeds = agent.model.config.env_id, itertools.count(EVALUATION_SEEDS_BEGIN)
    with ExitStack() as stack:
        envs = [stack.enter_context(gym.make(env_id, max_episode_steps=-1)) for _ in range(rows)]
        while True:
            seen = [env.reset(seed=next(seeds))[0] for env in envs]
            state, pending, later = None, set(range(rows)), 0
            while pending or not later:
                actions, after = agent.predict(stacked(seen), state)
                if agent.last_plan is not None:
                    later += state is not None
                    yield state is None, agent.last_plan
                state = after
                outcomes = [env.step(action) for env, action in zip(envs, actions, strict=True)]
                seen = [outcome[0] for outcome in outcomes]
                pending -= {row for row, outcome in enumerate(outcomes) if outcome[2]}


def planner_timing(
    agents: dict[str, WorldModelMPCAgent], rows: int, repeats: int
) -> dict[str, dict[str, float]]:
    """Milliseconds per decision when `rows` episodes are planned for at once: of the first one of
    an episode, and of those after it, which start from the last plan. The agents take turns, so
    that what disturbs the machine for a while disturbs all of them."""
    playing = {name: decisions(agent, rows) for name, agent in agents.items()}
    first: dict[str, list[Plan]] = {name: [] for name in agents}
    later: dict[str, list[Plan]] = {name: [] for name in agents}
    for agent in agents.values():
        next(decisions(agent, rows))  # warms up
    while any(len(plans) < repeats for plans in later.values()):
        for name, plans in playing.items():
            is_first, plan = next(plans)
            (first if is_first else later)[name].append(plan)
    return {
        name: {
            "ms_per_decision": 1000 * statistics.median(p.seconds for p in later[name]) / rows,
            "ms_first_decision": 1000 * statistics.median(p.seconds for p in first[name]) / rows,
            "evaluations": later[name][0].evaluations,
            "gradient_steps": later[name][0].gradient_steps,
            "cost": float(first[name][0].cost.mean()),
        }
        for name in agents
    }


def episode_timing(
    agents: dict[str, WorldModelMPCAgent], episodes: int
) -> dict[str, dict[str, float]]:
    """What planning takes in whole episodes of one environment, the same for all agents, which take
    turns: seconds and decisions per episode, and the share of episodes that reach the goal."""
    played: dict[str, list[tuple[float, int, bool]]] = {name: [] for name in agents}
    with gym.make(next(iter(agents.values())).model.config.env_id) as env:
        for seed in range(EPISODES_BEGIN - 1, EPISODES_BEGIN + episodes):  # one more, to warm up
            for name, agent in agents.items():
                observation, _ = env.reset(seed=seed)
                agent.reset()
                seconds, decisions, over = 0.0, 0, False
                while not over:
                    action = agent.act(observation)
                    if agent.last_plan is not None:
                        seconds, decisions = seconds + agent.last_plan.seconds, decisions + 1
                    observation, _, reached, truncated, _ = env.step(action)
                    over = reached or truncated
                played[name].append((seconds, decisions, reached))
    columns = ("seconds", "decisions", "reached")
    return {
        name: dict(zip(columns, np.mean(rows[1:], axis=0).tolist(), strict=True))
        for name, rows in played.items()
    }


def stacked(observations: list[Any]) -> dict[str, np.ndarray]:
    """Observations as one batch."""
    return {key: np.stack([one[key] for one in observations]) for key in observations[0]}


def finetuning_timing(
    model: LatentWorldModel, repeats: int, windows: int = 256
) -> dict[str, float]:
    """Milliseconds of a finetuning step on latents that were cached, and on frames that are
    encoded anew: the same step, with two frames per window encoded before it."""
    shape = model.config
    frames = windows * (shape.history + 1)
    pixels = torch.randint(256, (frames, shape.image_size, shape.image_size, 3), dtype=torch.uint8)
    proprio = torch.randn(frames, shape.proprio_dim)
    actions = torch.randn(windows, shape.history, model.model_action_dim)
    pixels, proprio, actions = (part.to(model.device) for part in (pixels, proprio, actions))
    model.predictor.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.predictor.parameters(), lr=1e-6)

    def encode() -> torch.Tensor:
        with torch.no_grad():
            return join(model.encode(pixels, proprio)).unflatten(0, (windows, -1))

    def step(latents: torch.Tensor) -> None:
        start = model.split(latents[:, :-1])
        predicted = join(model.rollout(start, actions[:, :-1], actions[:, -1:]))
        optimizer.zero_grad()
        (predicted[:, 0] - latents[:, -1]).square().mean().backward()
        optimizer.step()

    cached = encode()
    figures = {}
    for name, once in (("cached", lambda: step(cached)), ("encoded", lambda: step(encode()))):
        once()  # the first one warms up
        spent = []
        for _ in range(repeats):
            begun = time.perf_counter()
            once()
            spent.append(time.perf_counter() - begun)
        figures[f"{name}_ms"] = 1000 * statistics.median(spent)
    model.requires_grad_(False)
    return {**figures, "ratio": figures["encoded_ms"] / figures["cached_ms"]}


def whole_episodes(args: Args) -> dict[str, Any]:
    """Time every model's planners over whole episodes, and print the table."""
    print("\n| model | planner | episodes | seconds per episode | × the first planner's "
          "| decisions | reached |\n|---|---|---|---|---|---|---|")  # fmt: skip
    figures = {}
    for model in args.agents:
        agents = {
            name: WorldModelMPCAgent.from_pretrained(model, name, args.device)
            for name in args.planners
        }
        rows = figures[model] = episode_timing(agents, args.episodes)
        reference = rows[args.planners[0]]["seconds"]
        for name, row in rows.items():
            row["ratio"] = row["seconds"] / reference
            print(
                f"| {model} | {name} | {args.episodes} | {row['seconds']:.3f} | {row['ratio']:.2f} "
                f"| {row['decisions']:.2f} | {row['reached']:.2f} |",
                flush=True,
            )
    return figures


def main(args: Args) -> None:
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    figures: dict[str, Any] = {
        "machine": machine(), "threads": torch.get_num_threads(), "device": args.device,
        "environments": {}, "planners": {},
    }  # fmt: skip
    print(f"{figures['machine']}, {figures['threads']} thread(s)\n")

    print("| environment | steps/s, states | target | ms per 64 px frame | target |")
    print("|---|---|---|---|---|")
    for env_id, target in TARGETS.items():
        steps = env_rate(env_id, args.env_seconds)
        frame = frame_milliseconds(env_id, args.env_seconds)
        figures["environments"][env_id] = {"steps_per_second": steps, "frame_ms": frame}
        print(
            f"| {env_id} | {steps:,.0f} | ≥ {target['steps']:,} | {frame:.3f} "
            f"| ≤ {target['frame_ms']:g} |"
        )

    if args.agents:
        print("\n| model | planner | planned together | ms per decision | × the first planner's "
              "| an episode's first, ms | roll-outs | gradient steps | first cost |")  # fmt: skip
        print("|---|---|---|---|---|---|---|---|---|")
    for model in args.agents:
        figures["planners"][model] = {}
        for rows in args.batches:
            agents = {
                name: WorldModelMPCAgent.from_pretrained(model, name, args.device)
                for name in args.planners
            }
            timings = planner_timing(agents, rows, args.repeats)
            reference = timings[args.planners[0]]["ms_per_decision"]
            for name, timing in timings.items():
                ratio = timing["ms_per_decision"] / reference
                figures["planners"][model][f"{name}, {rows}"] = {**timing, "ratio": ratio}
                print(
                    f"| {model} | {name} | {rows} | {timing['ms_per_decision']:.2f} | {ratio:.2f} "
                    f"| {timing['ms_first_decision']:.2f} "
                    f"| {timing['evaluations']} | {timing['gradient_steps']} "
                    f"| {timing['cost']:.4g} |",
                    flush=True,
                )

    if args.episodes:
        figures["episodes"] = whole_episodes(args)

    if args.agents:
        trained = WorldModelMPCAgent.from_pretrained(args.agents[0], device=args.device).model
        timing = figures["finetuning"] = finetuning_timing(trained, 4 * args.repeats)
        print(
            f"\nfinetuning step: {timing['cached_ms']:.1f} ms on cached latents, "
            f"{timing['encoded_ms']:.1f} ms with encoding, {timing['ratio']:.1f} times as long"
        )

    if args.json is not None:
        write_text(args.json, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
