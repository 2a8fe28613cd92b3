"""First phase of pre-training: an encoder whose latents can be decoded and predicted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..compact import CompactWorldModel
from ..data import TrajectoryDataset
from ..networks import MLPPredictor, initialize
from . import losses
from .loop import LoopConfig, optimize


@dataclass(frozen=True)
class RepresentationConfig:
    """Options of the first phase.

    blur, field: ≥ 0, for a linear encoder, which is fitted at once; see principal.py. The others
    are for an encoder that is trained.
    windows: windows in a batch; frames: frames of a window, one model step apart, ≥ 2
    (straightening needs 3).
    The loss is the sum of these, each times its weight:
    prediction: error of the next latent from the present one and the action, relative to the
        latents' variance.
    reconstruction: of the picture, with objects `foreground_weight` times the ground.
    variance, covariance: VICReg's terms. sigreg: SIGReg. straightening: temporal straightening.
    """

    steps: int = 4000
    windows: int = 96
    frames: int = 2
    learning_rate: float = 2e-3
    prediction: float = 0.1
    reconstruction: float = 50.0
    foreground_weight: float = 20.0
    variance: float = 0.0
    covariance: float = 0.0
    sigreg: float = 0.0
    straightening: float = 0.0
    blur: float = 4.0
    field: float = 0.03

    def __post_init__(self) -> None:
        for name in ("blur", "field"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        least = 3 if self.straightening else 2
        if self.frames < least:
            raise ValueError(f"frames must be at least {least}, got {self.frames}")


class _Representation(nn.Module):
    """The networks of this phase, with a small predictor of their own that is thrown away."""

    def __init__(self, model: CompactWorldModel):
        super().__init__()
        width = model.config.latent_dim + model.config.proprio_dim
        self.encoder = model.encoder
        self.decoder = model.decoder
        self.predictor = MLPPredictor(width, model.model_action_dim, 1, 256, 2)


def train_representation(
    model: CompactWorldModel,
    dataset: TrajectoryDataset,
    episodes: np.ndarray,
    config: RepresentationConfig,
    folder: Path,
    seed: int,
    bfloat16: bool,
    progress: bool,
) -> None:
    """Train the encoder and the decoder in place."""
    networks = _Representation(model)
    initialize(networks.predictor, torch.Generator().manual_seed(seed))
    device = model.device
    networks.to(device)
    networks.to(memory_format=torch.channels_last)
    windows = dataset.windows(config.frames, model.config.frameskip, episodes)

    def batches(first: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
        yield from enumerate(windows.shuffled(config.windows, seed, first), first)

    def loss_function(item: tuple[int, dict[str, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
        step, batch = item
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + step)
        pixels = batch["pixels"].to(device).flatten(0, 1)
        proprio = model.proprio_normalizer.normalize(batch["proprio"].to(device))
        actions = model.action_normalizer.to_model(
            batch["action"].to(device).flatten(1, 2), model.config.frameskip
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            visual = networks.encoder(pixels).float()
            darkness = networks.decoder(visual, proprio.flatten(0, 1))
            latents = torch.cat([visual.unflatten(0, proprio.shape[:2]), proprio], -1)
            embedded = networks.predictor.embed(actions.flatten(0, 1).unsqueeze(1))
            predicted = networks.predictor(latents[:, :-1].flatten(0, 1).unsqueeze(1), embedded)
        target = latents[:, 1:].flatten(0, 1)
        terms = {
            "prediction": losses.relative_error(predicted.float(), target),
            "reconstruction": losses.reconstruction(darkness, pixels, config.foreground_weight),
            "variance": losses.variance(visual),
            "covariance": losses.covariance(visual),
        }
        if config.straightening:
            terms["straightening"] = losses.straightening(visual.unflatten(0, proprio.shape[:2]))
        if config.sigreg:
            terms["sigreg"] = losses.sigreg(visual, generator)
        loss = torch.stack([getattr(config, k) * v for k, v in terms.items()]).sum()
        return loss, {k: v.detach() for k, v in terms.items()}

    loop = LoopConfig(config.steps, config.learning_rate)
    optimize("representation", networks, loss_function, batches, loop, folder, progress)
