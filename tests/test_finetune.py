"""Finetuning: the attack against closed forms, the simulator's truth, runs that survive a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partialmethod
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import FAMILIES
from safetensors import safe_open
from safetensors.torch import load_file

from gbp_agent import (
    AdversarialConfig,
    CompactWorldModel,
    FinetuneConfig,
    OnlineConfig,
    TrajectoryDataset,
    WorldModelMPCAgent,
    collect,
    finetune,
    load_checkpoint,
    save_checkpoint,
)
from gbp_agent.data.latents import LatentDataset
from gbp_agent.data.simulate import Simulator
from gbp_agent.diagnostics import StateProbe
from gbp_agent.training.adversarial import Parts, add, attack, attack_radii
from gbp_agent.training.finetune import METHODS
from gbp_agent.training.online import OnlineBatches
from gbp_agent.types import Latent
from gbp_agent.world_model import join, split


@pytest.fixture
def parts() -> Parts:
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 1, 1, 4), (6, 1, 2), (6, 1, 4))
    return Parts(*(torch.randn(shape, generator=generator) for shape in shapes))


@pytest.fixture
def parent(make_model: Any, tmp_path: Path) -> Path:
    """A random model of Wall with quick planning settings."""
    folder = tmp_path / "parent"
    planning = {"planners": {"gradient": {"steps": 2}}, "mpc": {"horizon": 2}}
    save_checkpoint(folder, make_model(), planning=planning)
    return folder


@pytest.fixture(autouse=True)
def _quick_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StateProbe, "fit", partialmethod(StateProbe.fit, steps=5))


# The attack -----------------------------------------------------------------------------------


def test_radii_are_factors_of_the_spread_within_a_sample(parts: Parts) -> None:
    config = AdversarialConfig(visual=0.5, proprio=0.0, action=2.0)
    radii = attack_radii(parts, config)
    expected = np.mean([np.std(row.flatten().numpy(), ddof=1) for row in parts.visual])
    assert radii.visual == pytest.approx(0.5 * expected, rel=1e-5)
    assert radii.proprio == 0
    expected = np.mean([np.std(row.flatten().numpy(), ddof=1) for row in parts.action])
    assert radii.action == pytest.approx(2.0 * expected, rel=1e-5)


def test_radius_of_a_part_of_one_number_is_finite() -> None:
    one = torch.tensor([[1.0], [3.0]])
    radii = attack_radii(Parts(one, one, one), AdversarialConfig(visual=1.0))
    assert radii.visual == pytest.approx(2**0.5)


@pytest.mark.parametrize("steps", [1, 3])
def test_attack_on_a_linear_loss_goes_to_the_corner(parts: Parts, steps: int) -> None:
    """With step size 2 one step crosses the whole box, whatever the start."""
    slope = Parts(*(torch.randn_like(part) for part in parts))

    def loss(inputs: Parts) -> torch.Tensor:
        terms = [(a * b).sum() for a, b in zip(inputs, slope, strict=True)]
        return torch.stack(terms).sum()

    radii = Parts(*(torch.tensor(r) for r in (0.1, 0.2, 0.3)))
    config = AdversarialConfig(attack_steps=steps, step_size=2.0)
    found = attack(loss, parts, radii, config, torch.Generator().manual_seed(1))
    for delta, radius, direction in zip(found, radii, slope, strict=True):
        torch.testing.assert_close(delta, radius * direction.sign())
        assert not delta.requires_grad


def test_attack_stays_in_its_box_and_raises_a_curved_loss(parts: Parts) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(10, 20), torch.nn.Tanh(), torch.nn.Linear(20, 1))

    def loss(inputs: Parts) -> torch.Tensor:
        flat = torch.cat([part.flatten(1) for part in inputs], 1)
        return network(flat).square().mean()

    radii = Parts(*(torch.tensor(0.3) for _ in parts))
    start = attack(lambda p: loss(p) * 0, parts, radii, AdversarialConfig(),
                   torch.Generator().manual_seed(1))  # fmt: skip
    found = attack(loss, parts, radii, AdversarialConfig(), torch.Generator().manual_seed(1))
    assert all(delta.abs().max() <= 0.3 for delta in found)
    assert loss(add(parts, found)) > loss(add(parts, start))
    assert all(p.grad is None for p in network.parameters())


def test_noise_asks_no_loss(parts: Parts) -> None:
    """Without attack steps the perturbation is the start of an attack with the same seed."""

    def loss(_: Parts) -> torch.Tensor:
        raise AssertionError("noise needs no loss")

    radii = Parts(*(torch.tensor(r) for r in (0.1, 0.2, 0.3)))
    found = attack(
        loss, parts, radii, AdversarialConfig(attack_steps=0), torch.Generator().manual_seed(1)
    )
    start = attack(
        lambda inputs: torch.stack([part.sum() for part in inputs]).sum() * 0, parts, radii,
        AdversarialConfig(), torch.Generator().manual_seed(1),
    )  # fmt: skip
    for delta, same, radius in zip(found, start, radii, strict=True):
        torch.testing.assert_close(delta, same)
        assert 0.5 * radius < delta.abs().max() <= radius


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"visual": -0.1}, "at least 0"),
        ({"attack_steps": -1}, "1 is FGSM"),
        ({"radii": "none"}, "radii must be one of"),
        ({"perturb_action": "none"}, "perturb_action must be one of"),
    ],
)
def test_bad_attack_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdversarialConfig(**options)


# The simulator --------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["gbp/PushT-v0", "gbp/PointMaze-v0", "gbp/Wall-v0"])
@pytest.mark.parametrize("workers", [1, 2])
def test_simulator_plays_what_the_env_plays(env_id: str, workers: int) -> None:
    with gym.make(env_id, image_size=16, disable_env_checker=True) as env:
        starts, plans, expected = [], [], []
        for seed in range(3):
            _, info = env.reset(seed=seed)
            starts.append(info["state"])
            env.action_space.seed(seed)
            plans.append([env.action_space.sample() for _ in range(4)])
            expected.append([env.step(action) for action in plans[-1]])
    with Simulator(env_id, workers, image_size=16) as simulator:
        frames = simulator.play(np.stack(starts), np.stack(plans))
    for row, steps in enumerate(expected):
        for step, (observation, _, _, _, info) in enumerate(steps):
            np.testing.assert_array_equal(frames.state[row, step], info["state"])
            np.testing.assert_array_equal(frames.pixels[row, step], observation["pixels"])
            np.testing.assert_array_equal(frames.proprio[row, step], observation["proprio"])


def test_simulator_is_checked_against_the_data(tmp_path: Path) -> None:
    """By the picture: another door is another env."""
    data = collect(
        "gbp/Wall-v0", 3, 0, tmp_path, steps=8, workers=1, progress=False, image_size=64, door_y=20
    )
    with Simulator("gbp/Wall-v0", **data.metadata["env_kwargs"]) as simulator:
        simulator.check(data, np.arange(3))
    with (
        Simulator("gbp/Wall-v0", image_size=64) as simulator,
        pytest.raises(ValueError, match=r"does not go on as episode 0 of .* was recorded"),
    ):
        simulator.check(data, np.arange(3))


@pytest.mark.parametrize("workers", [1, 2])
def test_walls_that_are_drawn_at_a_reset_are_drawn_again(tmp_path: Path, workers: int) -> None:
    """They are no part of Wall's state, but follow from the seed of the episode."""
    options = {"image_size": 64, "randomize": True}
    data = collect("gbp/Wall-v0", 4, 30, tmp_path, steps=8, workers=1, progress=False, **options)
    with Simulator.of(data, workers) as simulator:
        simulator.check(data, np.arange(4))
        windows = data.windows(3, 2, [1, 3])
        indices = np.arange(0, len(windows), 3)
        seeds = windows.reset_seeds(indices)
        assert set(seeds) == {31, 33}
        batch = {key: value.numpy() for key, value in windows.batch(indices).items()}
        start, actions = batch["state"][:, 0], batch["action"].reshape(len(indices), 4, 2)
        frames = simulator.play(start, actions, seeds)
        np.testing.assert_array_equal(frames.pixels[:, 1::2], batch["pixels"][:, 1:])
    first, other = (data.episode(index)["pixels"][0] for index in (1, 3))
    assert (first != other).mean() > 0.05  # another wall


