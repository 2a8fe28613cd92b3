"""The one place where environment units become model units and back."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Self

CONSTANT = 1e-6  # standard deviation, env units
NOISE = 1e-10  # one of rounding errors


class Standardizer(nn.Module):
    """z-scores the last dimension with statistics that are saved with the model.

    Args:
        mean, std: (n,), statistics of the training data; a constant dimension has std 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean.detach().clone().float())
        self.register_buffer("std", std.detach().clone().float())

    @classmethod
    def fit(cls, values: np.ndarray) -> Self:
        """From data (..., n); with a standard deviation of at most CONSTANT a dimension counts as
        constant."""
        flat = torch.from_numpy(np.asarray(values, np.float64).reshape(-1, values.shape[-1]))
        std, size = flat.std(0), flat.abs().amax(0)
        varies = std > CONSTANT
        if lost := int((~varies & (std > CONSTANT * size) & (std > NOISE)).sum()):
            warnings.warn(
                f"{lost} of {len(std)} numbers have a standard deviation below {CONSTANT} and "
                "count as constant; give them in smaller units if they mean something",
                stacklevel=2,
            )
        return cls(flat.mean(0), torch.where(varies, std, torch.ones_like(std)))

    @classmethod
    def identity(cls, size: int) -> Self:
        """Mean 0 and std 1, to be overwritten by loading a checkpoint."""
        return cls(torch.zeros(size), torch.ones(size))

    def normalize(self, values: Tensor) -> Tensor:
        """Env units (..., n) → z-scores (..., n) float32."""
        return (values.to(self.mean.dtype) - self.mean) / self.std

    def denormalize(self, values: Tensor) -> Tensor:
        """z-scores (..., n) → env units (..., n)."""
        return values * self.std + self.mean


class ActionNormalizer(Standardizer):
    """Converts environment actions (..., k·F, A) to model actions (..., k, F·A) and back.

    Args:
        mean, std: (A,), statistics of the training data's actions, env units.
    """

    def to_model(self, actions: Tensor, frameskip: int) -> Tensor:
        """Env actions (..., k·F, A) → model actions (..., k, F·A)."""
        return self.normalize(actions).unflatten(-2, (-1, frameskip)).flatten(-2)

    def to_env(self, model_actions: Tensor) -> Tensor:
        """Model actions (..., k, F·A) → env actions (..., k·F, A), not clipped."""
        per_step = model_actions.unflatten(-1, (-1, self.mean.shape[0]))
        return self.denormalize(per_step.flatten(-3, -2))

    def bounds(
        self, low: np.ndarray, high: np.ndarray, frameskip: int, limit: float
    ) -> tuple[Tensor, Tensor]:
        """Bounds (M,) of a model action: the action space, and at most `limit` standard deviations
        of the training data from its mean."""
        device = self.mean.device
        lowest = self.normalize(torch.as_tensor(low, device=device)).clamp(min=-limit)
        highest = self.normalize(torch.as_tensor(high, device=device)).clamp(max=limit)
        return lowest.repeat(frameskip), highest.repeat(frameskip)
