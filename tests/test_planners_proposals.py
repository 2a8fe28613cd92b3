"""Where a search starts when it is given proposals, and what screening them costs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from planning_problems import H, M, every_planner, linear_problem, run, small
from torch import Tensor

from gbp_agent.planners import GradientConfig, GradientPlanner
from gbp_agent.types import CostFunction, Planner, PlannerResult


def some_proposals(count: int) -> Tensor:
    return torch.randn(count, H, M, generator=torch.Generator().manual_seed(11))


def with_settings(planner: Planner, **settings: Any) -> Planner:
    config = replace(planner.config, **settings)  # type: ignore[attr-defined]
    return type(planner)(config)  # type: ignore[call-arg]


def recorded(cost: CostFunction, seen: list[Tensor]) -> CostFunction:
    def record(actions: Tensor) -> Tensor:
        seen.append(actions.detach().clone())
        return cost(actions)

    return record


def distance_from_zero(actions: Tensor) -> Tensor:
    return actions.square().sum(dim=(-2, -1))


def two_wells(actions: Tensor) -> Tensor:
    """A wide minimum of cost 1 at zeros and a narrow one of cost 0 where all numbers are 4."""
    far = (actions - 4).square().sum(dim=(-2, -1))
    near = actions.square().sum(dim=(-2, -1))
    return torch.minimum(1 + 0.1 * near, far)


def nearly_there() -> Tensor:
    """Three proposals, the last of them in the narrow well of `two_wells`."""
    return torch.stack([torch.full((H, M), value) for value in (-1.0, 1.0, 3.9)])


@every_planner
@pytest.mark.parametrize("warm", [False, True])
def test_a_proposal_leads_out_of_a_local_minimum(name: str, warm: bool) -> None:
    initial, warm_rows = torch.full((4, H, M), 0.1), torch.full((4,), warm)

    def plan(planner: Planner, proposals: Tensor | None) -> PlannerResult:
        return run(planner, two_wells, initial=initial, warm=warm_rows, proposals=proposals)

    without = plan(small(name), None)
    ignored = plan(with_settings(small(name), init="zeros"), nearly_there())
    result = plan(small(name), nearly_there())
    start = float(two_wells(torch.full((1, 1, H, M), 3.9)))
    assert float(without.cost.min()) > 0.9
    assert torch.equal(ignored.model_actions, without.model_actions)
    assert ignored.evaluations == without.evaluations
    assert float(result.cost.max()) <= start < 0.1
    assert bool((result.model_actions > 3).all())


@every_planner
def test_the_search_goes_on_from_the_best_proposal(name: str) -> None:
    """Not the proposal itself is returned: something better was found around it."""
    problem = linear_problem()
    proposals = some_proposals(50)
    rolled = problem.cost(proposals.expand(4, -1, -1, -1))
    result = run(small(name), problem.cost, proposals=proposals)
    assert bool((result.cost < rolled.amin(dim=1)).all())


@every_planner
@pytest.mark.parametrize("warm", [False, True])
def test_the_result_is_never_worse_than_the_best_proposal(name: str, warm: bool) -> None:
    """A rugged cost, in which a search finds next to nothing."""
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        costs = (1e4 * actions.sum(dim=(-2, -1))).sin() + distance_from_zero(actions - 1)
        seen.append(costs.detach())
        return costs

    proposals = 1 + 0.3 * some_proposals(40)
    initial = torch.linspace(-1, 1, 4)[:, None, None].expand(4, H, M)
    result = run(
        small(name), cost, proposals=proposals, initial=initial, warm=torch.full((4,), warm)
    )
    best = seen[0][:, 1:].amin(dim=1)
    assert bool((result.cost <= best).all())
    assert bool((result.cost_trace[0] <= best).all())


@every_planner
def test_without_proposals_a_search_starts_as_with_zeros(name: str) -> None:
    problem = linear_problem()
    initial = some_proposals(4)
    warm = torch.tensor([True, False, True, False])
    seen: dict[str, list[Tensor]] = {"proposals": [], "zeros": []}
    results = [
        run(
            with_settings(small(name), init=init),
            recorded(problem.cost, seen[init]),
            initial=initial,
            warm=warm,
        )
        for init in ("proposals", "zeros")
    ]
    assert all(torch.equal(*pair) for pair in zip(*seen.values(), strict=True))
    assert results[0].evaluations == results[1].evaluations


@every_planner
def test_a_row_starts_at_the_cheapest_it_may(name: str) -> None:
    """Rows: warm with a cheaper and with a dearer initial plan, and not warm."""
    seen: list[Tensor] = []
    proposals = torch.stack([torch.full((H, M), value) for value in (2.0, -0.5, 1.0)])
    initial = torch.stack([torch.full((H, M), value) for value in (0.2, 3.0, 0.0)])
    warm = torch.tensor([True, True, False])
    cost = recorded(distance_from_zero, seen)
    run(small(name), cost, 3, proposals=proposals, initial=initial, warm=warm)
    screened, first = seen[0], seen[1][:, 0]
    assert screened.shape[1] == 1 + len(proposals)
    assert torch.equal(first[0], initial[0])
    assert torch.equal(first[1], proposals[1])
    assert torch.equal(first[2], proposals[1])


@every_planner
def test_a_tie_is_the_initial_plans(name: str) -> None:
    seen: list[Tensor] = []
    initial, warm = torch.full((4, H, M), 0.5), torch.ones(4, dtype=torch.bool)
    cost = recorded(distance_from_zero, seen)
    run(small(name), cost, initial=initial, warm=warm, proposals=torch.full((3, H, M), -0.5))
    assert torch.equal(seen[1][:, 0], initial)


@every_planner
def test_proposals_are_clamped_into_the_bounds(name: str) -> None:
    seen: list[Tensor] = []
    proposals = 10 * some_proposals(20)
    cost = recorded(linear_problem().cost, seen)
    result = run(small(name), cost, proposals=proposals, low=-0.5, high=0.7)
    assert torch.equal(seen[0][0, 1:], proposals.clamp(-0.5, 0.7))
    for actions in (*seen, result.model_actions):
        assert -0.5 <= float(actions.min()) <= float(actions.max()) <= float(torch.tensor(0.7))


@every_planner
@pytest.mark.parametrize("limit", [1, 7, 64])
def test_screening_respects_the_limit_and_changes_nothing(name: str, limit: int) -> None:
    problem, proposals = linear_problem(), some_proposals(50)
    sizes: list[int] = []
    gradients: list[bool] = []

    def cost(actions: Tensor) -> Tensor:
        sizes.append(actions.shape[0] * actions.shape[1])
        gradients.append(actions.requires_grad)
        return problem.cost(actions)

    whole = run(small(name), problem.cost, proposals=proposals)
    parts = run(with_settings(small(name), max_rollouts=limit), cost, proposals=proposals)
    assert max(sizes) == max(4, limit // 4 * 4)
    assert not any(gradients[: math.ceil(51 * 4 / max(sizes))])
    torch.testing.assert_close(parts.model_actions, whole.model_actions, atol=1e-4, rtol=1e-4)
    assert parts.evaluations == whole.evaluations


@every_planner
def test_screening_is_counted(name: str) -> None:
    """One roll-out of each proposal, and one of the initial plan or zeros."""
    problem = linear_problem()
    with_none = run(small(name), problem.cost)
    with_nine = run(small(name), problem.cost, proposals=some_proposals(9))
    assert with_nine.evaluations == with_none.evaluations + 10
    assert with_nine.gradient_steps == with_none.gradient_steps
    assert with_nine.cost_trace.shape == with_none.cost_trace.shape


@every_planner
def test_rows_without_a_finite_proposal_start_as_without_proposals(name: str) -> None:
    """Only the last row has a proposal of finite cost."""
    problem, proposals = linear_problem(), some_proposals(6)
    poison = torch.tensor([math.nan, math.inf, -math.inf, 1.0])[:, None]
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        costs = problem.cost(actions)
        return costs * poison if len(seen) == 1 else costs  # only the screening is poisoned

    initial = some_proposals(4)
    warm = torch.tensor([True, False, True, False])
    run(small(name), recorded(cost, seen), initial=initial, warm=warm, proposals=proposals)
    first = seen[1][:, 0]
    assert torch.equal(first[:3], torch.where(warm[:, None, None], initial, 0.0)[:3])
    assert bool((first[3] == proposals).all(dim=(-2, -1)).any())


@pytest.mark.parametrize("restarts", [2, 3, 7])
def test_restarts_are_the_cheapest_proposals(restarts: int) -> None:
    """Row 0 is warm with a dear plan, row 1 is not; beyond the proposals come the defaults."""
    seen: list[Tensor] = []
    proposals = torch.stack([torch.full((H, M), value) for value in (2.0, 0.5, 3.0, 1.0)])
    cheapest = proposals[[1, 3, 0, 2]]
    initial, warm = torch.full((2, H, M), 9.0), torch.tensor([True, False])
    config = GradientConfig(restarts=restarts, steps=0)
    cost = recorded(distance_from_zero, seen)
    run(GradientPlanner(config), cost, 2, proposals=proposals, initial=initial, warm=warm, high=9.0)
    starts = seen[1]
    assert torch.equal(starts[0, :5], torch.cat([initial[:1], cheapest])[:restarts])
    defaults = torch.zeros(1, H, M)
    assert torch.equal(starts[1, :5], torch.cat([cheapest, defaults])[:restarts])
    for further in starts[:, 5:].flatten(0, 1):
        assert float(further.std()) > 0.1


def test_proposals_without_a_finite_cost_are_no_restarts() -> None:
    """Only the first of six is finite: after it come zeros and then noise."""
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        return torch.where(actions[..., 0, 0] == 2, math.nan, distance_from_zero(actions))

    proposals = torch.full((6, H, M), 2.0)
    proposals[0] = 1.0
    config = GradientConfig(restarts=4, steps=0)
    run(GradientPlanner(config), recorded(cost, seen), proposals=proposals)
    assert torch.equal(seen[1][0, :2], torch.stack([proposals[0], torch.zeros(H, M)]))
    assert not bool((seen[1] == 2).any())


def test_early_stopping_does_not_count_the_screening() -> None:
    """The first gradient step sees the cost of the best proposal again, no improvement on it."""
    config = GradientConfig(noise_std=0.0, tolerance=0.01, patience=1)
    proposals = torch.ones(1, H, M)
    result = run(GradientPlanner(config), distance_from_zero, proposals=proposals)
    assert float(result.cost_trace[1].max()) == 0.0  # zeros were rolled out with the proposal
    assert result.gradient_steps > 2
