"""Training: losses with known answers, loops that survive a kill, a whole tiny run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import SIZE
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from gbp_agent import (
    DynamicsConfig,
    GradientConfig,
    GradientPlanner,
    PretrainConfig,
    RepresentationConfig,
    TrajectoryDataset,
    WorldModelMPCAgent,
    collect,
    load_checkpoint,
    pretrain,
)
from gbp_agent.data.latents import LatentDataset, encode_frames
from gbp_agent.diagnostics import StateProbe, effective_rank, judge, prediction_errors
from gbp_agent.normalize import ActionNormalizer, Standardizer
from gbp_agent.training import losses
from gbp_agent.training.dynamics import pad_history
from gbp_agent.training.loop import LoopConfig, optimize, schedule
from gbp_agent.training.pieces import keep_proposals
from gbp_agent.training.pretrain import standardize_latents, uses_bfloat16
from gbp_agent.types import Latent

TINY = {"latent_dim": 4, "encoder_width": 2, "keypoints": 4, "frameskip": 2, "predictor_width": 8,
        "predictor_depth": 1, "decoder_width": 2, "proposals": 5, "proposal_steps": 6}  # fmt: skip


# The loop -------------------------------------------------------------------------------------


class Killed(Exception):
    """What a kill looks like from inside."""


def train(folder: Path, steps: int = 12, killed_at: int | None = None, **options: Any) -> nn.Module:
    """Fit a line whose batches are known; optionally die before a step."""
    module = nn.Linear(3, 1)
    with torch.no_grad():
        module.weight.fill_(0.5)
        module.bias.zero_()

    def batches(first: int) -> Iterator[tuple[int, Tensor]]:
        step = first
        while True:
            generator = torch.Generator().manual_seed(step)
            yield step, torch.randn(8, 3, generator=generator)
            step += 1

    def loss_function(item: tuple[int, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        step, x = item
        if step == killed_at:
            raise Killed
        wanted = x.sum(1, keepdim=True) + 1
        x = nn.functional.dropout(x, options.get("dropout", 0.0))
        loss = (module(x) - wanted).square().mean()
        return loss * options.get("scale", 1.0), {"bias": module.bias.detach()}

    config = LoopConfig(steps, 0.1, save_seconds=options.get("save_seconds", 0.0))
    name = options.get("name", "line")
    optimize(name, module, loss_function, batches, config, folder, progress=False)
    return module


@pytest.mark.parametrize("killed_at", [1, 5, 11])
def test_killed_and_resumed_equals_uninterrupted(killed_at: int, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "killed", killed_at=killed_at)
    resumed = train(tmp_path / "killed")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_dropout_is_repeated(tmp_path: Path) -> None:
    """A resumed run draws the masks of an uninterrupted one, and the global generator's state is
    left as it was."""
    torch.manual_seed(3)
    nn.Linear(3, 1)  # as train makes one
    wanted = torch.rand(1)
    torch.manual_seed(3)
    whole = train(tmp_path / "whole", dropout=0.5)
    assert torch.rand(1) == wanted
    with pytest.raises(Killed):
        train(tmp_path / "killed", dropout=0.5, killed_at=5)
    assert torch.equal(train(tmp_path / "killed", dropout=0.5).weight, whole.weight)
    assert not torch.equal(train(tmp_path / "plain").weight, whole.weight)


def test_curves_of_every_phase_stay(tmp_path: Path) -> None:
    for name in ("first", "second"):
        train(tmp_path, name=name)
    for name in ("first", "second"):
        curves = EventAccumulator(str(tmp_path / "tensorboard" / name)).Reload()
        assert len(curves.Scalars(f"{name}/loss")) == 2


def test_killed_before_the_first_save_starts_anew(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path / "killed", killed_at=5, save_seconds=1e9)
    resumed, whole = train(tmp_path / "killed"), train(tmp_path / "whole")
    assert torch.equal(resumed.weight, whole.weight)


def test_a_finished_phase_is_only_loaded(tmp_path: Path) -> None:
    whole = train(tmp_path)
    again = train(tmp_path, killed_at=0)  # would die if it took a step
    assert torch.equal(whole.weight, again.weight)
    assert not again.training


def test_it_learns(tmp_path: Path) -> None:
    module = train(tmp_path, steps=300, save_seconds=1e9)
    assert torch.allclose(module.weight, torch.ones(1, 3), atol=0.05)
    assert torch.allclose(module.bias, torch.ones(1), atol=0.05)


def test_a_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="line: the loss is nan at step 0; lower"):
        train(tmp_path, scale=math.nan)


def test_schedule() -> None:
    assert schedule(0.0, 0.1) == pytest.approx(0.0, abs=0.02)
    assert schedule(0.1, 0.1) == pytest.approx(1.0)
    assert schedule(0.55, 0.1) == pytest.approx(0.5)
    assert schedule(0.9999, 0.1) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"learning_rate": 0.0}])
def test_bad_loop(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        LoopConfig(**{"steps": 1, "learning_rate": 0.1, **settings})


# Losses ---------------------------------------------------------------------------------------


def test_reconstruction_weighs_objects() -> None:
    pixels = torch.full((1, 8, 8, 3), 255, dtype=torch.uint8)
    pixels[0, 0, 0] = 0  # one black pixel on white
    blank = torch.zeros(1, 3, 8, 8)
    assert losses.reconstruction(blank, pixels, 1.0).item() == pytest.approx(1 / 64)
    assert losses.reconstruction(blank, pixels, 20.0).item() == pytest.approx(20 / 64)
    blank[0, :, 0, 0] = 1.0
    assert losses.reconstruction(blank, pixels, 20.0).item() == 0.0


def test_variance_and_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = 3 * torch.randn(20_000, 4, generator=generator)
    assert losses.variance(wide).item() == 0.0
    assert losses.variance(torch.zeros(10, 4)).item() == pytest.approx(0.99, abs=1e-3)
    assert losses.covariance(wide).item() == pytest.approx(0.0, abs=0.1)
    twice = torch.randn(20_000, 1, generator=generator).expand(-1, 2)
    assert losses.covariance(twice).item() == pytest.approx(1.0, rel=0.1)


def test_sigreg_is_least_for_a_standard_normal() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(2000, 4, generator=generator)
    distances = [
        losses.sigreg(latents, torch.Generator().manual_seed(1)).item()
        for latents in (normal, 2 * normal, normal + 1, normal.sign(), torch.zeros(2000, 4))
    ]
    assert all(10 * distances[0] < other for other in distances[1:])


@pytest.mark.parametrize(("turn", "expected"), [(0.0, 0.0), (math.pi / 2, 1.0), (math.pi, 2.0)])
def test_straightening(turn: float, expected: float) -> None:
    steps = torch.tensor([[1.0, 0.0], [math.cos(turn), math.sin(turn)]])
    path = torch.cat([torch.zeros(1, 2), steps.cumsum(0)])[None]
    assert losses.straightening(path).item() == pytest.approx(expected, abs=1e-5)


def test_pad_history() -> None:
    rows, history = 4000, 3
    frames = torch.arange(5.0)[None, :, None].expand(rows, 5, 1)
    actions = 1 + torch.arange(4.0)[None, :, None].expand(rows, 4, 1)
    generator = torch.Generator().manual_seed(0)
    padded, taken = pad_history(frames, actions, history, generator)
    kinds: dict[tuple[float, ...], int] = {}
    for frame, action in zip(padded[..., 0].tolist(), taken[..., 0].tolist(), strict=True):
        kinds[(*frame, *action)] = kinds.get((*frame, *action), 0) + 1
    untouched = (0, 1, 2, 3, 4, 1, 2, 3, 4)
    one = (1, 1, 2, 3, 4, 0, 2, 3, 4)  # the first frame is the second, no action between them
    two = (2, 2, 2, 3, 4, 0, 0, 3, 4)
    assert set(kinds) == {untouched, one, two}
    assert kinds[untouched] / rows == pytest.approx(0.75, abs=0.03)
    assert kinds[one] / rows == pytest.approx(0.125, abs=0.03)
    assert frames[0, :, 0].tolist() == [0, 1, 2, 3, 4]


def test_pad_history_of_one_frame() -> None:
    latents, actions = torch.randn(2, 4, 3), torch.randn(2, 3, 2)
    assert pad_history(latents, actions, 1, torch.Generator()) == (latents, actions)


# Normalisation --------------------------------------------------------------------------------


def test_standardizer() -> None:
    values = np.array([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    fitted = Standardizer.fit(values)
    assert fitted.mean.tolist() == [2, 5]
    assert fitted.std.tolist() == pytest.approx([2, 1])  # a constant is left as wide as it is
    scores = fitted.normalize(torch.tensor(values))
    assert scores.tolist() == [[-1, 0], [0, 0], [1, 0]]
    assert torch.equal(fitted.denormalize(scores), torch.tensor(values).float())


def test_action_normalizer() -> None:
    fitted = ActionNormalizer(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.5]))
    actions = torch.tensor([[1.0, 0.0], [3.0, 0.5], [5.0, 1.0], [-1.0, 0.0]])
    model_actions = fitted.to_model(actions, frameskip=2)
    assert model_actions.tolist() == [[0, 0, 1, 1], [2, 2, -1, 0]]
    assert torch.equal(fitted.to_env(model_actions), actions)
    low, high = fitted.bounds(np.array([-1, -1]), np.array([9, 1]), frameskip=2, limit=3.0)
    assert low.tolist() == [-1, -2, -1, -2]
    assert high.tolist() == [3, 2, 3, 2]


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_standardize_latents(
    whitening: float, wall_data: TrajectoryDataset, make_model: Any
) -> None:
    model = make_model()
    episodes = np.arange(12)
    pixels, proprio = (wall_data.array(key) for key in ("pixels", "proprio"))
    scores = model.proprio_normalizer.normalize(torch.from_numpy(proprio))

    def decoded() -> Tensor:
        visual = encode_frames(model, pixels, proprio)[:, :4]
        with torch.no_grad():
            return model.decoder(visual, scores)

    before = decoded()
    standardize_latents(model, wall_data, episodes, whitening)
    latents = encode_frames(model, pixels, proprio)[:, :4].double()
    assert torch.allclose(decoded(), before, atol=1e-3)
    assert torch.allclose(latents.mean(0), torch.zeros(4).double(), atol=2e-2)
    covariance = torch.cov(latents.T)
    assert covariance.diagonal().mean().item() == pytest.approx(1.0, rel=0.05)
    if whitening == 1.0:
        spread = torch.linalg.eigvalsh(covariance)
        assert spread[-1] < 1.2
        assert torch.allclose(spread[1:], torch.ones(3).double(), atol=0.2)


# Diagnostics ----------------------------------------------------------------------------------


def test_effective_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(50_000, 6, generator=generator)
    assert effective_rank(full) == pytest.approx(6, abs=0.01)
    full[:, 2:] = 0
    assert effective_rank(full) == pytest.approx(2, abs=0.01)


def test_numbered_quantities_are_judged_together() -> None:
    probe = StateProbe(2, ["x 0", "x 1", "theta"], [0, 0, 0])
    latents = torch.zeros(3, 2)
    found = probe(latents)
    off = torch.tensor([[1.0, 10.0, 0.5], [2.0, 20.0, 0.5], [3.0, 30.0, 0.5]])
    errors = probe.errors(latents, found + off)
    assert errors == pytest.approx({"x": 3.0, "theta": 0.5})  # the lower median of six


def test_probe_reads_positions_and_angles() -> None:
    generator = torch.Generator().manual_seed(0)
    position = 100 * torch.rand(4000, 2, generator=generator)
    angle = 2 * math.pi * torch.rand(4000, 1, generator=generator)
    latents = torch.cat([position / 50 - 1, angle.cos(), angle.sin()], 1)
    probe = StateProbe(4, ["block x", "block y", "angle"], [0, 0, 2 * math.pi])
    probe.fit(latents, torch.cat([position, angle], 1), generator, steps=400)
    errors = probe.errors(latents, torch.cat([position, angle], 1))
    assert set(errors) == {"block", "angle"}
    assert errors["block"] < 3.0
    assert errors["angle"] < 0.1
    # An angle's error is the shorter way round.
    turned = probe.errors(latents, torch.cat([position, angle + 2 * math.pi], 1))
    assert turned["angle"] == pytest.approx(errors["angle"], abs=1e-4)


def test_prediction_errors_of_a_model_that_copies(make_model: Any) -> None:
    model = make_model(history=2)
    nn.init.zeros_(model.predictor.output.weight)
    nn.init.zeros_(model.predictor.output.bias)
    windows = torch.randn(10, 2 + 3, 6, generator=torch.Generator().manual_seed(0))
    errors = prediction_errors(model, windows, torch.zeros(10, 4, 4))
    assert errors["ratio"] == pytest.approx([1, 1, 1])
    assert errors["model"] == pytest.approx(errors["copy"])


# A whole run ----------------------------------------------------------------------------------


def configuration(data: Path, out: Path, history: int = 1) -> PretrainConfig:
    return PretrainConfig(
        data=data,
        out=out,
        model={**TINY, "history": history},
        representation=RepresentationConfig(
            steps=4,
            windows=4,
            frames=3,
            variance=1.0,
            covariance=0.1,
            sigreg=0.1,
            straightening=0.1,
        ),
        dynamics=DynamicsConfig(steps=6, windows=8, horizon=2, one_step_share=0.5, input_noise=0.1),
        whitening=0.5,
        planning={"mpc": {"horizon": 3}, "objective": {"proprio_weight": 0.5}},
        held_out=0.2,
        precision="fp32",
        progress=False,
    )


@pytest.fixture(autouse=True, scope="module")
def _quick_probe() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StateProbe, "fit", partialmethod(StateProbe.fit, steps=20))
        yield


@pytest.fixture(scope="module")
def runs(wall_data: TrajectoryDataset, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Finished runs by history."""
    made: dict[int, Path] = {}

    def run(history: int) -> Path:
        if history not in made:
            out = tmp_path_factory.mktemp("run") / "out"
            pretrain(configuration(wall_data.folder, out, history))
            made[history] = out
        return made[history]

    return run


