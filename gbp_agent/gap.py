"""The train-test gap: how much more wrong a model is where its planner goes than where data are.

Source: arXiv 2512.09929, the comparison of expert and planning trajectories.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .agent import WorldModelMPCAgent
from .data import Windows
from .data.latents import encode_frames
from .data.simulate import Simulator
from .diagnostics import rollout_errors
from .world_model import LatentWorldModel, join


@torch.no_grad()
def error_along(
    model: LatentWorldModel, latents: Tensor, model_actions: Tensor
) -> dict[str, Tensor]:
    """Model error along trajectories that really happened.

    latents: (N, H + 1, L) joined latents of the frames, one model step apart; model_actions:
    (N, H, M).
    Returns mean squared errors per trajectory, averaged over the numbers of a latent:
    "one_step" (N, H - T + 1) predicts each frame from the real ones before it, "rollout"
    (N, H - T + 1) from the first T frames alone.
    """
    history = model.history
    windows = latents[:, :-1].unfold(1, history, 1).movedim(-1, 2)  # (N, H - T + 1, T, L)
    actions = model_actions.unfold(1, history, 1).movedim(-1, 2)
    count = windows.shape[1]
    starts, taken = model.split(windows.flatten(0, 1)), actions.flatten(0, 1)
    one_step = join(model.rollout(starts, taken[:, :-1], taken[:, -1:]))[:, 0]
    one_step = one_step.unflatten(0, (-1, count)) - latents[:, history:]
    return {
        "one_step": one_step.square().mean(-1),
        "rollout": rollout_errors(model, latents, model_actions),
    }


def from_first_to_last(window: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Observations (B, …) of the first frames of a batch of windows, with their last as goals."""
    shown = {key: window[key].numpy() for key in ("pixels", "proprio")}
    return {key: frames[:, 0] for key, frames in shown.items()} | {
        f"goal_{key}": frames[:, -1] for key, frames in shown.items()
    }


def train_test_gap(
    agent: WorldModelMPCAgent,
    windows: Windows,
    simulator: Simulator,
    count: int = 256,
    seed: int = 0,
) -> dict[str, dict[str, Tensor]]:
    """Model error along expert trajectories and along the planner's own, from the same starts.

    The agent plans once from the first frame of a window to its last, and the simulator acts the
    plan out.

    agent: its horizon H is the windows' length.
    windows: of H + 1 frames, of episodes that no training saw.
    Returns {"expert": …, "planner": …}, each as `error_along` says, for `count` windows.
    """
    model, frameskip = agent.model, agent.model.config.frameskip
    rng = np.random.default_rng(seed)
    indices = rng.integers(len(windows), size=count)
    window = windows.batch(indices)
    frames = {key: window[key].numpy() for key in ("pixels", "proprio", "state")}
    plan = agent.plan(from_first_to_last(window))
    seen = simulator.play(frames["state"][:, 0], plan.actions, windows.reset_seeds(indices))
    own = {
        key: np.concatenate(
            [frames[key][:, :1], getattr(seen, key)[:, frameskip - 1 :: frameskip]], 1
        )
        for key in ("pixels", "proprio")
    }
    errors = {}
    for name, shown, actions in (
        ("expert", frames, window["action"].flatten(1, 2)),
        ("planner", own, torch.from_numpy(plan.actions)),
    ):
        latents = encode_frames(model, shown["pixels"], shown["proprio"]).to(model.device)
        taken = model.action_normalizer.to_model(actions.to(model.device), frameskip)
        errors[name] = error_along(model, latents, taken)
    return errors
