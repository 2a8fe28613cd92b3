"""Times the planner's inner loop on a patch-token model of DINO-WM's size, against a plain loop.

    python examples/benchmark_patch.py --threads 2 --json results/benchmark-patch.json
    python examples/benchmark_patch.py --device cuda --samples 300 --repeats 5

The weights are random: they do not matter for the time, and neither needs the network. Both loops
have the same weights, frames, goal and plans, and their costs and gradients are compared.

Peak memory is that of whole decisions, each in a process of its own, with the default bounds: one
iteration of CEM, since the others need no more, and a gradient step with and without activation
checkpointing. On a GPU it is what PyTorch has allocated there, and whole decisions with the
published budgets are timed as well.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peak_memory
import published_loop
import torch
import tyro
from torch.nn.functional import cosine_similarity

from gbp_agent import (
    CEMConfig,
    CEMPlanner,
    GoalObjective,
    GradientConfig,
    GradientPlanner,
    MPCConfig,
    PatchConfig,
    PatchWorldModel,
    Planner,
    WorldModelMPCAgent,
)
from gbp_agent.graphs import RECORD_AT, CostGraphs
from gbp_agent.networks import initialize
from gbp_agent.planners.common import cost_and_gradient, evaluate
from gbp_agent.precision import Precision
from gbp_agent.report import machine, write_text
from gbp_agent.types import CostFunction


@dataclass
class Args:
    encoder: str = "vit_small_patch14_dinov2.lvd142m"
    """timm's name of the encoder."""
    encoder_size: int = 196
    """Pixels per side that it is given; 196 makes 196 tokens of patches of 14."""
    depth: int = 6
    """Layers of the predictor."""
    history: int = 3
    """Frames that it sees."""
    horizon: int = 5
    """Model steps of a plan."""
    samples: int = 4
    """Plans that are rolled out at once in the sampling planners' part."""
    peak_samples: int = 300
    """Samples of the CEM iteration whose peak memory is measured. More than are rolled out at once
    need more time, but no more memory."""
    repeats: int = 3
    """Times that each is timed, of which the median is shown."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    """Of the library's roll-outs. bf16 is slow where the processor has no instructions for it."""
    device: str = "cpu"
    """Where to plan. On a GPU the library's roll-outs are timed with and without CUDA graphs."""
    speed: bool = True
    """Whether to time the loops; with --no-speed memory alone is measured."""
    threads: int | None = None
    """Processor threads of PyTorch."""
    json: Path | None = None
    """Also write the figures there."""


def config_of(args: Args) -> PatchConfig:
    """The shape of a model of this size."""
    return PatchConfig(
        "gbp/PushT-v0", 4, (-1, -1), (1, 1), encoder=args.encoder, encoder_size=args.encoder_size,
        depth=args.depth, history=args.history, proposals=0,
    )  # fmt: skip


def random_model(args: Args) -> PatchWorldModel:
    """A model of this size with random weights."""
    model = PatchWorldModel(config_of(args)).eval()
    initialize(model.predictor, torch.Generator().manual_seed(0))
    return model.to(args.device)


def problem(model: PatchWorldModel, history: int) -> dict[str, torch.Tensor]:
    """Frames, a goal and past actions of one problem, on the model's device."""
    random = torch.Generator().manual_seed(0)
    size, width = model.config.image_size, model.config.proprio_dim
    frames = torch.randint(256, (1, history + 1, size, size, 3), generator=random).byte()
    proprio = torch.randn(1, history + 1, width, generator=random)
    known = {
        "pixels": frames[:, :-1], "proprio": proprio[:, :-1],
        "goal_pixels": frames[:, -1], "goal_proprio": proprio[:, -1],
        "past": torch.randn(1, history - 1, model.model_action_dim, generator=random),
    }  # fmt: skip
    return {name: part.to(model.device) for name, part in known.items()}


def median_seconds(once: Callable[[], Any], repeats: int) -> float:
    """The median of so many runs after one that warms up; on a GPU as many as record a graph."""
    on_gpu = torch.cuda.is_available()
    warm_up = RECORD_AT if on_gpu else 1
    spent = []
    for _ in range(repeats + warm_up):
        begun = time.perf_counter()
        once()
        if on_gpu:
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - begun)
    return statistics.median(spent[warm_up:])


def peaks(args: Args) -> dict[str, dict[str, float]]:
    """Peak memory of decisions on a processor, and their seconds."""
    planners: dict[str, tuple[Planner, MPCConfig]] = {
        f"cem, {args.peak_samples} samples": (
            CEMPlanner(CEMConfig(args.peak_samples, iterations=1, elites=2)),
            MPCConfig(args.horizon),
        )
    }
    for name, flag in (("gradient", False), ("gradient, checkpointed", True)):
        mpc = MPCConfig(args.horizon, checkpoint_activations=flag)
        planners[name] = GradientPlanner(GradientConfig(steps=1)), mpc
    threads = torch.get_num_threads()
    print("| decision | peak, GiB | seconds |\n|---|---|---|")
    found = {}
    for name, (planner, mpc) in planners.items():
        found[name] = peak_memory.decision_in_a_child(config_of(args), planner, mpc, threads)
        line = f"| {name} | {found[name]['peak_gib']:.2f} | {found[name]['seconds']:.1f} |"
        print(line, flush=True)
    return found


