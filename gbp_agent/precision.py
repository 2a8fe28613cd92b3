"""Which arithmetic to compute in."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .networks.frozen_linear import can_pack
from .networks.linear import Linear

Precision = Literal["auto", "bf16", "fp32"]


def uses_bfloat16(precision: Precision, device: torch.device | str) -> bool:
    """Whether to compute in bfloat16; "auto" says yes where the device has matrix instructions
    for it. Raises ValueError for an unknown precision."""
    if precision not in ("auto", "bf16", "fp32"):
        raise ValueError(f"unknown precision {precision!r}; known: 'auto', 'bf16', 'fp32'")
    if precision != "auto":
        return precision == "bf16"
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported()
    check = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return bool(check())


def cast_weights(module: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """Weights of the module's linear layers as autocast takes them, by their names in the module,
    to be given to `torch.func.functional_call`; none where autocast is off, or of layers that keep
    them themselves.

    Autocast casts weights that are not trained anew in every call.
    """
    if not torch.is_autocast_enabled(device.type):
        return {}
    dtype = torch.get_autocast_dtype(device.type)
    return {
        f"{name}.{kind}": weight.to(dtype)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
        and not (isinstance(layer, Linear) and can_pack(layer.weight, dtype))
        for kind, weight in layer.named_parameters()
    }
