"""Which arithmetic to compute in."""

from __future__ import annotations

from typing import Literal

import torch

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