def gpu_decisions(args: Args, model: PatchWorldModel) -> dict[str, dict[str, float]]:
    """Seconds of whole decisions on a GPU with the published budgets, in the last precision, and
    their peak memory: of the first, in which the graphs are recorded, and of the next."""
    observation = peak_memory.random_observation(model.config)
    planners: dict[str, Planner] = {
        "gradient, 100 steps": GradientPlanner(GradientConfig("adam", 0.2, 100, "zeros")),
        "cem, 300 samples, 30 iterations": CEMPlanner(CEMConfig(300, 30, 30, "zeros")),
    }
    precision = args.precisions[-1]
    print("\n| decision | first, s | next, s | peak, GiB |\n|---|---|---|---|")
    found: dict[str, dict[str, float]] = {}
    for name, planner in planners.items():
        torch.cuda.reset_peak_memory_stats()
        mpc = MPCConfig(args.horizon, precision=precision)
        agent = WorldModelMPCAgent(model, planner, config=mpc)
        first, second = (agent.plan(observation).seconds for _ in range(2))
        peak = torch.cuda.max_memory_allocated() / 2**30
        name = f"{name}, {precision}"
        found[name] = {"first": first, "next": second, "peak_gib": peak}
        print(f"| {name} | {first:.2f} | {second:.3f} | {peak:.2f} |", flush=True)
    return found


def ours(
    cost: CostFunction, one: torch.Tensor, plans: torch.Tensor, repeats: int
) -> dict[str, float]:
    """Seconds of a gradient step of one plan and of each of several samples."""
    step = median_seconds(lambda: cost_and_gradient(cost, one), repeats)
    every = median_seconds(lambda: evaluate(cost, plans[None]), repeats)
    return {"gradient_step": step, "sample": every / len(plans)}


def speed(args: Args) -> dict[str, Any]:
    """Seconds of a gradient step and of a sample, in the plain loop and in the library's."""
    model = random_model(args)
    given = problem(model, args.history)
    random = torch.Generator().manual_seed(1)
    shape = (args.samples, args.horizon, model.model_action_dim)
    plans = torch.randn(shape, generator=random).to(args.device)

    with torch.no_grad():
        start = model.encode(given["pixels"], given["proprio"])
        goal = model.encode(given["goal_pixels"], given["goal_proprio"])

    plan = torch.zeros(1, *shape[1:], device=args.device, requires_grad=True)
    optimizer = torch.optim.Adam([plan], lr=0.2)
    model.requires_grad_(True)
    model.encoder.requires_grad_(False)  # frozen in the published code as well
    plain_step = median_seconds(
        lambda: published_loop.gradient_step(model, given, goal, plan, optimizer), args.repeats
    )
    plain_sample = median_seconds(
        lambda: published_loop.sampled_costs(model, given, goal, plans), args.repeats
    )
    plain_sample /= args.samples
    expected = published_loop.sampled_costs(model, given, goal, plans)
    one = plan.detach().clone()[None]
    published_loop.gradient_step(model, given, goal, plan, optimizer)
    assert plan.grad is not None
    direction = plan.grad.flatten()
    model.requires_grad_(False)
    model.zero_grad(set_to_none=True)
    figures: dict[str, Any] = {
        "tokens": model.tokens, "samples": args.samples,
        "plain": {"gradient_step": plain_step, "sample": plain_sample},
    }  # fmt: skip

    print(f"\n{model.tokens} tokens\n")
    print(
        "| loop | gradient step, ms | ratio | sample, ms | ratio | error of the cost "
        "| cosine of the gradients |"
    )
    print("|---|---|---|---|---|---|---|")
    print(f"| plain | {1e3 * plain_step:.1f} | 1 | {1e3 * plain_sample:.2f} | 1 | | |")
    on_gpu = torch.device(args.device).type == "cuda"
    for precision in args.precisions:
        mpc = MPCConfig(args.horizon, precision=precision)
        cost_of = WorldModelMPCAgent(model, "gradient", GoalObjective(), mpc).cost_of
        loops = {precision: cost_of}
        if on_gpu:
            loops[f"{precision}, CUDA graphs"] = CostGraphs(cost_of)
        for name, make in loops.items():
            cost = make(start, given["past"], goal)
            found = evaluate(cost, plans[None])[0]
            gradient = cost_and_gradient(cost, one)[1].flatten()
            row = figures[name] = ours(cost, one, plans, args.repeats)
            row["gradient_ratio"] = plain_step / row["gradient_step"]
            row["sample_ratio"] = plain_sample / row["sample"]
            row["relative_error"] = float(((found - expected).abs() / expected.abs()).max())
            row["gradient_cosine"] = float(cosine_similarity(gradient, direction, 0))
            print(
                f"| ours, {name} | {1e3 * row['gradient_step']:.1f} "
                f"| {row['gradient_ratio']:.1f} | {1e3 * row['sample']:.2f} "
                f"| {row['sample_ratio']:.1f} | {row['relative_error']:.1e} "
                f"| {row['gradient_cosine']:.4f} |",
                flush=True,
            )
    if on_gpu:
        figures["decisions"] = gpu_decisions(args, model)
    return figures


def main(args: Args) -> None:
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    figures: dict[str, Any] = {
        "machine": machine(), "threads": torch.get_num_threads(), "device": args.device,
    }  # fmt: skip
    print(f"{figures['machine']}, {figures['threads']} thread(s), {args.device}\n")
    if args.device == "cpu":
        figures["peaks"] = peaks(args)
    if args.speed:
        figures |= speed(args)
    if args.json is not None:
        write_text(args.json, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
