"""Linear layers for the planner's inner loop, which multiplies by the same weights thousands of
times; and what is made once of weights that nobody trains, and kept until they change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .frozen_linear import FrozenLinear, can_pack, may_pack

Made = TypeVar("Made")
_made: WeakKeyDictionary[nn.Module, tuple[Any, Any, list[Tensor]]] = WeakKeyDictionary()


class Linear(nn.Linear):
    """nn.Linear; where it is not trained, on a processor, a FrozenLinear, which is faster and can
    be differentiated once only, not by torch.func. Under autocast it is kept in that type."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().forward(input)
        weights = [self.weight] if self.bias is None else [self.weight, self.bias]
        dtype = self._frozen_dtype(input, weights)
        if dtype is None:
            forget(self)
            return super().forward(input)
        frozen = unchanged(
            self, weights, lambda: FrozenLinear(*(w.to(dtype) for w in weights)), dtype
        )
        found: Tensor = _Apply.apply(input.to(dtype).flatten(0, -2), frozen)
        return found.unflatten(0, input.shape[:-1])

    def _frozen_dtype(self, input: Tensor, weights: list[Tensor]) -> torch.dtype | None:
        """The type to multiply in by a FrozenLinear, or None where there can be none."""
        if self.weight.device.type != "cpu" or input.device.type != "cpu" or input.dim() < 2:
            return None
        dtype = self.weight.dtype
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
        elif input.dtype != dtype:
            return None
        trained = any(weight.requires_grad for weight in weights)
        return None if trained or not can_pack(self.weight, dtype) else dtype


def unchanged(
    module: nn.Module, weights: Sequence[Tensor], make: Callable[[], Made], *of: Any
) -> Made:
    """What `make` made of these weights of the module, until one of them or of the other things
    that it depends on changes, or `forget` is called.

    Changes in place are seen by PyTorch's count of them, which neither those of `weight.data` raise
    nor fused optimisers; who trains the module in between has it forgotten.
    """
    if any(weight.is_inference() for weight in weights):
        return make()
    now = (*((weight.data_ptr(), weight._version) for weight in weights), *of, may_pack())
    found = _made.get(module)
    if found is None or found[0] != now:
        # The weights are held, so that no others can come to lie where they were.
        found = _made[module] = (now, make(), [weight.detach() for weight in weights])
    return found[1]  # type: ignore[no-any-return]


def forget(module: nn.Module) -> None:
    """Drop what `unchanged` keeps for the module, which is trained or elsewhere now."""
    _made.pop(module, None)


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: FrozenLinear) -> Tensor:
        ctx.frozen = frozen
        return frozen.forth(x)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.frozen.back(gradient), None
