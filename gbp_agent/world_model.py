"""The compact world model: one latent vector per frame, trained end to end from pixels.

encode  pixels → ConvEncoder → visual latent (1 token); proprioception → z-scores
rollout T latents and model actions → MLPPredictor → the next latent, H times
decode  visual latent → ConvDecoder → a picture, for people

Family: LeWorldModel (arXiv 2603.19312) and PLDM, with the contract of DINO-WM (arXiv 2411.04983).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .networks import ConvDecoder, ConvEncoder, MLPPredictor, PlanInitializer
from .normalize import ActionNormalizer, Standardizer
from .types import Latent


@dataclass(frozen=True)
class CompactConfig:
    """Shape of a compact world model.

    env_id: the environment that the model was trained for.
    action_low, action_high: (A,), its action space.
    image_size: S, pixels per side. proprio_dim: p. frameskip: F. history: T.
    latent_dim: D, width of the visual latent.
    encoder_width, keypoints: see ConvEncoder. predictor_width, predictor_depth, substeps: see
    MLPPredictor.
    decoder_width: see ConvDecoder. decoder_proprio: whether it is given the proprioception, so that
    the visual latent can be of everything else.
    proposals, proposal_steps: K plans of so many model steps, cut from the training data, are kept
    with the model for planners to start from.
    initializer_width, initializer_steps: hidden units of the initialisation network and model
    steps of its plans; see PlanInitializer. A width of 0 leaves it out.
    """

    env_id: str
    proprio_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    image_size: int = 64
    frameskip: int = 5
    history: int = 1
    latent_dim: int = 32
    encoder_width: int = 24
    keypoints: int = 32
    predictor_width: int = 512
    predictor_depth: int = 3
    substeps: int = 1
    decoder_width: int = 16
    decoder_proprio: bool = False
    proposals: int = 512
    proposal_steps: int = 10
    initializer_width: int = 0
    initializer_steps: int = 5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name in ("proposals", "initializer_width") else 1
            if name in ("env_id", "action_low", "action_high", "decoder_proprio"):
                continue
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        object.__setattr__(self, "action_low", tuple(self.action_low))
        object.__setattr__(self, "action_high", tuple(self.action_high))
        if len(self.action_low) != len(self.action_high):
            raise ValueError("action_low and action_high must have the same length")

        if self.frameskip % self.substeps or (self.substeps > 1 and self.history > 1):
            raise ValueError(
                "substeps must divide frameskip, and be 1 where history is above 1, got "
                f"substeps={self.substeps}, frameskip={self.frameskip}, history={self.history}"
            )

    @property
    def action_dim(self) -> int:
        """A."""
        return len(self.action_low)


class CompactWorldModel(nn.Module):
    """A world model with one visual token (P = 1) and z-scored proprioception (E = p).

    Args:
        config: shapes.
        action_normalizer, proprio_normalizer: statistics of the training data; identities by
            default, to be overwritten by loading a checkpoint.
    """

    def __init__(
        self,
        config: CompactConfig,
        action_normalizer: ActionNormalizer | None = None,
        proprio_normalizer: Standardizer | None = None,
    ):
        super().__init__()
        self.config = config
        self.action_normalizer = action_normalizer or ActionNormalizer.identity(config.action_dim)
        self.proprio_normalizer = proprio_normalizer or Standardizer.identity(config.proprio_dim)
        self.encoder = ConvEncoder(
            config.image_size, config.latent_dim, config.encoder_width, config.keypoints
        )
        self.predictor = MLPPredictor(
            config.latent_dim + config.proprio_dim,
            self.model_action_dim,
            config.history,
            config.predictor_width,
            config.predictor_depth,
            config.substeps,
        )
        self.decoder = ConvDecoder(
            config.image_size,
            config.latent_dim,
            config.proprio_dim if config.decoder_proprio else 0,
            config.decoder_width,
        )
        self.initializer: PlanInitializer | None = None
        if config.initializer_width:
            self.initializer = PlanInitializer(
                config.latent_dim + config.proprio_dim,
                self.model_action_dim,
                config.initializer_steps,
                config.initializer_width,
            )

        plans = torch.zeros(config.proposals, config.proposal_steps, self.model_action_dim)
        self.register_buffer("proposals", plans)

    proposals: Tensor

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.proposals.device

    @property
    def history(self) -> int:
        """T, frames that `rollout` starts from."""
        return self.config.history

    @property
    def model_action_dim(self) -> int:
        """M = F·A."""
        return self.config.frameskip * self.config.action_dim

    def encode(self, pixels: Tensor, proprio: Tensor) -> Latent:
        """Pixels (..., S, S, 3) uint8 and proprioception (..., p) in env units → Latent (...)."""
        visual = self.encoder(pixels.flatten(0, -4))
        visual = visual.unflatten(0, pixels.shape[:-3]).unsqueeze(-2)
        return Latent(visual, self.proprio_normalizer.normalize(proprio))

    def rollout(self, start: Latent, past_actions: Tensor, model_actions: Tensor) -> Latent:
        """Predict H frames.

        start: Latent with leading shape (N, T), oldest first; past_actions: (N, T-1, M);
        model_actions: (N, H, M). Returns a Latent with leading shape (N, H).
        """
        fine = self.unroll(start, past_actions, model_actions)
        return split(
            fine[:, self.config.substeps - 1 :: self.config.substeps], self.config.latent_dim
        )

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
        """What the predictor makes of the model actions (N, T, M) before they meet the latents."""
        embedded: Tensor = self.predictor.embed(model_actions)
        return embedded

    def predict(self, start: Latent, embedded_actions: Tensor) -> Latent:
        """The next frame, Latent (N,), from Latent (N, T) and embedded actions."""
        return split(self.predictor(join(start), embedded_actions), self.config.latent_dim)

    def initial_plan(self, start: Latent, goal: Latent) -> Tensor:
        """The initialisation network's plan, (N, initializer_steps, M), from Latent (N, T) and the
        goal's Latent (N,).

        Raises:
            ValueError: the model has no initialisation network.
        """
        if self.initializer is None:
            raise ValueError(
                "this model has no initialisation network (initializer_width is 0); "
                "plan with init='proposals' or 'zeros', or pre-train one with it"
            )
        plan: Tensor = self.initializer(join(start)[:, -1], join(goal))
        return plan

    def decode(self, latent: Latent) -> Tensor:
        """Latent (...) → pixels (..., S, S, 3) uint8, what the model imagines."""
        pixels: Tensor = self.decoder.to_pixels(latent.visual.squeeze(-2), latent.proprio)
        return pixels


def join(latent: Latent) -> Tensor:
    """Latent with one visual token → vectors (..., D + E)."""
    return torch.cat([latent.visual.squeeze(-2), latent.proprio], dim=-1)


def split(vectors: Tensor, latent_dim: int) -> Latent:
    """Vectors (..., D + E) → Latent with one visual token."""
    return Latent(vectors[..., None, :latent_dim], vectors[..., latent_dim:])