@pytest.mark.parametrize("history", [1, 3])
def test_pretrained_agent_acts(history: int, runs: Any, wall_data: TrajectoryDataset) -> None:
    planner = GradientPlanner(GradientConfig(steps=2))
    agent = WorldModelMPCAgent.from_pretrained(runs(history) / "checkpoint", planner)
    assert agent.config.horizon == 3
    assert agent.model.config.env_id == "gbp/Wall-v0"
    assert agent.model.config.image_size == SIZE
    mean = torch.from_numpy(wall_data.array("proprio", range(10)).mean(0))
    assert torch.allclose(agent.model.proprio_normalizer.mean, mean, rtol=1e-4)
    with gym.make("gbp/Wall-v0", image_size=SIZE) as env:
        observation, _ = env.reset(seed=0)
        for _ in range(6):
            action = agent.act(observation)
            assert env.action_space.contains(action)
            observation, *_ = env.step(action)


def test_run_leaves_its_figures(runs: Any) -> None:
    out = runs(1)
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["probe"]) == {"x", "y"}
    assert len(metrics["prediction"]["ratio"]) == 5
    assert metrics["prediction_training"]["copy"] != metrics["prediction"]["copy"]
    assert 1 <= metrics["effective_rank"] <= 4
    card = (out / "checkpoint" / "README.md").read_text()
    assert "gbp/Wall-v0" in card
    assert str(out) not in card
    assert list((out / "tensorboard").iterdir())


