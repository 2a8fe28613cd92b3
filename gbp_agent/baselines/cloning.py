"""Behaviour cloning: what the data did, from the latent of the present and of the goal."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from ..checkpoint import load_checkpoint
from ..networks import PlanInitializer
from ..observations import ObservationKeys, check_observation
from ..world_model import LatentWorldModel, join


class CloningAgent:
    """Acts as the data's agent did on its way to such a goal; plans nothing.

    It sees what a planning agent sees: the latents of a world model's frozen encoder.

    Args:
        model: the world model; its predictor is not used.
        network: latents (N, L) of the present and of the goal → actions (N, 1, A), z-scored.
        keys: which entries of an observation are what.
    """

    def __init__(
        self,
        model: LatentWorldModel,
        network: PlanInitializer,
        keys: ObservationKeys | None = None,
    ):
        self.model = model.eval().requires_grad_(False)
        self.network = network.eval().requires_grad_(False)
        self.keys = keys or ObservationKeys()
        shape = model.config
        self._low = np.asarray(shape.action_low, np.float32)
        self._high = np.asarray(shape.action_high, np.float32)

    @staticmethod
    def new_network(model: LatentWorldModel, width: int) -> PlanInitializer:
        """An untrained network for this model, one environment step deep."""
        return PlanInitializer(model.latent_width, model.config.action_dim, 1, width)

    @classmethod
    def from_weights(cls, weights: dict[str, Tensor], about: dict[str, Any]) -> Self:
        """From a file's content; see load_baseline."""
        model, _ = load_checkpoint(about["world_model"])
        network = cls.new_network(model, about["width"])
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"the baseline does not fit world model {about['world_model']!r}; "
                "train it again with examples/train_baseline.py --algorithm bc"
            ) from error
        return cls(model, network)

    def predict(
        self,
        observation: Any,
        state: None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, None]:
        """Stable-Baselines3's protocol: an action (A,), or (B, A) for a batch; and no state."""
        batch, single = check_observation(observation, self.keys, self.model.config)
        with torch.no_grad():
            start, goal = (self._encode(batch, which) for which in ("", "goal_"))
            found = self.model.action_normalizer.denormalize(self.network(start, goal)[:, 0])
        action = np.clip(found.cpu().numpy(), self._low, self._high)
        return (action[0] if single else action), None

    def _encode(self, batch: dict[str, np.ndarray], which: str) -> Tensor:
        pixels, proprio = (
            torch.from_numpy(batch[f"{which}{part}"]).to(self.model.device)
            for part in ("pixels", "proprio")
        )
        return join(self.model.encode(pixels, proprio))
