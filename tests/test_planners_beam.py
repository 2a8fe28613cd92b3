"""Starts that a beam search puts together of the proposals' steps."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from planning_problems import H, M, every_planner, linear_problem, run, small
from test_planners_proposals import distance_from_zero, recorded, with_settings
from torch import Tensor

from gbp_agent.planners import GradientConfig, GradientPlanner
from gbp_agent.planners.beam import Beam, beam_search

TARGETS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # one for each step


def to_targets(plans: Tensor) -> Tensor:
    """Mean squared distance of each step to its target, also of plans with fewer steps than H."""
    return (plans - TARGETS[: plans.shape[2]]).square().mean((-2, -1))


def out_of_step() -> Tensor:
    """Proposals that hold every target, but none of them in more than one right place."""
    return torch.stack([TARGETS[[0, 0, 0]], TARGETS[[1, 1, 1]], TARGETS[[2, 2, 2]]])


def test_a_beam_that_keeps_everything_finds_the_best_combination() -> None:
    actions = torch.randn(2, 4, M, generator=torch.Generator().manual_seed(1))

    def rugged(plans: Tensor) -> Tensor:
        return (30 * plans.cumsum(2)).sin().sum((-2, -1))

    found = beam_search(rugged, actions, None, H, Beam(16, 4), 4096)
    every = torch.tensor(list(itertools.product(range(4), repeat=H)))
    torch.testing.assert_close(found.costs.amin(1), rugged(actions[:, every]).amin(1))
    torch.testing.assert_close(found.costs, rugged(found.plans))


def test_each_step_is_the_best_behind_those_before_it() -> None:
    actions = TARGETS.expand(2, 3, M)
    found = beam_search(to_targets, actions, None, H, Beam(1, 3), 4096)
    best = found.plans[torch.arange(2), found.costs.argmin(1)]
    assert torch.equal(best, TARGETS.expand(2, H, M))


def test_plans_are_continued_by_different_actions_as_long_as_there_are_some() -> None:
    """The cheapest four continue the two plans of one step, each of them one."""
    actions = torch.arange(6.0)[None, :, None].expand(1, 6, M)
    asked: list[Tensor] = []
    cost = recorded(distance_from_zero, asked)
    beam_search(cost, actions, None, 2, Beam(2, 2), 4096)
    assert asked[0].shape == (1, 6, 1, M)
    assert asked[1][0, :, :, 0].tolist() == [[0, 0], [0, 2], [1, 1], [1, 3]]


def test_hidden_actions_begin_no_plan_and_continue_none() -> None:
    actions = torch.tensor([0.0, 1.0, 2.0, 3.0])[None, :, None].expand(2, 4, M)
    hidden = torch.tensor([[False] * 4, [True, True, False, False]])
    found = beam_search(distance_from_zero, actions, hidden, H, Beam(2, 1), 4096)
    assert float(found.plans[0].amin()) == 0
    assert float(found.plans[1].amin()) == 2


def test_what_costs_nothing_finite_is_not_continued() -> None:
    actions = torch.tensor([0.0, 1.0, 2.0, 3.0])[None, :, None].expand(1, 4, M)

    def cost(plans: Tensor) -> Tensor:
        costs = distance_from_zero(plans)
        return torch.where((plans == 0).any(-1).any(-1), math.nan, costs)

    found = beam_search(cost, actions, None, H, Beam(2, 1), 4096)
    assert bool(found.costs.isfinite().all())
    assert float(found.plans.amin()) == 1


@every_planner
def test_every_planner_starts_from_the_beam(name: str) -> None:
    proposals = out_of_step()
    beamed = with_settings(small(name), init="beam", beam_width=3, beam_branches=3)
    result = run(beamed, to_targets, proposals=proposals)
    assert float(result.cost.max()) < 1e-12
    torch.testing.assert_close(result.model_actions, TARGETS.expand(4, H, M))
    plain = run(small(name), to_targets, proposals=proposals)
    assert float(plain.cost_trace[0].min()) > 0.01


@every_planner
@pytest.mark.parametrize("most", [1, 7, 4096])
def test_roll_outs_are_counted_in_whole_plans(name: str, most: int) -> None:
    """Shorter ones by the share of the steps that they have, and never too many at once."""
    problem = linear_problem()
    seen: list[Tensor] = []
    proposals = torch.randn(5, H, M, generator=torch.Generator().manual_seed(2))
    settings = {"beam_width": 2, "beam_branches": 2, "max_rollouts": most}
    planner = with_settings(small(name), init="beam", **settings)
    result = run(planner, recorded(problem.cost, seen), proposals=proposals)
    steps = sum(plans.shape[1] * plans.shape[2] for plans in seen)
    gradients = 0 if name in ("gradient", "gradcem") else result.gradient_steps
    assert result.evaluations + gradients == math.ceil(steps / H)
    assert {plans.shape[2] for plans in seen} == {1, 2, 3}
    screened = [plans for plans in seen if plans.shape[2] < H]
    assert max(plans.shape[0] * plans.shape[1] for plans in screened) <= max(4, most)


@every_planner
def test_without_proposals_there_is_no_beam(name: str) -> None:
    problem = linear_problem()
    without = run(small(name), problem.cost)
    beamed = run(with_settings(small(name), init="beam"), problem.cost)
    assert torch.equal(beamed.model_actions, without.model_actions)
    assert beamed.evaluations == without.evaluations


@every_planner
def test_steps_lie_within_the_bounds(name: str) -> None:
    seen: list[Tensor] = []
    planner = with_settings(small(name), init="beam")
    proposals = 3 * torch.randn(6, H, M, generator=torch.Generator().manual_seed(2))
    run(planner, recorded(distance_from_zero, seen), proposals=proposals, low=-0.5, high=0.25)
    assert min(float(plans.min()) for plans in seen) == -0.5
    assert max(float(plans.max()) for plans in seen) == 0.25


@every_planner
def test_a_row_does_not_depend_on_its_neighbours(name: str) -> None:
    """Each with proposals of its own; two of them warm."""
    problem = linear_problem()
    noise = torch.Generator().manual_seed(3)
    proposals, initial = torch.randn(4, 6, H, M, generator=noise), torch.randn(4, H, M)
    warm = torch.tensor([True, False, True, False])
    planner = with_settings(small(name), init="beam", beam_width=3, beam_branches=2)
    together = run(planner, problem.cost, initial=initial, warm=warm, proposals=proposals)
    for index in range(4):
        row = slice(index, index + 1)
        alone = run(
            planner, problem.row(index).cost, 1,
            initial=initial[row], warm=warm[row], proposals=proposals[row],
        )  # fmt: skip
        close = {"atol": 1e-4, "rtol": 1e-4}
        torch.testing.assert_close(alone.model_actions, together.model_actions[row], **close)


def test_warm_rows_may_look_at_fewer_proposals() -> None:
    """The last of three proposals is the best, and only the cold row may take its steps."""
    proposals = torch.stack([torch.full((H, M), value) for value in (2.0, 1.0, 0.1)])
    settings = GradientConfig(
        steps=0, init="beam", restarts=2, warm_proposals=2, beam_width=2, beam_branches=2
    )
    initial, warm = torch.full((2, H, M), 3.0), torch.tensor([True, False])
    result = run(
        GradientPlanner(settings), lambda plans: distance_from_zero(plans - 0.1), 2,
        initial=initial, warm=warm, proposals=proposals,
    )  # fmt: skip
    assert torch.equal(result.model_actions[0], proposals[1])
    assert torch.equal(result.model_actions[1], proposals[2])


def test_a_warm_row_that_may_look_at_none_goes_on_with_its_plan() -> None:
    settings = GradientConfig(steps=0, init="beam", restarts=2, warm_proposals=0)
    initial, warm = torch.full((2, H, M), 3.0), torch.tensor([True, False])
    proposals = torch.full((2, H, M), 0.5)
    result = run(
        GradientPlanner(settings), lambda plans: distance_from_zero(plans - 0.5), 2,
        initial=initial, warm=warm, proposals=proposals,
    )  # fmt: skip
    assert float(result.cost[1]) == 0
    assert float((result.model_actions[0] - 0.5).abs().min()) > 1


@pytest.mark.parametrize("setting", ["beam_width", "beam_branches"])
@pytest.mark.parametrize("value", [0, 1.5, True])
@every_planner
def test_a_beam_of_no_width_is_refused(name: str, setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=setting):
        with_settings(small(name), **{setting: value})
