"""Clips of evaluated episodes, and the page that shows them, looked at in a real browser."""

from __future__ import annotations

import contextlib
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser
from conftest import SIZE

from gbp_agent import EvaluationReport, Latent, Plan, RandomAgent, evaluate
from gbp_agent.clips import Clip, EpisodeRecorder, clips_again, row_plans
from gbp_agent.page import Section, write_page
from gbp_agent.video import HOLD


class LampEnv(gym.Env):
    """Each action, 0…1, is how bright the picture is from then on; three bright ones in all reach
    the goal. An `unsteady` one starts otherwise each time."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Box(0, 1, (1,), np.float32)
    resets = 0

    def __init__(self, render_mode: str | None = None, unsteady: bool = False):
        self.render_mode = render_mode
        self._unsteady = unsteady

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        LampEnv.resets += 1
        self._light = np.float32(0.0)
        self._total = LampEnv.resets * 0.1 if self._unsteady else 0.0
        return np.array([self._light]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._light = action[0]
        self._total += float(self._light)
        done = self._total > 3
        info = {"is_success": done, "distance": abs(3 - self._total)}
        return np.array([self._light]), -1.0, done, False, info

    def render(self) -> np.ndarray:
        return np.full((SIZE, SIZE, 3), 255 * self._light, np.uint8)


class Moody:
    """Plays at random; keeps what it played, by row and step."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self.played: list[np.ndarray] = []

    def predict(
        self, observation: Any, state: Any, episode_start: np.ndarray, deterministic: bool
    ) -> tuple[np.ndarray, None]:
        self.played.append(self._random.random((len(observation), 1)).astype(np.float32))
        return self.played[-1], None


@dataclass(frozen=True)
class Position:
    """What `AgentState` has: the next of the planned actions, for each row."""

    position: np.ndarray

    def take(self, rows: np.ndarray) -> Position:
        return Position(self.position[rows])


class Dreamer(Moody):
    """Plans two steps; expects that the lamp stays as it is."""

    keys = None
    last_plan: Plan | None = None
    model = SimpleNamespace(
        can_decode=True,
        device="cpu",
        decode=lambda latent: (255 * latent.visual[..., None].expand(-1, 4, 4, 3)).byte(),
    )

    def predict(
        self, observation: Any, state: Any, episode_start: np.ndarray, deterministic: bool
    ) -> tuple[np.ndarray, Any]:
        rows = len(observation)
        position = np.full(rows, 2) if state is None else state.position.copy()
        position[episode_start] = 2
        due = position == 2
        position[due] = 0
        count = int(due.sum())
        seen = torch.from_numpy(observation[due])[:, None, None]
        now = Latent(seen, torch.zeros(count, 1, 0))
        cost = torch.zeros(count)
        actions, nothing = np.zeros((count, 2, 1)), torch.zeros(count, 1, 2)
        plan = Plan(actions, nothing, lambda: now, now, cost, cost[None], 1, 1, 0.0)
        self.last_plan = plan if count else None
        return super().predict(observation, None, episode_start, True)[0], Position(position + 1)


@pytest.fixture(autouse=True)
def _lamp() -> Any:
    gym.register(id="Lamp-v0", entry_point=LampEnv, max_episode_steps=6)
    yield
    del gym.registry["Lamp-v0"]


def frames_of(clip: Clip, tmp_path: Path) -> np.ndarray:
    """The decoded frames, (n, h, w, 3)."""
    (tmp_path / "clip.mp4").write_bytes(clip.mp4)
    with imageio.get_reader(tmp_path / "clip.mp4") as reader:
        frames = np.stack([np.asarray(frame) for frame in reader])
    assert frames.shape[1:3] == clip.size[::-1]
    return frames


def recorded(agent: Any, env_id: str, episodes: int, each: int = 2, **options: Any) -> Section:
    recorder = EpisodeRecorder(each)
    report = evaluate(agent, env_id, episodes, progress=False, recorder=recorder, **options)
    return Section("an agent", report, recorder.clips(agent, report))


