"""Minari data sets: what comes over is equal both ways, and trains."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from gbp_agent import (
    DynamicsConfig,
    ObservationKeys,
    PretrainConfig,
    TrajectoryDataset,
    collect,
    load_checkpoint,
    pretrain,
)
from gbp_agent.convert import minari as module
from gbp_agent.convert.minari import from_minari, to_minari
from gbp_agent.training.initializer import InitializerConfig

minari = pytest.importorskip("minari", "0.5.4", reason="minari 0.5.4 asks for Python 3.11")
EpisodeBuffer = minari.data_collector.EpisodeBuffer
MinariStorage = minari.dataset.minari_storage.MinariStorage

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")
RECOMPUTED = {"dataset_id", "dataset_size", "jpeg_encoding", "data_format"}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Minari's data sets are."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


class Everything(gym.Env):
    """Nested observations of all kinds, infos, episodes of 3 to 6 steps; random numbers."""

    observation_space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (32, 40, 3), np.uint8),
            "robot": spaces.Dict({"state.q": spaces.Box(-9, 9, (3,), np.float64)}),
            "vector": spaces.Box(-9, 9, (2,), np.float32),
            "pair": spaces.Tuple((spaces.Discrete(5), spaces.MultiBinary(2))),
            "task": spaces.Text(9),
        }
    )
    action_space = spaces.Box(-1, 1, (2,), np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._left = int(self.np_random.integers(3, 7))
        self.observation_space.seed(seed)
        return self.observation_space.sample(), self._info()

    def step(self, action: np.ndarray) -> Any:
        self._left -= 1
        reward = float(self.np_random.normal())
        ended = self._left == 0
        return self.observation_space.sample(), reward, ended, False, self._info()

    def _info(self) -> dict[str, Any]:
        return {"state": self.np_random.normal(size=4), "deep": {"text": "é", "on": True}}


@pytest.fixture
def everything() -> Iterator[str]:
    gym.register(id="Everything-v0", entry_point=f"{__name__}:Everything")
    yield "Everything-v0"
    del gym.registry["Everything-v0"]


class Goals(gym.Env):
    """Observations as Gymnasium's goal environments have them."""

    observation_space = spaces.Dict(
        {key: spaces.Box(-9, 9, (size,), np.float64) for key, size in
         (("observation", 4), ("achieved_goal", 2), ("desired_goal", 2))}
    )  # fmt: skip
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> Any:
        return self.observation_space.sample(), -1.0, False, False, {}


def record(
    env: gym.Env, episodes: int = 4, steps: int = 5, dataset_id: str = "expert/all-v0", **how: Any
) -> minari.MinariDataset:
    """Random actions, recorded as an expert's would be."""
    collector = minari.DataCollector(env, **how)
    collector.action_space.seed(0)
    for seed in range(episodes):
        collector.reset(seed=seed, options={"level": seed, "start": np.arange(2.0)})
        for _ in range(steps):
            if any(collector.step(collector.action_space.sample())[2:4]):
                break
    found = collector.create_dataset(
        dataset_id, algorithm_name="random", author={"A", "B"}, author_email="a@b.c",
        code_permalink="https://example.org", description="said at length", ref_min_score=-1.0,
        ref_max_score=2.0,
    )  # fmt: skip
    collector.close()
    return found


def assert_equal(one: Any, two: Any) -> None:
    """Equal in structure, type and every bit."""
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_equal(one[key], two[key])
    elif isinstance(one, (tuple, list)):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert_equal(a, b)
    elif isinstance(one, np.ndarray):
        assert one.dtype == two.dtype
        assert one.shape == two.shape
        assert (
            one.tolist() == two.tolist() if one.dtype == object else one.tobytes() == two.tobytes()
        )
    else:
        assert one == two


