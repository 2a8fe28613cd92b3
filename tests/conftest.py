"""Small models, agents and data that the tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gbp_envs  # noqa: F401  (registers gbp/…)
import pytest
import torch

from gbp_agent import (
    CompactConfig,
    CompactWorldModel,
    GradientConfig,
    GradientPlanner,
    TrajectoryDataset,
    WorldModelMPCAgent,
    collect,
)
from gbp_agent.networks import initialize

# proprioception, bound of the action space
ENVS = {"gbp/PushT-v0": (4, 1.0), "gbp/PointMaze-v0": (4, 1.0), "gbp/Wall-v0": (2, 2.0)}
SIZE = 16


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., CompactWorldModel]:
    """A random model of an env, tiny, whose predictions do depend on the actions."""

    def make(env_id: str = "gbp/Wall-v0", seed: int = 0, **changes: Any) -> CompactWorldModel:
        proprio, bound = ENVS[env_id]
        shape = {
            "image_size": SIZE, "frameskip": 2, "latent_dim": 4, "encoder_width": 2,
            "keypoints": 4, "predictor_width": 8, "predictor_depth": 1, "decoder_width": 2,
            "proposals": 3, "proposal_steps": 6,
        }  # fmt: skip
        config = CompactConfig(env_id, proprio, (-bound,) * 2, (bound,) * 2, **{**shape, **changes})
        model = CompactWorldModel(config)
        generator = torch.Generator().manual_seed(seed)
        torch.nn.init.normal_(model.predictor.output.weight, generator=generator)
        initialize(model, generator)
        model.proposals.normal_(generator=generator)
        return model

    return make


@pytest.fixture(scope="session")
def make_agent(
    make_model: Callable[..., CompactWorldModel],
) -> Callable[..., WorldModelMPCAgent]:
    """A quick agent with a random model; keywords of make_model and of WorldModelMPCAgent."""

    def make(
        env_id: str = "gbp/Wall-v0", planner: Any = None, model: Any = None, **options: Any
    ) -> WorldModelMPCAgent:
        chosen = {k: options.pop(k) for k in ("config", "objective", "keys") if k in options}
        planner = planner or GradientPlanner(GradientConfig(steps=2, noise_std=0.01))
        model = model or make_model(env_id, **options)
        return WorldModelMPCAgent(model, planner, **chosen)

    return make


@pytest.fixture(scope="session")
def wall_data(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryDataset:
    """12 episodes of 30 steps of Wall in 3 parts, frames of 16 px; for reading only."""
    folder: Path = tmp_path_factory.mktemp("wall") / "data"
    return collect(
        "gbp/Wall-v0", 12, 0, folder, steps=30, episodes_per_part=4, workers=1,
        progress=False, image_size=SIZE,
    )  # fmt: skip
