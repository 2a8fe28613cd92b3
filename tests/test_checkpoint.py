"""Checkpoints: what is saved comes back bit for bit, and what is broken is refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES, SIZE
from safetensors.torch import load_file, save_file
from test_agent import QUICK, observations

from gbp_agent import (
    CEMPlanner,
    CompactConfig,
    CompactWorldModel,
    GoalObjective,
    GradientConfig,
    MPCConfig,
    ObservationKeys,
    WorldModelMPCAgent,
    load_checkpoint,
    pretrained_names,
    save_checkpoint,
)


@pytest.fixture
def folder(tmp_path: Path, make_model: Any) -> Path:
    """A whole checkpoint."""
    save_checkpoint(tmp_path / "model", make_model(history=2), card="# A card\n")
    return tmp_path / "model"


def edit(folder: Path, change: Any) -> None:
    """Change config.json in place."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def assert_refused(folder: Path, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("env_id", ["gbp/PushT-v0", "gbp/PointMaze-v0", "gbp/Wall-v0"])
@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip_bit_for_bit(
    family: str, env_id: str, tmp_path: Path, families: dict[str, Any]
) -> None:
    model = families[family](env_id)
    save_checkpoint(tmp_path / "m", model, planning={"mpc": {"horizon": 4}}, card="card")
    again, planning = load_checkpoint(tmp_path / "m")
    assert again.config == model.config
    assert planning == {"mpc": {"horizon": 4}}
    assert again.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    assert not again.training
    assert (tmp_path / "m" / "README.md").read_text() == "card"


def test_half_precision_keeps_statistics_and_rounds_weights(
    tmp_path: Path, make_model: Any
) -> None:
    model = make_model()
    save_checkpoint(tmp_path / "full", model)
    save_checkpoint(tmp_path / "half", model, half=True)
    loaded, _ = load_checkpoint(tmp_path / "half")
    for key, value in model.state_dict().items():
        found = loaded.state_dict()[key]
        assert found.dtype == torch.float32
        exact = "normalizer" in key or value.ndim < 2
        expected = value if exact else value.half().float()
        assert torch.equal(found, expected)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.7 * sizes[0]


def test_only_json_safetensors_and_the_card(folder: Path) -> None:
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert [p.name for p in folder.parent.iterdir()] == ["model"]  # no temporary is left
    weights = load_file(folder / "model.safetensors")
    assert {"action_normalizer.mean", "proprio_normalizer.std", "proposals"} <= set(weights)


