"""The compact world model's own arithmetic."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES, SIZE

from gbp_agent import DynamicsConfig, GoalObjective, TrajectoryDataset
from gbp_agent.data.latents import LatentDataset
from gbp_agent.networks.actions import ActionEmbedding
from gbp_agent.training.dynamics import train_dynamics
from gbp_agent.types import Latent
from gbp_agent.world_model import join, split


def some_start(rows: int = 3) -> Latent:
    generator = torch.Generator().manual_seed(1)
    return split(torch.randn(rows, 1, 6, generator=generator), 4)


def test_substeps_take_their_share_of_the_actions_in_turn(make_model: Any) -> None:
    """A model of two substeps is a model of one, applied twice with half of the action each."""
    fine = make_model(substeps=2)
    single = make_model(frameskip=1)
    single.predictor.load_state_dict(fine.predictor.state_dict())
    actions = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(2))
    past = actions[:, :0]
    expected = single.rollout(some_start(), past[..., :2], actions.reshape(3, 8, 2))
    torch.testing.assert_close(fine.unroll(some_start(), past, actions), join(expected))
    found = fine.rollout(some_start(), past, actions)
    torch.testing.assert_close(join(found), join(expected)[:, 1::2])


@pytest.mark.parametrize("substeps", [1, 2])
def test_predict_is_one_step_of_a_rollout(make_model: Any, substeps: int) -> None:
    model = make_model(substeps=substeps)
    actions = torch.randn(3, 1, 4, generator=torch.Generator().manual_seed(2))
    expected = join(model.rollout(some_start(), actions[:, :0], actions))[:, 0]
    found = model.predict(some_start(), model.embed_actions(actions))
    torch.testing.assert_close(join(found), expected)


@pytest.mark.parametrize(
    ("gated", "frequencies", "members"),
    [(False, 0, 1), (True, 0, 1), (True, 3, 1), (False, 3, 2), (True, 0, 3)],
)
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_fixed_weights_change_nothing_but_the_time(
    make_model: Any, rows: int, gated: bool, frequencies: int, members: int, dtype: torch.dtype
) -> None:
    """The written-out backward of predictors that are not trained is autograd's."""
    shape = {"predictor_depth": 2, "gated": gated, "action_frequencies": frequencies}
    model = make_model(substeps=2, ensemble_size=members, **shape).to(dtype)
    generator = torch.Generator().manual_seed(2)
    for weight in model.predictor.parameters():
        weight.data.normal_(std=0.3, generator=generator)
        weight.data = weight.data.half().to(dtype)  # as shipped ones are
    start, actions = (
        torch.randn(rows, *shape, generator=generator).to(dtype)
        for shape in ((1, 4 * members + 2), (4, 4))
    )
    found = []
    for trained in (True, False):
        model.requires_grad_(trained)
        inputs = [start.clone().requires_grad_(), actions.clone().requires_grad_()]
        out = model.unroll(split(inputs[0], 4, members), actions[:, :0], inputs[1])
        found.append((out, *torch.autograd.grad(out.sin().sum(), inputs)))
    assert found[1][1].abs().max() > 0.1
    close = {"atol": 2e-4, "rtol": 1e-3} if dtype == torch.float32 else {}
    torch.testing.assert_close(found[1], found[0], **close)
    assert not any(part.is_inference() for part in found[1])
    out = model.unroll(split(inputs[0], 4, members), actions[:, :0], inputs[1])
    (slope,) = torch.autograd.grad(out.square().sum(), inputs[1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.mark.parametrize("rows", [1, 3])
def test_a_rollout_is_kept_as_long_as_its_graph(make_model: Any, rows: int) -> None:
    model = make_model(substeps=2, predictor_depth=2).requires_grad_(False)
    start = torch.randn(rows, 1, 6, generator=torch.Generator().manual_seed(2))
    actions = torch.ones(rows, 4, 4, requires_grad=True)

    def rolled() -> torch.Tensor:
        found: torch.Tensor = model.unroll(split(start, 4), actions[:, :0], actions)
        return found

    out = rolled()
    first, second = (torch.autograd.grad(out.sum(), actions, retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second)
    node = out.grad_fn
    assert node is not None
    assert node.kept  # type: ignore[attr-defined]
    torch.autograd.grad(out.sum(), actions)
    if node.kept is None:  # type: ignore[attr-defined]  # where PyTorch says what is retained
        with pytest.raises(RuntimeError, match="a second time"):
            torch.autograd.grad(out.sum(), actions)
    changed = rolled()
    changed.mul_(2)
    (slope,) = torch.autograd.grad(changed.sum(), actions)
    torch.testing.assert_close(slope, 2 * first[0])


@pytest.mark.parametrize(("rows", "expected"), [(4, 1), (4096, 2)])
def test_few_plans_take_one_thread(
    make_model: Any, monkeypatch: Any, rows: int, expected: int
) -> None:
    """And leave PyTorch as they found it, even where they fail."""
    gelu, seen = torch.nn.functional.gelu, []

    def watched(inner: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        if len(seen) > 2:
            raise RuntimeError("no memory")
        return gelu(inner)

    monkeypatch.setattr("gbp_agent.networks.frozen_unroll.F.gelu", watched)
    model, before = make_model(predictor_depth=2).requires_grad_(False), torch.get_num_threads()
    actions = torch.zeros(rows, 1, 4)
    torch.set_num_threads(2)
    try:
        model.unroll(some_start(rows), actions[:, :0], actions)
        assert torch.get_num_threads() == 2
        with pytest.raises(RuntimeError, match="no memory"):
            model.unroll(some_start(rows), actions[:, :0], actions)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [expected] * 3


def test_a_closed_gate_changes_nothing_and_an_open_one_all(make_model: Any) -> None:
    gated, plain = make_model(gated=True), make_model()
    changes, gates = gated.predictor.output.bias.data.chunk(2)
    start, actions = some_start(), torch.ones(3, 2, 4)
    for weight in gated.predictor.output.parameters():
        weight.data.zero_()
    changes.fill_(0.5)
    gates.copy_(torch.tensor([-100.0, 100.0]).repeat(len(gates) // 2))
    out = gated.unroll(start, actions[:, :0], actions) - join(start)
    torch.testing.assert_close(out[:, :, ::2], torch.zeros_like(out[:, :, ::2]))
    torch.testing.assert_close(out[:, 0, 1::2], torch.full_like(out[:, 0, 1::2], 0.5))
    torch.testing.assert_close(out[:, 1, 1::2], torch.full_like(out[:, 0, 1::2], 1.0))
    assert len(gated.predictor.output.bias) == 2 * len(plain.predictor.output.bias)


def test_actions_are_embedded_with_their_sines_and_cosines() -> None:
    embedding = ActionEmbedding(2, 4, 3)
    embedding.layers = torch.nn.Sequential()
    found = embedding(torch.tensor([[0.5, 2.0]]))
    turns = [value * math.pi / 4 * octave for value in (0.5, 2.0) for octave in (1, 2, 4)]
    expected = [0.5, 2.0, *map(math.sin, turns), *map(math.cos, turns)]
    torch.testing.assert_close(found, torch.tensor([expected]))


def test_embedded_actions_are_all_that_the_predictor_sees_of_them(make_model: Any) -> None:
    model = make_model(action_frequencies=2)
    assert model.predictor.input.in_features == 6  # the latent alone
    actions = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(2))
    out = join(model.rollout(some_start(), actions[:, :0], actions))
    other = join(model.rollout(some_start(), actions[:, :0], actions.flip(0)))
    assert not torch.allclose(out, other)
    with pytest.raises(ValueError, match="action_frequencies must be an integer of at least 0"):
        make_model(action_frequencies=-1)


@pytest.mark.parametrize("substeps", [1, 2])
def test_members_of_an_ensemble_go_on_from_their_own_predictions(
    make_model: Any, substeps: int
) -> None:
    """But for the proprioception, of which there is one; here the networks do not look at it."""
    model = make_model(ensemble_size=2, substeps=substeps).requires_grad_(False)
    alone = make_model(substeps=substeps).requires_grad_(False)
    tokens = torch.randn(3, 1, 2, 4, generator=torch.Generator().manual_seed(1))
    proprio, actions = torch.randn(3, 1, 2), torch.randn(3, 4, 4)
    for member in model.predictor.members:
        member.input.weight[:, 4:6] = 0.0
    found = model.rollout(Latent(tokens, proprio), actions[:, :0], actions)
    sensed = []
    for index, member in enumerate(model.predictor.members):
        alone.predictor.load_state_dict(member.state_dict())
        start = Latent(tokens[:, :, index : index + 1], proprio)
        expected = alone.rollout(start, actions[:, :0], actions)
        torch.testing.assert_close(found.visual[:, :, index], expected.visual[:, :, 0])
        sensed.append(expected.proprio)
    torch.testing.assert_close(found.proprio, torch.stack(sensed).mean(0))
    assert not torch.allclose(sensed[0], sensed[1])


def test_an_ensemble_costs_its_mean_and_its_variance(make_model: Any) -> None:
    model = make_model(ensemble_size=3)
    pixels = torch.randint(256, (5, SIZE, SIZE, 3), generator=torch.Generator().manual_seed(0))
    goal = model.encode(pixels.byte(), torch.zeros(5, 2))
    assert goal.visual.shape == (5, 3, 4)
    torch.testing.assert_close(goal.visual[:, :1].expand(-1, 3, -1), goal.visual)
    predicted = torch.randn(5, 1, 3, 4, generator=torch.Generator().manual_seed(1))
    cost = GoalObjective()(Latent(predicted, goal.proprio[:, None]), goal)
    mean = (predicted.mean(2)[:, 0] - goal.visual[:, 0]).square().mean(1)
    spread = predicted.var(2, correction=0).mean((1, 2))
    torch.testing.assert_close(cost, mean + spread)
    assert model.decode(goal).shape == (5, SIZE, SIZE, 3)
    with pytest.raises(ValueError, match="ensemble_size must be an integer of at least 1"):
        make_model(ensemble_size=0)


def test_one_weight_that_is_trained_has_its_gradient(make_model: Any) -> None:
    model = make_model(predictor_depth=2).requires_grad_(False)
    shift = model.predictor.blocks[1][0].bias.requires_grad_()
    model.predictor.output.weight.data.normal_()
    out = model.unroll(some_start(), torch.zeros(3, 0, 4), torch.ones(3, 2, 4))
    (slope,) = torch.autograd.grad(out.sum(), shift)
    assert slope.abs().max() > 0


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_plans_of_one_start(family: str, history: int, families: Any) -> None:
    """Several plans for each start are rolled out as if every one had a start of its own, and
    differentiated as such."""
    model, plans = families[family](history=history), 3
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (2, history, SIZE, SIZE, 3), generator=generator).byte()
    with torch.no_grad():
        start = model.encode(pixels, torch.randn(2, history, 2, generator=generator))
    past, actions = (
        torch.randn(n, k, 4, generator=generator) for n, k in ((2, history - 1), (6, 5))
    )
    each = Latent(*(part.repeat_interleave(plans, 0) for part in start))
    found, slopes = [], []
    for first, taken in ((start, past), (each, past.repeat_interleave(plans, 0))):
        leaf = actions.clone().requires_grad_(True)
        outcome = join(model.rollout(first, taken, leaf))
        slopes.append(torch.autograd.grad(outcome.square().sum(), leaf)[0])
        found.append(outcome)
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*slopes)
    assert slopes[0].abs().max() > 0


@pytest.mark.parametrize("options", [{"substeps": 3}, {"substeps": 2, "history": 2}])
def test_substeps_that_do_not_fit(make_model: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="substeps must divide frameskip"):
        make_model(**options)


@pytest.mark.parametrize("substeps", [1, 2])
def test_dynamics_learn_to_predict(
    make_model: Any, wall_data: TrajectoryDataset, tmp_path: Any, substeps: int
) -> None:
    model = make_model(substeps=substeps, predictor_width=32)
    latents = LatentDataset.encode(model, wall_data, tmp_path / "latents.npy", progress=False)
    window, actions = next(latents.windows(3, 2, np.arange(12), 300, 7))

    def error() -> float:
        with torch.no_grad():
            predicted = join(model.rollout(split(window[:, :1], 4), actions[:, :0], actions))
        return float((predicted - window[:, 1:]).square().mean())

    before = error()
    config = DynamicsConfig(steps=150, windows=32, horizon=2, learning_rate=1e-2)
    train_dynamics(model, latents, np.arange(12), config, tmp_path, 0, False, False)
    model.eval()
    assert error() < 0.3 * before


@pytest.mark.parametrize("substeps", [1, 2])
def test_one_step_share(
    make_model: Any,
    wall_data: TrajectoryDataset,
    tmp_path: Any,
    substeps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model(substeps=substeps)
    latents = LatentDataset.encode(model, wall_data, tmp_path / "latents.npy", progress=False)
    rolled, unroll = [], model.unroll

    def record(start: Any, past: Any, actions: Any) -> Any:
        rolled.append(actions.shape[1])
        return unroll(start, past, actions)

    monkeypatch.setattr(model, "unroll", record)
    for share, lengths in ((0.6, [1, 1, 1, 3, 3]), (0.0, [3] * 5), (1.0, [1] * 5)):
        rolled.clear()
        folder = tmp_path / str(share)
        folder.mkdir()
        config = DynamicsConfig(steps=5, windows=4, horizon=3, one_step_share=share)
        train_dynamics(model, latents, np.arange(12), config, folder, 0, False, False)
        assert rolled == lengths
