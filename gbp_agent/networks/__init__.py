"""nn.Modules only: what maps pictures to latents, latents to latents, latents to pictures."""

from .decoder import ConvDecoder
from .encoder import ConvEncoder
from .initialize import initialize
from .initializer import PlanInitializer
from .predictor import MLPPredictor
from .vit import PatchDecoder, PatchEncoder, PatchPredictor

__all__ = [
    "ConvDecoder",
    "ConvEncoder",
    "MLPPredictor",
    "PatchDecoder",
    "PatchEncoder",
    "PatchPredictor",
    "PlanInitializer",
    "initialize",
]