def test_saving_again_replaces(folder: Path, make_model: Any) -> None:
    save_checkpoint(folder, make_model(seed=5, history=1))
    assert load_checkpoint(folder)[0].config.history == 1
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("name", sorted(QUICK))
def test_agent_round_trip(name: str, tmp_path: Path, make_agent: Any) -> None:
    agent = make_agent(
        planner=QUICK[name],
        config=MPCConfig(horizon=4, execute=2, action_limit=2.0),
        objective=GoalObjective(proprio_weight=0.3, frames="all"),
    )
    agent.save_pretrained(tmp_path / "agent")
    again = WorldModelMPCAgent.from_pretrained(tmp_path / "agent", planner=name)
    assert again.settings() == agent.settings()
    assert again.config == agent.config
    assert again.objective == agent.objective
    assert again.planner.config == agent.planner.config  # type: ignore[attr-defined]
    card = (tmp_path / "agent" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: gbp_agent\n")
    assert "gbp/Wall-v0" in card
    observation = observations(2)
    assert np.array_equal(again.plan(observation).actions, agent.plan(observation).actions)


def test_some_settings_changed(folder: Path) -> None:
    load = partial(WorldModelMPCAgent.from_pretrained, folder)
    agent, other = load(), load(settings={"gradient.steps": 7, "mpc.execute": 1})
    assert other.planner.config == replace(agent.planner.config, steps=7)
    assert other.config == replace(agent.config, execute=1)
    assert load("cem", settings={"objective.base": 4.0}).objective.base == 4.0
    for name in ("cem.samples", "gradient", "mppi.samples", "planner.steps"):
        with pytest.raises(ValueError, match=f"no setting '{name}' here"):
            load(settings={name: 5})
    with pytest.raises(ValueError, match="speed"):
        load(settings={"mpc.speed": 5})
    for given, name in (
        ({"planner": QUICK["gradient"]}, "gradient.steps"),
        ({"config": MPCConfig(horizon=2)}, "mpc.horizon"),
        ({"objective": GoalObjective()}, "objective.base"),
    ):
        with pytest.raises(ValueError, match=f"no setting '{name}' here"):
            load(**given, settings={name: 7})


def test_settings_for_open_loop(tmp_path: Path, make_model: Any) -> None:
    """They hold where plans are acted out whole, after what the caller says, and are kept."""
    planning = {
        "mpc": {"horizon": 3},
        "planners": {"gradient": {"steps": 2, "restarts": 2}},
        "open_loop": {"gradient.steps": 9, "gradient.restarts": 4, "cem.samples": 50},
    }
    save_checkpoint(tmp_path / "a", make_model(), planning=planning)
    load = partial(WorldModelMPCAgent.from_pretrained, tmp_path / "a")
    assert load().planner.config == GradientConfig(steps=2, restarts=2)
    assert load().config == MPCConfig(horizon=3)
    whole = load(open_loop=True)
    assert whole.planner.config == GradientConfig(steps=9, restarts=4)
    assert whole.config == MPCConfig(horizon=3, execute=3)
    changed = load(open_loop=True, settings={"gradient.steps": 5, "mpc.horizon": 2})
    assert changed.planner.config == GradientConfig(steps=5, restarts=4)
    assert changed.config == MPCConfig(horizon=2, execute=2)
    assert load("cem", open_loop=True).planner.config.samples == 50
    own = load(QUICK["gradient"], open_loop=True, config=MPCConfig(horizon=2))
    assert own.planner is QUICK["gradient"]
    assert own.config == MPCConfig(horizon=2, execute=2)
    load().save_pretrained(tmp_path / "b")
    again = WorldModelMPCAgent.from_pretrained(tmp_path / "b", open_loop=True)
    assert again.planner.config == whole.planner.config
    whole.save_pretrained(tmp_path / "c")
    again = WorldModelMPCAgent.from_pretrained(tmp_path / "c")
    assert (again.planner.config, again.config) == (whole.planner.config, whole.config)


def test_saved_agents_keep_what_they_know(tmp_path: Path, make_model: Any) -> None:
    """Its own planner, the settings of the others, and the names of an observation's entries."""
    settings = {"mppi": {"samples": 11}, "cem": {"samples": 9, "elites": 3}}
    save_checkpoint(tmp_path / "a", make_model(), planning={"planners": settings})
    keys = ObservationKeys("rgb", "place", "goal_rgb", "goal_place")
    agent = WorldModelMPCAgent.from_pretrained(tmp_path / "a", "cem", keys=keys)
    agent.save_pretrained(tmp_path / "b")
    again = WorldModelMPCAgent.from_pretrained(tmp_path / "b")
    assert (again.planner.config, again.keys) == (agent.planner.config, keys)
    mppi = WorldModelMPCAgent.from_pretrained(tmp_path / "b", "mppi")
    assert mppi.planner.config.samples == 11


def test_an_objective_that_cannot_be_saved(tmp_path: Path, make_agent: Any) -> None:
    agent = make_agent(objective=lambda predicted, goal: predicted.proprio.sum((1, 2)))
    with pytest.warns(UserWarning, match="is not saved"):
        agent.save_pretrained(tmp_path / "agent")
    own = make_agent(planner=type("Own", (CEMPlanner,), {})())
    with pytest.warns(UserWarning, match=r"Own.* is not saved"):
        own.save_pretrained(tmp_path / "own")


def test_what_hides_beside_a_checkpoint_stays(folder: Path, make_model: Any) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("mine")
    save_checkpoint(folder, make_model())
    assert (folder / ".git" / "HEAD").read_text() == "mine"


def test_loaded_in_inference_mode(folder: Path) -> None:
    with torch.inference_mode():
        agent = WorldModelMPCAgent.from_pretrained(folder, QUICK["gradient"])
        assert np.isfinite(agent.act(observations(None))).all()


@pytest.mark.parametrize("there", ["folder", "file"])
def test_what_is_no_checkpoint_is_not_replaced(
    there: str, tmp_path: Path, make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "runs" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    monkeypatch.chdir(mine.parent)
    for place in (mine,) if there == "file" else (mine.parent, Path(".")):
        with pytest.raises(ValueError, match="no checkpoint's alone"):
            save_checkpoint(place, make_model())
    assert mine.read_text() == "mine"


def test_a_run_is_not_its_checkpoint(tmp_path: Path, make_model: Any) -> None:
    save_checkpoint(tmp_path / "run" / "checkpoint", make_model())
    assert_refused(tmp_path / "run", FileNotFoundError, "did you mean .*run/checkpoint")


def test_a_folder_that_is_called_as_a_shipped_model(
    tmp_path: Path, make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wall").mkdir()
    assert load_checkpoint("wall")[0].config.image_size == 64
    save_checkpoint(tmp_path / "wall", make_model())
    assert load_checkpoint("wall")[0].config.image_size == SIZE


def test_arguments_override_the_checkpoint(folder: Path) -> None:
    agent = WorldModelMPCAgent.from_pretrained(
        folder, planner=QUICK["cem"], config=MPCConfig(horizon=2), objective=GoalObjective(0.5)
    )
    assert agent.planner is QUICK["cem"]
    assert agent.config.horizon == 2
    assert agent.objective == GoalObjective(0.5)


def test_loading_leaves_the_global_generator_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    load_checkpoint(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_shipped_models_load() -> None:
    for name in pretrained_names():
        model, planning = load_checkpoint(name)
        assert model.config.env_id.startswith("gbp/")
        assert set(planning) <= {"mpc", "objective", "planners", "open_loop"}


@pytest.mark.parametrize("name", ["pusht", "point_maze-online", "wall-adversarial-tuned"])
def test_shipped_models_search_longer_for_a_plan_that_is_acted_out(name: str) -> None:
    soon, whole = (WorldModelMPCAgent.from_pretrained(name, open_loop=o) for o in (False, True))
    assert (soon.config.execute, whole.config.execute) == (1, whole.config.horizon)
    assert soon.planner.config.steps < whole.planner.config.steps


@pytest.fixture
def finetuned(tmp_path: Path) -> Path:
    """The differences of a model to the shipped one of Wall."""
    model, planning = load_checkpoint("wall")
    first = next(model.predictor.parameters())
    first.data.add_(1.0)
    save_checkpoint(tmp_path / "delta", model, planning=planning, half=True, parent="wall")
    return tmp_path / "delta"


def test_differences_to_a_parent(finetuned: Path, tmp_path: Path) -> None:
    stored = load_file(finetuned / "model.safetensors")
    assert len(stored) == 1
    base, found = (load_checkpoint(name)[0].state_dict() for name in ("wall", finetuned))
    changed = {key for key in base if not torch.equal(base[key], found[key])}
    assert changed == set(stored)
    key = changed.pop()
    assert torch.equal(found[key], (base[key] + 1).to(stored[key].dtype).float())


def test_a_parent_that_has_changed(finetuned: Path) -> None:
    edit(finetuned, lambda config: config["parent"].update(sha256="0" * 64))
    assert_refused(finetuned, ValueError, "another version of the shipped model 'wall'")
    edit(finetuned, lambda config: config["parent"].update(name="nothing"))
    assert_refused(finetuned, ValueError, "another version of the shipped model 'nothing'")
    for wrong in ({}, 5, "wall"):
        edit(finetuned, lambda config, wrong=wrong: config.update(parent=wrong))
        assert_refused(finetuned, ValueError, "names no parent")


def test_a_parent_that_is_not_shipped_or_has_one_itself(
    folder: Path, make_model: Any, tmp_path: Path
) -> None:
    with pytest.raises(KeyError, match="unknown model 'nothing'"):
        save_checkpoint(folder, make_model(), parent="nothing")
    with pytest.raises(ValueError, match="has a parent itself"):
        save_checkpoint(folder, make_model(), parent="wall-online")
    load_checkpoint(folder)  # what was there is still whole


def test_unknown_name() -> None:
    with pytest.raises(KeyError, match=r"unknown model 'nothing'.* shipped models are") as caught:
        load_checkpoint("nothing")
    assert all(name in str(caught.value) for name in pretrained_names())


def test_unknown_planner(folder: Path) -> None:
    with pytest.raises(KeyError, match="unknown planner 'gradent'"):
        WorldModelMPCAgent.from_pretrained(folder, planner="gradent")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file(name: str, folder: Path) -> None:
    (folder / name).unlink()
    assert_refused(folder, FileNotFoundError, f"{name} is missing: not a gbp_agent checkpoint")


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_weights(size: int, folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:size])
    assert_refused(folder, ValueError, "truncated or no safetensors file .*get it again")


def test_pickle_instead_of_weights(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / "model.safetensors")
    assert_refused(folder, ValueError, "no safetensors file")


def test_weights_of_another_model(folder: Path, make_model: Any) -> None:
    save_file(make_model(predictor_depth=2, history=2).state_dict(), folder / "model.safetensors")
    assert_refused(folder, ValueError, "does not hold this model: .*'predictor.blocks.1")
    save_file(make_model(latent_dim=8, history=2).state_dict(), folder / "model.safetensors")
    assert_refused(folder, ValueError, r"has shape .* expected .* by config.json")


def test_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert_refused(folder, ValueError, "is no JSON")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("family"), "another format, expected the keys"),
        (lambda c: c.update(format_version=99), "format version 99"),
        (lambda c: c.update(family="huge"), "family 'huge', expected 1 and one of"),
        (lambda c: c["model"].update(surprise=1), r"unknown model settings \['surprise'\]"),
        (lambda c: c["model"].pop("env_id"), "lacks a model setting"),
        (lambda c: c["model"].update(latent_dim=0), "latent_dim must be an integer"),
        (lambda c: c["model"].update(history="two"), "history must be an integer"),
    ],
)
def test_odd_config(change: Any, message: str, folder: Path) -> None:
    edit(folder, change)
    assert_refused(folder, ValueError, message)