def test_killed_run_goes_on(
    runs: Any, wall_data: TrajectoryDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gbp_agent.data import latents as module

    config = configuration(wall_data.folder, tmp_path / "out")

    def die(*arguments: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write", die)  # after the first phase, before the second
        with pytest.raises(Killed):
            pretrain(config)
    resumed = pretrain(config).state_dict()
    whole = pretrain(configuration(wall_data.folder, runs(1))).state_dict()
    for key, value in whole.items():
        assert torch.allclose(resumed[key], value, atol=1e-5), key
    # Once finished, calling again gives the same model.
    again = pretrain(replace(config, progress=False)).state_dict()
    assert all(torch.equal(again[key], value) for key, value in resumed.items())


@pytest.mark.parametrize("change", [{"seed": 1}, {"whitening": 0.0}, {"model": {"history": 2}}])
def test_other_settings_are_refused(change: dict[str, Any], runs: Any, wall_data: Any) -> None:
    config = configuration(wall_data.folder, runs(1))
    config = replace(config, **{**change, "model": {**config.model, **change.get("model", {})}})
    with pytest.raises(ValueError, match=f"other settings .{next(iter(change))}.; use another"):
        pretrain(config)


def test_missing_data(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a dataset folder"):
        pretrain(configuration(tmp_path / "none", tmp_path / "out"))


def test_proposals_are_cut_from_training_episodes(
    wall_data: TrajectoryDataset, make_model: Any, tmp_path: Path
) -> None:
    model = make_model()
    latents = LatentDataset.encode(model, wall_data, tmp_path / "z.npy", progress=False)
    keep_proposals(model, latents, np.array([2]), seed=0)
    assert model.proposals.shape == (3, 6, 4)
    episode = torch.tensor(wall_data.episode(2)["action"])
    cut = {tuple(episode[i : i + 12].flatten().tolist()) for i in range(31 - 12)}
    assert all(tuple(plan.flatten().tolist()) in cut for plan in model.proposals)
    none = make_model(proposals=0)
    keep_proposals(none, latents, np.array([2]), seed=0)
    assert none.proposals.shape == (0, 6, 4)


def test_no_proposal_is_there_twice(
    wall_data: TrajectoryDataset, make_model: Any, tmp_path: Path
) -> None:
    """As many as there are pieces: all of them."""
    model = make_model(proposals=3 * (31 - 12))
    latents = LatentDataset.encode(model, wall_data, tmp_path / "z.npy", progress=False)
    keep_proposals(model, latents, np.array([2, 5, 7]), seed=0)
    assert len(torch.unique(model.proposals.flatten(1), dim=0)) == len(model.proposals)


def test_no_more_proposals_than_pieces(wall_data: TrajectoryDataset, tmp_path: Path) -> None:
    config = configuration(wall_data.folder, tmp_path)
    model = pretrain(replace(config, model={**config.model, "proposals": 10_000}))
    steps = model.config.proposal_steps * model.config.frameskip
    assert len(model.proposals) == 10 * (31 - steps)  # of twelve episodes two are held out
    assert load_checkpoint(tmp_path / "checkpoint")[0].config == model.config


def test_a_folder_is_not_claimed_by_settings_that_do_not_fit(
    wall_data: TrajectoryDataset, tmp_path: Path
) -> None:
    config = configuration(wall_data.folder, tmp_path)
    for wrong, error, message in (
        ({"proposal_steps": 40}, ValueError, "frames of a proposal; give fewer `proposal_steps`"),
        ({"widht": 4}, TypeError, "widht"),
    ):
        with pytest.raises(error, match=message):
            pretrain(replace(config, model={**config.model, **wrong}))
    pretrain(config)


def test_strings_are_paths_and_families_are_known(tmp_path: Path) -> None:
    config = PretrainConfig(data=str(tmp_path), out="out")  # type: ignore[arg-type]
    assert (config.data, config.out) == (tmp_path, Path("out"))
    with pytest.raises(ValueError, match="family is 'vec', expected one of"):
        PretrainConfig(tmp_path, tmp_path, family="vec")  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [2, 11, 12])
def test_short_episodes_are_judged_as_far_as_they_go(
    steps: int, wall_data: TrajectoryDataset, make_model: Any, tmp_path: Path
) -> None:
    """Five model steps of two after one frame take ten."""
    short = collect(
        "gbp/Wall-v0", 4, 0, tmp_path / "data", steps=steps - 1, workers=1, progress=False,
        image_size=SIZE,
    )  # fmt: skip
    model = make_model(proposals=0, history=1)
    latents = LatentDataset.encode(model, short, tmp_path / "z.npy", progress=False)
    found = judge(model, short, latents, np.arange(3), np.array([3]), seed=0)
    ahead = min(5, (steps - 1) // 2)
    assert len(found["prediction"]["ratio"]) == len(found["prediction_training"]["ratio"]) == ahead
    assert json.loads(json.dumps(found, allow_nan=False))


def test_precision() -> None:
    assert uses_bfloat16("bf16", "cpu")
    assert not uses_bfloat16("fp32", "cpu")
    with pytest.raises(ValueError, match="unknown precision 'half'; known"):
        uses_bfloat16("half", "cpu")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (RepresentationConfig, {"frames": 1}),
        (RepresentationConfig, {"frames": 2, "straightening": 0.1}),
        (DynamicsConfig, {"horizon": 0}),
    ],
)
def test_bad_phases(kind: Any, settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        kind(**settings)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_bad_share_of_one_step(share: float) -> None:
    with pytest.raises(ValueError, match=r"one_step_share must lie in \[0, 1\]"):
        DynamicsConfig(one_step_share=share)


# Networks and roll-outs -----------------------------------------------------------------------


@pytest.mark.parametrize("history", [1, 3])
def test_rollout_feeds_predictions_back(history: int, make_model: Any) -> None:
    model = make_model(history=history)
    generator = torch.Generator().manual_seed(0)
    start = Latent(*(torch.randn(2, history, *s, generator=generator) for s in ((1, 4), (2,))))
    past = torch.randn(2, history - 1, 4, generator=generator)
    actions = torch.randn(2, 3, 4, generator=generator)
    whole = model.rollout(start, past, actions)
    known, taken = start, past
    for step in range(3):
        one = model.rollout(known, taken, actions[:, step : step + 1])
        for part, expected in zip(one, whole, strict=True):
            assert torch.allclose(part[:, 0], expected[:, step], atol=1e-5)
        known = Latent(
            *(torch.cat([k, o], 1)[:, -history:] for k, o in zip(known, one, strict=True))
        )
        taken = torch.cat([taken, actions[:, step : step + 1]], 1)[:, 1:]


@pytest.mark.parametrize("size", [16, 32, 64])
def test_shapes(size: int, make_model: Any) -> None:
    model = make_model(image_size=size)
    pixels = torch.randint(0, 256, (2, 3, size, size, 3), dtype=torch.uint8)
    latent = model.encode(pixels, torch.zeros(2, 3, 2))
    assert latent.visual.shape == (2, 3, 1, 4)
    assert latent.proprio.shape == (2, 3, 2)
    decoded = model.decode(latent)
    assert decoded.shape == pixels.shape
    assert decoded.dtype == torch.uint8


def test_images_have_sides_of_a_multiple_of_eight(make_model: Any) -> None:
    with pytest.raises(ValueError, match="multiple of 8, got 20"):
        make_model(image_size=20)
