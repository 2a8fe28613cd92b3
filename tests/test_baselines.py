"""Trained baselines: files, behaviour cloning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import SIZE
from safetensors.torch import save_file

from gbp_agent import (
    CloningAgent,
    CloningConfig,
    TrajectoryDataset,
    baseline_names,
    clone,
    load_baseline,
    save_checkpoint,
)
from gbp_agent.baselines.files import read_weights, write_weights


@pytest.mark.parametrize("name", baseline_names())
def test_shipped_baselines_act(name: str) -> None:
    agent, about = load_baseline(name)
    with gym.make(about["env_id"], **about["env_kwargs"]) as env:
        observation, _ = env.reset(seed=0)
        action, _ = agent.predict(observation, deterministic=True)
        assert env.action_space.contains(action)
    assert about["env_steps"] > 0
    assert {"env_steps", "success_rate", "episodes"} <= set(about["curve"][-1])


def test_unknown_name() -> None:
    with pytest.raises(KeyError, match="'wal-sac' is neither a file nor a shipped baseline"):
        load_baseline("wal-sac")


def test_other_files_are_refused(tmp_path: Path) -> None:
    broken, foreign, other = (tmp_path / name for name in ("broken", "foreign", "other"))
    broken.write_bytes(b"no weights")
    save_file({"a": torch.zeros(1)}, foreign)
    about = {"kind": "dqn", "env_id": "gbp/Wall-v0", "env_kwargs": {"obs_type": "state"}}
    write_weights(other, {"a": torch.zeros(1)}, about)
    for file in (broken, foreign):
        with pytest.raises(ValueError, match=f"{file.name} is no trained baseline"):
            load_baseline(file)
    with pytest.raises(ValueError, match="of kind 'dqn', known: 'bc', 'sac', 'ppo'"):
        load_baseline(other)
    write_weights(other, {"a": torch.zeros(1)}, {**about, "kind": "sac"})
    with pytest.raises(ValueError, match="other weights than sac for gbp/Wall-v0"):
        load_baseline(other)
    assert not list(tmp_path.glob("*.tmp"))


def test_description_comes_back(tmp_path: Path) -> None:
    about = {"kind": "bc", "env_id": "x", "env_kwargs": {}, "curve": [{"success_rate": 0.5}]}
    weights = {"layer": torch.arange(3.0)}
    write_weights(tmp_path / "a.safetensors", weights, about)
    found, said = read_weights(tmp_path / "a.safetensors")
    assert said == json.loads(json.dumps(about))
    torch.testing.assert_close(found, weights)


def clone_of(data: TrajectoryDataset, model: Path, out: Path, **changes: Any) -> CloningAgent:
    options: dict[str, Any] = {
        "steps": 300, "windows": 64, "goal_steps": 3, "width": 32, "progress": False,
    }  # fmt: skip
    return clone(CloningConfig(str(model), data.folder, out, **{**options, **changes}))


@pytest.fixture(scope="module")
def model(make_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("model") / "wall"
    save_checkpoint(folder, make_model())
    return folder


def test_cloning_goes_towards_the_goal(
    model: Path, wall_data: TrajectoryDataset, tmp_path: Path
) -> None:
    """In Wall a later position tells the action, through the proprioception alone."""
    agent = clone_of(wall_data, model, tmp_path)
    picture = np.zeros((4, SIZE, SIZE, 3), np.uint8)
    here = np.full((4, 2), 20.0, np.float32)
    ways = np.array([[4, 0], [-4, 0], [0, 4], [0, -4]], np.float32)
    observation = {
        "pixels": picture, "proprio": here, "goal_pixels": picture, "goal_proprio": here + ways,
    }  # fmt: skip
    action, state = agent.predict(observation)
    assert state is None
    assert np.all((action * ways).sum(1) > 0)
    one, _ = agent.predict({key: value[0] for key, value in observation.items()})
    np.testing.assert_allclose(one, action[0], atol=1e-5)


def test_a_finished_run_is_read_and_others_are_refused(
    model: Path, wall_data: TrajectoryDataset, tmp_path: Path
) -> None:
    first = clone_of(wall_data, model, tmp_path, steps=6)
    again = clone_of(wall_data, model, tmp_path, steps=6)
    torch.testing.assert_close(again.network.state_dict(), first.network.state_dict())
    with pytest.raises(ValueError, match=r"holds a run with other settings \(width\)"):
        clone_of(wall_data, model, tmp_path, steps=6, width=8)
    with pytest.raises(ValueError, match="goal_steps and width must be at least 1"):
        CloningConfig("wall", tmp_path, tmp_path, goal_steps=0)