@pytest.mark.parametrize("config", [{"architectures": ["Bert"]}, [], 3])
def test_foreign_config(config: Any, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    assert_refused(folder, ValueError, "another format")


def test_bad_planner_settings(folder: Path) -> None:
    edit(folder, lambda c: c["planning"].update(planners={"cem": {"sampels": 3}}))
    with pytest.raises(ValueError, match="bad settings for planner 'cem'"):
        WorldModelMPCAgent.from_pretrained(folder, planner="cem")
    WorldModelMPCAgent.from_pretrained(folder, planner="gradient")
    edit(folder, lambda c: c["planning"].update(mpc={"horizont": 3}))
    with pytest.raises(ValueError, match=r"bad planning settings: .*horizont"):
        WorldModelMPCAgent.from_pretrained(folder, planner="gradient")


@pytest.mark.parametrize(
    "changes", [{"action_low": (-1.0,)}, {"frameskip": 0}, {"image_size": 20}, {"proposals": -1}]
)
def test_bad_shapes(changes: dict[str, Any]) -> None:
    fields: dict[str, Any] = {
        "env_id": "gbp/Wall-v0", "proprio_dim": 2, "action_low": (-1.0,) * 2,
        "action_high": (1.0,) * 2,
    }  # fmt: skip
    with pytest.raises(ValueError, match="must"):
        CompactWorldModel(CompactConfig(**{**fields, **changes}))


@pytest.mark.parametrize("gpu", [False, True])
def test_a_device_chosen_by_itself(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr(CompactWorldModel, "to", lambda model, to: taken.append(to) or model)
    WorldModelMPCAgent.from_pretrained("wall", device="auto")
    assert taken == ["cuda" if gpu else "cpu"]
