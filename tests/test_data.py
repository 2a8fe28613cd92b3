"""Datasets: collection that goes on after a kill, windows, batches, damaged folders."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ENVS, SIZE

from gbp_agent import EVALUATION_SEEDS_BEGIN, ObservationKeys, TrajectoryDataset, collect
from gbp_agent.data.latents import LatentDataset, encode_frames

ARRAYS = ("pixels", "proprio", "action", "state")


def gather(folder: Path, episodes: int = 5, seed: int = 3, **options: Any) -> TrajectoryDataset:
    settings: dict[str, Any] = {
        "steps": 6, "episodes_per_part": 2, "workers": 1, "progress": False, "image_size": SIZE,
    }  # fmt: skip
    return collect("gbp/Wall-v0", episodes, seed, folder, **{**settings, **options})


@pytest.fixture
def copy(wall_data: TrajectoryDataset, tmp_path: Path) -> Path:
    """A dataset folder to break."""
    return Path(shutil.copytree(wall_data.folder, tmp_path / "data"))


class ShortEpisodes(gym.Env):
    """Without goals; ends after seed % 4 + 1 steps; the proprioception counts the steps."""

    observation_space = gym.spaces.Dict(
        {
            "pixels": gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8),
            "proprio": gym.spaces.Box(0, 100, (1,), np.float32),
        }
    )
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        assert seed is not None
        self._length, self._steps = seed % 4 + 1, 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> Any:
        self._steps += 1
        return self._observe(), 0.0, self._steps == self._length, False, {}

    def _observe(self) -> dict[str, np.ndarray]:
        pixels = np.full((SIZE, SIZE, 3), self._steps, np.uint8)
        return {"pixels": pixels, "proprio": np.full(1, self._steps, np.float32)}


@pytest.fixture
def short_episodes(tmp_path: Path) -> Any:
    """8 episodes of 2, 3, 4, 5, 2, 3, 4, 5 frames in parts of 3."""
    gym.register(id="Short-v0", entry_point=ShortEpisodes)
    yield collect(
        "Short-v0", 8, 0, tmp_path / "short", steps=9, episodes_per_part=3, workers=1,
        progress=False,
    )  # fmt: skip
    del gym.registry["Short-v0"]


# Collection -----------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", sorted(ENVS))
def test_actions_lead_from_state_to_state(env_id: str, tmp_path: Path) -> None:
    dataset = collect(
        env_id, 2, 7, tmp_path / "d", steps=4, workers=1, progress=False, image_size=SIZE
    )
    with gym.make(env_id, image_size=SIZE) as env:
        for index in range(2):
            episode = dataset.episode(index)
            assert {k: len(v) for k, v in episode.items()} == dict.fromkeys(ARRAYS, 5)
            assert not episode["action"][-1].any()
            observation, info = env.reset(
                options={"start": episode["state"][0], "goal": episode["state"][-1]}
            )
            for step in range(5):
                assert np.array_equal(observation["pixels"], episode["pixels"][step])
                assert np.array_equal(observation["proprio"], episode["proprio"][step])
                assert np.array_equal(info["state"], episode["state"][step])
                observation, _, _, _, info = env.step(episode["action"][step])
    assert dataset.metadata["env_id"] == env_id
    assert dataset.metadata["action_high"] == list(ENVS[env_id].action_box["action_high"])


def test_a_share_of_random_actions(tmp_path: Path) -> None:
    plain = gather(tmp_path / "plain", steps=50)
    half = gather(tmp_path / "half", steps=50, random_share=0.5)
    whole = gather(tmp_path / "whole", steps=50, random_share=1.0)
    # Wall's policy keeps its heading for a while; random actions know nothing of the last one.
    alike = []
    for data in (plain, half, whole):
        pairs = [data.episode(i)["action"][:50] for i in range(5)]
        first, second = (
            np.concatenate([p[cut] for p in pairs]) for cut in (slice(49), slice(1, 50))
        )
        alike.append(np.corrcoef(first.ravel(), second.ravel())[0, 1])
    assert alike[0] > 0.5
    assert alike[1] < alike[0] - 0.2
    assert abs(alike[2]) < 0.15
    with pytest.raises(ValueError, match=r"with random_share=0\.5, asked for 0\.0"):
        gather(tmp_path / "half", steps=50)
    with pytest.raises(ValueError, match="random_share must lie in 0…1, got 2"):
        gather(tmp_path / "bad", random_share=2)


def test_a_collection_from_before_random_shares(tmp_path: Path) -> None:
    gather(tmp_path)
    about = json.loads((tmp_path / "metadata.json").read_text())
    del about["random_share"]
    (tmp_path / "metadata.json").write_text(json.dumps(about))
    assert len(gather(tmp_path)) == 5


def test_a_killed_collection_goes_on(tmp_path: Path) -> None:
    whole = gather(tmp_path / "whole")
    gather(tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "part-00001")
    (tmp_path / "broken" / "part-00001.123.tmp").mkdir()  # what a killed worker leaves
    again = gather(tmp_path / "broken")
    assert len(again) == len(whole) == 5
    for index in range(5):
        for key, value in whole.episode(index).items():
            assert np.array_equal(again.episode(index)[key], value)


def test_parts_and_processes_do_not_matter(tmp_path: Path) -> None:
    one = gather(tmp_path / "one")
    two = gather(tmp_path / "two", workers=2, episodes_per_part=3)
    for key in ARRAYS:
        assert np.array_equal(one.array(key), two.array(key))


def test_finished_parts_are_not_collected_again(tmp_path: Path) -> None:
    gather(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.npy")}
    gather(tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.npy")} == before


@pytest.mark.parametrize(
    "change", [{"episodes": 6}, {"seed": 4}, {"steps": 5}, {"image_size": 32}, {"episodes": 4}]
)
def test_other_settings_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    gather(tmp_path)
    with pytest.raises(ValueError, match=r"holds a collection with .*use another folder"):
        gather(tmp_path, **change)


def test_other_keys_are_refused(tmp_path: Path) -> None:
    gather(tmp_path)
    gather(tmp_path, keys=ObservationKeys())
    with pytest.raises(ValueError, match=r"holds a collection with keys=.*use another folder"):
        gather(tmp_path, keys=ObservationKeys("goal_pixels", "goal_proprio"))


@pytest.mark.parametrize(
    ("episodes", "seed"), [(1, EVALUATION_SEEDS_BEGIN), (2, EVALUATION_SEEDS_BEGIN - 1), (1, -1)]
)
def test_evaluation_seeds_are_refused(episodes: int, seed: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kept for evaluation"):
        gather(tmp_path / "d", episodes, seed)
    assert not (tmp_path / "d").exists()


def test_the_last_seed_before_them_is_not(tmp_path: Path) -> None:
    assert len(gather(tmp_path / "d", 1, EVALUATION_SEEDS_BEGIN - 1)) == 1


@pytest.mark.parametrize("counts", [{"episodes": 0}, {"steps": 0}, {"episodes_per_part": 0}])
def test_bad_counts(counts: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        gather(tmp_path / "d", **counts)


def test_episodes_of_various_lengths(short_episodes: TrajectoryDataset) -> None:
    lengths = [2, 3, 4, 5] * 2
    assert short_episodes.episodes[:, 2].tolist() == lengths
    assert short_episodes.frames == sum(lengths)
    for index, length in enumerate(lengths):
        counted = short_episodes.episode(index)["proprio"][:, 0]
        assert counted.tolist() == list(range(length))


# Reading --------------------------------------------------------------------------------------


def test_array_and_split(wall_data: TrajectoryDataset) -> None:
    chosen = [3, 0]
    expected = np.concatenate([wall_data.episode(i)["proprio"] for i in chosen])
    assert np.array_equal(wall_data.array("proprio", chosen), expected)
    assert len(wall_data.array("action")) == wall_data.frames == 12 * 31
    training, held_out = wall_data.split(0.25)
    assert training.tolist() == list(range(9))
    assert held_out.tolist() == [9, 10, 11]


def test_a_split_needs_two_episodes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        gather(tmp_path, 1).split()


@pytest.mark.parametrize(("frames", "frameskip"), [(1, 1), (2, 5), (3, 4), (7, 5)])
def test_windows_are_slices(frames: int, frameskip: int, wall_data: TrajectoryDataset) -> None:
    span = (frames - 1) * frameskip
    windows = wall_data.windows(frames, frameskip, episodes=[5, 2])
    assert len(windows) == 2 * (31 - span)
    index = 0
    for number in (5, 2):
        episode = wall_data.episode(number)
        for offset in range(31 - span):
            item = windows[index]
            for key in ("pixels", "proprio", "state"):
                wanted = episode[key][offset : offset + span + 1 : frameskip]
                assert np.array_equal(item[key].numpy(), wanted)
            actions = episode["action"][offset : offset + span].reshape(frames - 1, frameskip, 2)
            assert np.array_equal(item["action"].numpy(), actions)
            index += 1


def test_windows_of_short_episodes(short_episodes: TrajectoryDataset) -> None:
    windows = short_episodes.windows(2, 3)  # spans 4 frames
    starts = [windows[i]["proprio"][:, 0].tolist() for i in range(len(windows))]
    assert starts == [[0, 3], [0, 3], [1, 4]] * 2


@pytest.mark.parametrize(("frames", "frameskip"), [(0, 1), (1, 0)])
def test_bad_windows(frames: int, frameskip: int, wall_data: TrajectoryDataset) -> None:
    with pytest.raises(ValueError, match="must be ≥ 1"):
        wall_data.windows(frames, frameskip)


def test_windows_longer_than_all_episodes(wall_data: TrajectoryDataset) -> None:
    with pytest.raises(ValueError, match="has the 32 frames that a window"):
        wall_data.windows(32, 1)


@pytest.mark.parametrize("first", [1, 17, 18, 40])
def test_shuffled_batches_can_be_resumed(first: int, wall_data: TrajectoryDataset) -> None:
    windows = wall_data.windows(3, 5)  # 252 windows, 18 batches in an epoch
    whole = list(islice(windows.shuffled(14, seed=1), first + 3))
    resumed = list(islice(windows.shuffled(14, seed=1, first_step=first), 3))
    for a, b in zip(whole[first:], resumed, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_an_epoch_has_every_window_once(wall_data: TrajectoryDataset) -> None:
    windows = wall_data.windows(1, 1)
    epoch = list(islice(windows.shuffled(31, seed=0), 12))
    states = torch.cat([batch["state"][:, 0] for batch in epoch])
    expected = torch.from_numpy(wall_data.array("state"))
    assert torch.equal(states.sort(0).values, expected.sort(0).values)
    assert not torch.equal(states, expected)


def test_fewer_windows_than_a_batch(wall_data: TrajectoryDataset) -> None:
    windows = wall_data.windows(31, 1)
    sizes = [len(b["pixels"]) for b in islice(windows.shuffled(100, seed=0), 3)]
    assert sizes == [12, 12, 12]


# Cached latents -------------------------------------------------------------------------------


@pytest.fixture
def latents(wall_data: TrajectoryDataset, make_model: Any, tmp_path: Path) -> LatentDataset:
    return LatentDataset.encode(make_model(), wall_data, tmp_path / "z.npy", progress=False)


def test_latents_are_those_of_the_frames(
    latents: LatentDataset, wall_data: TrajectoryDataset, make_model: Any
) -> None:
    episode = wall_data.episode(7)
    alone = encode_frames(make_model(), episode["pixels"].copy(), episode["proprio"].copy())
    begin = int(latents.begin[7])
    assert torch.allclose(latents.latents[begin : begin + 31], alone, atol=1e-5)
    windows, actions = latents.window(torch.tensor([begin + 2]), 3, 5)
    assert torch.equal(windows[0], latents.latents[begin + 2 : begin + 13 : 5])
    expected = torch.tensor(episode["action"][2:12].reshape(2, 10))
    assert torch.allclose(actions[0], expected)  # the model's statistics are the identity


def test_latent_windows_stay_in_their_episodes_and_can_be_resumed(latents: LatentDataset) -> None:
    episodes = np.array([1, 4])
    source = latents.windows(3, 5, episodes, batch_size=200, seed=2)
    whole = list(islice(source, 4))
    resumed = next(latents.windows(3, 5, episodes, batch_size=200, seed=2, first_step=3))
    assert torch.equal(whole[3][0], resumed[0])
    allowed = torch.cat([latents.latents[31 * i : 31 * i + 21] for i in episodes])
    first = torch.cat([w[:, 0] for w, _ in whole])
    # 800 draws of the 42 possible beginnings: each of them, and no other.
    assert {tuple(row) for row in first.tolist()} == {tuple(row) for row in allowed.tolist()}


def test_latents_of_another_encoder_or_other_data_are_not_taken(
    wall_data: TrajectoryDataset,
    make_model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "z.npy"

    def interrupted(*given: Any) -> None:
        raise KeyboardInterrupt

    def encoded(model: Any, data: TrajectoryDataset = wall_data) -> tuple[torch.Tensor, int]:
        found = LatentDataset.encode(model, data, file, progress=False).latents
        return found, file.stat().st_mtime_ns

    first, written = encoded(make_model())
    trained = make_model()
    torch.nn.init.ones_(trained.predictor.output.weight)  # no part of the encoder
    assert encoded(trained)[1] == written
    other, again = encoded(make_model(seed=1))
    assert again > written
    assert not torch.equal(first, other)
    fewer, _ = encoded(make_model(), gather(tmp_path / "few"))
    assert len(fewer) == 5 * 7
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            encoded(make_model(seed=2))
    assert torch.equal(encoded(make_model())[0], first)
    file.with_suffix(".json").unlink()  # as files were before they had one
    assert torch.equal(encoded(make_model())[0], first)


def test_taken_actions(wall_data: TrajectoryDataset) -> None:
    """All but those of last frames, which are zeros."""
    found = wall_data.taken_actions([4, 2])
    assert found.shape == (2 * 30, 2)
    np.testing.assert_array_equal(found[30:], wall_data.episode(2)["action"][:-1])


def test_evenly_spaced_windows(latents: LatentDataset) -> None:
    rows = latents.evenly(np.array([0, 2]), frames=3, frameskip=5, stride=10)
    assert rows.tolist() == [0, 10, 20, 62, 72, 82]


def test_latent_windows_longer_than_all_episodes(latents: LatentDataset) -> None:
    with pytest.raises(ValueError, match="no episode has the 36 frames"):
        next(latents.windows(8, 5, np.arange(12), 4, 0))


# Damaged folders ------------------------------------------------------------------------------


def assert_refused(folder: Path, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        TrajectoryDataset(folder)
    assert "\n" not in str(caught.value)


def test_no_dataset(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nowhere", FileNotFoundError, r"not a dataset folder; .*collect")


@pytest.mark.parametrize("version", [0, 2, None])
def test_other_format_version(version: Any, copy: Path) -> None:
    metadata = json.loads((copy / "metadata.json").read_text())
    (copy / "metadata.json").write_text(json.dumps({**metadata, "format_version": version}))
    assert_refused(copy, ValueError, f"format version {version}, expected 1")


def test_damaged_metadata(copy: Path) -> None:
    (copy / "metadata.json").write_text('{"format_')
    assert_refused(copy, ValueError, "metadata.json")


def test_missing_part(copy: Path) -> None:
    shutil.rmtree(copy / "part-00002")
    assert_refused(copy, FileNotFoundError, r"part-00002.* is missing; run the same collect")


@pytest.mark.parametrize("key", [*ARRAYS, "length"])
def test_missing_array(key: str, copy: Path) -> None:
    (copy / "part-00001" / f"{key}.npy").unlink()
    assert_refused(copy, FileNotFoundError, f"{key}.npy is missing")


@pytest.mark.parametrize("key", [*ARRAYS, "length"])
@pytest.mark.parametrize("kept", [0, 20, -8])
def test_damaged_array(key: str, kept: int, copy: Path) -> None:
    path = copy / "part-00001" / f"{key}.npy"
    path.write_bytes(path.read_bytes()[:kept])
    assert_refused(copy, ValueError, rf"{key}.npy is damaged .*delete .*part-00001")


@pytest.mark.parametrize("key", ["pixels", "proprio", "action", "state"])
def test_array_of_another_length(key: str, copy: Path) -> None:
    path = copy / "part-00001" / f"{key}.npy"
    np.save(path, np.load(path)[:-1])
    assert_refused(copy, ValueError, "part-00001")


def test_pickled_arrays_are_not_read(copy: Path) -> None:
    np.save(copy / "part-00000" / "state.npy", np.array([{}], object), allow_pickle=True)
    assert_refused(copy, ValueError, "state.npy is damaged")
