"""How an agent calls its model's roll-out in planning."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .mpc import MPCConfig
from .planners.common import split_samples
from .types import CostFunction, Latent
from .world_model import LatentWorldModel

Rollouts = Callable[[Tensor], Latent]
"""Plans (N, H, M) from known frames → the frames that follow, (N, H); see `WorldModel.rollout`."""


def rollouts_from(
    model: LatentWorldModel,
    config: MPCConfig,
    backend: str | Callable[..., Any] = "inductor",
) -> Callable[[Latent, Tensor], Rollouts]:
    """A function of frames and past actions, which returns the model's roll-outs from them as the
    settings want these: `checkpoint_activations`, `compile`.

    A model whose roll-outs share what no plan changes has `rollouts_from(start, past_actions)`.
    backend: of torch.compile.
    """
    sharing = getattr(model, "rollouts_from", None)
    if sharing is not None and not config.compile:
        return partial(sharing, checkpoint_activations=config.checkpoint_activations)
    rollout: Callable[..., Latent] = model.rollout
    if config.checkpoint_activations:
        rollout = partial(model.rollout, checkpoint_activations=True)
    if config.compile:
        # torch 2.14 cannot compile what is checkpointed for any number of plans at once.
        rollout = compiled(rollout, backend, dynamic=not config.checkpoint_activations)
    return lambda start, past_actions: partial(rollout, start, past_actions)


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


def compiled(
    rollout: Callable[..., Latent],
    backend: str | Callable[..., Any] = "inductor",
    dynamic: bool = True,
) -> Callable[[Latent, Tensor, Tensor], Latent]:
    """The roll-out through torch.compile, at its first call: for any number of plans, or with
    `dynamic=False` for each number anew.

    Its calls raise:
        RuntimeError: torch cannot compile it; one line.
    """
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    fast = torch.compile(rollout, dynamic=dynamic, backend=backend)

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
