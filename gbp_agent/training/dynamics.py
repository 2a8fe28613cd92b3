"""Second phase of pre-training: the predictor, on latents of the frozen encoder."""

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
class DynamicsConfig:
    """Options of the second phase.

    windows: windows in a batch. horizon: model steps that are rolled out and compared.
    one_step_share: share of the optimiser steps, at the beginning, that compare one model step
    only: cheap ones learn the dynamics, the others that errors add up in a roll-out.
    input_noise: standard deviation of noise on the first latents, which teaches the predictor to
    return to the data.
    """

    steps: int = 10_000
    windows: int = 256
    horizon: int = 3
    one_step_share: float = 0.0
    learning_rate: float = 1e-3
    input_noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "windows", "horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.one_step_share <= 1.0:
            raise ValueError(f"one_step_share must lie in [0, 1], got {self.one_step_share}")


def train_dynamics(
    model: LatentWorldModel,
    data: LatentDataset,
    episodes: np.ndarray,
    config: DynamicsConfig,
    folder: Path,
    seed: int,
    bfloat16: bool,
    progress: bool,
) -> None:
    """Train the predictor in place by multi-step roll-outs against cached latents."""
    device = model.device
    history, substeps = model.history, model.substeps
    frameskip = model.config.frameskip // substeps  # from one compared frame to the next
    one_step = round(config.one_step_share * config.steps)

    def batches(first: int) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        for end, horizon in ((one_step, 1), (config.steps, config.horizon)):
            frames = history + horizon * substeps
            source = data.windows(frames, frameskip, episodes, config.windows, seed, first)
            yield from zip(range(first, end), source, strict=False)
            first = max(first, end)

    def loss_function(
        item: tuple[int, tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        step, (latents, actions) = item
        latents, actions = latents.to(device), actions.to(device)
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + step)
        latents, actions = pad_history(latents, actions, history, generator)
        start = latents[:, :history]
        if config.input_noise:
            noise = torch.randn(start.shape, generator=generator, device=device)
            start = start + config.input_noise * noise
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            predicted = model.unroll(
                model.split(start),
                actions[:, : history - 1],
                actions[:, history - 1 :].unflatten(1, (-1, substeps)).flatten(2),
            )
        error = (predicted.float() - latents[:, history:]).square().mean((0, 2))
        return error.mean(), {"first_step": error[0].detach(), "last_step": error[-1].detach()}

    loop = LoopConfig(config.steps, config.learning_rate)
    model.requires_grad_(False)
    model.predictor.requires_grad_(True)
    optimize("dynamics", model, loss_function, batches, loop, folder, progress)


def pad_history(
    latents: Tensor, actions: Tensor, history: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Make some windows look like an episode's beginning, where the agent repeats its first frame.

    latents: (W, n, L), actions: (W, n-1, M). In a quarter of the rows the first k < T frames are
    replaced by the one after them and the actions between those by zero displacement (0, the
    mean action). Returns new tensors; with T = 1 the given ones.
    """
    if history == 1:
        return latents, actions
    rows, device = len(latents), latents.device
    count = torch.randint(1, history, (rows,), generator=generator, device=device)
    count = count * (torch.rand(rows, generator=generator, device=device) < 0.25)
    frame = torch.arange(latents.shape[1], device=device)
    source = torch.maximum(frame[None], count[:, None])
    padded = latents.gather(1, source[..., None].expand_as(latents))
    repeated = (frame[:-1] < count[:, None])[..., None]
    return padded, actions.masked_fill(repeated, 0.0)
