"""World models as agents: plan by gradient descent through a learned model, in any Gymnasium loop.

agent = WorldModelMPCAgent.from_pretrained("pusht", planner="gradient")
action = agent.act(observation)
"""

from ._version import __version__
from .agent import MPCConfig, WorldModelMPCAgent
from .baselines import CloningAgent, NoOpAgent, RandomAgent, baseline_names, load_baseline
from .checkpoint import load_checkpoint, pretrained_names, save_checkpoint
from .clips import EpisodeRecorder
from .compact import CompactConfig, CompactWorldModel
from .data import EVALUATION_SEEDS_BEGIN, TrajectoryDataset, collect
from .evaluate import evaluate
from .objectives import GoalObjective, StateCost
from .observations import ObservationKeys
from .patch import PatchConfig, PatchWorldModel
from .pixels import ResizePixels
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
from .report import EvaluationReport
from .statistics import bootstrap_interval, distance_difference, mcnemar, wilson_interval
from .training import (
    AdversarialConfig,
    CloningConfig,
    DynamicsConfig,
    FinetuneConfig,
    InitializerConfig,
    MaskedConfig,
    OnlineConfig,
    PretrainConfig,
    RepresentationConfig,
    clone,
    finetune,
    pretrain,
)
from .types import Latent, Objective, Plan, Planner, PlannerResult, WorldModel
from .vector import StateConfig, StateWorldModel
from .video import record_episode, record_episodes

__all__ = [
    "EVALUATION_SEEDS_BEGIN",
    "PLANNERS",
    "AdversarialConfig",
    "CEMConfig",
    "CEMPlanner",
    "CloningAgent",
    "CloningConfig",
    "CompactConfig",
    "CompactWorldModel",
    "DynamicsConfig",
    "EpisodeRecorder",
    "EvaluationReport",
    "FinetuneConfig",
    "GoalObjective",
    "GradCEMConfig",
    "GradCEMPlanner",
    "GradientConfig",
    "GradientPlanner",
    "InitializerConfig",
    "Latent",
    "MPCConfig",
    "MPPIConfig",
    "MPPIPlanner",
    "MaskedConfig",
    "NoOpAgent",
    "Objective",
    "ObservationKeys",
    "OnlineConfig",
    "PatchConfig",
    "PatchWorldModel",
    "Plan",
    "Planner",
    "PlannerResult",
    "PretrainConfig",
    "RandomAgent",
    "RepresentationConfig",
    "ResizePixels",
    "StateConfig",
    "StateCost",
    "StateWorldModel",
    "TrajectoryDataset",
    "WorldModel",
    "WorldModelMPCAgent",
    "__version__",
    "baseline_names",
    "bootstrap_interval",
    "clone",
    "collect",
    "distance_difference",
    "evaluate",
    "finetune",
    "load_baseline",
    "load_checkpoint",
    "mcnemar",
    "pretrain",
    "pretrained_names",
    "record_episode",
    "record_episodes",
    "save_checkpoint",
    "wilson_interval",
]
