"""Checkpoints and data of other projects, as ours: `python -m gbp_agent.convert --help`."""

from .dino_wm import convert_checkpoint
from .dino_wm_data import convert_data

__all__ = ["convert_checkpoint", "convert_data"]