def assert_same_dataset(one: minari.MinariDataset, two: minari.MinariDataset) -> None:
    assert len(one) == len(two) > 0
    assert one.total_steps == two.total_steps
    for a, b in zip(one, two, strict=True):
        assert_equal({**vars(a), "infos": a.infos or {}}, {**vars(b), "infos": b.infos or {}})
    indices = range(len(one))
    abouts = [d.storage.get_episode_metadata(indices) for d in (one, two)]
    for a, b in zip(*abouts, strict=True):
        assert_equal(a, b)
    raw = [MinariStorage.read_raw_metadata(d.storage.data_path) for d in (one, two)]
    for key in (raw[0].keys() | raw[1].keys()) - RECOMPUTED:
        there = [sorted(r[key]) if key.startswith("author") else r[key] for r in raw]
        assert there[0] == there[1], key


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# From ours and back ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pictures", "state in infos", "vector alone", "float64 actions"])
def test_a_dataset_of_ours_comes_back_file_for_file(
    kind: str, wall_data: TrajectoryDataset, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"steps": 6, "episodes_per_part": 2, "workers": 1, "progress": False}
    keys = ObservationKeys(pixels=None, proprio="observation")
    if kind == "pictures":
        ours = wall_data
    elif kind == "state in infos":
        ours = collect("gbp/Wall-v0", 5, 3, tmp_path / "a", keys=keys, obs_type="state", **options)
    else:
        ours = collect("Pendulum-v1", 3, 2**40 % 10**9 - 5, tmp_path / "a", **options)
    if kind == "float64 actions":
        for file in ours.folder.rglob("action.npy"):
            np.save(file, np.load(file).astype(np.float64) / 3)
        ours = TrajectoryDataset(ours.folder)
    theirs = to_minari(ours.folder, "gbp/ours-v0", progress=False)
    back = from_minari("gbp/ours-v0", tmp_path / "back", progress=False)
    assert files(back.folder) == files(ours.folder)
    assert theirs.env_spec.id == ours.metadata["env_id"]
    assert theirs.env_spec.kwargs == ours.metadata["env_kwargs"]
    abouts = list(theirs.storage.get_episode_metadata(range(len(ours))))
    first = ours.metadata["seed"]
    assert [about["seed"] for about in abouts] == list(range(first, first + len(ours)))


def test_what_others_see_of_a_dataset_of_ours(wall_data: TrajectoryDataset) -> None:
    theirs = to_minari(wall_data.folder, "wall-v3", progress=False)
    for index, episode in enumerate(theirs):
        ours = wall_data.episode(index)
        assert_equal(episode.observations["pixels"], np.asarray(ours["pixels"]))
        assert_equal(episode.observations["proprio"], np.asarray(ours["proprio"]))
        assert_equal(episode.actions, np.asarray(ours["action"][:-1]))
        assert_equal(episode.infos["state"], np.asarray(ours["state"]))
        assert np.isnan(episode.rewards).all()  # unknown, and not zero
        assert episode.truncations.nonzero()[0].tolist() == [29]
        assert theirs.observation_space["pixels"].contains(episode.observations["pixels"][3])
        assert theirs.action_space.contains(episode.actions[3])
    env = theirs.recover_environment()
    assert env.observation_space["pixels"] == theirs.observation_space["pixels"]
    env.close()


