"""What an agent gives its planner to start from, and how it looks up the nearest of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planning_problems import H, M, run, small
from torch import Tensor

from gbp_agent import (
    GoalObjective,
    StateConfig,
    StateCost,
    StateWorldModel,
    TrajectoryDataset,
    load_checkpoint,
)
from gbp_agent.checkpoint import save_checkpoint
from gbp_agent.data.latents import LatentDataset
from gbp_agent.planners import PLANNERS
from gbp_agent.proposals import make_proposals, project
from gbp_agent.training.pieces import keep_proposals
from gbp_agent.training.principal import principal_directions
from gbp_agent.types import Latent

STEPS, NUMBER = 6, 5
FIRST = np.zeros(2, np.int64)  # plans that were made before
OBJECTIVES = (
    GoalObjective(),
    GoalObjective(proprio_weight=(2.0, 0.0), frames="all", base=3.0),
    GoalObjective(frames="all", step_cost=0.1),
)


@pytest.fixture
def model(make_model: Any, wall_data: TrajectoryDataset, tmp_path: Path) -> Any:
    """A random model whose proposals have keys that hold all of the visual latent."""
    made = make_model(proposals=NUMBER, proposal_steps=STEPS, proposal_keys=4)
    latents = LatentDataset.encode(made, wall_data, tmp_path / "z.npy", progress=False)
    keep_proposals(made, latents, np.arange(12), seed=0)
    return made


def problems(model: Any, rows: int) -> tuple[Latent, Latent]:
    """Starts (rows, 1) and goals (rows,) at random."""
    generator = torch.Generator().manual_seed(1)
    visual, proprio = (torch.randn(rows, 2, *s, generator=generator) for s in ((1, 4), (2,)))
    return Latent(visual[:, :1], proprio[:, :1]), Latent(visual[:, 1], proprio[:, 1])


@pytest.mark.parametrize("objective", OBJECTIVES, ids=["last", "all", "arrival"])
def test_goals_that_change_are_looked_up_anew(objective: GoalObjective, model: Any) -> None:
    """What is kept of a goal serves it alone, also where the caller writes over its tensors."""
    kept = make_proposals(model, objective, 3, 4)
    start, goal = problems(model, 2)
    swapped = Latent(*(part.flip(0) for part in goal))
    goals = [goal, goal, swapped, Latent(*(part[:1] for part in goal)), goal]
    for asked in goals:
        begun = Latent(*(part[: len(asked.proprio)] for part in start))
        alone = make_proposals(model, objective, 3, 4)
        assert torch.equal(kept(begun, asked, FIRST), alone(begun, asked, FIRST))
    for part, other in zip(goal, swapped, strict=True):
        part.copy_(other.clone())
    assert torch.equal(kept(start, goal, FIRST), kept(start, swapped, FIRST))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=["last", "all", "arrival"])
def test_the_nearest_are_looked_up(objective: GoalObjective, model: Any) -> None:
    """As if every piece of every proposal had been compared with the problem, one by one."""
    horizon, count = 4, 3
    start, goal = problems(model, 2)
    found = make_proposals(model, objective, count, horizon)(start, goal, FIRST)
    assert found.shape == (2, count, horizon, 4)
    known = model.proposal_keys.float()
    along = Latent((known[..., :4] @ model.proposal_basis.T).unsqueeze(-2), known[..., 4:])
    for row in range(2):
        costs, pieces = [], []
        here = Latent(*(part[row, :1] for part in start))
        there = Latent(*(part[row : row + 1] for part in goal))
        for number in range(NUMBER):
            for first in range(STEPS - horizon + 1):
                frames = slice(first, first + horizon + 1)
                piece = Latent(*(part[number : number + 1, frames] for part in along))
                away = GoalObjective(objective.proprio_weight)(
                    Latent(piece.visual[:, :1], piece.proprio[:, :1]), here
                )
                later = Latent(piece.visual[:, 1:], piece.proprio[:, 1:])
                costs.append(float(away + objective(later, there)))
                pieces.append(model.proposals[number, first : first + horizon])
        for plan, cost in zip(found[row], sorted(costs), strict=False):  # two may cost the same
            same = [torch.equal(plan, piece) for piece in pieces]
            own = np.array(costs)[same]
            assert np.isclose(own, cost, rtol=1e-4).any()


def test_a_look_up_of_one_problem_is_that_of_many(model: Any) -> None:
    propose = make_proposals(model, GoalObjective(), 6, 3)
    start, goal = problems(model, 4)
    together = propose(start, goal, np.zeros(4, np.int64))
    for row in range(4):
        own = (Latent(*(p[row : row + 1] for p in part)) for part in (start, goal))
        alone = propose(*own, FIRST[:1])
        assert torch.equal(together[row], alone[0])


@pytest.mark.parametrize(("count", "found"), [(None, NUMBER), (0, 0), (1, 1), (99, NUMBER * 3)])
def test_how_many(count: int | None, found: int, model: Any) -> None:
    proposals = make_proposals(model, GoalObjective(), count, 4)(*problems(model, 2), FIRST)
    assert proposals.shape[-3:] == (found, 4, 4)


def test_without_a_goal_objective_the_first_are_taken(model: Any) -> None:
    objective = StateCost(lambda state: state.sum(-1), model.proprio_normalizer)
    found = make_proposals(model, objective, 2, 4)(*problems(model, 2), FIRST)
    assert torch.equal(found, model.proposals[:2, :4])


def test_other_proposals_for_every_plan_of_an_episode(make_model: Any) -> None:
    model = make_model(proposals=40, proposal_steps=STEPS)
    propose = make_proposals(model, GoalObjective(), 10, 4)

    def proposed(*plans: int) -> Tensor:
        return propose(*problems(model, len(plans)), np.array(plans))

    assert torch.equal(proposed(0, 0), model.proposals[:10, :4])
    known = [proposed(plan) for plan in range(4)]
    for plans in ([3, 0, 1], [2, 2, 0]):
        assert torch.equal(proposed(*plans), torch.stack([known[plan] for plan in plans]))
    seen = {tuple(piece.flatten().tolist()) for piece in torch.cat(known)}
    assert 20 < len(seen) <= 40
    for piece in known[1]:
        assert (piece == model.proposals[:, :4]).all((1, 2)).sum() == 1
    every = make_proposals(model, GoalObjective(), 40, 4)(*problems(model, 2), np.array([1, 5]))
    assert torch.equal(every, model.proposals[:, :4])


def test_proposals_that_are_too_short_are_left_out(model: Any) -> None:
    found = make_proposals(model, GoalObjective(), None, STEPS + 1)(*problems(model, 2), FIRST)
    assert found.shape == (0, STEPS + 1, 4)


def test_keys_are_kept_in_a_checkpoint(model: Any, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "saved", model)
    loaded, _ = load_checkpoint(tmp_path / "saved")
    arguments = problems(model, 2)
    found, expected = (
        make_proposals(made, GoalObjective(), 2, 3)(*arguments, FIRST) for made in (loaded, model)
    )
    assert found.shape == (2, 2, 3, 4)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("pixels", [False, True], ids=["state", "narrow latent"])
def test_more_keys_than_the_latent_has(pixels: bool, make_model: Any, tmp_path: Path) -> None:
    """A state model has no visual latent, and its vector alone says which piece fits."""
    settings = {"proposals": 3, "proposal_steps": STEPS, "proposal_keys": 8, "frameskip": 2}
    if pixels:
        model = make_model(**settings)
    else:
        model = StateWorldModel(StateConfig("Pendulum-v1", 3, (-2.0,), (2.0,), **settings))
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(200, model.latent_width, generator=generator)
    actions = torch.randn(200, len(model.config.action_low), generator=generator)
    dataset = LatentDataset(frames, actions, torch.tensor([0]), torch.tensor([200]))
    keep_proposals(model, dataset, np.array([0]), seed=0)
    save_checkpoint(tmp_path / "saved", model)
    model, _ = load_checkpoint(tmp_path / "saved")
    horizon = 4
    nearest = make_proposals(model, GoalObjective(), 1, horizon)
    for number in range(3):
        plan = model.proposals[number, 1 : 1 + horizon]
        row = next(i for i in range(200) if torch.allclose(actions[i : i + 2].flatten(), plan[0]))
        start = model.split(frames[None, None, row])
        goal = model.split(frames[None, row + 2 * horizon])
        assert torch.equal(nearest(start, goal, FIRST[:1])[0, 0], plan)


def test_keys_keep_distances_along_the_principal_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    plane = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q[:, :2]
    points = torch.randn(50, 2, generator=generator) @ plane.T + 3
    basis = principal_directions(points, 2)
    keys = project(Latent(points.unsqueeze(1), torch.zeros(50, 0)), basis)
    exact = "donot_use_mm_for_euclid_dist"
    found, expected = (torch.cdist(x, x, compute_mode=exact) for x in (keys, points))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def bowl(actions: Tensor) -> Tensor:
    return (actions - 0.3).square().mean((-2, -1))


@pytest.mark.parametrize("name", PLANNERS)
def test_planners_take_proposals_of_each_problem(name: str) -> None:
    """A problem's own proposals count for it alone."""
    each = torch.randn(3, 7, H, M, generator=torch.Generator().manual_seed(2))
    planner = small(name)
    together = run(planner, bowl, 3, proposals=each)
    for row in range(3):
        alone = run(planner, bowl, 1, proposals=each[row])
        torch.testing.assert_close(together.model_actions[row], alone.model_actions[0])
    with pytest.raises(ValueError, match="each problem's own with a leading 3"):
        run(planner, bowl, 3, proposals=each[:2])
