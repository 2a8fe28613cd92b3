"""The planners that sample: chunks, elites, weights and the moving mean."""

from __future__ import annotations

import math

import pytest
import torch
from planning_problems import CHUNKED, H, M, every_planner, linear_problem, run, small
from torch import Tensor

from gbp_agent.planners import (
    CEMConfig,
    CEMPlanner,
    GradCEMConfig,
    GradCEMPlanner,
    MPPIConfig,
    MPPIPlanner,
)
from gbp_agent.types import CostFunction, Planner


@pytest.mark.parametrize("name", sorted(CHUNKED))
@pytest.mark.parametrize("limit", [1, 7, 64])
def test_chunks_respect_the_limit_and_change_nothing(name: str, limit: int) -> None:
    problem = linear_problem()
    sizes: list[int] = []

    def cost(actions: Tensor) -> Tensor:
        assert actions.shape[0] == 4
        sizes.append(actions.shape[0] * actions.shape[1])
        return problem.cost(actions)

    whole = run(CHUNKED[name](samples=50), problem.cost)
    parts = run(CHUNKED[name](samples=50, max_rollouts=limit), cost)
    assert max(sizes) == max(4, limit // 4 * 4)
    torch.testing.assert_close(parts.model_actions, whole.model_actions, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(parts.cost_trace, whole.cost_trace, atol=1e-4, rtol=1e-4)
    assert parts.evaluations == whole.evaluations


def test_gradcem_ranks_the_refined_samples() -> None:
    """Adam's first step has length 0.3 in every number, towards a goal far away."""
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions.detach().clone())
        return (actions - 100).square().sum(dim=(-2, -1))

    config = GradCEMConfig(samples=2, elites=2, iterations=2, gradient_steps=2, learning_rate=0.3)
    run(GradCEMPlanner(config), cost, low=-200, high=200)
    drawn, _, refined, again, _, _ = seen
    torch.testing.assert_close(refined, drawn + 0.6, atol=1e-2, rtol=0)
    torch.testing.assert_close(again[:, 0], refined.mean(dim=1))


@pytest.mark.parametrize("name", ["cem", "mppi"])
def test_a_mean_is_among_the_next_samples_and_may_be_the_best(name: str) -> None:
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        costs = (actions - 1).square().sum(dim=(-2, -1))
        seen.append(costs)
        return costs

    planners: dict[str, Planner] = {
        "cem": CEMPlanner(CEMConfig(iterations=5)),
        "mppi": MPPIPlanner(MPPIConfig(iterations=4, temperature=0.1)),
    }
    result = run(planners[name], cost)
    assert [costs.shape[1] for costs in seen] == [300] * len(result.cost_trace)
    *before, last = seen
    assert bool((last[:, 0] < torch.cat(before, dim=1).amin(dim=1)).all())
    assert torch.equal(result.cost, torch.cat(seen, dim=1).amin(dim=1))


def half_feasible(seen: list[Tensor]) -> CostFunction:
    """A flat cost that is finite only where the very first number is not positive."""

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions.clone())
        return torch.where(actions[..., 0, 0] <= 0, 1.0, math.nan)

    return cost


@pytest.mark.parametrize("name", ["cem", "mppi"])
def test_candidates_without_a_finite_cost_have_no_part_in_the_mean(name: str) -> None:
    seen: list[Tensor] = []
    planners: dict[str, Planner] = {
        "cem": CEMPlanner(CEMConfig(samples=50, elites=50, iterations=2)),
        "mppi": MPPIPlanner(MPPIConfig(samples=50, iterations=2)),
    }
    run(planners[name], half_feasible(seen), 1)
    samples, mean = seen[0][0], seen[-1][0, 0]
    torch.testing.assert_close(mean, samples[samples[:, 0, 0] <= 0].mean(dim=0))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, math.sqrt(1 - 2 / math.pi)),  # the standard deviation of a half-normal number
        ({"momentum": 0.75}, 0.75 + 0.25 * math.sqrt(1 - 2 / math.pi)),
        ({"min_std": 1.5}, 1.5),
    ],
)
def test_cem_fits_the_standard_deviation(settings: dict[str, float], expected: float) -> None:
    seen: list[Tensor] = []
    config = CEMConfig(samples=3000, elites=3000, iterations=2, **settings)  # type: ignore[arg-type]
    run(CEMPlanner(config), half_feasible(seen), 1, low=-math.inf, high=math.inf)
    assert float(seen[-1][0, :, 0, 0].std()) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("name", ["cem", "mppi"])
