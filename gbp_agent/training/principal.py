"""First phase of pre-training for a linear encoder: principal components of blurred pictures.

Two blurred pictures of the same things differ the more, the further the things are apart, up to the
blur's width; the components of greatest variance keep most of that difference in few numbers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..compact import CompactWorldModel
from ..data import TrajectoryDataset
from ..networks import darkness, gaussian_blur

FRAMES = 20_000  # that are looked at, at most
AT_ONCE = 50  # episodes in memory
RIDGE = 1e-4  # of the decoder's regression, in variances of the last component


@torch.no_grad()
def fit_principal_components(
    model: CompactWorldModel, dataset: TrajectoryDataset, episodes: np.ndarray, blur: float,
    progress: bool = True,
) -> None:  # fmt: skip
    """Set the linear encoder and decoder in place, from at most FRAMES frames of these episodes.

    blur: standard deviation of the Gaussian, px. The decoder is the linear regression of the
    pictures, not blurred, on the latents. The latents are neither centred nor scaled.
    """
    size, width = model.config.image_size, model.config.latent_dim
    smooth = gaussian_blur(size, blur)
    stride = max(1, -(-dataset.frames // FRAMES))
    blurred, pictures = [], []
    chunks = [episodes[i : i + AT_ONCE] for i in range(0, len(episodes), AT_ONCE)]
    for chunk in tqdm(chunks, desc="principal components", disable=not progress):
        frames = torch.from_numpy(dataset.array("pixels", chunk)[::stride])
        grey = darkness(frames, torch.float32).mean(1)
        blurred.append((smooth @ grey @ smooth.T).flatten(1))
        pictures.append(frames)
    rows = torch.cat(blurred)
    if len(rows) <= width:
        raise ValueError(
            f"{len(rows)} frames have fewer than {width} principal components; collect more "
            "episodes or give a smaller latent_dim"
        )
    components = principal_directions(rows, width).T  # (D, S²), of the blurred picture
    latents = rows @ components.T
    # Blurring is symmetric and linear, so that it can be done to the components instead.
    grey = components.unflatten(1, (size, size))
    encoder, decoder = model.encoder, model.decoder
    encoder.head.weight.copy_((smooth.T @ grey @ smooth).flatten(1))
    encoder.head.bias.zero_()
    weight, bias = _regression(latents, torch.cat(pictures))
    decoder.entry.weight.copy_(weight)
    decoder.entry.bias.copy_(bias)


def principal_directions(rows: Tensor, count: int) -> Tensor:
    """The (width, count) orthonormal directions along which (N, width) vary most, most first."""
    _, directions = torch.linalg.eigh(torch.cov(rows.T))  # least first
    return directions[:, -count:].flip(1)


def _regression(latents: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (3 S², D) and bias of the least-squares map from latents (N, D) to the darkness of
    pictures (N, S, S, 3) uint8."""
    mean = latents.mean(0)
    centered = (latents - mean).double()
    moments = centered.T @ centered
    moments += RIDGE * moments.diagonal().min() * torch.eye(len(moments), dtype=torch.double)
    pixels = pictures[0].numel()
    total = torch.zeros(pixels, dtype=torch.double)
    products = torch.zeros(len(moments), pixels, dtype=torch.double)
    for rows, frames in zip(centered.split(1000), pictures.split(1000), strict=True):
        wanted = darkness(frames, torch.float64).flatten(1)
        products += rows.T @ wanted
        total += wanted.sum(0)
    weight = torch.linalg.solve(moments, products).T
    bias = total / len(pictures) - weight @ mean.double()
    return weight.float(), bias.float()
