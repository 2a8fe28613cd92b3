"""Mirrored copies of data, where an environment looks and moves the same in a mirror.

An environment says so by its attribute `mirror_symmetry`, and `collect` writes that down with the
data: a dict of

    axes            which reflections: "x" swaps left and right, "y" top and bottom, "xy" both
    proprio         a letter per number: which axis turns its sign, "x", "y", or "-" for none
    proprio_center  where the mirror stands, per number, env units
    action          a letter per number, as for proprio; the mirror stands at 0

A mirror makes of each trajectory another one that is as true, at the price of encoding it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Mirror:
    """One reflection of frames and actions.

    axes: "x", "y", "xy", or "" for none. proprio_sign, action_sign: 1 or -1 per number.
    proprio_center: per number, env units.
    """

    axes: str
    proprio_sign: np.ndarray
    proprio_center: np.ndarray
    action_sign: np.ndarray

    def pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Pictures (..., S, S, 3), rows first."""
        if "x" in self.axes:
            pixels = np.flip(pixels, -2)
        if "y" in self.axes:
            pixels = np.flip(pixels, -3)
        return pixels

    def proprio(self, proprio: np.ndarray) -> np.ndarray:
        """Proprioception (..., p), env units."""
        center = self.proprio_center
        return (center + self.proprio_sign * (proprio - center)).astype(proprio.dtype)

    def action(self, action: np.ndarray) -> np.ndarray:
        """Actions (..., A), env units."""
        return (self.action_sign * action).astype(action.dtype)


IDENTITY = Mirror("", np.ones(1), np.zeros(1), np.ones(1))


def mirrors_of(metadata: Mapping[str, Any]) -> list[Mirror]:
    """All reflections that leave a dataset's environment as it is, the identity first.

    Raises:
        ValueError: the metadata name no symmetry, or one that does not fit the data.
    """
    symmetry = metadata.get("mirror_symmetry")
    if not symmetry:
        raise ValueError(
            f"the data of {metadata['env_id']} name no mirror symmetry; give mirrors=False, or "
            "collect with an env that has the attribute mirror_symmetry"
        )
    if not {"x", "y", "xy"}.issuperset(symmetry["axes"]):
        raise ValueError(f"axes of a mirror are 'x', 'y' and 'xy', got {symmetry['axes']}")
    for letters, numbers in (
        (symmetry["proprio"], symmetry["proprio_center"]),
        (symmetry["action"], metadata["action_low"]),
    ):
        if len(letters) != len(numbers) or not set(letters) <= set("xy-"):
            raise ValueError(
                f"mirror_symmetry of {metadata['env_id']} has the letters {letters!r} for "
                f"{len(numbers)} numbers; give x, y or - for each"
            )
    return [
        Mirror(
            axes,
            _signs(symmetry["proprio"], axes),
            np.asarray(symmetry["proprio_center"], np.float64),
            _signs(symmetry["action"], axes),
        )
        for axes in ("", *symmetry["axes"])
    ]


def _signs(letters: str, axes: str) -> np.ndarray:
    return np.array([-1.0 if letter in axes else 1.0 for letter in letters])
