"""What holds of every planner: bounds, rows, randomness, and what the result says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from planning_problems import H, M, every_planner, linear_problem, own_cost, run, small
from torch import Tensor


@every_planner
def test_plans_stay_within_the_bounds_of_each_number(name: str) -> None:
    problem = linear_problem()
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions.detach().reshape(-1, M).clone())
        return problem.cost(actions)

    low, high = torch.tensor([0.5, -math.inf]), torch.tensor([0.7, -1.0])
    initial = torch.full((4, H, M), 3.0)
    warm = torch.tensor([True, True, False, False])
    result = run(small(name), cost, initial=initial, warm=warm, low=low, high=high)
    for actions in (result.model_actions, torch.cat(seen)):
        assert bool((actions >= low).all())
        assert bool((actions <= high).all())


@every_planner
@pytest.mark.parametrize("count", [0, 20])
def test_a_row_does_not_depend_on_its_neighbours(name: str, count: int) -> None:
    problem = linear_problem()
    proposals = torch.randn(count, H, M, generator=torch.Generator().manual_seed(4))
    initial = torch.randn(4, H, M, generator=torch.Generator().manual_seed(3))
    warm = torch.tensor([True, False, True, False])
    together = run(small(name), problem.cost, initial=initial, warm=warm, proposals=proposals)
    for index in range(4):
        rows = slice(index, index + 1)
        alone = run(
            small(name),
            problem.row(index).cost,
            1,
            initial=initial[rows],
            warm=warm[rows],
            proposals=proposals,
        )
        assert alone.evaluations == together.evaluations
        torch.testing.assert_close(
            alone.model_actions, together.model_actions[rows], atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(
            alone.cost_trace, together.cost_trace[:, rows], atol=1e-4, rtol=1e-4
        )


@every_planner
def test_the_generator_alone_decides(name: str) -> None:
    problem = linear_problem()
    torch.manual_seed(1)
    first = run(small(name), problem.cost, seed=5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = run(small(name), problem.cost, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    other = run(small(name), problem.cost, seed=6)
    assert torch.equal(first.model_actions, again.model_actions)
    assert not torch.equal(first.model_actions, other.model_actions)


@every_planner
def test_the_result_describes_the_plan(name: str) -> None:
    problem = linear_problem()
    planner = small(name)
    result = run(planner, problem.cost)
    torch.testing.assert_close(own_cost(problem.cost, result), result.cost)
    assert bool((result.cost_trace.diff(dim=0) <= 0).all())
    assert torch.equal(result.cost_trace[-1], result.cost)
    assert not result.model_actions.requires_grad
    assert result.model_actions.shape == (4, H, M)
    config: Any = planner.config  # type: ignore[attr-defined]
    rows = config.steps + 1 if name == "gradient" else config.iterations
    assert result.cost_trace.shape == (rows, 4)


@every_planner
@pytest.mark.parametrize("count", [0, 20])
def test_evaluations_are_counted_per_problem(name: str, count: int) -> None:
    problem = linear_problem()
    counts = {"evaluations": 0, "gradients": 0}

    def cost(actions: Tensor) -> Tensor:
        counts["evaluations"] += actions.shape[1]
        counts["gradients"] += actions.shape[1] * actions.requires_grad
        return problem.cost(actions)

    result = run(small(name), cost, proposals=torch.ones(count, H, M))
    assert result.evaluations == counts["evaluations"]
    assert result.gradient_steps == counts["gradients"]


@every_planner
def test_warm_rows_start_from_the_initial_plan(name: str) -> None:
    """The first point of a warm row is `initial`, that of another row is zeros."""
    first: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        first.append(actions.detach()[:, 0].clone())
        return actions.square().sum(dim=(-2, -1))

    initial = torch.randn(4, H, M, generator=torch.Generator().manual_seed(0))
    warm = torch.tensor([True, False, True, False])
    run(small(name), cost, initial=initial, warm=warm)
    assert torch.equal(first[0], torch.where(warm[:, None, None], initial, 0.0))


@every_planner
def test_planning_leaves_no_gradients_behind(name: str) -> None:
    model = torch.nn.Linear(H * M, 1)

    def cost(actions: Tensor) -> Tensor:
        return model(actions.flatten(2)).square().squeeze(-1)

    with torch.no_grad():  # a caller's no_grad must not switch the planner's gradients off
        result = run(small(name), cost)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not result.cost.requires_grad
    assert not result.cost_trace.requires_grad


@every_planner
def test_the_dtype_is_that_of_the_initial_plan(name: str) -> None:
    problem = linear_problem()
    initial = torch.zeros(4, H, M, dtype=torch.float64)
    bound = torch.ones(M, dtype=torch.float64)
    result = run(
        small(name), lambda a: problem.cost(a.float()), initial=initial, low=-bound, high=bound
    )
    assert result.model_actions.dtype == result.cost.dtype == torch.float64
