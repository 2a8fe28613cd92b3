"""nn.Modules only: what maps pictures to latents, latents to latents, latents to pictures."""

from .blur import gaussian_blur
from .decoder import ConvDecoder, LinearDecoder
from .distance import distance_transform
from .encoder import ChamferEncoder, ConvEncoder, LinearEncoder, darkness
from .ensemble import EnsemblePredictor
from .initialize import initialize
from .initializer import PlanInitializer
from .predictor import MLPPredictor
from .push import PushPredictor
from .vit import PatchDecoder, PatchEncoder, PatchPredictor

__all__ = [
    "ChamferEncoder",
    "ConvDecoder",
    "ConvEncoder",
    "EnsemblePredictor",
    "LinearDecoder",
    "LinearEncoder",
    "MLPPredictor",
    "PatchDecoder",
    "PatchEncoder",
    "PatchPredictor",
    "PlanInitializer",
    "PushPredictor",
    "darkness",
    "distance_transform",
    "gaussian_blur",
    "initialize",
]