def test_a_relative_root(
    wall_data: TrajectoryDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", "here")
    to_minari(wall_data.folder, "wall-v0", progress=False)
    back = from_minari("wall-v0", "back", progress=False)
    assert files(back.folder) == files(wall_data.folder)


def test_rewards_that_were_added_are_not_lost(wall_data: TrajectoryDataset, tmp_path: Path) -> None:
    import h5py

    theirs = to_minari(wall_data.folder, "wall-v0", progress=False)
    with h5py.File(theirs.storage.data_path / "main_data.hdf5", "a") as file:
        file["episode_7"]["rewards"][...] = 1.0
    with pytest.raises(ValueError, match="episode 7 of wall-v0: it was given rewards"):
        from_minari("wall-v0", tmp_path / "back", progress=False)
    about = theirs.storage.data_path / "metadata.json"
    content = json.loads(about.read_text())
    del content["gbp_agent"]
    about.write_text(json.dumps(content))
    back = from_minari("wall-v0", tmp_path / "kept", progress=False)
    assert np.array_equal(back.array("pixels"), wall_data.array("pixels"))
    again = to_minari(back.folder, "wall-v1", progress=False)
    assert_same_dataset(minari.load_dataset("wall-v0"), again)


# From Minari and back -------------------------------------------------------------------------


@pytest.mark.parametrize("infos", [True, False])
@pytest.mark.parametrize("jpeg", [True, False])
def test_everything_comes_back(
    jpeg: bool, infos: bool, everything: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EPISODES_PER_PART", 3)
    theirs = record(gym.make(everything), 7, 9, record_infos=infos, jpeg_encoding=jpeg)
    keys = ObservationKeys(pixels="camera", proprio="vector")
    ours = from_minari("expert/all-v0", tmp_path / "d", keys, image_size=24, progress=False)
    for index, episode in enumerate(theirs):
        arrays = ours.episode(index)
        assert_equal(np.asarray(arrays["proprio"]), episode.observations["vector"])
        assert arrays["pixels"].shape[1:] == (24, 24, 3)
        assert np.allclose(arrays["action"][:-1], episode.actions)
        assert arrays["action"].dtype == np.float32
        assert not arrays["action"][-1].any()
        if infos:
            assert_equal(np.asarray(arrays["state"]), episode.infos["state"])
    assert ours.metadata["env_id"] == everything
    assert ours.metadata["source"] == "the Minari data set expert/all-v0"
    assert ours.metadata["parts"] == 3
    assert_same_dataset(theirs, to_minari(ours.folder, "back-v0", progress=False))


def test_pictures_are_kept_once_where_they_are_not_scaled(tmp_path: Path) -> None:
    space = spaces.Dict({"pixels": spaces.Box(0, 255, (32, 32, 3), np.uint8)})
    env = gym.Env()
    env.spec, env.observation_space, env.action_space = None, space, Goals.action_space
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (6, 32, 32, 3), np.uint8)
    theirs = minari.create_dataset_from_buffers(
        "pictures-v0",
        [
            EpisodeBuffer(
                observations={"pixels": pictures},
                actions=rng.normal(size=(5, 2)).astype(np.float32),
                rewards=[0.0] * 5, terminations=[False] * 5, truncations=[False] * 4 + [True],
            )
        ],
        observation_space=space, action_space=env.action_space, jpeg_encoding=False,
        code_permalink="x", author="x", author_email="x", algorithm_name="x",
    )  # fmt: skip
    with pytest.raises(ValueError, match="pictures-v0 names no environment; give env_id"):
        from_minari("pictures-v0", tmp_path / "d", progress=False)
    ours = from_minari(theirs, tmp_path / "d", env_id="Somewhere-v0", progress=False)
    assert_equal(np.asarray(ours.episode(0)["pixels"]), pictures)
    assert ours.episode(0)["proprio"].shape == (6, 1)
    assert {p.name for p in (tmp_path / "d" / "part-00000").glob("minari.*")} == {
        "minari.rewards.npy", "minari.terminations.npy", "minari.truncations.npy",
    }  # fmt: skip
    assert_same_dataset(theirs, to_minari(ours.folder, "back-v0", progress=False))


def test_goal_environment_without_keys(tmp_path: Path) -> None:
    gym.register(id="Goals-v0", entry_point=f"{__name__}:Goals")
    about = record(gym.make("Goals-v0")).storage.data_path / "metadata.json"
    del gym.registry["Goals-v0"]
    about.write_text(about.read_text().replace(f"{__name__}:Goals", "not_installed_here:Goals"))
    theirs = minari.load_dataset("expert/all-v0")
    ours = from_minari("expert/all-v0", tmp_path / "d", progress=False)
    for index, episode in enumerate(theirs):
        wanted = episode.observations["observation"]
        assert np.array_equal(ours.episode(index)["proprio"], wanted.astype(np.float32))
    assert_same_dataset(theirs, to_minari(ours.folder, "back-v0", progress=False))
    keys = ObservationKeys(pixels=None, proprio="achieved_goal")
    other = from_minari("expert/all-v0", tmp_path / "other", keys, progress=False)
    assert other.episode(0)["proprio"].shape == (6, 2)
    with pytest.raises(KeyError, match="no 'position', only 'achieved_goal', 'desired_goal'"):
        from_minari(theirs, tmp_path / "no", ObservationKeys(pixels=None, proprio="position"))


def test_a_selection_of_episodes(tmp_path: Path) -> None:
    theirs = record(gym.make("Pendulum-v1"), 6)
    chosen = theirs.filter_episodes(lambda episode: episode.id in (1, 4, 5))
    ours = from_minari(chosen, tmp_path / "d", progress=False)
    for index, number in enumerate((1, 4, 5)):
        assert_equal(np.asarray(ours.episode(index)["proprio"]), theirs[number].observations)
    seeds = to_minari(ours.folder, "back-v0", progress=False).storage.get_episode_metadata(range(3))
    assert [about["seed"] for about in seeds] == [1, 4, 5]


# The commands, and training -------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `python -m gbp_agent.convert` and returns what it prints."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
        runpy.run_module("gbp_agent.convert", run_name="__main__")
        return capsys.readouterr().out

    return run


def test_a_recorded_expert_becomes_training_data_by_one_command(
    command: Any, tmp_path: Path
) -> None:
    theirs = record(gym.make("Pendulum-v1"), 12, 30)
    found = command("minari", "expert/all-v0", tmp_path / "data")
    assert found == f"12 episodes, 372 frames in {tmp_path / 'data'}\n"
    pretrain(
        PretrainConfig(
            data=tmp_path / "data", out=tmp_path / "run", family="state", held_out=0.2,
            model={"frameskip": 2, "predictor_width": 8, "proposals": 4, "proposal_steps": 3},
            dynamics=DynamicsConfig(steps=3, windows=8), initializer=InitializerConfig(steps=1),
            progress=False,
        )
    )  # fmt: skip
    model, _ = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert model.config.env_id == "Pendulum-v1"
    assert model.config.action_high == (2.0,)
    card = (tmp_path / "run" / "checkpoint" / "README.md").read_text()
    assert "12 episodes of at most 30 steps of `Pendulum-v1`,\nfrom the Minari data set exp" in card
    found = command("to-minari", tmp_path / "data", "again-v0")
    assert found == f"12 episodes, 360 steps in {minari.storage.get_dataset_path('again-v0')}\n"
    assert_same_dataset(theirs, minari.load_dataset("again-v0"))


def test_keys_of_the_command(command: Any, everything: str, tmp_path: Path) -> None:
    theirs = record(gym.make(everything), record_infos=True)
    keys = ("--pixels", "camera", "--proprio", "vector", "--image-size", 16, "--no-infos")
    command("minari", theirs.storage.data_path.parent, tmp_path / "data", *keys)
    ours = TrajectoryDataset(tmp_path / "data")
    assert ours.episode(0)["pixels"].shape[1:] == (16, 16, 3)
    assert ours.episode(0)["proprio"].shape[1:] == (2,)
    assert ours.episode(0)["state"].shape[1:] == (0,)


def test_command_names_what_is_missing(
    command: Any, wall_data: TrajectoryDataset, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = gym.spec("gbp/Wall-v0").entry_point
    monkeypatch.delitem(gym.registry, "gbp/Wall-v0")
    found = command("to-minari", wall_data.folder, "gbp/wall-v0")
    assert "12 episodes, 360 steps in" in found
    assert "without its environment, which is not registered here" in found
    (root / "registers.py").write_text(
        f"import gymnasium\ngymnasium.register('gbp/Wall-v0', {entry!r})\n"
    )
    monkeypatch.syspath_prepend(root)
    found = command("to-minari", wall_data.folder, "gbp/wall-v1", "--register", "registers")
    assert "without" not in found
    assert minari.load_dataset("gbp/wall-v1").env_spec.id == "gbp/Wall-v0"
    folder = root / "gbp" / "wall-v1"
    assert from_minari(folder, root / "b", progress=False).metadata == wall_data.metadata
    assert len(from_minari(folder / "data", root / "c", progress=False)) == 12


# Kills, memory, errors ------------------------------------------------------------------------


def test_a_killed_import_goes_on(
    everything: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EPISODES_PER_PART", 2)
    theirs = record(gym.make(everything), 5, record_infos=True)
    keys = ObservationKeys(pixels=None, proprio="robot.state%2Eq")
    whole = files(from_minari(theirs, tmp_path / "whole", keys, progress=False).folder)
    written = module.write_part

    def die(folder: Path, arrays: Any) -> None:
        if folder.name == "part-00001":
            raise KeyboardInterrupt
        written(folder, arrays)

    monkeypatch.setattr(module, "write_part", die)
    with pytest.raises(KeyboardInterrupt):
        from_minari(theirs, tmp_path / "broken", keys, progress=False)
    stamp = (tmp_path / "broken" / "part-00000").stat().st_mtime_ns
    monkeypatch.setattr(module, "write_part", written)
    from_minari(theirs, tmp_path / "broken", keys, progress=False)
    assert files(tmp_path / "broken") == whole
    assert (tmp_path / "broken" / "part-00000").stat().st_mtime_ns == stamp
    other = ObservationKeys(pixels=None, proprio="vector")
    for options in ({"keys": other}, {"keys": keys, "infos": False}):
        with pytest.raises(ValueError, match="holds other data"):
            from_minari(theirs, tmp_path / "broken", **options)
    with pytest.raises(ValueError, match="holds other data"):
        from_minari(record(gym.make("Pendulum-v1"), dataset_id="b-v0"), tmp_path / "broken")


def test_episodes_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 MB of pictures, both ways, in far less memory."""
    rng = np.random.default_rng(0)
    frames = (64, 64, 64, 3)
    space = spaces.Dict({"pixels": spaces.Box(0, 255, frames[1:], np.uint8)})
    minari.create_dataset_from_buffers(
        "large-v0",
        (
            EpisodeBuffer(
                observations={"pixels": rng.integers(0, 256, frames, np.uint8)},
                actions=np.zeros((63, 2), np.float32), rewards=[0.0] * 63,
                terminations=[False] * 63, truncations=[False] * 63,
            )
            for _ in range(32)
        ),
        observation_space=space, action_space=Goals.action_space, jpeg_encoding=False,
        code_permalink="x", author="x", author_email="x", algorithm_name="x",
    )  # fmt: skip
    monkeypatch.setattr(module, "PART_BYTES", 2 * 2**20)
    tracemalloc.start()
    ours = from_minari("large-v0", tmp_path / "d", env_id="Large-v0", progress=False)
    to_minari(ours.folder, "back-v0", progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(p.stat().st_size for p in ours.folder.rglob("pixels.npy")) > 24 * 2**20
    assert peak < 9 * 2**20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"infos": {"a": np.arange(6.0)}}, r"episode 1 of odd-v0: infos.a is <f8 .*infos=False"),
        ({"infos": {"a": 3.0}}, "episode 1 of odd-v0: infos.a cannot be kept"),
        ({"observations": np.zeros((5, 3), np.float32)}, "observations has 5 rows, expected 6"),
        ({"observations": np.zeros((6, 3))}, "of other types than those of the first"),
        ({"actions": np.full((5, 1), np.nan, np.float32)}, "actions is not finite; leave such"),
    ],
)  # fmt: skip
def test_odd_episodes_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    good: dict[str, Any] = {
        "observations": np.zeros((6, 3), np.float32), "actions": np.zeros((5, 1), np.float32),
        "rewards": [0.0] * 5, "terminations": [False] * 5, "truncations": [False] * 5,
        "infos": {"a": np.arange(6)},
    }  # fmt: skip
    buffers = [EpisodeBuffer(**good), EpisodeBuffer(**{**good, **change})]
    minari.create_dataset_from_buffers(
        "odd-v0", buffers, env="Pendulum-v1", code_permalink="x", author="x", author_email="x",
        algorithm_name="x",
    )  # fmt: skip
    with pytest.raises(ValueError, match=message) as caught:
        from_minari("odd-v0", tmp_path / "d", progress=False)
    assert "\n" not in str(caught.value)
    if "infos" in change:
        assert len(from_minari("odd-v0", tmp_path / "e", infos=False, progress=False)) == 2


def test_infos_that_come_and_go_are_kept(tmp_path: Path) -> None:
    common = {"rewards": [0.0], "terminations": [True], "truncations": [False]}
    infos = [{}, {"b": {"c": np.arange(3)}}, {"a": ["x", "yy"]}, {"a": ["zzz", ""]}]
    theirs = minari.create_dataset_from_buffers(
        "odd-v0",
        [
            EpisodeBuffer(
                observations=np.full((2, 3), i, np.float32), actions=np.zeros((1, 1), np.float32),
                infos=info, **common,
            )
            for i, info in enumerate(infos)
        ],
        env="Pendulum-v1", code_permalink="x", author="x", author_email="x", algorithm_name="x",
    )  # fmt: skip
    ours = from_minari(theirs, tmp_path / "d", progress=False)
    assert_same_dataset(theirs, to_minari(ours.folder, "back-v0", progress=False))


def test_data_that_are_not_for_a_world_model(everything: str, tmp_path: Path) -> None:
    none = record(gym.make("Pendulum-v1"), dataset_id="c-v0").filter_episodes(lambda _: False)
    with pytest.raises(ValueError, match="c-v0 has 0 episodes"):
        from_minari(none, tmp_path / "d")
    record(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match=r"actions Discrete\(2\), expected .* a Box of shape"):
        from_minari("expert/all-v0", tmp_path / "d")
    record(gym.make(everything), dataset_id="b-v0")
    keys = ObservationKeys(pixels="camera", proprio="vector")
    with pytest.raises(ValueError, match=r"camera is uint8 of shape \(32, 40, 3\).* image_size"):
        from_minari("b-v0", tmp_path / "d", keys)
    with pytest.raises(ValueError, match=r"task is <U.*expected numbers"):
        from_minari("b-v0", tmp_path / "d", ObservationKeys(pixels=None, proprio="task"))
    assert not (tmp_path / "d").exists()


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"Minari data set 'no/such-v0' here.*--download"):
        from_minari("no/such-v0", tmp_path / "d")
    with pytest.raises(FileNotFoundError, match=r"is no Minari data set: data/metadata\.json"):
        from_minari(tmp_path, tmp_path / "d")
    with monkeypatch.context() as older:
        older.delattr(MinariStorage, "jpeg_encoding")
        with pytest.raises(ImportError, match="which is too old: pip install"):
            from_minari("a-v0", tmp_path / "d")
    monkeypatch.setitem(sys.modules, "minari", None)
    for call in (from_minari, to_minari):
        with pytest.raises(ImportError, match=r'pip install "minari\[hdf5\]>=0.5.4"'):
            call("a-v0", "b-v0")  # type: ignore[operator]


def test_what_minari_cannot_hold(wall_data: TrajectoryDataset, tmp_path: Path, root: Path) -> None:
    to_minari(wall_data.folder, "a-v0", progress=False)
    with pytest.raises(ValueError, match="a-v0 is there already; give another name or version"):
        to_minari(wall_data.folder, "a-v0")
    for name in ("wall", "wall v0", "a/"):
        with pytest.raises(ValueError, match="expected name-v0 or namespace/name-v0"):
            to_minari(wall_data.folder, name)
    broken = Path(shutil.copytree(wall_data.folder, tmp_path / "data"))
    actions = np.load(broken / "part-00000" / "action.npy")
    np.save(broken / "part-00000" / "action.npy", np.ones_like(actions))
    with pytest.raises(ValueError, match=r"episode 0 of .* last action \[1\. 1\.\]"):
        to_minari(broken, "b-v0", progress=False)
    assert not (root / "b-v0").exists()
