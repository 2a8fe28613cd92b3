"""nn.Modules only: what maps pictures to latents, latents to latents, latents to pictures."""

from .blur import gaussian_blur
from .decoder import ConvDecoder, LinearDecoder
from .encoder import ConvEncoder, LinearEncoder, darkness
from .initialize import initialize
from .initializer import PlanInitializer
from .predictor import MLPPredictor
from .vit import PatchDecoder, PatchEncoder, PatchPredictor

__all__ = [
    "ConvDecoder",
    "ConvEncoder",
    "LinearDecoder",
    "LinearEncoder",
    "MLPPredictor",
    "PatchDecoder",
    "PatchEncoder",
    "PatchPredictor",
    "PlanInitializer",
    "darkness",
    "gaussian_blur",
    "initialize",
]