@pytest.fixture(scope="module")
def wall_section(make_agent: Any) -> Section:
    options: dict[str, Any] = {"image_size": SIZE, "max_episode_steps": 6, "num_envs": 2}
    return recorded(make_agent(), "gbp/Wall-v0", 3, **options)


@pytest.mark.parametrize("num_envs", [1, 4])
def test_clips_show_what_was_done(num_envs: int, tmp_path: Path) -> None:
    agent = Moody()
    section = recorded(agent, "Lamp-v0", 20, num_envs=num_envs)
    for outcome in (True, False):
        wanted = [e for e in section.report.episodes if e.success is outcome][:2]
        assert [c.episode for c in section.clips if c.episode.success is outcome] == wanted
        assert len(wanted) == 2
    for clip in section.clips:
        light = frames_of(clip, tmp_path)[:, 100:-100, 100:-100].mean((1, 2, 3)) / 255
        assert len(light) == clip.episode.steps + HOLD
        # The brightness of the steps adds up to how near the goal the episode ended.
        total = light[1 : clip.episode.steps + 1].sum()
        assert abs(3 - total) == pytest.approx(clip.episode.distance, abs=0.1)
        if num_envs == 1:
            played = np.concatenate(agent.played)[:, 0]
            before = sum(e.steps for e in section.report.episodes if e.seed < clip.episode.seed)
            shown = light[1 : clip.episode.steps + 1]
            np.testing.assert_allclose(
                shown, played[before : before + clip.episode.steps], atol=0.02
            )


def test_an_env_that_does_not_repeat_itself_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        section = recorded(Moody(), "Lamp-v0", 3, unsteady=True)
    assert section.clips == []
    assert "comes out otherwise when it is played again" in caplog.text


@pytest.mark.parametrize("num_envs", [1, 3])
def test_imagination_is_that_of_the_row_and_the_step(num_envs: int, tmp_path: Path) -> None:
    section = recorded(Dreamer(), "Lamp-v0", 8, num_envs=num_envs)
    assert {clip.episode.steps for clip in section.clips} > {6}  # rows get out of step
    for clip in section.clips:
        frames = frames_of(clip, tmp_path)
        light = frames[:, 100:-100, 100:284].mean((1, 2, 3)) / 255
        dream = frames[:, 260:-20, 400:-20].mean((1, 2, 3)) / 255
        planned = np.arange(clip.episode.steps) // 2 * 2
        np.testing.assert_allclose(dream[: len(planned)], light[planned], atol=0.03)


def test_row_plans_of_our_agent(make_agent: Any) -> None:
    """The plans are of the rows that were due: whose first action is what the row does next."""
    agent = make_agent()  # replans every 2 steps
    with contextlib.ExitStack() as stack:
        envs = [stack.enter_context(gym.make("gbp/Wall-v0", image_size=SIZE)) for _ in range(3)]
        rows = [env.reset(seed=seed)[0] for seed, env in enumerate(envs)]
        state = None
        for step in range(6):
            batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
            starts = np.array([step == 0, step in (0, 1), step == 0])  # the middle row lags
            actions, state = agent.predict(batch, state, starts)
            plans = row_plans(agent, state)
            assert set(plans) == ({0, 1, 2} if step == 0 else {0, 2} if step % 2 == 0 else {1})
            for row, plan in plans.items():
                np.testing.assert_array_equal(plan.actions[0, 0], actions[row])
                assert plan.predicted.visual.shape[0] == plan.cost.shape[0] == 1
            rows = [env.step(action)[0] for env, action in zip(envs, actions, strict=True)]


def test_clips_of_a_report_from_a_file(make_agent: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"image_size": SIZE, "max_episode_steps": 5}
    for agent, shown in ((make_agent(), 2), (RandomAgent.for_env("gbp/Wall-v0"), 0)):
        report = evaluate(agent, "gbp/Wall-v0", 4, num_envs=4, progress=False, **options)
        report.to_json(tmp_path / "report.json")
        again = EvaluationReport.from_json(tmp_path / "report.json")
        clips = clips_again(agent, again, each=2)
        assert [clip.episode for clip in clips] == report.episodes[:shown]


