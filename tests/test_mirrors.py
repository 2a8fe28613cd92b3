"""Mirrored copies of data: are envs what they say, and do latents, rounds and runs have them?"""

from __future__ import annotations

import json
import math
from functools import partialmethod
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import SIZE
from safetensors.torch import load_file

from gbp_agent import (
    FinetuneConfig,
    OnlineConfig,
    PretrainConfig,
    RepresentationConfig,
    TrajectoryDataset,
    collect,
    finetune,
    load_checkpoint,
    pretrain,
    save_checkpoint,
)
from gbp_agent.data.latents import LatentDataset, encode_frames
from gbp_agent.data.mirrors import Mirror, mirrors_of
from gbp_agent.data.simulate import Simulator
from gbp_agent.diagnostics import StateProbe
from gbp_agent.training import DynamicsConfig, InitializerConfig

SYMMETRIC = ("gbp/PushT-v0", "gbp/Rope-v0", "gbp/Granular-v0")
TINY = {"latent_dim": 4, "encoder_width": 2, "keypoints": 4, "frameskip": 2, "predictor_width": 8,
        "predictor_depth": 1, "decoder_width": 2, "proposals": 5, "proposal_steps": 3}  # fmt: skip


@pytest.fixture(scope="module")
def pusht_data(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryDataset:
    folder = tmp_path_factory.mktemp("pusht") / "data"
    return collect(
        "gbp/PushT-v0", 5, 0, folder, steps=14, workers=1, image_size=SIZE, progress=False,
        random_share=0.25,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _quick_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StateProbe, "fit", partialmethod(StateProbe.fit, steps=5))


def mirrored_state(env: Any, state: np.ndarray, axes: str) -> np.ndarray:
    """Positions and velocities by the letter of their name, angles by the direction they stand for.

    An angle is that of the block's stem, which points along the body's y, or of a segment along x.
    """
    quarter = math.pi / 2 if "theta" in env.state_names else 0.0
    found = state.copy()
    for i, name in enumerate(env.state_names):
        if name.startswith("theta"):
            direction = np.array([math.cos(state[i] + quarter), math.sin(state[i] + quarter)])
            direction *= [-1 if axis in axes else 1 for axis in "xy"]
            found[i] = (math.atan2(direction[1], direction[0]) - quarter) % (2 * math.pi)
        elif ("x" if "x" in name.split() else "y") in axes:
            found[i] = -state[i] if "velocity" in name else 512.0 - state[i]
    return found


@pytest.mark.parametrize("axes", ["x", "y", "xy"])
@pytest.mark.parametrize("env_id", SYMMETRIC)
def test_envs_look_and_move_the_same_in_a_mirror(env_id: str, axes: str) -> None:
    env: Any = gym.make(env_id, disable_env_checker=True).unwrapped
    mirror = by_axes(env, env_id)[axes]
    observation, info = env.reset(seed=3)
    state = info["state"]
    for _ in range(3):  # each from where the first env is: contacts magnify what floats round off
        reflected = {"start": mirrored_state(env, state, axes)}
        theirs, _ = env.reset(seed=3, options=reflected)
        unlike = np.abs(theirs["pixels"].astype(int) - mirror.pixels(observation["pixels"]))
        assert unlike.mean() < 0.2
        assert unlike.max() <= 48  # edges, which cv2 softens by other rules on each side
        expected = mirror.proprio(observation["proprio"])
        np.testing.assert_allclose(theirs["proprio"], expected, atol=1e-4)
        env.reset(seed=3, options={"start": state})
        action = env.behavior_action()
        observation, _, _, _, info = env.step(action)
        env.reset(seed=3, options=reflected)
        _, _, _, _, moved = env.step(mirror.action(action))
        wanted = mirrored_state(env, info["state"], axes)
        difference = np.abs(moved["state"] - wanted)
        angles = [name.startswith("theta") for name in env.state_names]
        around = np.minimum(difference, 2 * math.pi - difference)
        difference = np.where(angles, around, difference)
        assert np.abs(info["state"] - state).max() > 1  # px: something moved
        assert np.quantile(difference, 0.75) < 0.5  # px or rad: chains of contacts round otherwise
        state = info["state"]


def by_axes(env: Any, env_id: str) -> dict[str, Mirror]:
    about = {"env_id": env_id, "action_low": env.action_space.low}
    found = mirrors_of({"mirror_symmetry": env.mirror_symmetry, **about})
    return {mirror.axes: mirror for mirror in found}


def test_the_published_look_has_no_mirror() -> None:
    env: Any = gym.make("gbp/PushT-v0", look="published").unwrapped
    with pytest.raises(ValueError, match="name no mirror symmetry; give mirrors=False"):
        by_axes(env, "gbp/PushT-v0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": ["z"]}, "axes of a mirror are"),
        ({"proprio": "xy"}, "letters 'xy' for 4 numbers"),
        ({"action": "xyx"}, "letters 'xyx' for 2 numbers"),
        ({"action": "xz"}, "give x, y or - for each"),
    ],
)
def test_a_symmetry_that_does_not_fit(change: dict[str, Any], message: str) -> None:
    env: Any = gym.make("gbp/PushT-v0").unwrapped
    metadata = {"env_id": "gbp/PushT-v0", "action_low": [-1.0, -1.0]}
    with pytest.raises(ValueError, match=message):
        mirrors_of({**metadata, "mirror_symmetry": {**env.mirror_symmetry, **change}})


