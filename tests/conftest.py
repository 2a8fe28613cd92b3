"""Small models, agents and data that the tests share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gbp_envs  # noqa: F401  (registers gbp/…)
import pytest
import torch

from gbp_agent import (
    CompactConfig,
    CompactWorldModel,
    GradientConfig,
    GradientPlanner,
    PatchConfig,
    PatchWorldModel,
    TrajectoryDataset,
    WorldModelMPCAgent,
    collect,
)
from gbp_agent.networks import initialize
from gbp_agent.world_model import LatentWorldModel


class Shape(NamedTuple):
    """Of an environment: numbers of proprioception and action, bound of the action space."""

    proprio: int
    actions: int
    bound: float

    @property
    def action_box(self) -> dict[str, tuple[float, ...]]:
        """Keywords of a model's config."""
        high = (self.bound,) * self.actions
        return {"action_low": tuple(-v for v in high), "action_high": high}


ENVS = {
    "gbp/PushT-v0": Shape(4, 2, 1.0),
    "gbp/PointMaze-v0": Shape(4, 2, 1.0),
    "gbp/Wall-v0": Shape(2, 2, 2.0),
    "gbp/Rope-v0": Shape(1, 4, 1.0),
    "gbp/Granular-v0": Shape(1, 4, 1.0),
}
SIZE = 16
FAMILIES = ("compact", "ensemble", "patch")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., CompactWorldModel]:
    """A random model of an env, tiny, whose predictions do depend on the actions."""

    def make(env_id: str = "gbp/Wall-v0", seed: int = 0, **changes: Any) -> CompactWorldModel:
        about = ENVS[env_id]
        shape = {
            "image_size": SIZE, "frameskip": 2, "latent_dim": 4, "encoder_width": 2,
            "keypoints": 4, "predictor_width": 8, "predictor_depth": 1, "decoder_width": 2,
            "proposals": 3, "proposal_steps": 6,
        }  # fmt: skip
        config = CompactConfig(env_id, about.proprio, **about.action_box, **{**shape, **changes})
        model = CompactWorldModel(config)
        generator = torch.Generator().manual_seed(seed)
        for predictor in getattr(model.predictor, "members", [model.predictor]):
            torch.nn.init.normal_(predictor.output.weight, generator=generator)
        initialize(model, generator)
        model.proposals.normal_(generator=generator)
        return model

    return make


@pytest.fixture(scope="session")
def make_patch_model() -> Callable[..., PatchWorldModel]:
    """A random model of an env with 4 patch tokens of 8 numbers, tiny."""

    def make(env_id: str = "gbp/Wall-v0", seed: int = 0, **changes: Any) -> PatchWorldModel:
        about = ENVS[env_id]
        shape: dict[str, Any] = {
            "image_size": SIZE, "frameskip": 2, "history": 1, "encoder": "vit_tiny_patch16_224",
            "encoder_size": SIZE, "proprio_width": 3, "action_width": 3, "depth": 2, "heads": 2,
            "encoder_options": {"patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2},
            "head_width": 4, "mlp_width": 16, "decoder_width": 4, "proposals": 3,
            "proposal_steps": 6,
        }  # fmt: skip
        config = PatchConfig(env_id, about.proprio, **about.action_box, **{**shape, **changes})
        model = PatchWorldModel(config)
        generator = torch.Generator().manual_seed(seed)
        if model.predictor.change is not None:
            torch.nn.init.normal_(model.predictor.change.weight, generator=generator)
        initialize(model, generator)
        model.proposals.normal_(generator=generator)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def families(
    make_model: Callable[..., CompactWorldModel],
    make_patch_model: Callable[..., PatchWorldModel],
) -> dict[str, Callable[..., LatentWorldModel]]:
    """A maker of small random models for each family, and of ensembles."""
    return {
        "compact": make_model,
        "ensemble": partial(make_model, ensemble_size=2),
        "patch": make_patch_model,
    }


@pytest.fixture(scope="session")
def make_agent(
    families: dict[str, Callable[..., LatentWorldModel]],
) -> Callable[..., WorldModelMPCAgent]:
    """A quick agent with a random model; keywords of the maker and of WorldModelMPCAgent."""

    def make(
        env_id: str = "gbp/Wall-v0",
        planner: Any = None,
        model: Any = None,
        family: str = "compact",
        **options: Any,
    ) -> WorldModelMPCAgent:
        chosen = {k: options.pop(k) for k in ("config", "objective", "keys") if k in options}
        planner = planner or GradientPlanner(GradientConfig(steps=2, noise_std=0.01))
        model = model or families[family](env_id, **options)
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
