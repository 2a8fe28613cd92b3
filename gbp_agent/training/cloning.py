"""Behaviour cloning with goals in hindsight, on latents of a frozen encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..baselines.cloning import CloningAgent
from ..checkpoint import load_checkpoint
from ..data import TrajectoryDataset
from ..data.latents import LatentDataset
from ..networks import initialize
from .loop import LoopConfig, optimize
from .run import claim


@dataclass(frozen=True)
class CloningConfig:
    """Options of `clone`.

    model: the world model whose encoder is used: a shipped name, a folder, or hf://owner/repo.
    data: dataset folder. out: folder for states and curves; a killed run goes on from there.
    latents: file of the data's latents, written if it is not there; OUT/latents.npy by default.
    goal_steps: a window's goal is what was seen 1 to so many environment steps later.
    windows: in a batch. width: hidden units.
    held_out: share of the episodes, the last, that is left alone as in pre-training.
    """

    model: str
    data: Path
    out: Path
    latents: Path | None = None
    steps: int = 8000
    windows: int = 512
    goal_steps: int = 25
    width: int = 256
    learning_rate: float = 1e-3
    held_out: float = 0.05
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        if self.goal_steps < 1 or self.width < 1:
            raise ValueError(
                f"goal_steps and width must be at least 1, got {self.goal_steps} and {self.width}"
            )


def clone(config: CloningConfig) -> CloningAgent:
    """Train an agent that predicts the data's next action from the present and a later frame.

    Raises:
        FileNotFoundError, ValueError: the data cannot be read, or `out` holds another run.
    """
    dataset = TrajectoryDataset(config.data)
    training, _ = dataset.split(config.held_out)
    claim(config, ignore=("latents",))
    model, _ = load_checkpoint(config.model)
    file = config.latents or config.out / "latents.npy"
    data = LatentDataset.encode(model, dataset, file, config.progress)
    network = CloningAgent.new_network(model, config.width)
    initialize(network, torch.Generator().manual_seed(config.seed))

    def batches(first: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        source = data.windows(
            config.goal_steps + 1, 1, training, config.windows, config.seed, first
        )
        for step, (latents, actions) in enumerate(source, first):
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            later = torch.randint(1, latents.shape[1], (len(latents),), generator=generator)
            yield latents[:, 0], latents[torch.arange(len(latents)), later], actions[:, 0]

    def loss_function(
        item: tuple[Tensor, Tensor, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        start, goal, action = item
        return (network(start, goal)[:, 0] - action).square().mean(), {}

    loop = LoopConfig(config.steps, config.learning_rate)
    optimize("cloning", network, loss_function, batches, loop, config.out, config.progress)
    return CloningAgent(model, network)
