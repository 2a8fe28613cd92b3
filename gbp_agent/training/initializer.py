"""Third phase of pre-training: the initialisation network, on latents of the frozen encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.latents import LatentDataset
from ..world_model import LatentWorldModel
from .loop import LoopConfig, optimize


@dataclass(frozen=True)
class InitializerConfig:
    """Options of the third phase, for models with an initialisation network.

    windows: windows in a batch.
    """

    steps: int = 4000
    windows: int = 512
    learning_rate: float = 1e-3


def train_initializer(
    model: LatentWorldModel,
    data: LatentDataset,
    episodes: np.ndarray,
    config: InitializerConfig,
    folder: Path,
    seed: int,
    bfloat16: bool,
    progress: bool,
) -> None:
    """Train the initialisation network in place: from the first and the last frame of a window to
    the actions between them. Does nothing for a model without one."""
    if model.initializer is None:
        return
    network, history = model.initializer.requires_grad_(True), model.history
    device = model.device
    frames = history + network.steps

    def batches(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        frameskip = model.config.frameskip
        return data.windows(frames, frameskip, episodes, config.windows, seed, first)

    def loss_function(window: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        latents, actions = (part.to(device) for part in window)
        start, goal = model.split(latents[:, :history]), model.split(latents[:, -1])
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            plan = model.initial_plan(start, goal)
        return (plan.float() - actions[:, history - 1 :]).square().mean(), {}

    loop = LoopConfig(config.steps, config.learning_rate)
    optimize("initializer", network, loss_function, batches, loop, folder, progress)