def test_page(wall_section: Section, tmp_path: Path) -> None:
    other = replace(wall_section, name="<b>other</b> & $x$", clips=[], note="Said in a note.")
    write_page(tmp_path / "sub" / "index.html", [wall_section, other], "A <title>")
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["index.html"]
    page = (tmp_path / "sub" / "index.html").read_text(encoding="utf-8")
    assert "A &lt;title&gt;" in page
    assert "&lt;b&gt;other&lt;/b&gt; &amp; $x$" in page
    assert "<b>" not in page
    assert "Said in a note." in page
    for cell in wall_section.report.cells():
        assert page.count(f"<td>{cell}</td>") >= 2
    assert "only a" in page  # the same episodes: compared in pairs
    assert page.count("<video") == len(wall_section.clips) == 2
    assert {clip.size for clip in wall_section.clips} == {(736, 416)}  # with its imagination
    for setting in ("planners.gradient.steps", "mpc.horizon", "budget, environment steps"):
        assert setting in page
    addresses = re.findall(r'(?:src|poster|href)="([^"]*)"', page)
    assert all(address.startswith(("data:", "#")) for address in addresses)
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids)) > 0
    targets = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page))
    assert {a or b for a, b in targets} <= set(ids)


def test_page_of_agents_that_share_nothing(tmp_path: Path) -> None:
    """No success, no plans, another env, an env that is not registered here any more."""
    report = evaluate(Moody(), "Lamp-v0", 2, progress=False, max_episode_steps=1)
    assert report.successes == 0
    gone = replace(report, env_id="Gone-v0", env_kwargs={})
    write_page(tmp_path / "p.html", [Section("a", report), Section("b", gone)])
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "not known" in page  # the budget
    assert "only a" not in page
    assert "<video" not in page
    assert page.count("<svg") == 3


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sections is empty, expected at least one"):
        write_page(tmp_path / "p.html", [])
    with pytest.raises(ValueError, match="each must be at least 0, got -1"):
        EpisodeRecorder(-1)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_page_in_a_browser(wall_section: Section, tmp_path: Path) -> None:
    """Everything is shown, each video plays, and nothing is fetched, light and dark, wide and
    narrow."""
    lamp = recorded(Moody(), "Lamp-v0", 8)
    assert {clip.episode.success for clip in lamp.clips} == {True, False}
    file = tmp_path / "index.html"
    write_page(file, [wall_section, replace(lamp, name="moody")])
    colors = set()
    with Browser() as browser:
        for width, dark in ((1200, False), (1200, True), (390, False), (390, True)):
            browser.open(file, width, dark=dark)
            assert browser.problems == []
            others = [a for a in browser.requests if not a.startswith(("data:", file.as_uri()))]
            assert others == []
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            style = "getComputedStyle(document.body)"
            colors.add((dark, browser.evaluate(f"{style}.backgroundColor + {style}.color")))
            browser.screenshot(tmp_path / f"{width}-{dark}.png")
        assert len(colors) == 2  # one look for light, one for dark
        rows = browser.evaluate("document.querySelectorAll('.wide tbody tr').length")
        assert rows == 2
        plots = browser.evaluate("document.querySelectorAll('svg[role=img][aria-label]').length")
        assert plots == 3
        for index, clip in enumerate([*wall_section.clips, *lamp.clips]):
            video = f"document.querySelectorAll('video')[{index}]"
            played = browser.evaluate(PLAY.replace("VIDEO", video))
            assert played["error"] is None
            assert played["readyState"] >= 2
            assert played["size"] == list(clip.size)
            assert played["duration"] == pytest.approx((clip.episode.steps + HOLD) / 10, abs=0.11)
            assert played["time"] > 0
        assert browser.problems == []


PLAY = """(async () => {
  const video = VIDEO;
  await video.play();
  const pause = () => new Promise(done => setTimeout(done, 50));
  for (let i = 0; i < 200 && video.currentTime === 0; i++) await pause();
  video.pause();
  return {error: video.error && video.error.message, readyState: video.readyState,
    size: [video.videoWidth, video.videoHeight], duration: video.duration, time: video.currentTime};
})()"""
