"""World models as agents: plan by gradient descent through a learned model, in any Gymnasium loop.

    agent = WorldModelMPCAgent.from_pretrained("pusht", planner="gradient")
    action = agent.act(observation)
"""

from ._version import __version__
from .agent import MPCConfig, WorldModelMPCAgent
from .checkpoint import load_checkpoint, pretrained_names, save_checkpoint
from .data import TrajectoryDataset, collect
from .objectives import GoalObjective
from .observations import ObservationKeys
from .planners import (
    PLANNERS,
    CEMConfig,
    CEMPlanner,
    GradCEMConfig,
    GradCEMPlanner,
    GradientConfig,
    GradientPlanner,
    MPPIConfig,
    MPPIPlanner,
)
from .training import DynamicsConfig, PretrainConfig, RepresentationConfig, pretrain
from .types import Latent, Objective, Plan, Planner, PlannerResult, WorldModel
from .world_model import CompactConfig, CompactWorldModel

__all__ = [
    "PLANNERS",
    "CEMConfig",
    "CEMPlanner",
    "CompactConfig",
    "CompactWorldModel",
    "DynamicsConfig",
    "GoalObjective",
    "GradCEMConfig",
    "GradCEMPlanner",
    "GradientConfig",
    "GradientPlanner",
    "Latent",
    "MPCConfig",
    "MPPIConfig",
    "MPPIPlanner",
    "Objective",
    "ObservationKeys",
    "Plan",
    "Planner",
    "PlannerResult",
    "PretrainConfig",
    "RepresentationConfig",
    "TrajectoryDataset",
    "WorldModel",
    "WorldModelMPCAgent",
    "__version__",
    "collect",
    "load_checkpoint",
    "pretrain",
    "pretrained_names",
    "save_checkpoint",
]
