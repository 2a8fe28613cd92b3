"""Adversarial World Modeling: perturb the inputs where the model is most wrong, and train there.

Source: arXiv 2512.09929, section on adversarial world modeling. The perturbation is found by the
fast gradient sign method from a uniform start (arXiv 2001.03994), or by projected gradient descent
with more than one step (arXiv 1706.06083). The target stays the clean next latent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class AdversarialConfig:
    """Options of the attack.

    visual, proprio, action: λ ≥ 0 of each part of the input. The radius of its box is λ times the
        mean over the batch of the standard deviation within each sample; 0 leaves a part alone.
    radii: "adaptive" takes them from each batch, "fixed" from the first batch for good.
    perturb_action: "raw" perturbs the model actions, "embedding" what the predictor makes of them
        before they meet the latents.
    attack_steps: 1 is FGSM, more is PGD; 0 leaves the uniform start as it is, random noise in the
        same box, which tells what the attack adds to it.
    step_size: length of an attack step in radii.
    """

    visual: float = 0.05
    proprio: float = 0.02
    action: float = 0.02
    radii: Literal["fixed", "adaptive"] = "adaptive"
    perturb_action: Literal["raw", "embedding"] = "raw"
    attack_steps: int = 1
    step_size: float = 1.25

    def __post_init__(self) -> None:
        if min(self.visual, self.proprio, self.action) < 0 or self.step_size <= 0:
            raise ValueError(
                "visual, proprio and action must be at least 0 and step_size above 0, got "
                f"{self.visual}, {self.proprio}, {self.action} and {self.step_size}"
            )
        if self.attack_steps < 0:
            raise ValueError(
                f"attack_steps must be at least 0, got {self.attack_steps}; 1 is FGSM, 0 is noise"
            )
        for name, value, choices in (
            ("radii", self.radii, ("fixed", "adaptive")),
            ("perturb_action", self.perturb_action, ("raw", "embedding")),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {value!r}")


class Parts(NamedTuple):
    """One tensor for each part of the predictor's input, (N, …) each: the parts themselves, their
    perturbations, or their radii (then 0-dimensional)."""

    visual: Tensor
    proprio: Tensor
    action: Tensor


@torch.no_grad()
def attack_radii(inputs: Parts, config: AdversarialConfig) -> Parts:
    """ε = λ · mean over the batch of the standard deviation within each sample."""
    scales = (config.visual, config.proprio, config.action)
    spread = (_spread(part) for part in inputs)
    return Parts(*(scale * value for scale, value in zip(scales, spread, strict=True)))


def _spread(part: Tensor) -> Tensor:
    """Standard deviation within a sample, averaged over the batch."""
    if part.numel() == 0:  # a state model has no visual part
        return part.new_zeros(())
    # One number per sample has no spread within a sample: that of the batch is taken.
    return part.flatten(1).std(1).mean() if part[0].numel() > 1 else part.std()


def attack(
    loss: Callable[[Parts], Tensor],
    inputs: Parts,
    radii: Parts,
    config: AdversarialConfig,
    generator: torch.Generator,
) -> Parts:
    """Perturbations δ with |δ| ≤ ε everywhere that raise `loss(inputs + δ)`, random ones with no
    attack steps; they carry no graph.

    loss: of perturbed inputs, summed or averaged over the batch.
    """
    perturbation = [
        radius * (2 * torch.rand(part.shape, generator=generator, device=part.device) - 1)
        for part, radius in zip(inputs, radii, strict=True)
    ]
    for _ in range(config.attack_steps):
        leaves = [delta.detach().requires_grad_(True) for delta in perturbation]
        gradients = torch.autograd.grad(loss(add(inputs, Parts(*leaves))), leaves)
        perturbation = [
            (delta.detach() + config.step_size * radius * gradient.sign()).clamp(-radius, radius)
            for delta, radius, gradient in zip(leaves, radii, gradients, strict=True)
        ]
    return Parts(*perturbation)


def add(inputs: Parts, perturbation: Parts) -> Parts:
    """inputs + perturbation, part by part."""
    return Parts(*(part + delta for part, delta in zip(inputs, perturbation, strict=True)))
