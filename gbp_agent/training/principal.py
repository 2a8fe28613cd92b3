"""First phase of pre-training for a linear encoder: principal components of blurred pictures.

Two blurred pictures of the same things differ the more, the further the things are apart, up to the
blur's width; the components of greatest variance keep most of that difference in few numbers. For
a ChamferEncoder they are components of what ranks pictures nearly as their Chamfer distance.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..compact import CompactWorldModel
from ..data import TrajectoryDataset
from ..networks import ChamferEncoder, LinearDecoder, LinearEncoder, darkness, gaussian_blur

FRAMES = 20_000  # that are looked at, at most
AT_ONCE = 50  # episodes in memory
RIDGE = 1e-4  # of the decoder's regression, in variances of the last component


@torch.no_grad()
def fit_principal_components(
    model: CompactWorldModel, dataset: TrajectoryDataset, episodes: np.ndarray, blur: float,
    field: float = 0.0, progress: bool = True,
) -> None:  # fmt: skip
    """Set the encoder, linear or Chamfer, and the decoder in place, from at most FRAMES frames
    of these episodes.

    blur: standard deviation of the Gaussian, px. field: weight of the distance field, per px,
    where the darkest pixel weighs 1; for a ChamferEncoder alone. The decoder is the linear
    regression of the pictures, not blurred, on the latents. The latents are neither centred nor
    scaled.
    """
    size, width = model.config.image_size, model.config.latent_dim
    encoder, decoder = model.encoder, model.decoder
    if not isinstance(encoder, LinearEncoder) or not isinstance(decoder, LinearDecoder):
        raise TypeError(f"linear encoders are fitted, not {type(encoder).__name__}")
    smooth = gaussian_blur(size, blur)
    if isinstance(encoder, ChamferEncoder):
        some = torch.from_numpy(dataset.array("pixels", episodes[:AT_ONCE]))
        darkest = encoder.greys(some).max()
        encoder.smooth.copy_(smooth)  # it blurs by itself, and not the distances
        encoder.dark.copy_(darkest / 2)
        encoder.field.copy_(field * darkest)
        smooth = torch.eye(size)
    stride = max(1, -(-dataset.frames // FRAMES))
    features, pictures = [], []
    chunks = [episodes[i : i + AT_ONCE] for i in range(0, len(episodes), AT_ONCE)]
    for chunk in tqdm(chunks, desc="principal components", disable=not progress):
        frames = torch.from_numpy(dataset.array("pixels", chunk)[::stride])
        features.append(encoder.features(frames.to(model.device)).cpu())
        pictures.append(frames)
    rows = _blurred(torch.cat(features), smooth)
    if len(rows) <= width:
        raise ValueError(
            f"{len(rows)} frames have fewer than {width} principal components; collect more "
            "episodes or give a smaller latent_dim"
        )
    components = principal_directions(rows, width).T  # (D, S²)
    latents = rows @ components.T
    # Blurring is symmetric and linear, so that it can be done to the components instead.
    encoder.head.weight.copy_(_blurred(components, smooth))
    encoder.head.bias.zero_()
    weight, bias = _regression(latents, torch.cat(pictures))
    decoder.entry.weight.copy_(weight)
    decoder.entry.bias.copy_(bias)


def _blurred(rows: Tensor, smooth: Tensor) -> Tensor:
    """Rows (N, S²), each a picture, blurred."""
    side = len(smooth)
    return (smooth @ rows.unflatten(1, (side, side)) @ smooth.T).flatten(1)


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
