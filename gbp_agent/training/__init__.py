"""Training methods, each one function of one config."""

from .dynamics import DynamicsConfig
from .pretrain import PretrainConfig, pretrain
from .representation import RepresentationConfig

__all__ = ["DynamicsConfig", "PretrainConfig", "RepresentationConfig", "pretrain"]
