"""First phase of pre-training for patch tokens: a small vision transformer, trained as a masked
autoencoder on the data's own frames, and then frozen.

1. masked     encoder: pictures with hidden patches → whole pictures, as the encoder sees them
2. tokens     standardised: a mean of 0 and a mean variance of 1; of weights that are rounded as
              the checkpoint keeps them, as a small part of the tokens may be all that moves
3. decoder    tokens → pictures, for people

Sources: masked autoencoders (arXiv 2111.06377); hidden patches are shown as grey, as in SimMIM
(arXiv 2111.09886), so that any of timm's vision transformers will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint import halved
from ..data import TrajectoryDataset, evenly_chosen
from ..networks import PatchDecoder, darkness, initialize
from ..patch import PatchWorldModel
from . import losses
from .loop import LoopConfig, optimize

EPISODES, SAMPLE = 200, 4000  # episodes and frames by which tokens are standardised, at most about


@dataclass(frozen=True)
class MaskedConfig:
    """Options of the first phase of a patch-token model.

    steps, frames: optimiser steps, and frames in a batch. hidden: share of the patches that the
    encoder does not see, 0…1. foreground_weight: see losses.reconstruction.
    decoder_steps: of the decoder, for models that have one.
    """

    steps: int = 8000
    frames: int = 128
    hidden: float = 0.5
    learning_rate: float = 1e-3
    foreground_weight: float = 20.0
    decoder_steps: int = 2000

    def __post_init__(self) -> None:
        if not 0 <= self.hidden < 1:
            raise ValueError(f"hidden must lie in 0…1, got {self.hidden}")
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1, got {self.frames}")


class _Masked(nn.Module):
    """The encoder, and a linear map from each token to the pixels of its patch, for training."""

    def __init__(self, model: PatchWorldModel):
        super().__init__()
        self.encoder = model.encoder
        self.patch = model.encoder.size // model.encoder.grid[0]
        self.head = nn.Linear(model.token_width, 3 * self.patch**2)

    def forward(self, pixels: Tensor, hidden: Tensor) -> Tensor:
        """Pixels (N, S, S, 3) uint8 and hidden patches (N, P) bool → the picture (N, 3, S, S)."""
        patches = self.head(self.encoder(pixels, hidden))
        maps = patches.transpose(1, 2).unflatten(2, self.encoder.grid)
        return F.pixel_shuffle(maps, self.patch)

    def target(self, pixels: Tensor) -> Tensor:
        """What is to be told of pixels, (N, 3, S, S)."""
        seen: Tensor = self.encoder.picture(pixels)
        return seen


def train_patch_representation(
    model: PatchWorldModel,
    dataset: TrajectoryDataset,
    episodes: np.ndarray,
    config: MaskedConfig,
    folder: Path,
    seed: int,
    bfloat16: bool,
    progress: bool,
) -> None:
    """Train the encoder and, where there is one, the decoder, in place.

    Raises:
        ValueError: the encoder sees pictures of another size than the environment's, or does not
            end in a LayerNorm with weights.
    """
    if model.encoder.size != model.config.image_size:
        raise ValueError(
            f"the encoder sees pictures of {model.encoder.size} px, the data has "
            f"{model.config.image_size}; give encoder_size={model.config.image_size}"
        )
    norm = _last_norm(model)
    how = (dataset, episodes, config, seed, bfloat16, folder, progress)
    networks = _Masked(model)
    initialize(networks.head, torch.Generator().manual_seed(seed))
    networks.requires_grad_(True)
    _optimize("masked", networks, config.steps, *how)
    model.encoder.requires_grad_(False)
    round_as_kept(model.encoder)
    standardize_tokens(model, norm, _sample(dataset, episodes))
    if isinstance(model.decoder, PatchDecoder):
        _optimize("decoder", _Shown(model), config.decoder_steps, *how)


class _Shown(nn.Module):
    """The decoder on the frozen encoder's tokens of whole pictures."""

    def __init__(self, model: PatchWorldModel):
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder

    def forward(self, pixels: Tensor, hidden: Tensor) -> Tensor:
        with torch.no_grad():
            tokens = self.encoder(pixels)
        shown: Tensor = self.decoder(tokens)
        return shown

    def target(self, pixels: Tensor) -> Tensor:
        """What is to be told of pixels, (N, 3, S, S)."""
        return darkness(pixels, torch.float32)


def _optimize(
    name: str,
    networks: _Masked | _Shown,
    steps: int,
    dataset: TrajectoryDataset,
    episodes: np.ndarray,
    config: MaskedConfig,
    seed: int,
    bfloat16: bool,
    folder: Path,
    progress: bool,
) -> None:
    encoder: Any = networks.encoder
    device = encoder.mean.device
    networks.to(device)
    windows = dataset.windows(1, 1, episodes)

    def batches(first: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
        yield from enumerate(windows.shuffled(config.frames, seed, first), first)

    def loss_function(item: tuple[int, dict[str, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
        step, batch = item
        pixels = batch["pixels"].to(device).flatten(0, 1)
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + step)
        draw = torch.rand(len(pixels), encoder.tokens, generator=generator, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            decoded = networks(pixels, draw < config.hidden)
        target = networks.target(pixels)
        return losses.reconstruction(decoded, pixels, config.foreground_weight, target), {}

    optimize(
        name, networks, loss_function, batches, LoopConfig(steps, config.learning_rate), folder,
        progress,
    )  # fmt: skip


@torch.no_grad()
def round_as_kept(network: nn.Module) -> None:
    """Round the weights in place to what a checkpoint of half precision keeps of them."""
    for name, weight in network.named_parameters():
        if halved(name, weight):
            weight.copy_(weight.half())


@torch.no_grad()
def standardize_tokens(model: PatchWorldModel, norm: nn.LayerNorm, pixels: Tensor) -> None:
    """Give the tokens of pixels (n, S, S, 3) a mean of 0 for each number, and a mean variance of 1,
    by the weights of the encoder's last LayerNorm; each token for itself where the encoder is
    `centered`, so that what is the same in all pictures does not count."""
    tokens = torch.cat([model.encoder(part.to(model.device)) for part in pixels.split(256)])
    center = model.encoder.center
    each = tokens.flatten(0, 1) if center is None else tokens
    mean, variance = each.mean(0), each.var(0)
    scale = variance.mean().clamp(min=1e-12).rsqrt()
    if center is None:
        norm.bias.sub_(mean).mul_(scale)
    else:
        center.add_(mean).mul_(scale)
        norm.bias.mul_(scale)
    norm.weight.mul_(scale)


def _last_norm(model: PatchWorldModel) -> nn.LayerNorm:
    norm = getattr(model.encoder.network, "norm", None)
    if not isinstance(norm, nn.LayerNorm) or not norm.elementwise_affine:
        raise ValueError(
            f"{model.config.encoder} does not end in a LayerNorm with weights, by which its tokens "
            "could be standardised; take a plain vision transformer, such as vit_tiny_patch16_224"
        )
    return norm


def _sample(dataset: TrajectoryDataset, episodes: np.ndarray) -> Tensor:
    """Frames that are chosen evenly."""
    frames = torch.from_numpy(dataset.array("pixels", evenly_chosen(episodes, EPISODES)))
    return frames[:: max(1, len(frames) // SAMPLE)]
