"""Peak memory of one decision with a patch-token model; see benchmark_patch.py."""

import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

from gbp_agent import MPCConfig, PatchConfig, PatchWorldModel, Planner, WorldModelMPCAgent
from gbp_agent.networks import initialize


def decision_in_a_child(
    config: PatchConfig, planner: Planner, mpc: MPCConfig, threads: int
) -> dict[str, float]:
    """Peak memory in GiB and seconds of one decision, in a process that does nothing else.

    A child's peak begins with what its parent held when it started it, so call this early.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(decision, config, planner, mpc, threads).result()


def decision(
    config: PatchConfig, planner: Planner, mpc: MPCConfig, threads: int
) -> dict[str, float]:
    """Plan once with random weights for a random picture; peak of this process and seconds."""
    torch.set_num_threads(threads)
    model = PatchWorldModel(config)
    initialize(model.predictor, torch.Generator().manual_seed(0))
    agent = WorldModelMPCAgent(model, planner, config=mpc)
    seconds = agent.plan(random_observation(config)).seconds
    return {
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "seconds": seconds,
        "rollouts_at_once": model.rollouts_at_once,
    }


def random_observation(config: PatchConfig) -> dict[str, np.ndarray]:
    """A random picture, proprioception and goal."""
    random = np.random.default_rng(0)
    size = config.image_size
    return {
        f"{which}{part}": value
        for which in ("", "goal_")
        for part, value in (
            ("pixels", random.integers(256, size=(size, size, 3), dtype=np.uint8)),
            ("proprio", random.standard_normal(config.proprio_dim, dtype=np.float32)),
        )
    }
