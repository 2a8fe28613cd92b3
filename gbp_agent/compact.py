"""The compact world model: one latent vector per frame, trained end to end from pixels.

encode  pixels → ConvEncoder or a linear one → visual latent (1 token); proprioception → z-scores
rollout T latents and model actions → MLPPredictor, or PushPredictor → the next latent, H times
        (several of them: EnsemblePredictor, a token for each)
decode  visual latent → ConvDecoder or LinearDecoder → a picture, for people

Family: LeWorldModel (arXiv 2603.19312) and PLDM, with the contract of DINO-WM (arXiv 2411.04983).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from .networks import (
    ChamferEncoder,
    ConvDecoder,
    ConvEncoder,
    EnsemblePredictor,
    LinearDecoder,
    LinearEncoder,
    MLPPredictor,
    PushPredictor,
)
from .normalize import ActionNormalizer, Standardizer
from .types import Latent
from .vector import VectorConfig, VectorWorldModel

LINEAR = {"linear": LinearEncoder, "chamfer": ChamferEncoder}  # fitted at once
ENCODERS = ("keypoints", *LINEAR)


@dataclass(frozen=True)
class CompactConfig(VectorConfig):
    """Shape of a compact world model; VectorConfig has the rest.

    latent_dim: D, width of the visual latent.
    encoder: "keypoints" is ConvEncoder, which says where each thing is, with ConvDecoder; "linear"
    is LinearEncoder, which says how full each part of the picture is, and "chamfer"
    ChamferEncoder, which says how far it is to what is full as well, both with LinearDecoder; the
    options below are for the first alone.
    encoder_width, keypoints: see ConvEncoder.
    decoder_width: see ConvDecoder. decoder_proprio: whether it is given the proprioception, so that
    the visual latent can be of everything else.
    ensemble_size: K, predictors that each go on from their own predictions, so that plans cost more
    where they do not agree; see EnsemblePredictor. Training and planning take K times as long.
    push_grid: G, for actions that are pushes across the picture, as Rope's and Granular's: they are
    seen from where they go, through so many samples each way, by PushPredictor instead of
    MLPPredictor; changes are gated in any case. 0 for none.
    """

    latent_dim: int = 32
    encoder: Literal["keypoints", "linear", "chamfer"] = "keypoints"
    encoder_width: int = 24
    keypoints: int = 32
    decoder_width: int = 16
    decoder_proprio: bool = False
    ensemble_size: int = 1
    push_grid: int = 0

    _may_be_zero: ClassVar[tuple[str, ...]] = (*VectorConfig._may_be_zero, "push_grid")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder not in ENCODERS:
            raise ValueError(f"unknown encoder {self.encoder!r}; known: {', '.join(ENCODERS)}")
        pushes = self.action_dim == 4 and self.frameskip == self.history == 1
        if self.push_grid and not (pushes and self.encoder in LINEAR):
            raise ValueError(
                "push_grid is for one push (start x, start y, end x, end y) per model step, with "
                f"history=1 and a linear encoder ({', '.join(LINEAR)}); got actions of "
                f"{self.action_dim} numbers, frameskip={self.frameskip}, history={self.history}, "
                f"encoder={self.encoder!r}"
            )


class CompactWorldModel(VectorWorldModel):
    """A world model with one visual token (P = 1), or the same one for each member of an ensemble
    (P = K), and z-scored proprioception (E = p); arguments as for LatentWorldModel."""

    config: CompactConfig
    encoder: ConvEncoder | LinearEncoder
    decoder: ConvDecoder | LinearDecoder

    def __init__(
        self,
        config: CompactConfig,
        action_normalizer: ActionNormalizer | None = None,
        proprio_normalizer: Standardizer | None = None,
    ):
        size, width = config.image_size, config.latent_dim
        encoder: ConvEncoder | LinearEncoder
        decoder: ConvDecoder | LinearDecoder
        if config.encoder in LINEAR:
            encoder, decoder = LINEAR[config.encoder](size, width), LinearDecoder(size, width)
        else:
            encoder = ConvEncoder(size, width, config.encoder_width, config.keypoints)
            sensed = config.proprio_dim if config.decoder_proprio else 0
            decoder = ConvDecoder(size, width, sensed, config.decoder_width)
        actions = action_normalizer or ActionNormalizer.identity(config.action_dim)

        def predictor() -> MLPPredictor | PushPredictor:
            if not config.push_grid or not isinstance(encoder, LinearEncoder):
                return config.predictor(width + config.proprio_dim)
            shape = (config.push_grid, config.predictor_width, config.predictor_depth)
            sensed, octaves = config.proprio_dim, config.action_frequencies
            return PushPredictor(encoder.head, actions, sensed, *shape, octaves)

        predictors = [predictor() for _ in range(config.ensemble_size)]
        alone = config.ensemble_size == 1
        super().__init__(
            config,
            actions,
            proprio_normalizer,
            encoder=encoder,
            predictor=predictors[0] if alone else EnsemblePredictor(predictors, width),
            decoder=decoder,
            tokens=config.ensemble_size,
            token_width=width,
            proprio_width=config.proprio_dim,
        )

    def encode(self, pixels: Tensor, proprio: Tensor) -> Latent:
        visual = self.encoder(pixels.flatten(0, -4))
        visual = visual.unflatten(0, pixels.shape[:-3]).unsqueeze(-2)
        visual = visual.expand(*visual.shape[:-2], self.tokens, -1)
        return Latent(visual, self.proprio_normalizer.normalize(proprio))

    def decode(self, latent: Latent) -> Tensor:
        pixels: Tensor = self.decoder.to_pixels(latent.visual.mean(-2), latent.proprio)
        return pixels