def test_simulator_needs_an_env_that_tells_its_state() -> None:
    with Simulator("CartPole-v1") as simulator, pytest.raises((ValueError, IndexError)):
        simulator.play(np.zeros((1, 4)), np.zeros((1, 1), np.int64))


# Batches from the simulator -------------------------------------------------------------------


def online_batches(
    model: CompactWorldModel, data: TrajectoryDataset, folder: Path, **options: Any
) -> OnlineBatches:
    agent = WorldModelMPCAgent(model)
    latents = LatentDataset.encode(model, data, folder / "latents.npy", progress=False)
    chosen = {"every": 2, "trajectories": 3, "model_steps": 4, **options}
    return OnlineBatches(agent, data, latents, np.arange(10), Simulator(
        "gbp/Wall-v0", image_size=16), OnlineConfig(**chosen), folder / "online", 0)  # fmt: skip


def test_online_windows_are_what_the_simulator_did(
    make_model: Any, wall_data: TrajectoryDataset, tmp_path: Path
) -> None:
    """Position is proprioception on Wall: a window's action must explain its displacement."""
    model = make_model()
    source = online_batches(model, wall_data, tmp_path, share=1.0)
    latents, actions = next(source.windows(3, 20, 0))
    assert latents.shape == (20, 3, 6)
    assert actions.shape == (20, 2, 4)
    position = model.proprio_normalizer.denormalize(split(latents, 4).proprio).numpy()
    taken = model.action_normalizer.to_env(actions).unflatten(1, (2, 2)).numpy()
    with Simulator("gbp/Wall-v0", image_size=16) as simulator:
        for start, plan, expected in zip(position[:, 0], taken, position[:, 1:], strict=True):
            seen = simulator.play(start[None].astype(float), plan.reshape(1, 4, 2)).proprio[0]
            np.testing.assert_allclose(seen[1::2], expected, atol=1e-3)


