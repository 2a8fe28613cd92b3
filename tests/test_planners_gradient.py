"""The gradient planner: optimiser steps, starts, restarts and early stopping."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from planning_problems import H, M, gap, linear_problem, run
from torch import Tensor

from gbp_agent.planners import GradientConfig, GradientPlanner
from gbp_agent.planners.common import take_samples
from gbp_agent.planners.optimizers import BETAS, OPTIMIZERS
from gbp_agent.types import PlannerResult


@pytest.mark.parametrize("betas", [BETAS, (0.5, 0.8)])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_optimizers_equal_those_of_torch(optimizer: str, betas: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(2, 3, H, M, generator=generator, dtype=torch.float64)
    reference = points.clone().requires_grad_(True)
    theirs: torch.optim.Optimizer = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.2),
        "momentum": lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr=0.2, betas=betas),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.2, betas=betas),
    }[optimizer]([reference])
    moments = (torch.zeros_like(points), torch.zeros_like(points))
    for step in range(1, 21):
        gradient = torch.randn(points.shape, generator=generator, dtype=torch.float64)
        OPTIMIZERS[optimizer](points, gradient, moments, step, 0.2, betas)
        reference.grad = gradient.clone()
        theirs.step()
        torch.testing.assert_close(points, reference.detach(), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_a_huge_learning_rate_does_no_harm(optimizer: str) -> None:
    problem = linear_problem()
    config = GradientConfig(optimizer=optimizer, learning_rate=1e30, steps=10)  # type: ignore[arg-type]
    zeros = problem.cost(torch.zeros(4, 1, H, M))[:, 0]
    for bound in (5.0, math.inf):
        result = run(GradientPlanner(config), problem.cost, low=-bound, high=bound)
        assert bool((result.cost <= zeros).all())
        assert bool(torch.isfinite(result.model_actions).all())


def test_the_betas_are_adams() -> None:
    """Without memory of earlier gradients each step goes the learning rate far, along its sign."""
    steps = []

    def cost(actions: Tensor) -> Tensor:
        steps.append(actions.detach().clone())
        return (actions - 1).pow(4).sum(dim=(-2, -1))

    settings = {"learning_rate": 0.25, "steps": 6, "noise_std": 0.0, "init": "zeros"}
    run(GradientPlanner(GradientConfig(beta1=0.0, beta2=0.0, **settings)), cost)  # type: ignore[arg-type]
    for number, actions in enumerate(steps[:4]):
        torch.testing.assert_close(actions, torch.full_like(actions, 0.25 * number))


def test_the_final_point_is_evaluated() -> None:
    """One step of gradient descent with the exact step length lands on the optimum."""

    def cost(actions: Tensor) -> Tensor:
        return 0.5 * (actions - 1).square().sum(dim=(-2, -1))

    config = GradientConfig(optimizer="sgd", learning_rate=1.0, steps=1, noise_std=0.0)
    result = run(GradientPlanner(config), cost)
    assert torch.equal(result.model_actions, torch.ones(4, H, M))
    assert torch.equal(result.cost, torch.zeros(4))


def test_a_gradient_that_is_not_finite_leaves_the_point_where_it_is() -> None:
    """The square root has an infinite slope at zero, where the cold rows start."""

    def cost(actions: Tensor) -> Tensor:
        return (actions[..., 0].abs().sqrt() + (actions[..., 1] - 1).square()).sum(dim=-1)

    config = GradientConfig(steps=50, noise_std=0.0)
    result = run(GradientPlanner(config), cost)
    torch.testing.assert_close(result.cost, torch.zeros(4), atol=1e-2, rtol=0)


def test_without_any_finite_cost_the_initial_plan_comes_back() -> None:
    initial, warm = torch.full((4, H, M), 0.5), torch.ones(4, dtype=torch.bool)
    config = GradientConfig(steps=3, noise_std=0.1)
    result = run(
        GradientPlanner(config),
        lambda a: a.sum(dim=(-2, -1)) * math.nan,
        initial=initial,
        warm=warm,
    )
    assert torch.equal(result.model_actions, initial)


def test_no_steps_return_the_initial_plan() -> None:
    initial = torch.randn(4, H, M, generator=torch.Generator().manual_seed(0))
    warm = torch.ones(4, dtype=torch.bool)
    planner = GradientPlanner(GradientConfig(steps=0, init="normal"))
    result = run(planner, linear_problem().cost, initial=initial, warm=warm)
    assert torch.equal(result.model_actions, initial)
    assert (result.evaluations, result.gradient_steps) == (1, 0)


def test_normal_starts_are_spread_and_the_same_for_all_cold_rows() -> None:
    starts: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        starts.append(actions.detach().clone())
        return actions.square().sum(dim=(-2, -1))

    config = GradientConfig(steps=0, init="normal", init_std=0.5, restarts=200)
    initial = torch.ones(2, H, M)
    run(GradientPlanner(config), cost, 2, initial=initial, warm=torch.tensor([True, False]))
    (points,) = starts
    assert torch.equal(points[0, 0], initial[0])
    assert not torch.equal(points[1, 0], torch.zeros(H, M))
    torch.testing.assert_close(points[0, 1:], points[1, 1:] + 1)
    assert float(points[1].std()) == pytest.approx(0.5, rel=0.1)


def test_restarts_escape_a_local_minimum() -> None:
    """Two basins in the first number: a shallow one near zero, the deep one at 2."""

    def cost(actions: Tensor) -> Tensor:
        x = actions[..., 0]
        wells = torch.minimum(x.square() + 1, 4 * (x - 2).square())
        return wells.sum(dim=-1) + actions[..., 1].square().sum(dim=-1)

    single = run(GradientPlanner(GradientConfig(noise_std=0.0)), cost)
    many = run(GradientPlanner(GradientConfig(noise_std=0.0, restarts=64, init_std=2.0)), cost)
    torch.testing.assert_close(single.cost, torch.full((4,), float(H)))
    assert float(many.cost.max()) < 0.1
    assert many.evaluations == 64 * 101


def halved(halvings: int, restarts: int, steps: int) -> tuple[PlannerResult, list[Tensor]]:
    """A search without noise, and the points it evaluated."""
    problem = linear_problem()
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions.detach().clone())
        return problem.cost(actions)

    config = GradientConfig(steps=steps, restarts=restarts, halvings=halvings, noise_std=0.0)
    return run(GradientPlanner(config), cost), seen


def test_a_halving_keeps_the_cheaper_restarts_and_their_moments() -> None:
    _, all_of_them = halved(0, restarts=6, steps=6)
    _, points = halved(1, restarts=6, steps=6)
    assert [p.shape[1] for p in points] == [6, 6, 6, 6, 3, 3, 3]
    kept = linear_problem().cost(points[3]).argsort(dim=1)[:, :3]
    assert len({tuple(row.tolist()) for row in kept}) > 1  # each row has its own
    for step in (4, 5, 6):
        assert torch.equal(points[step], take_samples(all_of_them[step], kept))


def test_halvings_count_what_they_evaluate_and_keep_the_odd_restart() -> None:
    result, points = halved(3, restarts=7, steps=8)
    assert [p.shape[1] for p in points] == [7, 7, 7, 4, 4, 2, 2, 1, 1]
    assert (result.evaluations, result.gradient_steps) == (35, 34)


def test_halvings_come_at_the_same_steps_whatever_rows_are_beside() -> None:
    problem = linear_problem()
    config = GradientConfig(steps=12, warm_steps=5, restarts=8, halvings=2, init="normal")
    warm = torch.tensor([True, False, True, False])
    together = run(GradientPlanner(config), problem.cost, warm=warm)
    for row in range(4):
        alone = run(GradientPlanner(config), problem.row(row).cost, 1, warm=warm[row : row + 1])
        assert torch.equal(alone.model_actions[0], together.model_actions[row])


def test_a_single_restart_is_never_given_up() -> None:
    problem = linear_problem()
    plans = [
        run(GradientPlanner(GradientConfig(steps=4, halvings=halvings)), problem.cost).model_actions
        for halvings in (0, 9)
    ]
    assert torch.equal(*plans)


def test_early_stopping_ends_a_finished_search_row_by_row() -> None:
    problem = linear_problem()
    config = GradientConfig(noise_std=0.0, steps=500, tolerance=1e-3, patience=20)
    result = run(GradientPlanner(config), problem.cost)
    assert result.evaluations == len(result.cost_trace) == result.gradient_steps < 300
    assert float(gap(problem, result, problem.best_plan()).max()) < 0.01
    for index in range(4):
        alone = run(GradientPlanner(config), problem.row(index).cost, 1)
        torch.testing.assert_close(alone.cost, result.cost[index : index + 1])


def test_early_stopping_starts_to_count_at_a_finite_cost() -> None:
    calls = 0

    def cost(actions: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return actions.square().sum(dim=(-2, -1)) + (math.nan if calls == 1 else 0.0)

    initial, warm = torch.ones(4, H, M), torch.ones(4, dtype=torch.bool)
    config = GradientConfig(noise_std=0.0, tolerance=0.01, patience=2)
    result = run(GradientPlanner(config), cost, initial=initial, warm=warm)
    assert float(result.cost.max()) < 0.2


def test_warm_rows_take_as_many_steps_as_they_are_given() -> None:
    """Beside cold rows as well as alone, and their last point counts."""
    problem = linear_problem()
    warm = torch.tensor([True, False, True, False])

    def plan(warm: Tensor, steps: int, warm_steps: int | None = None) -> PlannerResult:
        config = GradientConfig(noise_std=0.0, steps=steps, warm_steps=warm_steps)
        return run(GradientPlanner(config), problem.cost, warm=warm)

    mixed = plan(warm, steps=40, warm_steps=5)
    short, long = plan(warm, steps=5), plan(warm, steps=40)
    torch.testing.assert_close(mixed.cost, torch.where(warm, short.cost, long.cost))
    torch.testing.assert_close(
        mixed.model_actions,
        torch.where(warm[:, None, None], short.model_actions, long.model_actions),
    )
    assert bool((short.cost[warm] > long.cost[warm]).all())
    alone = plan(torch.ones_like(warm), steps=40, warm_steps=5)
    torch.testing.assert_close(alone.cost, short.cost)
    assert len(alone.cost_trace) == 6
    assert alone.gradient_steps == 5
    assert plan(warm, steps=5, warm_steps=40).gradient_steps == 5


@pytest.mark.parametrize("init", ["proposals", "normal"])
@pytest.mark.parametrize(("halvings", "gradient_steps", "points"), [(0, 63, 72), (2, 61, 69)])
def test_warm_rows_have_restarts_and_proposals_of_their_own(
    init: Literal["proposals", "normal"], halvings: int, gradient_steps: int, points: int
) -> None:
    """Alone and beside others alike; for cold rows nothing changes."""
    problem = linear_problem()
    proposals = torch.randn(40, H, M, generator=torch.Generator().manual_seed(4))
    initial = torch.randn(4, H, M, generator=torch.Generator().manual_seed(3))
    warm = torch.tensor([True, False, True, False])
    usual = GradientConfig(steps=12, restarts=16, init=init, halvings=halvings, noise_std=0.01)
    config = replace(usual, warm_steps=7, warm_restarts=9, warm_proposals=10)

    def plan(config: GradientConfig, count: int) -> PlannerResult:
        return run(
            GradientPlanner(config),
            problem.cost,
            initial=initial,
            warm=warm,
            proposals=proposals[:count],
        )

    together, cold = plan(config, 40), plan(usual, 40)
    torch.testing.assert_close(together.model_actions[~warm], cold.model_actions[~warm])
    assert bool((together.cost[warm] > cold.cost[warm]).all())
    for row in range(4):
        rows = slice(row, row + 1)
        alone = run(
            GradientPlanner(config),
            problem.row(row).cost,
            1,
            initial=initial[rows],
            warm=warm[rows],
            proposals=proposals,
        )
        torch.testing.assert_close(alone.model_actions, together.model_actions[rows])
        torch.testing.assert_close(alone.cost, together.cost[rows])
        if warm[row]:
            screened = 11 if init == "proposals" else 0
            assert alone.gradient_steps == gradient_steps
            assert alone.evaluations == screened + points
    if init == "proposals" and halvings == 0:
        quiet = plan(replace(config, noise_std=0.0), 40)
        few = plan(replace(usual, noise_std=0.0, steps=7, restarts=9), 10)
        torch.testing.assert_close(quiet.cost[warm], few.cost[warm])
    limited, given = plan(replace(config, proposals=15), 40), plan(config, 15)
    assert limited.evaluations == given.evaluations
    assert torch.equal(limited.model_actions, given.model_actions)


def test_a_warm_row_of_one_restart_is_alone_beside_others() -> None:
    """It starts at the cheapest proposal where that is cheaper, as it does without a cold row."""
    problem = linear_problem()
    config = GradientConfig(steps=3, restarts=4, warm_restarts=1, learning_rate=0.05, noise_std=0)
    initial = torch.full((4, H, M), 2.0)
    warm = torch.tensor([False, True, True, False])
    proposals = problem.best_plan()[:, None] + 0.1
    both = run(
        GradientPlanner(config), problem.cost, initial=initial, warm=warm, proposals=proposals
    )
    every = torch.ones(4, dtype=torch.bool)
    alone = run(
        GradientPlanner(config), problem.cost, initial=initial, warm=every, proposals=proposals
    )
    torch.testing.assert_close(both.cost[warm], alone.cost[warm])
