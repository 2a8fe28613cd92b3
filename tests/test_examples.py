"""The example scripts: each explains itself and runs in small."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partialmethod
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env

from gbp_agent import (
    PLANNERS,
    AdversarialConfig,
    EvaluationReport,
    FinetuneConfig,
    GradientConfig,
    GradientPlanner,
    MPCConfig,
    OnlineConfig,
    PretrainConfig,
    TrajectoryDataset,
    WorldModelMPCAgent,
    baseline_names,
    checkpoint,
    evaluate,
    load_baseline,
    load_checkpoint,
    save_checkpoint,
)
from gbp_agent.baselines.sb3 import ALGORITHMS
from gbp_agent.diagnostics import StateProbe

FOLDER = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(p.stem for p in FOLDER.glob("*.py") if "tyro.cli(" in p.read_text("utf-8"))


@pytest.fixture(autouse=True)
def _scripts_import_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a script in an empty folder and returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def script(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return script


@pytest.fixture
def wall(make_model: Any, tmp_path: Path) -> Path:
    """A random model of Wall, for frames of the default size, with quick planners."""
    planners: dict[str, dict[str, Any]] = {
        "gradient": {"steps": 1},
        "cem": {"samples": 4, "iterations": 1, "elites": 2},
        "gradcem": {"samples": 4, "iterations": 1, "elites": 2},
        "mppi": {"samples": 4, "iterations": 1},
    }
    folder = tmp_path / "models" / "wall"
    save_checkpoint(folder, make_model(image_size=64), planning={"planners": planners})
    return folder


def test_the_scripts_are_these() -> None:
    expected = {
        "any_env",
        "benchmark",
        "benchmark_patch",
        "benchmark_solvers",
        "collect",
        "compare_baselines",
        "evaluate",
        "figures",
        "finetune",
        "pretrain",
        "quickstart",
        "record_video",
        "reproduce",
        "train_baseline",
    }
    assert expected <= set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    script = runpy.run_path(str(FOLDER / f"{name}.py"))
    for field in script["Args"].__dataclass_fields__:
        assert f"--{field.replace('_', '-')}" in shown


def test_collect(run: Any) -> None:
    printed = run(
        "collect", "--env-id", "gbp/Wall-v0", "--episodes", 2, "--steps", 3,
        "--image-size", 16, "--workers", 1,
    )  # fmt: skip
    assert "2 episodes, 8 frames in data/wall" in printed
    assert len(TrajectoryDataset("data/wall")) == 2


def test_tasks_are_settings_of_pretraining(tmp_path: Path) -> None:
    script = runpy.run_path(str(FOLDER / "pretrain.py"))
    tasks = script["TASKS"]
    assert set(tasks) == set(get_args(script["Task"])) >= {"pusht", "point_maze", "wall"}
    for task in tasks.values():
        settings = {key: value for key, value in task.items() if key != "data"}
        config = PretrainConfig(data=tmp_path, out=tmp_path, **settings)
        MPCConfig(**config.planning.get("mpc", {}))


def test_pretrain(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small = (
        "--task", "wall", "--episodes", 4, "--representation-steps", 1, "--dynamics-steps", 1,
        "--initializer-steps", 1, "--workers", 1, "--device", "cpu", "--precision", "fp32",
    )  # fmt: skip
    monkeypatch.setattr(StateProbe, "fit", partialmethod(StateProbe.fit, steps=20))
    assert "model in runs/wall/checkpoint" in run("pretrain", *small)
    assert load_checkpoint("runs/wall/checkpoint")[0].config.env_id == "gbp/Wall-v0"


def test_finetune(run: Any, wall: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("collect", "--env-id", "gbp/Wall-v0", "--episodes", 3, "--steps", 30, "--workers", 1)
    monkeypatch.setattr(StateProbe, "fit", partialmethod(StateProbe.fit, steps=20))
    printed = run(
        "finetune", "--method", "adversarial", "--model", wall, "--steps", 2, "--windows", 4,
        "--adversarial.visual", 0.2,
    )  # fmt: skip
    assert "model in runs/wall-adversarial/checkpoint" in printed
    config = json.loads(Path("runs/wall-adversarial/config.json").read_text())
    assert config["adversarial"]["visual"] == 0.2
    assert load_checkpoint("runs/wall-adversarial/checkpoint")[0].config.env_id == "gbp/Wall-v0"


@pytest.mark.parametrize("open_loop", [False, True])
def test_evaluate(open_loop: bool, run: Any, wall: Path) -> None:
    arguments = ["--agent", wall, "--planner", "cem", "--episodes", 2]
    printed = run("evaluate", *arguments, *(["--open-loop"] if open_loop else []))
    name = f"wall-cem-{'open-loop' if open_loop else 'mpc'}"
    report = EvaluationReport.from_json(f"results/{name}.json")
    assert report.markdown_row() in printed
    assert Path(f"results/{name}.csv").is_file()
    assert report.env_id == "gbp/Wall-v0"
    if open_loop:
        assert max(e.steps for e in report.episodes) <= 10  # H · F
        assert report.planning.decisions == 2


def test_evaluate_goes_on_after_a_success(run: Any) -> None:
    arguments = ["--agent", "no-op", "--env-id", "gbp/Wall-v0", "--episodes", 1]
    run("evaluate", *arguments, "--continuing")
    report = EvaluationReport.from_json("results/wall-v0-no-op-continuing.json")
    assert report.env_kwargs == {"continuing_task": True}


def test_evaluate_with_other_settings(run: Any, wall: Path) -> None:
    arguments = ["--agent", wall, "--planner", "cem", "--episodes", 1, "--seed", 100_000]
    settings = ["cem.iterations=3", "cem.samples=20", "cem.elites=2", "cem.init=zeros"]
    settings += ["mpc.horizon=1", "objective.frames=last"]
    script = runpy.run_path(str(FOLDER / "evaluate.py"))
    args = script["Args"](agent=str(wall), planner="cem", settings=tuple(settings))
    agent = script["load_agent"](args)
    found = (agent.planner.config.iterations, agent.planner.config.init, agent.config.horizon)
    assert (*found, agent.objective.frames) == (3, "zeros", 1, "last")
    run("evaluate", *arguments, "--settings", *settings)
    (file,) = Path("results").glob("*.json")
    assert file.stem == f"wall-cem-mpc-{'-'.join(settings)}-seed-100000"
    assert EvaluationReport.from_json(file).agent == f"cem MPC, {', '.join(settings)}"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps=5", "expected WHERE.NAME where"),
        ("adam.steps=5", "expected WHERE.NAME where WHERE is one of mpc, objective, gradient"),
        ("cem.samples=5", "no setting 'cem.samples' here"),
        ("gradient.steps", "expected WHERE.NAME=VALUE"),
        ("gradient.speed=5", "speed"),
        ("mpc.speed=5", "speed"),
        ("mpc.horizon=0", "horizon is 0"),
        ("gradient.steps=many", "steps is 'many'"),
    ],
)
def test_bad_settings(setting: str, message: str, run: Any, wall: Path) -> None:
    with pytest.raises(SystemExit, match=message):
        run("evaluate", "--agent", wall, "--settings", setting)
    assert not Path("results").exists()


def test_evaluate_writes_a_page(run: Any, wall: Path) -> None:
    arguments = ["--agent", wall, "--planner", "cem", "--open-loop", "--episodes", 3]
    printed = run("evaluate", *arguments, "--report", "out", "--clips", 1)
    assert "page in out/index.html" in printed
    page = Path("out/index.html").read_text()
    report = EvaluationReport.from_json("results/wall-cem-open-loop.json")
    assert "<title>Evaluation of wall-cem-open-loop</title>" in page
    assert all(f"<td>{cell}</td>" in page for cell in report.cells())
    assert page.count("<video") == (report.successes > 0) + (report.successes < 3)


def test_evaluate_random(run: Any) -> None:
    printed = run("evaluate", "--agent", "random", "--env-id", "gbp/PointMaze-v0", "--episodes", 2)
    assert "| gbp/PointMaze-v0 | random | 2 |" in printed


def test_random_needs_an_env(run: Any) -> None:
    with pytest.raises(SystemExit, match="give --env-id"):
        run("evaluate", "--agent", "random")
    with pytest.raises(SystemExit, match="give --env-id"):
        run("record_video", "--agent", "random")


def test_table_goes_on_where_it_stopped(
    run: Any, wall: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checkpoint, "find_checkpoint", lambda name, revision=None: wall)
    script = runpy.run_path(str(FOLDER / "evaluate.py"))
    monkeypatch.setitem(script["table"].__globals__, "TASKS", {"wall": "gbp/Wall-v0"})
    args = script["Args"](table=True, episodes=2, out=tmp_path / "results")
    sections = script["table"](args)
    names = {path.stem for path in (tmp_path / "results").glob("*.json")}
    assert names == {
        "wall-gradient", "wall-cem", "wall-gradient-open-loop", "wall-cem-open-loop", "wall-random",
        "wall-no-op",
    }  # fmt: skip
    assert [section.report.agent for section in sections] == [
        "gradient MPC", "cem MPC", "gradient open loop", "cem open loop", "random", "no-op",
    ]  # fmt: skip
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "results").glob("*.json")}
    (tmp_path / "results" / "wall-cem.json").unlink()
    script["table"](args)
    for path, written in kept.items():
        assert (path.stat().st_mtime_ns == written) == (path.name != "wall-cem.json")
    monkeypatch.setitem(script["table"].__globals__, "ROWS", (("cem", True), ("random", False)))
    script["main"](replace(args, report=tmp_path / "page", clips=1))
    page = (tmp_path / "page" / "index.html").read_text()
    # Our agent plays an episode of a file again as it did then; a random one does not.
    assert 'aria-label="wall-cem-open-loop: goal' in page
    assert 'aria-label="wall-random: goal' not in page


def test_reproduce_trains_a_base_model_that_is_not_shipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = runpy.run_path(str(FOLDER / "reproduce.py"))
    candidates = sys.modules["candidates"]
    data = {"env_id": "gbp/Wall-v0", "episodes": 1, "steps": 2, "workers": 1}
    trained: list[PretrainConfig] = []

    def pretrain(config: PretrainConfig) -> None:
        (config.out / "checkpoint").mkdir(parents=True)
        trained.append(config)

    monkeypatch.setattr(candidates, "TASKS", {"wall-new": {"data": data, "seed": 3}})
    monkeypatch.setattr(candidates, "pretrain", pretrain)
    args = script["Args"](models=("base",), runs=tmp_path / "runs", data=tmp_path, device="cpu")
    for _ in range(2):  # the second time it is there
        script["make_models"](args, "wall-new")
    (config,) = trained
    assert (config.seed, config.data) == (3, tmp_path / "wall-new")
    assert args.candidates.checkpoint("wall-new", "base") == str(config.out / "checkpoint")


@pytest.fixture
def finetunings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., list[FinetuneConfig]]:
    """Settings with which reproduce.py would finetune models of Wall, into folders of tmp_path."""
    script = runpy.run_path(str(FOLDER / "reproduce.py"))
    candidates = sys.modules["candidates"]
    data = {"env_id": "gbp/Wall-v0", "episodes": 1, "steps": 2, "workers": 1}
    monkeypatch.setattr(candidates, "TASKS", {"wall": {"data": data}})

    def of(*models: str) -> list[FinetuneConfig]:
        trained: list[FinetuneConfig] = []
        monkeypatch.setattr(candidates, "finetune", trained.append)
        args = script["Args"](models=models, runs=tmp_path, data=tmp_path, device="cpu")
        script["make_models"](args, "wall")
        return trained

    return of


def test_reproduce_finetunes_with_the_published_planner(finetunings: Any, tmp_path: Path) -> None:
    own, published = finetunings("online", "online-from-zeros")
    assert own.online == sys.modules["comparison"].SETTINGS["wall"]["online"]
    assert published.online.planner.init == "zeros"
    assert published == replace(
        own,
        out=tmp_path / "wall-online-from-zeros",
        online=replace(own.online, planner=published.online.planner),
    )


def test_reproduce_finetunes_with_tuned_radii(
    finetunings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wide = AdversarialConfig(visual=0.3, proprio=0.2, action=0.7)
    monkeypatch.setitem(sys.modules["comparison"].RADII, "wall", wide)
    own, tuned, noise = finetunings("adversarial", "adversarial-tuned", "noise")
    assert own.adversarial == AdversarialConfig()
    assert tuned == replace(own, out=tmp_path / "wall-adversarial-tuned", adversarial=wide)
    assert noise.adversarial == replace(wide, attack_steps=0)
    # Where none were searched for there are no such models.
    monkeypatch.delitem(sys.modules["comparison"].RADII, "wall")
    (same,) = finetunings("adversarial", "adversarial-tuned", "noise")
    assert same == own


def test_reproduce_takes_shipped_models(tmp_path: Path) -> None:
    found = runpy.run_path(str(FOLDER / "candidates.py"))["Candidates"](tmp_path, tmp_path)
    own = tmp_path / "wall-online" / "checkpoint"
    assert found.checkpoint("wall", "base") == "wall"
    assert found.checkpoint("wall", "online") == "wall-online"
    assert found.checkpoint("wall", "offline") == str(tmp_path / "wall-offline" / "checkpoint")
    own.mkdir(parents=True)
    assert found.checkpoint("wall", "online") == str(own)


@pytest.mark.parametrize(
    ("open_loop", "goal_steps", "continuing", "given"),
    [
        (False, None, False, {}),
        (False, None, True, {"continuing_task": True}),
        (True, None, False, {"max_episode_steps": 4}),
        (False, 7, False, {"goal_steps": 7, "max_episode_steps": 14}),
        (True, 7, False, {"goal_steps": 7, "max_episode_steps": 4}),
    ],
)
def test_reproduce_with_other_goals(
    open_loop: bool,
    goal_steps: int | None,
    continuing: bool,
    given: dict[str, Any],
    make_model: Any,
) -> None:
    play = runpy.run_path(str(FOLDER / "candidates.py"))["play"]
    calls: list[dict[str, Any]] = []
    play.__globals__["evaluate"] = lambda *_, **kwargs: calls.append(kwargs)
    agent = WorldModelMPCAgent(make_model(frameskip=2), config=MPCConfig(horizon=2))
    play(agent, 3, open_loop, goal_steps, continuing)
    assert calls == [given]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("horizon", [None, 3])
def test_reproduce_with_another_horizon(
    horizon: int | None, whole: bool, wall: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = runpy.run_path(str(FOLDER / "reproduce.py"))
    monkeypatch.chdir(wall.parent)  # where the name "wall" is the folder of the tiny model
    args = script["Args"](horizon=horizon, device="cpu")
    agent = args.candidates.agent("wall", "base", "gradient", whole, proposals=7)
    steps = MPCConfig().horizon if horizon is None else horizon
    assert agent.config == MPCConfig(
        horizon=steps, execute=steps if whole else 1, proposals=7, precision=agent.config.precision
    )


def test_reproduce_plans_as_far_as_a_model_says(
    wall: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Farther where a plan is acted out, if it says so."""
    model, planning = load_checkpoint(wall)
    planning = {**planning, "mpc": {"horizon": 2}, "open_loop": {"mpc.horizon": 4}}
    save_checkpoint(tmp_path / "wall", model, planning=planning)
    monkeypatch.chdir(tmp_path)
    found = runpy.run_path(str(FOLDER / "candidates.py"))["Candidates"](tmp_path, tmp_path)
    for open_loop, horizon in ((False, 2), (True, 4)):
        for column in found.columns("wall", open_loop).values():
            agent = found.agent("wall", "base", column.planner, open_loop, **column.mpc)
            assert agent.config.horizon == horizon
            assert agent.config.execute == (horizon if open_loop else 1)


