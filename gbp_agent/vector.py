"""World models of one vector per frame, and the simplest of them: of a state vector itself.

encode  the state vector → z-scores
rollout T vectors and model actions → MLPPredictor → the next vector, H times

compact.py adds pictures to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from .networks import EnsemblePredictor, MLPPredictor, PushPredictor
from .normalize import ActionNormalizer, Standardizer
from .types import Latent
from .world_model import LatentWorldModel, WorldModelConfig, checkpointed, join, repeat_rows


@dataclass(frozen=True)
class VectorConfig(WorldModelConfig):
    """Shape of a world model of one vector per frame; WorldModelConfig has the rest.

    predictor_width, predictor_depth, substeps, gated, action_frequencies: see MLPPredictor.
    """

    predictor_width: int = 512
    predictor_depth: int = 3
    substeps: int = 1
    gated: bool = False
    action_frequencies: int = 0

    _may_be_zero: ClassVar[tuple[str, ...]] = (
        *WorldModelConfig._may_be_zero,
        "action_frequencies",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frameskip % self.substeps or (self.substeps > 1 and self.history > 1):
            raise ValueError(
                "substeps must divide frameskip, and be 1 where history is above 1, got "
                f"substeps={self.substeps}, frameskip={self.frameskip}, history={self.history}"
            )

    def predictor(self, latent_width: int) -> MLPPredictor:
        """A new predictor of vectors (L,)."""
        return MLPPredictor(
            latent_width,
            self.model_action_dim,
            self.history,
            self.predictor_width,
            self.predictor_depth,
            self.substeps,
            self.gated,
            self.action_frequencies,
        )


class VectorWorldModel(LatentWorldModel):
    """Roll-outs by an MLPPredictor, a PushPredictor or several, over joined latents."""

    predictor: MLPPredictor | PushPredictor | EnsemblePredictor

    @property
    def substeps(self) -> int:
        return int(self.config.substeps)

    def rollout(
        self,
        start: Latent,
        past_actions: Tensor,
        model_actions: Tensor,
        *,
        checkpoint_activations: bool = False,
    ) -> Latent:
        fine = self.unroll(start, past_actions, model_actions, checkpoint_activations)
        if self.substeps > 1:  # a slice, even of all, is copied in backward
            fine = fine[:, self.substeps - 1 :: self.substeps]
        return self.split(fine)

    def unroll(
        self,
        start: Latent,
        past_actions: Tensor,
        model_actions: Tensor,
        checkpoint_activations: bool = False,
    ) -> Tensor:
        """Predict every substep of H model steps: joined latents (N, H·S, L); arguments as for
        `rollout`."""
        unroll = self.predictor.unroll
        plans = len(model_actions) // len(past_actions)  # of each start
        first = repeat_rows(join(start), plans)
        history = self.config.history
        if history == 1 and not checkpoint_activations:
            return unroll(first, self.predictor.embed(model_actions.unsqueeze(2)).flatten(1, 2))
        predict: Callable[..., Tensor] = unroll
        if checkpoint_activations:
            predict = checkpointed(partial(unroll, checkpointed=True), self.training)
        past = repeat_rows(past_actions, plans)
        taken = torch.cat([past, model_actions], 1).unfold(1, history, 1).transpose(2, 3)
        latents = list(first.unbind(1))
        found: list[Tensor] = []
        for step, embedded in enumerate(self.predictor.embed(taken).unbind(1)):
            found.append(predict(torch.stack(latents[step:], 1), embedded))
            latents.append(found[-1][:, -1])
        return torch.cat(found, 1)

    def embed_actions(self, model_actions: Tensor) -> Tensor:
        return self.predictor.embed(model_actions)

    def predict(self, start: Latent, embedded_actions: Tensor) -> Latent:
        return self.split(self.predictor(join(start), embedded_actions))


@dataclass(frozen=True)
class StateConfig(VectorConfig):
    """Shape of a state-vector world model: VectorConfig, with pictures of 0 px."""

    image_size: int = 0

    _may_be_zero: ClassVar[tuple[str, ...]] = (
        *VectorConfig._may_be_zero,
        "image_size",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size:
            raise ValueError(f"image_size must be 0 for a state model, got {self.image_size}")


class StateWorldModel(VectorWorldModel):
    """A world model of the vector that an env calls its observation: its z-scores are the latent's
    proprioception (E = p), and the picture's token has no numbers (P = 1, D = 0). Arguments as for
    LatentWorldModel."""

    config: StateConfig

    def __init__(
        self,
        config: StateConfig,
        action_normalizer: ActionNormalizer | None = None,
        proprio_normalizer: Standardizer | None = None,
    ):
        super().__init__(
            config,
            action_normalizer,
            proprio_normalizer,
            encoder=nn.Identity(),
            predictor=config.predictor(config.proprio_dim),
            decoder=nn.Identity(),
            tokens=1,
            token_width=0,
            proprio_width=config.proprio_dim,
        )

    @property
    def can_decode(self) -> bool:
        return False

    def encode(self, pixels: Tensor, proprio: Tensor) -> Latent:
        vector = self.proprio_normalizer.normalize(proprio)
        return Latent(vector.new_zeros(*vector.shape[:-1], 1, 0), vector)
