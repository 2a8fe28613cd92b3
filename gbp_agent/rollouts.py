"""How an agent calls its model's roll-out in planning."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from .mpc import MPCConfig
from .planners.common import split_samples
from .types import CostFunction, Latent
from .world_model import LatentWorldModel


class Rollout(Protocol):
    """`WorldModel.rollout` as a function."""

    def __call__(self, start: Latent, past_actions: Tensor, model_actions: Tensor) -> Latent: ...


def make_rollout(
    model: LatentWorldModel,
    config: MPCConfig,
    backend: str | Callable[..., Any] = "inductor",
) -> Rollout:
    """The model's roll-out as the settings want it: `checkpoint_activations`, `compile`.

    backend: of torch.compile.
    """
    rollout: Rollout = model.rollout
    if config.checkpoint_activations:
        rollout = partial(model.rollout, checkpoint_activations=True)
    return compiled(rollout, backend) if config.compile else rollout


def in_parts(cost: CostFunction, most: int) -> CostFunction:
    """The same cost, of at most so many plans at once where no gradients are taken.

    As in `split_samples` a part holds a plan of each problem at least. With gradients the graph
    holds all plans until backward, and parts would save nothing.
    """

    def in_turn(model_actions: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return cost(model_actions)
        return torch.cat([cost(part) for part in split_samples(model_actions, most)], 1)

    return in_turn


def compiled(rollout: Rollout, backend: str | Callable[..., Any] = "inductor") -> Rollout:
    """The roll-out through torch.compile, at its first call and for any number of plans.

    Its calls raise:
        RuntimeError: torch cannot compile it; one line.
    """
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    fast = torch.compile(rollout, dynamic=True, backend=backend)

    def call(start: Latent, past_actions: Tensor, model_actions: Tensor) -> Latent:
        try:
            return fast(start, past_actions, model_actions)
        except TorchDynamoException as error:
            cause = getattr(error, "inner_exception", error)
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            # What torch adds is hundreds of lines of its own insides.
            raise RuntimeError(
                f"torch.compile failed ({reason}); install a C++ compiler, such as g++, "
                "or plan with MPCConfig(compile=False)"
            ) from None

    return call
