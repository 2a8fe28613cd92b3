"""What collecting makes of environments that are unlike ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from gbp_agent import (
    DynamicsConfig,
    FinetuneConfig,
    ObservationKeys,
    PretrainConfig,
    TrajectoryDataset,
    WorldModelMPCAgent,
    collect,
    finetune,
    pretrain,
)
from gbp_agent.data.processes import processes

VECTOR = spaces.Box(-1, 1, (2,), np.float32)


class Drift(gym.Env):
    """A point that drifts where it is pushed; observations and actions are of any space."""

    def __init__(
        self,
        observation: spaces.Space[Any] = VECTOR,
        actions: spaces.Space[Any] = VECTOR,
        fails_after: int | None = None,
        size: Any = None,
        bad_after: int | None = None,
    ) -> None:
        self.observation_space, self.action_space = observation, actions
        self.fails_after, self.bad_after = fails_after, bad_after

    def _seen(self) -> Any:
        space = self.observation_space
        if isinstance(space, spaces.Box) and space.shape == (2,):
            bad = self.bad_after is not None and self.steps >= self.bad_after
            return np.where(bad, np.nan, self.place).astype(np.float32)
        if isinstance(space, spaces.Dict) and "achieved_goal" in space.spaces:
            place = self.place.astype(np.float32)
            return {
                "observation": np.tile(place, 2),
                "achieved_goal": place,
                "desired_goal": -place,
            }
        return space.sample()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.place, self.steps = self.np_random.uniform(-0.5, 0.5, 2), 0
        return self._seen(), {"is_success": False}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.fails_after is None or self.steps < self.fails_after
        self.steps += 1
        self.place = self.place + 0.1 * np.ravel(action)[:2]
        failed = self.steps == self.fails_after
        return self._seen(), 0.0, failed, False, {"is_success": False}


gym.register("tests/Drift-v0", Drift)


@pytest.fixture
def register() -> Iterator[Callable[..., None]]:
    """Register an env of these spaces as tests/Odd-v0."""
    yield lambda **spaces_of: gym.register("tests/Odd-v0", lambda **kwargs: Drift(**spaces_of))
    del gym.registry["tests/Odd-v0"]


def gathered(folder: Path, episodes: int = 4, **options: Any) -> TrajectoryDataset:
    shared = {"steps": 6, "workers": 1, "progress": False}
    return collect("tests/Drift-v0", episodes, 0, folder, **{**shared, **options})


def test_a_failure_ends_an_episode(tmp_path: Path) -> None:
    """And is no reaching of a goal, though the environment tells of goals."""
    data = gathered(tmp_path / "d", fails_after=3)
    assert data.episodes[:, 2].tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize(
    ("spaces_of", "message"),
    [
        ({"actions": spaces.Box(-1, 1, (2, 2))}, r"expected a Box of floats \(A,\)"),
        ({"actions": spaces.Box(-3, 3, (2,), np.int64)}, "expected a Box of floats"),
        ({"actions": spaces.Discrete(3)}, "expected a Box of floats"),
        ({"observation": spaces.Box(0, 255, (16, 16, 3), np.uint8)}, "expected a vector"),
        ({"observation": spaces.Box(-1, 1, (2, 1))}, r"proprioception \(2, 1\)"),
        ({"observation": spaces.Box(-1, 1, ())}, r"proprioception \(\)"),
    ],
)
def test_spaces_that_no_model_learns(
    spaces_of: dict[str, Any], message: str, tmp_path: Path, register: Any
) -> None:
    register(**spaces_of)
    with pytest.raises(ValueError, match=message):
        collect("tests/Odd-v0", 2, 0, tmp_path / "d", workers=1, progress=False)
    assert not (tmp_path / "d" / "metadata.json").exists()


@pytest.mark.parametrize(
    "picture",
    [
        spaces.Box(0, 1, (16, 16, 3)),
        spaces.Box(0, 255, (16, 16), np.uint8),
        spaces.Box(0, 255, (16, 24, 3), np.uint8),
    ],
)
def test_pictures_that_no_model_learns(picture: spaces.Box, tmp_path: Path, register: Any) -> None:
    register(observation=spaces.Dict({"pixels": picture, "proprio": VECTOR}))
    with pytest.raises(ValueError, match=r"expected \(S, S, 3\) uint8"):
        collect("tests/Odd-v0", 2, 0, tmp_path / "d", workers=1, progress=False)


def test_an_observation_that_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"seed 0, step 2: the observation .* is not finite"):
        gathered(tmp_path / "d", bad_after=2)


def test_an_env_stands_for_its_spec(tmp_path: Path) -> None:
    with gym.make("tests/Drift-v0", fails_after=3) as env:
        data = collect(env, 2, 0, tmp_path / "d", steps=6, workers=1, progress=False)
    assert data.episodes[:, 2].tolist() == [4, 4]
    assert data.metadata["env_kwargs"] == {"fails_after": 3}
    with pytest.raises(ValueError, match="holds a collection with env_kwargs"):
        collect("tests/Drift-v0", 2, 0, tmp_path / "d", steps=6, workers=1, progress=False)
    with pytest.raises(TypeError, match=r"expected an id, or an env of gymnasium\.make"):
        collect(Drift(), 2, 0, tmp_path / "e")


def test_keywords_of_the_env_that_json_changes(tmp_path: Path) -> None:
    first = gathered(tmp_path / "d", size=(64, 64))
    again = gathered(tmp_path / "d", size=(64, 64))
    assert first.metadata == again.metadata
    with pytest.raises(ValueError, match="no JSON values"):
        gathered(tmp_path / "e", size=np.float32)


def test_what_is_what_goes_along_with_the_model(tmp_path: Path, register: Any) -> None:
    """From collecting by pre-training and finetuning to the agent."""
    parts = {
        "observation": spaces.Box(-1, 1, (4,)),
        "achieved_goal": VECTOR,
        "desired_goal": VECTOR,
    }
    register(observation=spaces.Dict(parts))
    keys = ObservationKeys(None, "achieved_goal", None, "desired_goal")
    data = collect(
        "tests/Odd-v0", 12, 0, tmp_path / "data", steps=8, workers=1, progress=False, keys=keys
    )
    shape = {"frameskip": 1, "predictor_width": 8, "predictor_depth": 1, "proposals": 0}
    few = DynamicsConfig(steps=2, windows=8)
    pretrain(
        PretrainConfig(
            data=data.folder,
            out=tmp_path / "run",
            family="state",
            model=shape,
            dynamics=few,
            progress=False,
        )
    )
    finetune(
        FinetuneConfig(
            model=str(tmp_path / "run" / "checkpoint"),
            data=data.folder,
            out=tmp_path / "more",
            method="offline",
            steps=2,
            windows=8,
            progress=False,
        )
    )
    with gym.make("tests/Odd-v0", disable_env_checker=True) as env:
        observation, _ = env.reset(seed=0)
    for run in ("run", "more"):
        agent = WorldModelMPCAgent.from_pretrained(tmp_path / run / "checkpoint")
        assert agent.keys == keys
        assert agent.act(observation).shape == (2,)
    written = json.loads((tmp_path / "run" / "checkpoint" / "config.json").read_text())
    assert written["planning"]["keys"]["proprio"] == "achieved_goal"


def test_a_script_without_a_guard_ends_and_says_why(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from gbp_agent import collect\n"
        f"collect('Pendulum-v1', 4, 0, {str(tmp_path / 'd')!r}, steps=3, workers=2, "
        "episodes_per_part=1, progress=False)\n"
    )
    run = [sys.executable, str(script)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert 'if __name__ == "__main__":' in done.stderr.splitlines()[-1]


def test_processes_end_with_the_one_that_asked_for_them(tmp_path: Path) -> None:
    """However it is killed."""
    script, told = tmp_path / "script.py", tmp_path / "told"
    script.write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "from gbp_agent.data.processes import processes\n"
        "def work():\n"
        f"    Path({str(told)!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(100)\n"
        "if __name__ == '__main__':\n"
        "    with processes(1) as pool:\n"
        "        pool.submit(work).result()\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)])
    worker = _within(60, lambda: int(told.read_text()) if told.exists() else None)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert _within(30, lambda: None if _lives(worker) else "ended") == "ended"


def _within(seconds: float, ask: Callable[[], Any]) -> Any:
    """The first answer that is not None."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (answer := ask()) is not None:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"nothing in {seconds} s")


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    about = Path(f"/proc/{process}/stat")  # where there is one, of what nobody waits for as well
    return not about.exists() or about.read_text().rpartition(")")[2].split()[0] != "Z"


def test_an_error_does_not_wait_for_the_others() -> None:
    with pytest.raises(ZeroDivisionError), processes(1) as pool:  # noqa: PT012
        sleeping = pool.submit(time.sleep, 60)
        raise ZeroDivisionError
    assert isinstance(sleeping.exception(), BrokenProcessPool)  # it was not slept to the end
