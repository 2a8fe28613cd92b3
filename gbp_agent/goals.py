"""The latents of goals, which stay the same while an episode lasts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .types import Latent

Encode = Callable[[dict[str, np.ndarray], np.ndarray, str], Latent]
"""(batch of observations, rows of it, "goal_") → Latent (rows,)."""


class GoalLatents:
    """Encodes goals, each once for as long as it is among those of the batch."""

    def __init__(self, encode: Encode):
        self._encode = encode
        self._known: dict[bytes, Latent] = {}

    def forget(self) -> None:
        """Encode all anew, for the model may have changed since."""
        self._known = {}

    def __call__(self, batch: dict[str, np.ndarray], rows: np.ndarray) -> Latent:
        """Latent (rows,) of the goals of these rows of the batch."""
        pixels, proprio = batch["goal_pixels"], batch["goal_proprio"]
        names = [a.tobytes() + b.tobytes() for a, b in zip(pixels, proprio, strict=True)]
        known = {name: self._known[name] for name in names if name in self._known}
        new = {names[row]: row for row in rows if names[row] not in known}
        if new:
            found = self._encode(batch, np.array([*new.values()]), "goal_")
            known |= zip(new, map(Latent, *found), strict=True)
        self._known = known
        return Latent(*map(torch.stack, zip(*(known[names[row]] for row in rows), strict=True)))


def same_goal(a: dict[str, np.ndarray] | None, b: dict[str, np.ndarray] | None) -> bool:
    """Whether two observations of goals, or of none, are alike."""
    if a is None or b is None:
        return a is b
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