@pytest.mark.parametrize("option", ["goal_steps", "horizon", "seed"])
def test_reproduce_does_not_mix_rows(option: str) -> None:
    script = runpy.run_path(str(FOLDER / "reproduce.py"))
    with pytest.raises(SystemExit, match="with --out"):
        script["main"](script["Args"](tasks=(), **{option: 10}))


def test_reproduce_trains_another_seed(
    wall: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = runpy.run_path(str(FOLDER / "reproduce.py"))
    with pytest.raises(SystemExit, match="with --runs"):
        script["main"](script["Args"](tasks=(), seed=1, out=tmp_path))
    started: list[FinetuneConfig] = []
    monkeypatch.setitem(vars(sys.modules["candidates"]), "finetune", started.append)
    monkeypatch.setattr(
        sys.modules["candidates"].Candidates, "dataset", lambda *_: SimpleNamespace(folder=wall)
    )
    for seed in (0, 1):
        args = script["Args"](seed=seed, runs=tmp_path)
        args.candidates.train("wall", "offline", {"method": "offline"})
    assert [config.seed for config in started] == [0, 1]


def test_reproduce_goes_on_where_it_stopped(
    wall: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(StateProbe, "fit", partialmethod(StateProbe.fit, steps=20))
    script = runpy.run_path(str(FOLDER / "reproduce.py"))
    data = {"env_id": "gbp/Wall-v0", "episodes": 3, "steps": 30}
    online = OnlineConfig(every=2, trajectories=2, model_steps=1)
    small = {
        "TASKS": {"wall": {"data": data, "model": {}}},
        "SETTINGS": {"wall": {"online": online, "windows": 4, "workers": 1}},
        "SHARED": {"steps": 2, "horizon": 1},
        "GAP_WINDOWS": 3,
        "LANDSCAPE_WINDOWS": 2,
        "PLANS_WINDOWS": 4,
        "STEPS_FROM_ZEROS": 2,
    }
    for module in (script["main"].__globals__, vars(sys.modules["candidates"])):
        for name in small.keys() & module.keys():
            monkeypatch.setitem(module, name, small[name])
    monkeypatch.setattr(script["figures"], "JUDGED_BY_DISTANCE", ("wall",))
    monkeypatch.chdir(wall.parent)  # where the name "wall" is the folder of the tiny model
    args = script["Args"](
        tasks=("wall",), models=("base", "offline", "more-data", "online"),
        planners=("gd", "gradient"),
        episodes=1, runs=tmp_path / "runs", data=tmp_path / "data", out=tmp_path / "out",
        stages=("models", "table", "gap", "landscape", "plans", "cards", "figures"), device="cpu",
    )  # fmt: skip
    script["main"](args)
    made = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.*")}
    names = {
        f"wall-{model}-{planner}-{mode}.json"
        for model in args.models
        for planner in args.planners
        for mode in ("mpc", "open-loop")
    }
    assert made == {Path("table") / name for name in names} | {
        Path(name)
        for name in (
            "gap.json", "gap.png", "landscape.json", "landscape.png", "plans.json", "table.md",
        )
    }  # fmt: skip
    plans = json.loads((tmp_path / "out" / "plans.json").read_text())
    assert set(plans) == {f"wall {model} {name}" for model in args.models for name in args.planners}
    assert all(0 <= row["twice_as_dear"] <= row["dearer"] <= 1 for row in plans.values())
    gap = json.loads((tmp_path / "out" / "gap.json").read_text())
    assert set(gap) == {f"wall {model}" for model in args.models}
    # As many steps of the behaviour policy as online training took, rounded up to episodes.
    more = TrajectoryDataset(tmp_path / "data" / "wall-more-data")
    assert len(more) == 3 + 1
    first = TrajectoryDataset(tmp_path / "data" / "wall").episode(2)["state"]
    np.testing.assert_array_equal(more.episode(2)["state"], first)
    for row in gap.values():
        assert row["planner"]["one_step"]["low"] <= row["planner"]["one_step"]["mean"]
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| online |" in table
    file = tmp_path / "out" / "table" / "wall-online-gd-mpc.json"
    assert f"| {EvaluationReport.from_json(file).mean_distance:.3f} (" in table
    card = tmp_path / "runs" / "wall-online" / "checkpoint" / "README.md"
    assert card.read_text().count("| Adam, shipped, open loop |") == 1
    assert "| final distance |" in card.read_text()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.json")}
    (tmp_path / "out" / "table" / "wall-base-gd-mpc.json").unlink()
    script["main"](args)
    assert card.read_text().count("| Adam, shipped, open loop |") == 1
    for path, written in kept.items():
        assert (path.stat().st_mtime_ns == written) == (path.name != "wall-base-gd-mpc.json")


def test_reproduce_ablations_and_efficiency(
    wall: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which agent is played, on which episodes; the rows' names; the pictures."""
    monkeypatch.setattr(StateProbe, "fit", partialmethod(StateProbe.fit, steps=20))
    script = runpy.run_path(str(FOLDER / "reproduce.py"))
    played: list[tuple[Any, ...]] = []
    agent = WorldModelMPCAgent.from_pretrained(str(wall), GradientPlanner(GradientConfig(steps=1)))
    report = evaluate(agent, "gbp/Wall-v0", 2, progress=False, max_episode_steps=3)

    def play(
        agent: Any, episodes: int, open_loop: bool, seed: int = 0, num_envs: int = 50
    ) -> EvaluationReport:
        if num_envs > 1:
            played.append((agent, episodes, open_loop, seed))
        return report

    for name, value in (
        ("play", play),
        ("LATENT_RADII", (0.0, 0.2)),
        ("ACTION_RADII", (0.0, 0.2)),
        ("ABLATION_STEPS", 1),
    ):
        monkeypatch.setitem(script["main"].__globals__, name, value)
    tasks = {"wall": {"data": {"env_id": "gbp/Wall-v0", "episodes": 3, "steps": 30}, "model": {}}}
    for module in (script["main"].__globals__, vars(sys.modules["candidates"])):
        monkeypatch.setitem(module, "TASKS", tasks)
    monkeypatch.setitem(
        vars(sys.modules["candidates"]), "SETTINGS", {"wall": {"windows": 4, "workers": 1}}
    )
    monkeypatch.chdir(wall.parent)  # where the name "wall" is the folder of the tiny model
    out = tmp_path / "out"
    args = script["Args"](
        tasks=("wall",), runs=tmp_path / "runs", data=tmp_path / "data", out=out, device="cpu",
        stages=("ablations", "figures"),
    )  # fmt: skip
    script["main"](args)
    rows = json.loads((out / "ablations.json").read_text())
    # Attacks with three agents each, and starts: the tiny model has no initialisation network.
    assert len(rows) == len(played) == 3 * (4 + 3) + 7
    assert {(episodes, seed) for _, episodes, _, seed in played} == {(100, 100_000)}
    by_name = dict(zip(rows, played, strict=True))
    config = by_name["wall adam mpc latent 0.2 action 0"][0].planner.config
    assert (config.init, config.steps, config.learning_rate) == ("zeros", 100, 0.2)
    assert by_name["wall init normal open loop"][0].planner.config.init == "normal"
    assert [open_loop for _, _, open_loop, _ in played].count(True) == (4 + 3) + 3
    run = tmp_path / "runs" / "wall-ablation-latent-0.2-action-0" / "checkpoint"
    assert '"visual": 0.2' in (run / "README.md").read_text()
    assert (out / "ablations.png").stat().st_size > 0
    # Without a warm start every plan is searched for from zeros.
    planner = by_name["wall init zeros, no warm start mpc"][0].planner
    seen: list[torch.Tensor] = []

    def cost(plans: torch.Tensor) -> torch.Tensor:
        seen.append(plans.detach().clone())
        return plans.square().sum((-2, -1))

    planner(
        cost, torch.ones(1, 2, 2), warm=torch.tensor([True]), proposals=torch.zeros(0, 2, 2),
        low=torch.full((2,), -3.0), high=torch.full((2,), 3.0),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert not seen[0].any()
    # A second call makes and trains nothing again, even where the runs are gone.
    played.clear()
    script["main"](replace(args, stages=("ablations",), runs=tmp_path / "gone"))
    assert played == []
    assert not (tmp_path / "gone").exists()
    script["main"](replace(args, stages=("efficiency", "figures"), models=("base",)))
    rows = json.loads((out / "efficiency.json").read_text())
    assert {episodes for _, episodes, _, _ in played} == {100}
    assert len(rows) == len(played) == 4 * 2 + 4 * 2 + 4
    assert {row["ms_alone"] for row in rows.values()} == {report.planning.median_ms}
    assert (out / "efficiency.png").stat().st_size > 0


def test_quickstart(run: Any, wall: Path) -> None:
    printed = run("quickstart", "--agent", wall, "--episodes", 1)
    assert "success    " in printed
    assert "ms per decision" in printed
    with imageio.get_reader("videos/quickstart.mp4") as reader:
        assert reader.get_data(0).shape == (416, 736, 3)


def test_record_video(run: Any) -> None:
    printed = run(
        "record_video", "--agent", "random", "--env-id", "gbp/Wall-v0", "--episodes", 1,
    )  # fmt: skip
    assert "of 1 reached the goal; video in videos/Wall-v0.mp4" in printed
    assert Path("videos/Wall-v0.mp4").stat().st_size > 0


def test_record_video_of_a_checkpoint(run: Any, wall: Path) -> None:
    run("record_video", "--agent", wall, "--episodes", 1)
    run("record_video", "--agent", wall, "--episodes", 1, "--out", "v.mp4")
    assert Path(f"videos/{wall.name}.mp4").read_bytes() == Path("v.mp4").read_bytes()


def test_benchmark(run: Any, wall: Path) -> None:
    printed = run(
        "benchmark", "--agents", wall, "--batches", 1, 2, "--repeats", 1, "--env-seconds", 0.01,
        "--episodes", 2, "--json", "b.json",
    )  # fmt: skip
    figures = json.loads(Path("b.json").read_text())
    assert set(figures["environments"]) == {"gbp/PushT-v0", "gbp/PointMaze-v0", "gbp/Wall-v0"}
    (planners,) = figures["planners"].values()
    assert planners["gradient, 1"]["ratio"] == 1.0
    assert planners["mppi, 2"]["ms_per_decision"] > 0
    assert printed.count("| gradcem |") == 3
    (episodes,) = figures["episodes"].values()
    assert episodes.keys() == {"gradient", "cem", "mppi", "gradcem"}
    assert episodes["gradient"]["ratio"] == 1.0
    for row in episodes.values():
        assert row["seconds"] > 0
        assert 1 <= row["decisions"] <= 100
        assert 0 <= row["reached"] <= 1
    assert figures["finetuning"]["ratio"] > 0
    assert "ms on cached latents" in printed


def test_benchmark_solvers(run: Any, wall: Path) -> None:
    """Where the other libraries are installed."""
    for package in ("pytorch_mppi", "stable_worldmodel", "torchrl"):
        pytest.importorskip(package)
    run(
        "benchmark_solvers", "--agent", wall, "--problems", 1, "--batch", 2, "--batch-repeats", 1,
        "--steps", 2, "--samples", 4, "--iterations", 2, "--elites", 2, "--json", "b.json",
    )  # fmt: skip
    batches = json.loads(Path("b.json").read_text())["batches"]
    ours = {"gradient", "cem", "mppi"}
    assert set(batches["1"]) - ours == {
        "stable-worldmodel gradient", "stable-worldmodel cem", "torchrl cem", "pytorch_mppi mppi",
    }  # fmt: skip
    costs = [row["cost"] for rows in batches.values() for row in rows.values()]
    assert all(0 < cost < 2 * min(costs) for cost in costs)


def test_benchmark_solvers_without_them(
    run: Any, wall: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "foreign_solvers", None)
    with pytest.raises(SystemExit, match=r"pip install 'gbp_agent\[benchmark\]'"):
        run("benchmark_solvers", "--agent", wall, "--problems", 1)


def test_benchmark_patch(run: Any, tmp_path: Path) -> None:
    """The plain loop and the library's agree on what plans cost and on where that falls."""
    printed = run(
        "benchmark_patch", "--encoder", "vit_tiny_patch16_224", "--encoder-size", 32, "--depth", 2,
        "--horizon", 4, "--samples", 2, "--repeats", 1, "--precisions", "fp32", "bf16", "--json",
        "b.json", "--peak-samples", 4,
    )  # fmt: skip
    figures = json.loads((tmp_path / "b.json").read_text())
    assert "| ours, fp32 |" in printed
    assert printed.count("| gradient, checkpointed |") == 1
    assert 0.1 < figures["peaks"]["cem, 4 samples"]["peak_gib"] < 4
    assert figures["fp32"]["relative_error"] < 1e-5 < figures["bf16"]["relative_error"] < 0.1
    assert figures["fp32"]["gradient_cosine"] > 0.99999
    assert figures["bf16"]["gradient_cosine"] > 0.98
    assert figures["fp32"]["gradient_ratio"] == pytest.approx(
        figures["plain"]["gradient_step"] / figures["fp32"]["gradient_step"]
    )


def test_any_env(run: Any, tmp_path: Path) -> None:
    options = ["--episodes", 30, "--steps", 10, "--goal-after", 3, "--dynamics-steps", 5]
    found = run("any_env", *options, "--horizon", 2, "--out", tmp_path / "run")
    assert "planning: " in found
    assert "/3 goals reached" in found
    again = run("any_env", *options, "--horizon", 2, "--out", tmp_path / "run")
    assert again.splitlines()[0] == found.splitlines()[0]  # nothing is trained twice


@pytest.mark.parametrize("algorithm", ["sac", "ppo"])
def test_train_baseline(algorithm: str, run: Any, tmp_path: Path) -> None:
    """A run that ended early goes on from its checkpoint, and its policy acts from the file."""
    options = ["--algorithm", algorithm, "--save-every", 100, "--num-envs", 2, "--out", "run"]
    options += ["--episodes", 2]
    first = run("train_baseline", "--steps", 200, *options)
    assert f"agent in run/wall-{algorithm}.safetensors" in first
    assert "success " in first
    steps = 1000 if algorithm == "ppo" else 200  # PPO learns in whole roll-outs
    second = run("train_baseline", "--steps", steps + 100, *options)
    assert f"goes on from step {steps}" in second
    policy, about = load_baseline(tmp_path / "run" / f"wall-{algorithm}.safetensors")
    assert [point["env_steps"] for point in about["curve"]][-1] == about["env_steps"]
    envs = make_vec_env("gbp/Wall-v0", 1, env_kwargs={"obs_type": "state"})
    trained = ALGORITHMS[algorithm].load(tmp_path / "run" / "model.zip", envs)
    observation = envs.reset()
    np.testing.assert_array_equal(
        policy.predict(observation, deterministic=True)[0],
        trained.predict(observation, deterministic=True)[0],
    )


def test_train_baseline_by_cloning(wall: Path, run: Any, tmp_path: Path) -> None:
    run("collect", "--env-id", "gbp/Wall-v0", "--episodes", 8, "--steps", 30, "--workers", 1)
    options = ["--algorithm", "bc", "--model", wall, "--steps", 3, "--out", "run"]
    options += ["--episodes", 2, "--goal-steps", 10]
    printed = run("train_baseline", *options)
    assert "agent in run/wall-bc.safetensors" in printed
    agent, about = load_baseline(tmp_path / "run" / "wall-bc.safetensors")
    assert about["env_steps"] == 8 * 30
    assert evaluate(agent, "gbp/Wall-v0", 2, progress=False).planning.decisions > 0


def test_compare_baselines(run: Any, tmp_path: Path) -> None:
    options = ["--tasks", "wall", "--episodes", 2, "--planners", "gradient", "--out", "out"]
    printed = run("compare_baselines", *options)
    trained = {"sac": "SAC + HER", "ppo": "PPO", "bc": "behaviour cloning"}
    shipped = [trained[name.split("-")[1]] for name in baseline_names() if "wall" in name]
    for row in ("random", "behaviour policy", *shipped):
        assert f"| Wall | {row} |" in printed
    assert "| Wall | world model: gradient | pictures |" in printed
    assert (tmp_path / "out" / "baselines.png").stat().st_size > 5000
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("wall-*.json")}
    assert len(files) == 4 + len(shipped)
    assert run("compare_baselines", *options) == printed
    assert files == {file: file.stat().st_mtime_ns for file in files}


PAGES = sorted((FOLDER.parent / "docs").glob("your-*.md"))


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = page.read_text(encoding="utf-8").split("```python\n")[1:]
    assert blocks
    blocks = [block.split("```")[0] for block in blocks]
    if find_spec("minari") is None:  # it asks for Python 3.11
        blocks = [block for block in blocks if "import minari" not in block]
    code = "\n".join(blocks)
    known = dict(PLANNERS)
    script = tmp_path / "page.py"
    script.write_text(code, encoding="utf-8")
    runpy.run_path(str(script), run_name="__main__")
    for name in PLANNERS.keys() - known.keys():
        del PLANNERS[name]