def test_a_search_without_finite_costs_stays_where_it_is(name: str) -> None:
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions.clone())
        return actions.sum(dim=(-2, -1)) * math.nan

    initial, warm = torch.full((4, H, M), 0.5), torch.ones(4, dtype=torch.bool)
    run(CHUNKED[name](), cost, initial=initial, warm=warm)
    assert all(torch.equal(samples[:, 0], initial) for samples in seen)
    spread = [float(samples.std()) for samples in seen[:-1]]
    assert min(spread) > 0.9 * max(spread)


@pytest.mark.parametrize(("scarce_from", "searches"), [(0, 1), (1, 2), (3, 1)])
def test_cem_searches_again_where_later_elites_had_no_finite_cost(
    scarce_from: int, searches: int
) -> None:
    """From the same noise, and what other rows get is the same to the bit."""
    seen: list[Tensor] = []

    def cost(actions: Tensor, scarce: float = math.nan) -> Tensor:
        late = len(seen) % 3 >= scarce_from
        seen.append(actions.clone())
        costs = (actions - 0.5).square().sum(dim=(-2, -1))
        if late:
            costs[1] = torch.where(actions[1, :, 0, 0] < 0, costs[1], scarce)
        return costs

    planner = CEMPlanner(CEMConfig(samples=20, elites=15, iterations=3))
    found = run(planner, cost)
    assert len(seen) == 3 * searches
    assert found.evaluations == searches * 3 * 20
    assert torch.equal(seen[0], seen[-3])
    clean = run(planner, lambda actions: cost(actions, 9.0))
    others = torch.tensor([0, 2, 3])
    assert torch.equal(found.model_actions[others], clean.model_actions[others])
    assert torch.equal(found.cost_trace[:, others], clean.cost_trace[:, others])
    assert float(found.cost[1]) < math.inf


def test_cem_with_momentum_moves_by_the_remaining_share() -> None:
    means: dict[float, Tensor] = {}
    for momentum in (0.0, 0.75):
        seen: list[Tensor] = []
        config = CEMConfig(samples=50, elites=50, iterations=2, momentum=momentum)
        run(CEMPlanner(config), half_feasible(seen))
        means[momentum] = seen[-1][:, 0]
    torch.testing.assert_close(means[0.75], 0.25 * means[0.0])


def test_mppi_follows_the_best_sample_as_the_temperature_falls() -> None:
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions.clone())
        return (actions - 1).square().sum(dim=(-2, -1))

    run(MPPIPlanner(MPPIConfig(iterations=2, temperature=1e-4)), cost)
    best = cost(seen[0]).argmin(dim=1)
    torch.testing.assert_close(seen[1][:, 0], seen[0][torch.arange(4), best])


@pytest.mark.parametrize("normalize", [True, False])
def test_mppi_when_normalised_does_not_depend_on_the_scale_of_the_cost(normalize: bool) -> None:
    problem = linear_problem()
    planner = MPPIPlanner(MPPIConfig(normalize=normalize))
    plain = run(planner, problem.cost).model_actions
    scaled = run(planner, lambda actions: 100 * problem.cost(actions)).model_actions
    assert torch.allclose(plain, scaled, atol=1e-4) == normalize


@every_planner
def test_where_all_plans_cost_the_same_the_earlier_one_stays(name: str) -> None:
    initial = torch.full((2, H, M), 0.3)
    warm = torch.ones(2, dtype=torch.bool)
    result = run(small(name), lambda a: 0.0 * a.sum((-2, -1)) + 1, 2, initial=initial, warm=warm)
    assert torch.equal(result.model_actions, initial)
