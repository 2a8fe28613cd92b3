"""The Euclidean distance transform, for pictures in a batch."""

from __future__ import annotations

import torch
from torch import Tensor

IN_CACHE = 2**19  # numbers


def distance_transform(things: Tensor) -> Tensor:
    """Distance in px (N, S, T) from each pixel to the nearest that is True in (N, S, T), and S + T
    where none is.

    Exact, one axis after the other, by parabolas: Felzenszwalb and Huttenlocher, "Distance
    transforms of sampled functions", 2012.
    """
    height, width = things.shape[1:]
    none = float((height + width) ** 2)
    squares = torch.where(things, 0.0, none)
    squares = _lower_envelope(_lower_envelope(squares).mT).mT
    return squares.clamp(max=none).sqrt()


def _lower_envelope(values: Tensor) -> Tensor:
    """The least over j of values[..., j] + (i - j)² for each i (N, R, C)."""
    count = values.shape[-1]
    place = torch.arange(count, device=values.device, dtype=values.dtype)
    parabolas = (place[:, None] - place).square()
    rows = values.flatten(0, 1).split(max(1, IN_CACHE // count**2))
    return torch.cat([(r[:, None] + parabolas).amin(2) for r in rows]).view(values.shape)