# Latents ----------------------------------------------------------------------------------------


def test_latents_of_the_copies(
    pusht_data: TrajectoryDataset, make_model: Any, tmp_path: Path
) -> None:
    model, file = make_model("gbp/PushT-v0"), tmp_path / "z.npy"
    plain = LatentDataset.encode(model, pusht_data, file, progress=False)
    latents = LatentDataset.encode(model, pusht_data, file, progress=False, mirrors=True)
    names = sorted(path.name for path in tmp_path.glob("*.npy"))
    assert names == ["z-x.npy", "z-xy.npy", "z-y.npy", "z.npy"]
    assert (plain.copies, latents.copies) == (1, 4)
    assert torch.equal(latents.latents[: len(plain.latents)], plain.latents)
    episode = pusht_data.episode(2)
    proprio = episode["proprio"] * [1, -1, 1, -1] + np.array([0, 512, 0, 0])
    alone = encode_frames(model, episode["pixels"][:, ::-1], proprio.astype(np.float32))
    begin = int(latents.begin[2 * 5 + 2])  # episode 2 of copy "y"
    torch.testing.assert_close(latents.latents[begin : begin + 15], alone)
    expected = episode["action"] * np.array([1, -1], np.float32)
    np.testing.assert_allclose(latents.actions[begin : begin + 15].numpy(), expected, rtol=1e-6)


def test_windows_are_of_all_copies_of_the_episodes(
    pusht_data: TrajectoryDataset, make_model: Any, tmp_path: Path
) -> None:
    model = make_model("gbp/PushT-v0")
    latents = LatentDataset.encode(
        model, pusht_data, tmp_path / "z.npy", progress=False, mirrors=True
    )
    source = latents.windows(3, 2, np.array([1, 3]), batch_size=800, seed=0)
    first = {tuple(row) for row in next(source)[0][:, 0].tolist()}
    rows = [int(latents.begin[copy * 5 + i]) for copy in range(4) for i in (1, 3)]
    allowed = torch.cat([latents.latents[row : row + 11] for row in rows])
    assert first == {tuple(row) for row in allowed.tolist()}


def test_data_without_a_symmetry(
    wall_data: TrajectoryDataset, make_model: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="Wall-v0 name no mirror symmetry"):
        LatentDataset.encode(make_model(), wall_data, tmp_path / "z.npy", mirrors=True)
    assert not list(tmp_path.iterdir())


