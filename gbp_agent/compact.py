"""The compact world model: one latent vector per frame, trained end to end from pixels.

encode  pixels → ConvEncoder → visual latent (1 token); proprioception → z-scores
rollout T latents and model actions → MLPPredictor → the next latent, H times
decode  visual latent → ConvDecoder → a picture, for people

Family: LeWorldModel (arXiv 2603.19312) and PLDM, with the contract of DINO-WM (arXiv 2411.04983).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .networks import ConvDecoder, ConvEncoder, MLPPredictor
from .normalize import ActionNormalizer, Standardizer
from .types import Latent
from .world_model import LatentWorldModel, WorldModelConfig, join


@dataclass(frozen=True)
class CompactConfig(WorldModelConfig):
    """Shape of a compact world model; WorldModelConfig has the rest.

    latent_dim: D, width of the visual latent.
    encoder_width, keypoints: see ConvEncoder. predictor_width, predictor_depth, substeps: see
    MLPPredictor.
    decoder_width: see ConvDecoder. decoder_proprio: whether it is given the proprioception, so that
    the visual latent can be of everything else.
    """

    latent_dim: int = 32
    encoder_width: int = 24
    keypoints: int = 32
    predictor_width: int = 512
    predictor_depth: int = 3
    substeps: int = 1
    decoder_width: int = 16
    decoder_proprio: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frameskip % self.substeps or (self.substeps > 1 and self.history > 1):
            raise ValueError(
                "substeps must divide frameskip, and be 1 where history is above 1, got "
                f"substeps={self.substeps}, frameskip={self.frameskip}, history={self.history}"
            )


class CompactWorldModel(LatentWorldModel):
    """A world model with one visual token (P = 1) and z-scored proprioception (E = p); arguments
    as for LatentWorldModel."""

    config: CompactConfig
    encoder: ConvEncoder
    predictor: MLPPredictor
    decoder: ConvDecoder

    def __init__(
        self,
        config: CompactConfig,
        action_normalizer: ActionNormalizer | None = None,
        proprio_normalizer: Standardizer | None = None,
    ):
        super().__init__(
            config,
            action_normalizer,
            proprio_normalizer,
            encoder=ConvEncoder(
                config.image_size, config.latent_dim, config.encoder_width, config.keypoints
            ),
            predictor=MLPPredictor(
                config.latent_dim + config.proprio_dim,
                config.model_action_dim,
                config.history,
                config.predictor_width,
                config.predictor_depth,
                config.substeps,
            ),
            decoder=ConvDecoder(
                config.image_size,
                config.latent_dim,
                config.proprio_dim if config.decoder_proprio else 0,
                config.decoder_width,
            ),
            tokens=1,
            token_width=config.latent_dim,
            proprio_width=config.proprio_dim,
        )

    def encode(self, pixels: Tensor, proprio: Tensor) -> Latent:
        visual = self.encoder(pixels.flatten(0, -4))
        visual = visual.unflatten(0, pixels.shape[:-3]).unsqueeze(-2)
        return Latent(visual, self.proprio_normalizer.normalize(proprio))

    def rollout(self, start: Latent, past_actions: Tensor, model_actions: Tensor) -> Latent:
        fine = self.unroll(start, past_actions, model_actions)
        return self.split(fine[:, self.config.substeps - 1 :: self.config.substeps])

    def unroll(self, start: Latent, past_actions: Tensor, model_actions: Tensor) -> Tensor:
        """Predict every substep of H model steps: joined latents (N, H·S, L); arguments as for
        `rollout`."""
        latents = list(join(start).unbind(1))
        actions = [*past_actions.unbind(1), *model_actions.unbind(1)]
        history, found = self.config.history, []
        for step in range(model_actions.shape[1]):
            seen = torch.stack(latents[step : step + history], 1)
            taken = torch.stack(actions[step : step + history], 1)
            found += self.predictor.unroll(seen, self.predictor.embed(taken))
            latents.append(found[-1])
        return torch.stack(found, 1)

    def embed_actions(self, model_actions: Tensor) -> Tensor:
        embedded: Tensor = self.predictor.embed(model_actions)
        return embedded

    def predict(self, start: Latent, embedded_actions: Tensor) -> Latent:
        return self.split(self.predictor(join(start), embedded_actions))

    def decode(self, latent: Latent) -> Tensor:
        pixels: Tensor = self.decoder.to_pixels(latent.visual.squeeze(-2), latent.proprio)
        return pixels
