"""The predictor that sees the table from where a push goes."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch import Tensor, nn

from gbp_agent import GradientConfig, GradientPlanner, MPCConfig, WorldModelMPCAgent
from gbp_agent.checkpoint import load_checkpoint, save_checkpoint
from gbp_agent.networks import PushPredictor
from gbp_agent.networks.push import AHEAD, BEHIND, _sample
from gbp_agent.normalize import ActionNormalizer
from gbp_agent.types import Latent
from gbp_agent.world_model import join

SIDE = 8
PUSH: dict[str, Any] = {"encoder": "linear", "frameskip": 1, "push_grid": SIDE, "latent_dim": 6}


def of_pictures(seed: int = 0, about_walls: bool = False) -> PushPredictor:
    """A random one of latents that are pictures themselves, of SIDE px."""
    torch.manual_seed(seed)
    head = nn.Linear(SIDE**2, SIDE**2)
    nn.init.eye_(head.weight)
    nn.init.zeros_(head.bias)
    predictor = PushPredictor(head, ActionNormalizer.identity(4), 1, SIDE, 32, 1, 2)
    nn.init.normal_(predictor.output.weight, std=0.3)
    if not about_walls:
        predictor.input.weight.data[:, SIDE**2 + 1 : SIDE**2 + 5] = 0.0  # where, which way
    return predictor.requires_grad_(False)


def change(predictor: PushPredictor, picture: Tensor, push: list[float]) -> Tensor:
    """Of a picture (SIDE, SIDE)."""
    latent = torch.cat([picture.flatten(), torch.zeros(1)])[None, None]
    after = predictor(latent, predictor.embed(torch.tensor(push).view(1, 1, 4)))
    return (after - latent[:, 0])[0, :-1].view(SIDE, SIDE)


@pytest.fixture(scope="module")
def picture() -> Tensor:
    found = torch.zeros(SIDE, SIDE)
    found[2:6, 2:6] = torch.rand(4, 4, generator=torch.Generator().manual_seed(1))
    return found


def test_a_quarter_turn_of_picture_and_push_turns_the_change(picture: Tensor) -> None:
    predictor = of_pictures()
    before = change(predictor, picture, [-0.2, 0.1, 0.15, 0.05])
    assert before.abs().max() > 0.01
    # rot90 takes what lies to the right, (x, y), to the top, (y, -x): y points down.
    turned = change(predictor, picture.rot90(), [0.1, 0.2, 0.05, -0.15])
    torch.testing.assert_close(turned, before.rot90(), rtol=1e-4, atol=1e-5)


def test_moved_picture_and_push_move_the_change(picture: Tensor) -> None:
    predictor, one = of_pictures(), 2 / SIDE  # px, in units of half the side
    before = change(predictor, picture, [-0.2, 0.1, 0.0, 0.0])
    moved = change(predictor, picture.roll(1, 1), [-0.2 + one, 0.1, one, 0.0])
    torch.testing.assert_close(moved[:, 1:], before[:, :-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("push", "row", "column"),
    [
        ([-0.5, 0.1, 0.1, 0.1], 5, 2),  # to the right
        ([0.2, 0.6, 0.2, -0.1], 6, 5),  # up
        ([0.5, 0.5, -0.2, -0.1], 5, 3),
    ],
)
def test_a_change_is_put_where_it_was_seen(push: list[float], row: int, column: int) -> None:
    """Of a light place in the picture that one sample of the grid sees."""
    predictor, index = of_pictures(), row * SIDE + column
    predictor.output.weight.zero_()
    predictor.output.bias.fill_(-20.0)
    predictor.output.bias[: SIDE**2] = 0.0
    predictor.output.bias[index], predictor.output.bias[SIDE**2 + index] = 1.0, 20.0
    found = change(predictor, torch.zeros(SIDE, SIDE), push)
    assert found.max() > 0.1
    start, end = torch.tensor(push).view(2, 2)
    along = (end - start) / (end - start).norm()
    across = torch.stack([-along[1], along[0]])
    middles = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    ahead = middles[row] * (BEHIND + AHEAD) / 2 + (AHEAD - BEHIND) / 2
    expected = end + ahead * along + middles[column] * across
    cells = torch.stack(torch.meshgrid(middles, middles, indexing="xy"), -1)  # x, y
    center = (found[..., None] * cells).sum((0, 1)) / found.sum()
    torch.testing.assert_close(center, expected, atol=0.6 / SIDE, rtol=0)
    # And it is there that a light place is seen.
    predictor.input.weight.zero_()
    predictor.input.bias.zero_()
    predictor.input.weight[:, index] = 1.0
    seen: list[Tensor] = []
    hook = predictor.input.register_forward_hook(lambda _, __, out: seen.append(out[0, 0]))
    change(predictor, (-(cells - expected).square().sum(-1) * 16).exp(), push)
    change(predictor, (-(cells - expected - 0.5).square().sum(-1) * 16).exp(), push)
    hook.remove()
    assert seen[0] > 0.5 > 0.1 > seen[1]


def test_autocast_does_not_round_places() -> None:
    generator = torch.Generator().manual_seed(3)
    pictures = torch.randn(2, 1, SIDE, SIDE, generator=generator)
    maps = 0.4 * torch.randn(2, 6, generator=generator)
    middles = ((torch.arange(SIDE) + 0.5) / SIDE * 2 - 1)[:, None]
    expected = _sample(pictures, maps, middles, "zeros")
    assert expected.abs().max() > 0.1
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(_sample(pictures, maps, middles, "zeros"), expected)


def test_walls_are_told(picture: Tensor) -> None:
    predictor, one = of_pictures(about_walls=True), 2 / SIDE
    before = change(predictor, picture, [-0.2, 0.1, 0.0, 0.0])
    moved = change(predictor, picture.roll(1, 1), [-0.2 + one, 0.1, one, 0.0])
    assert (moved[:, 1:] - before[:, :-1]).abs().max() > 1e-3


def test_an_untrained_one_changes_nothing() -> None:
    head = nn.Linear(SIDE**2, 5)
    predictor = PushPredictor(head, ActionNormalizer.identity(4), 2, SIDE, 16, 1, 0)
    latents = torch.randn(3, 1, 7)
    after = predictor.unroll(latents, predictor.embed(torch.randn(3, 4, 1, 4)).flatten(1, 2))
    torch.testing.assert_close(after, latents.expand(3, 4, 7))


def test_steps_follow_each_other_and_rows_are_apart(make_model: Any) -> None:
    model = make_model("gbp/Rope-v0", **PUSH).eval()
    start = Latent(torch.randn(2, 1, 1, 6), torch.randn(2, 1, 1))
    actions, none = torch.randn(4, 3, 4), torch.zeros(2, 0, 4)
    together = model.rollout(start, none, actions)
    for row in range(4):
        latent = Latent(*(part[row // 2 : row // 2 + 1] for part in start))
        for step in range(3):
            after = model.rollout(latent, none[:1], actions[row : row + 1, step : step + 1])
            expected = Latent(*(part[row : row + 1, step : step + 1] for part in together))
            torch.testing.assert_close(join(after), join(expected), rtol=1e-4, atol=1e-5)
            latent = after


@pytest.mark.parametrize("trained", [False, True])
def test_gradients_agree_with_differences(make_model: Any, trained: bool) -> None:
    model = make_model("gbp/Rope-v0", **PUSH).eval().requires_grad_(trained).double()
    generator = torch.Generator().manual_seed(2)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    start = Latent(draw(1, 1, 1, 6), draw(1, 1, 1))
    actions, none = (0.3 * draw(3, 2, 4)).requires_grad_(), torch.zeros(1, 0, 4).double()
    assert torch.autograd.gradcheck(lambda a: join(model.rollout(start, none, a)), (actions,))


def test_a_push_of_no_length_has_finite_gradients(make_model: Any) -> None:
    model = make_model("gbp/Rope-v0", **PUSH).eval()
    start = Latent(torch.randn(1, 1, 1, 6), torch.zeros(1, 1, 1))
    actions = torch.zeros(2, 2, 4, requires_grad=True)
    rolled = join(model.rollout(start, torch.zeros(1, 0, 4), actions))
    rolled.square().sum().backward()
    assert rolled.isfinite().all()
    assert actions.grad is not None
    assert actions.grad.isfinite().all()


def test_the_encoder_is_the_models_own(make_model: Any) -> None:
    model = make_model("gbp/Rope-v0", **PUSH).eval()
    start = Latent(torch.randn(1, 1, 1, 6), torch.zeros(1, 1, 1))
    actions, none = torch.randn(1, 2, 4), torch.zeros(1, 0, 4)
    twin = copy.deepcopy(model)
    before = join(model.rollout(start, none, actions))
    torch.testing.assert_close(join(twin.rollout(start, none, actions)), before)
    with torch.no_grad():
        twin.encoder.head.weight.mul_(0.5)
    assert not torch.allclose(join(twin.rollout(start, none, actions)), before, atol=1e-4)
    torch.testing.assert_close(join(model.rollout(start, none, actions)), before)
    assert not any("_shared" in name or "head" in name for name in model.predictor.state_dict())


def test_an_ensemble_of_equal_members_predicts_as_one(make_model: Any) -> None:
    alone = make_model("gbp/Rope-v0", **PUSH).eval()
    two = make_model("gbp/Rope-v0", ensemble_size=2, **PUSH).eval()
    two.encoder.load_state_dict(alone.encoder.state_dict())
    for member in two.predictor.members:
        member.load_state_dict(alone.predictor.state_dict())
    start = Latent(torch.randn(1, 1, 1, 6), torch.randn(1, 1, 1))
    actions, none = torch.randn(2, 3, 4), torch.zeros(1, 0, 4)
    one = alone.rollout(start, none, actions)
    both = two.rollout(Latent(start.visual.expand(1, 1, 2, 6), start.proprio), none, actions)
    torch.testing.assert_close(both.visual, one.visual.expand(2, 3, 2, 6))
    torch.testing.assert_close(both.proprio, one.proprio)


def test_checkpoint_round_trip_and_agent(make_model: Any, tmp_path: Path) -> None:
    model = make_model("gbp/Rope-v0", **PUSH).eval()
    save_checkpoint(tmp_path / "model", model)
    again, _ = load_checkpoint(tmp_path / "model")
    start = Latent(torch.randn(1, 1, 1, 6), torch.zeros(1, 1, 1))
    actions, none = torch.randn(2, 3, 4), torch.zeros(1, 0, 4)
    after = join(again.rollout(start, none, actions))
    torch.testing.assert_close(after, join(model.rollout(start, none, actions)))
    env = gym.make("gbp/Rope-v0", image_size=16)
    for precision in ("fp32", "bf16"):
        planner = GradientPlanner(GradientConfig(steps=2))
        agent = WorldModelMPCAgent(again, planner, config=MPCConfig(2, precision=precision))
        observation, _ = env.reset(seed=0)
        assert env.action_space.contains(agent.act(observation))
    assert agent.plan(observation).gradient_steps == 2
    assert agent.plan(observation).cost.isfinite().all()


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": "keypoints"},
        {"frameskip": 2},
        {"history": 2},
        {"env_id": "gbp/Wall-v0"},
        {"env_id": "gbp/Wall-v0", "frameskip": 2},
    ],
)
def test_what_are_no_pushes_is_refused(make_model: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="push_grid is for one push"):
        make_model(**{"env_id": "gbp/Rope-v0", **PUSH, **changes})
    with pytest.raises(ValueError, match="push_grid"):
        make_model("gbp/Rope-v0", **{**PUSH, "push_grid": -1})