# Runs -------------------------------------------------------------------------------------------


def test_runs_with_mirrors(pusht_data: TrajectoryDataset, tmp_path: Path) -> None:
    quick: dict[str, Any] = {
        "data": pusht_data.folder, "mirrors": True, "progress": False, "precision": "fp32",
    }  # fmt: skip
    run = PretrainConfig(
        out=tmp_path / "base",
        model=TINY,
        representation=RepresentationConfig(steps=1, windows=2),
        dynamics=DynamicsConfig(steps=1, windows=2, horizon=1),
        initializer=InitializerConfig(steps=1),
        **quick,
    )
    pretrain(run)
    card = (tmp_path / "base" / "checkpoint" / "README.md").read_text()
    assert "gave way to a random action at 25% of the steps" in card
    online = OnlineConfig(every=2, trajectories=2, model_steps=2)
    tuned = FinetuneConfig(
        model=str(tmp_path / "base" / "checkpoint"),
        out=tmp_path / "online",
        method="online",
        steps=3,
        windows=8,
        workers=1,
        online=online,
        **quick,
    )
    finetune(tuned)
    assert json.loads((tmp_path / "online" / "config.json").read_text())["mirrors"] is True
    model, _ = load_checkpoint(tmp_path / "online" / "checkpoint")
    seen = load_file(tmp_path / "online" / "online" / "round-00000.safetensors")
    assert seen["latents"].shape == (8, 5, 8)  # 2 trajectories, 4 times
    actions = model.action_normalizer.denormalize(seen["actions"][:, :-1]).unflatten(0, (4, 2))
    for copy, signs in zip(actions, ([1, 1], [-1, 1], [1, -1], [-1, -1]), strict=True):
        torch.testing.assert_close(copy, actions[0] * torch.tensor(signs), rtol=1e-4, atol=1e-4)
    with Simulator("gbp/PushT-v0", image_size=SIZE) as simulator:
        position = model.proprio_normalizer.denormalize(seen["latents"][:, :, 4:])
        state = np.zeros((8, 7))
        state[:, :2], state[:, 5:] = position[:, 0, :2], position[:, 0, 2:]
        state[:, 2:4] = 256 + 400 * np.sign(256 - state[:, :2]) * 0.4  # the block out of the way
        played = simulator.play(state, actions.flatten(0, 1).numpy())
    ends = np.abs(played.proprio[:, -1, :2] - position[:, -1, :2].numpy()).max(1)
    assert np.median(ends) < 1.0  # px; some touched the block


# Another model's encoder ------------------------------------------------------------------------


def test_encoder_of_another_model(
    pusht_data: TrajectoryDataset, make_model: Any, tmp_path: Path
) -> None:
    other = make_model("gbp/PushT-v0", **TINY)
    save_checkpoint(tmp_path / "other", other)
    run = PretrainConfig(
        data=pusht_data.folder,
        out=tmp_path / "run",
        model=TINY,
        encoder_of=str(tmp_path / "other"),
        dynamics=DynamicsConfig(steps=2, windows=2, horizon=1),
        initializer=InitializerConfig(steps=1),
        progress=False,
    )
    model = pretrain(run)
    assert not (tmp_path / "run" / "representation.safetensors").exists()
    for part in ("encoder", "decoder", "action_normalizer"):
        ours, theirs = getattr(model, part).state_dict(), getattr(other, part).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not torch.equal(model.proposals, other.proposals)


def test_encoder_of_another_shape(
    pusht_data: TrajectoryDataset, make_model: Any, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "other", make_model("gbp/PushT-v0", latent_dim=5))
    run = PretrainConfig(
        pusht_data.folder, tmp_path / "run", model=TINY, encoder_of=str(tmp_path / "other")
    )
    with pytest.raises(ValueError, match=r"not of the shape .*encoder\.head\.weight"):
        pretrain(run)
