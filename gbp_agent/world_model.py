"""What all world models share: statistics, proposals, the initialisation network.

vector.py   one vector per frame: the roll-outs, and models of a state vector
compact.py  one vector per frame, trained end to end from pixels
patch.py    patch tokens of a vision transformer

A family encodes and rolls out; planners, finetuning, evaluation and video know no more of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .networks import PlanInitializer
from .normalize import ActionNormalizer, Standardizer
from .types import Latent


@dataclass(frozen=True)
class WorldModelConfig:
    """What the configs of all families hold.

    env_id: the environment that the model was trained for.
    action_low, action_high: (A,), its action space.
    image_size: S, pixels per side. proprio_dim: p. frameskip: F. history: T.
    proposals, proposal_steps: K plans of so many model steps, cut from the training data, are kept
    with the model for planners to start from.
    proposal_keys: C, principal components of the visual latent, or all where it has fewer numbers,
    that are kept along the proposals, beside the proprioception, so that an agent looks up those
    that fit its problem; see NearestProposals. 0 keeps no keys.
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
    proposals: int = 512
    proposal_steps: int = 10
    proposal_keys: int = 0
    initializer_width: int = 0
    initializer_steps: int = 5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            kind = self.__dataclass_fields__[name].type
            least = 0 if name in self._may_be_zero else 1
            if kind == "int" and (type(value) is not int or value < least):
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        object.__setattr__(self, "action_low", tuple(self.action_low))
        object.__setattr__(self, "action_high", tuple(self.action_high))
        if len(self.action_low) != len(self.action_high):
            raise ValueError("action_low and action_high must have the same length")

    _may_be_zero: ClassVar[tuple[str, ...]] = (
        "proposals",
        "proposal_keys",
        "initializer_width",
    )

    @property
    def action_dim(self) -> int:
        """A."""
        return len(self.action_low)

    @property
    def model_action_dim(self) -> int:
        """M = F·A."""
        return self.frameskip * self.action_dim


class LatentWorldModel(nn.Module):
    """Base of the families, which add how it encodes, rolls out and decodes.

    Args:
        config: shapes.
        action_normalizer, proprio_normalizer: statistics of the training data; identities by
            default, to be overwritten by loading a checkpoint.
        encoder, predictor, decoder: its networks. Finetuning trains the predictor alone.
        tokens, token_width, proprio_width: P, D and E of its latents.
    """

    proposals: Tensor
    proposal_keys: Tensor
    proposal_basis: Tensor

    def __init__(
        self,
        config: WorldModelConfig,
        action_normalizer: ActionNormalizer | None,
        proprio_normalizer: Standardizer | None,
        *,
        encoder: nn.Module,
        predictor: nn.Module,
        decoder: nn.Module,
        tokens: int,
        token_width: int,
        proprio_width: int,
    ):
        super().__init__()
        self.config: Any = config
        self.tokens, self.token_width = tokens, token_width
        self.latent_width = tokens * token_width + proprio_width
        self.action_normalizer = action_normalizer or ActionNormalizer.identity(config.action_dim)
        self.proprio_normalizer = proprio_normalizer or Standardizer.identity(config.proprio_dim)
        self.encoder, self.predictor, self.decoder = encoder, predictor, decoder
        self.initializer: PlanInitializer | None = None
        if config.initializer_width:
            self.initializer = PlanInitializer(
                self.latent_width,
                config.model_action_dim,
                config.initializer_steps,
                config.initializer_width,
            )
        plans = torch.zeros(config.proposals, config.proposal_steps, config.model_action_dim)
        self.register_buffer("proposals", plans)
        if config.proposal_keys:
            visual = tokens * token_width
            components = min(config.proposal_keys, visual)
            keys = (config.proposals, config.proposal_steps + 1, components + proprio_width)
            self.register_buffer("proposal_keys", torch.zeros(keys, dtype=torch.float16))
            self.register_buffer("proposal_basis", torch.zeros(visual, components))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.proposals.device

    @property
    def history(self) -> int:
        """T, frames that `rollout` starts from."""
        return int(self.config.history)

    @property
    def model_action_dim(self) -> int:
        """M = F·A."""
        return int(self.config.model_action_dim)

    @property
    def rollouts_at_once(self) -> int:
        """Most plans that an agent passes to `rollout` together where it takes no gradients; bounds
        memory."""
        return 4096

    def encode(self, pixels: Tensor, proprio: Tensor) -> Latent:
        """Pixels (..., S, S, 3) uint8 and proprioception (..., p) in env units → Latent (...)."""
        raise NotImplementedError

    def rollout(
        self,
        start: Latent,
        past_actions: Tensor,
        model_actions: Tensor,
        *,
        checkpoint_activations: bool = False,
    ) -> Latent:
        """Predict H frames.

        start: Latent with leading shape (B, T), oldest first; past_actions: (B, T-1, M);
        model_actions: (N, H, M), where N is a multiple of B: the first N/B plans are the first
        start's, and so on. Returns a Latent with leading shape (N, H).
        checkpoint_activations: keep the frames alone for backward, where each model step is
        computed once more; the same numbers with less memory.
        """
        raise NotImplementedError

    @property
    def substeps(self) -> int:
        """S, how many frames are predicted within a model step, its last one included."""
        return 1

    def unroll(self, start: Latent, past_actions: Tensor, model_actions: Tensor) -> Tensor:
        """Every frame that `rollout` predicts on its way, joined: (N, H·S, L)."""
        return join(self.rollout(start, past_actions, model_actions))

    def embed_actions(self, model_actions: Tensor) -> Tensor:
        """What the predictor makes of the model actions (N, T, M) before they meet the latents."""
        raise NotImplementedError

    def predict(self, start: Latent, embedded_actions: Tensor) -> Latent:
        """The next frame, Latent (N,), from Latent (N, T) and embedded actions."""
        raise NotImplementedError

    def decode(self, latent: Latent) -> Tensor:
        """Latent (...) → pixels (..., S, S, 3) uint8, what the model imagines."""
        raise NotImplementedError

    @property
    def can_decode(self) -> bool:
        """Whether the model has a decoder."""
        return True

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

    def split(self, vectors: Tensor) -> Latent:
        """Joined vectors (..., P·D + E) → Latent (...)."""
        return split(vectors, self.token_width, self.tokens)


def checkpointed(function: Callable[..., Any], training: bool) -> Callable[..., Any]:
    """The function, which keeps its arguments alone for backward and is computed again there.

    training: whether it draws random numbers, which the second time are to be the same.
    """
    return partial(checkpoint, function, use_reentrant=False, preserve_rng_state=training)


def repeat_rows(tensor: Tensor, times: int) -> Tensor:
    """(B, ...) → (B·times, ...), each row so many times in a row; a view where B is 1."""
    rows = tensor.unsqueeze(1)
    return rows.expand(-1, times, *tensor.shape[1:]).flatten(0, 1)


def join(latent: Latent) -> Tensor:
    """Latent (...) → vectors (..., P·D + E), as datasets of latents hold them."""
    return torch.cat([latent.visual.flatten(-2), latent.proprio], dim=-1)


def split(vectors: Tensor, token_width: int, tokens: int = 1) -> Latent:
    """Vectors (..., P·D + E) → Latent (...), given D and P."""
    width = tokens * token_width
    visual, proprio = vectors.split_with_sizes([width, vectors.shape[-1] - width], -1)
    return Latent(visual.unflatten(-1, (tokens, token_width)), proprio)
