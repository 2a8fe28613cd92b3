"""Training methods, each one function of one config."""

from .adversarial import AdversarialConfig
from .cloning import CloningConfig, clone
from .dynamics import DynamicsConfig
from .finetune import FinetuneConfig, finetune
from .initializer import InitializerConfig
from .masked import MaskedConfig
from .online import OnlineConfig
from .pretrain import PretrainConfig, pretrain
from .representation import RepresentationConfig

__all__ = [
    "AdversarialConfig",
    "CloningConfig",
    "DynamicsConfig",
    "FinetuneConfig",
    "InitializerConfig",
    "MaskedConfig",
    "OnlineConfig",
    "PretrainConfig",
    "RepresentationConfig",
    "clone",
    "finetune",
    "pretrain",
]
