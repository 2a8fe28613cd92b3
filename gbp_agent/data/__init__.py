"""Trajectory datasets: collecting, reading, cutting windows."""

from .collect import EVALUATION_SEEDS_BEGIN, collect
from .dataset import TrajectoryDataset, Windows, evenly_chosen

__all__ = ["EVALUATION_SEEDS_BEGIN", "TrajectoryDataset", "Windows", "collect", "evenly_chosen"]