def test_online_batches_mix_and_resume(
    make_model: Any, wall_data: TrajectoryDataset, tmp_path: Path
) -> None:
    model = make_model()
    source = online_batches(model, wall_data, tmp_path, share=0.25)
    first = [batch for _, batch in zip(range(5), source.windows(2, 8, 0), strict=False)]
    files = sorted(path.name for path in (tmp_path / "online").iterdir())
    assert files == [f"round-{i:05d}.safetensors" for i in range(3)]
    known = {tuple(row) for row in torch.from_numpy(np.load(tmp_path / "latents.npy")).tolist()}
    of_data = [tuple(row) in known for row in first[3][0][:, 0].tolist()]
    assert of_data[:6] == [True] * 6
    again = next(online_batches(model, wall_data, tmp_path, share=0.25).windows(2, 8, 3))
    torch.testing.assert_close(again, first[3])


def test_online_buffer_forgets_the_oldest(
    make_model: Any, wall_data: TrajectoryDataset, tmp_path: Path
) -> None:
    source = online_batches(make_model(), wall_data, tmp_path, buffer=4)
    sizes = [len(source._buffer(number).length) for number in range(3)]
    assert sizes == [3, 4, 4]
    latest = load_file(tmp_path / "online" / "round-00002.safetensors")["latents"]
    kept = source._buffer(2).latents.unflatten(0, (4, -1))
    torch.testing.assert_close(kept[-3:], latest)


def test_agent_acts_with_a_frozen_model_which_is_trained_afterwards(
    make_model: Any, wall_data: TrajectoryDataset, tmp_path: Path, monkeypatch: Any
) -> None:
    model = make_model()
    source = online_batches(model, wall_data, tmp_path)
    model.train().predictor.requires_grad_(True)
    acting: list[Any] = []

    def seen(self: Simulator, *args: Any) -> Any:
        acting.append((model.training, any(p.requires_grad for p in model.parameters())))
        return play(self, *args)

    play = Simulator.play
    monkeypatch.setattr(Simulator, "play", seen)
    source._buffer(0)
    assert acting == [(False, False)] * 4
    assert model.training
    assert all(p.requires_grad for p in model.predictor.parameters())
    assert not any(p.requires_grad for p in model.encoder.parameters())


@pytest.mark.parametrize("goals", ["trajectory", "random"])
def test_online_goals(
    make_model: Any, wall_data: TrajectoryDataset, tmp_path: Path, goals: str
) -> None:
    source = online_batches(make_model(), wall_data, tmp_path, goals=goals)
    start, goal, seeds = source._draw(np.random.default_rng(0))
    assert start["pixels"].shape == goal["pixels"].shape == (3, 16, 16, 3)
    assert set(seeds) <= set(wall_data.reset_seeds(np.arange(10)))
    distance = np.linalg.norm(start["state"] - goal["state"], axis=-1)
    if goals == "trajectory":  # at most 2·(2√2) px a step, 10 steps
        assert distance.max() < 10 * 2 * 8**0.5
    with pytest.raises(ValueError, match="goals must be"):
        OnlineConfig(goals="any")  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"every": 0}, {"share": 1.5}, {"trajectories": 0}])
def test_bad_online_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        OnlineConfig(**options)


# Whole runs -----------------------------------------------------------------------------------


def config(parent: Path, data: TrajectoryDataset, out: Path, **options: Any) -> FinetuneConfig:
    chosen = {
        "steps": 6, "windows": 8, "progress": False, "precision": "fp32", "workers": 1,
        "online": OnlineConfig(every=2, trajectories=2, model_steps=2), **options,
    }  # fmt: skip
    return FinetuneConfig(model=str(parent), data=data.folder, out=out, **chosen)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("history", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_run_trains_the_predictor_alone_and_ends_in_a_checkpoint(
    family: str,
    history: int,
    method: str,
    families: dict[str, Any],
    wall_data: TrajectoryDataset,
    tmp_path: Path,
) -> None:
    parent = tmp_path / "parent"
    planning = {"planners": {"gradient": {"steps": 2}}, "mpc": {"horizon": 2}}
    save_checkpoint(parent, families[family](history=history), planning=planning)
    trained = finetune(config(parent, wall_data, tmp_path / "run", method=method))
    before, _ = load_checkpoint(parent)
    after, settings = load_checkpoint(tmp_path / "run" / "checkpoint")
    changed = {
        name.split(".")[0]
        for (name, old), new in zip(
            before.state_dict().items(), trained.state_dict().values(), strict=True
        )
        if not torch.equal(old, new)
    }
    assert changed == {"predictor"}
    assert settings == planning
    for name, value in after.state_dict().items():
        torch.testing.assert_close(value, trained.state_dict()[name], rtol=2e-3, atol=1e-3)
    card = (tmp_path / "run" / "checkpoint" / "README.md").read_text()
    assert f"base_model: {parent}" in card
    assert f"finetuned: {method}" in card
    assert ('"attack_steps"' in card) == ("adversarial" in method)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["minutes"] >= 0


class Killed(Exception):
    """What a kill looks like from inside."""


@pytest.mark.parametrize("method", METHODS)
def test_killed_and_resumed_equals_uninterrupted(
    method: str,
    parent: Path,
    wall_data: TrajectoryDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adversarial = AdversarialConfig(visual=0.5, action=0.5, radii="fixed")
    options: dict[str, Any] = {"method": method, "adversarial": adversarial}
    whole = finetune(config(parent, wall_data, tmp_path / "whole", **options))

    module = sys.modules["gbp_agent.training.finetune"]
    loss, saving = module._Loss.__call__, module.LoopConfig

    def dying(self: Any, item: Any) -> Any:
        if item[0] == 3:
            raise Killed
        return loss(self, item)

    def often(*arguments: Any, **keywords: Any) -> Any:
        return saving(*arguments, **keywords, save_seconds=0.0)

    monkeypatch.setattr(module, "LoopConfig", often)
    monkeypatch.setattr(module._Loss, "__call__", dying)
    with pytest.raises(Killed):
        finetune(config(parent, wall_data, tmp_path / "killed", **options))
    monkeypatch.setattr(module._Loss, "__call__", loss)
    resumed = finetune(config(parent, wall_data, tmp_path / "killed", **options))
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


CHILD = """
import sys
from pathlib import Path
import gbp_envs, torch
from gbp_agent import FinetuneConfig, OnlineConfig, finetune
torch.set_num_threads(1)
module = sys.modules["gbp_agent.training.finetune"]
saving = module.LoopConfig
module.LoopConfig = lambda *given, **named: saving(*given, **named, save_seconds=0.0)
finetune({config})
"""


def test_kill_9_and_resumed_equals_uninterrupted(
    parent: Path, wall_data: TrajectoryDataset, tmp_path: Path
) -> None:
    online = OnlineConfig(every=200, trajectories=2, model_steps=2)
    options: dict[str, Any] = {"method": "online+adversarial", "steps": 400, "online": online}
    whole = finetune(config(parent, wall_data, tmp_path / "whole", **options))
    run = config(parent, wall_data, tmp_path / "killed", **options)
    text = repr(run).replace("PosixPath(", "Path(")
    names = "from gbp_agent import AdversarialConfig, GradientConfig\n"
    child = subprocess.Popen([sys.executable, "-c", names + CHILD.format(config=text)])
    state = tmp_path / "killed" / "online+adversarial.safetensors"
    deadline = time.monotonic() + 120
    while not state.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    with safe_open(state, framework="pt") as file:
        assert 0 < int(file.metadata()["step"]) < run.steps
    resumed = finetune(run)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("radii", ["fixed", "adaptive"])
def test_embedded_actions_are_perturbed_for_many_steps(
    radii: str, parent: Path, wall_data: TrajectoryDataset, tmp_path: Path
) -> None:
    options = AdversarialConfig(radii=radii, perturb_action="embedding")  # type: ignore[arg-type]
    run = config(parent, wall_data, tmp_path / "run", adversarial=options)
    trained = finetune(run)
    before, _ = load_checkpoint(parent)
    assert not torch.equal(trained.predictor.input.weight, before.predictor.input.weight)


def test_zero_radii_are_the_control(
    parent: Path, wall_data: TrajectoryDataset, tmp_path: Path
) -> None:
    none = AdversarialConfig(visual=0.0, proprio=0.0, action=0.0)
    control = finetune(config(parent, wall_data, tmp_path / "offline", method="offline"))
    for where in ("raw", "embedding"):
        options = AdversarialConfig(0.0, 0.0, 0.0, perturb_action=where)  # type: ignore[arg-type]
        same = finetune(config(parent, wall_data, tmp_path / where, adversarial=options))
        for a, b in zip(control.parameters(), same.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert none.attack_steps == 1


def test_adversarial_training_withstands_the_attack_better(
    make_model: Any, wall_data: TrajectoryDataset, tmp_path: Path
) -> None:
    strong = AdversarialConfig(visual=0.5, proprio=0.5, action=0.5)
    parent = tmp_path / "parent"
    save_checkpoint(parent, make_model(predictor_width=32))
    errors = {}
    for method in ("offline", "adversarial"):
        options: dict[str, Any] = {
            "steps": 400, "windows": 32, "learning_rate": 1e-2, "adversarial": strong,
        }  # fmt: skip
        out = tmp_path / method
        model = finetune(config(parent, wall_data, out, method=method, **options))
        latents = LatentDataset.encode(model, wall_data, out / "latents.npy", progress=False)
        window, actions = next(latents.windows(2, 2, np.arange(12), 200, 5))
        start, target = split(window[:, :1], 4), window[:, 1]

        def loss(inputs: Parts, model: Any = model, target: Any = target) -> torch.Tensor:
            frames = Latent(inputs.visual, inputs.proprio)
            predicted = model.predict(frames, model.embed_actions(inputs.action))
            return (join(predicted) - target).square().mean()

        inputs = Parts(start.visual, start.proprio, actions)
        generator = torch.Generator().manual_seed(0)
        found = attack(loss, inputs, attack_radii(inputs, strong), strong, generator)
        errors[method] = float(loss(add(inputs, found)))
    assert errors["adversarial"] < errors["offline"]


def test_model_of_another_env(
    make_model: Any, wall_data: TrajectoryDataset, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "pusht", make_model("gbp/PushT-v0"))
    with pytest.raises(ValueError, match="give data of the same environment"):
        finetune(config(tmp_path / "pusht", wall_data, tmp_path / "run"))


def test_folder_of_another_run(parent: Path, wall_data: TrajectoryDataset, tmp_path: Path) -> None:
    finetune(config(parent, wall_data, tmp_path / "run", method="offline", steps=1))
    with pytest.raises(ValueError, match="other settings \\(method, steps\\)"):
        finetune(config(parent, wall_data, tmp_path / "run", method="adversarial"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "none"}, "method must be one of"),
        ({"horizon": 0}, "at least 1"),
        ({"method": "online", "online": OnlineConfig(share=0.001)}, "none of the agent's own"),
        (
            {"horizon": 2, "adversarial": AdversarialConfig(perturb_action="embedding")},
            "take 'raw'",
        ),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(model="wall", data=tmp_path, out=tmp_path, **options)
