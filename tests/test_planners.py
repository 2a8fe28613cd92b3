"""Every planner on a linear model with a quadratic cost, whose best plan is known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gbp_agent.planners import (
    PLANNERS,
    CEMConfig,
    CEMPlanner,
    GradCEMConfig,
    GradCEMPlanner,
    GradientConfig,
    GradientPlanner,
    MPPIConfig,
    MPPIPlanner,
    make_planner,
)
from gbp_agent.planners.common import OPTIMIZERS
from gbp_agent.types import CostFunction, Planner, PlannerResult

H, M = 3, 2
RIDGE = 0.1
CHUNKED: dict[str, Callable[..., Planner]] = {
    "cem": lambda **settings: CEMPlanner(CEMConfig(iterations=5, **settings)),
    "gradcem": lambda **settings: GradCEMPlanner(GradCEMConfig(iterations=3, **settings)),
    "mppi": lambda **settings: MPPIPlanner(MPPIConfig(**settings)),
}
every_planner = pytest.mark.parametrize("name", sorted(PLANNERS))


@dataclass(frozen=True)
class LinearProblem:
    """x_{t+1} = x_t + G a_t, cost |x_H - goal|² + RIDGE · Σ|a_t|²; start and goal (B, M)."""

    gain: Tensor
    start: Tensor
    goal: Tensor

    def cost(self, actions: Tensor) -> Tensor:
        reached = self.start[:, None] + actions.sum(dim=2) @ self.gain.T
        miss = (reached - self.goal[:, None]).square().sum(dim=-1)
        return miss + RIDGE * actions.square().sum(dim=(-2, -1))

    def best_plan(self) -> Tensor:
        """Ridge regression on the stacked actions: (B, H, M)."""
        stacked = self.gain.repeat(1, H)
        normal = stacked.T @ stacked + RIDGE * torch.eye(H * M)
        target = (self.goal - self.start) @ stacked
        return torch.linalg.solve(normal, target.T).T.reshape(-1, H, M)

    def best_plan_in_box(self, low: Tensor, high: Tensor) -> Tensor:
        """For a diagonal gain each number is a problem of its own, equal at all H steps."""
        gain = self.gain.diagonal()
        free = gain * (self.goal - self.start) / (H * gain.square() + RIDGE)
        return free.clamp(low, high)[:, None].expand(-1, H, -1)

    def row(self, index: int) -> LinearProblem:
        rows = slice(index, index + 1)
        return replace(self, start=self.start[rows], goal=self.goal[rows])


def linear_problem(problems: int = 4) -> LinearProblem:
    generator = torch.Generator().manual_seed(7)
    return LinearProblem(
        gain=torch.tensor([[0.9, 0.3], [-0.2, 0.7]]),
        start=torch.randn(problems, M, generator=generator),
        goal=torch.randn(problems, M, generator=generator),
    )


def run(
    planner: Planner,
    cost: CostFunction,
    problems: int = 4,
    *,
    initial: Tensor | None = None,
    warm: Tensor | None = None,
    low: Tensor | float = -5.0,
    high: Tensor | float = 5.0,
    seed: int = 0,
) -> PlannerResult:
    return planner(
        cost,
        torch.zeros(problems, H, M) if initial is None else initial,
        warm=torch.zeros(problems, dtype=torch.bool) if warm is None else warm,
        low=torch.as_tensor(low).expand(M),
        high=torch.as_tensor(high).expand(M),
        generator=torch.Generator().manual_seed(seed),
    )


def small(name: str) -> Planner:
    """A quick planner of each kind, far from converged."""
    planners: dict[str, Planner] = {
        "gradient": GradientPlanner(GradientConfig(steps=5)),
        "cem": CEMPlanner(CEMConfig(samples=20, iterations=4, elites=5)),
        "gradcem": GradCEMPlanner(GradCEMConfig(samples=20, iterations=3, elites=5)),
        "mppi": MPPIPlanner(MPPIConfig(samples=20, iterations=4)),
    }
    return planners[name]


def own_cost(cost: CostFunction, result: PlannerResult) -> Tensor:
    return cost(result.model_actions[:, None])[:, 0]


def gap(problem: LinearProblem, result: PlannerResult, optimum: Tensor) -> Tensor:
    """Excess over the optimal cost, as a fraction of what there was to gain from zeros."""
    best = problem.cost(optimum[:, None])[:, 0]
    zeros = problem.cost(torch.zeros_like(optimum)[:, None])[:, 0]
    return (result.cost - best) / (zeros - best)


@every_planner
def test_finds_the_closed_form_plan(name: str) -> None:
    problem = linear_problem()
    result = run(PLANNERS[name](), problem.cost)
    excess = gap(problem, result, problem.best_plan())
    assert float(excess.min()) > -1e-5
    assert float(excess.max()) < (0.15 if name == "mppi" else 0.01)


def test_mppi_converges_with_narrow_noise_and_low_temperature() -> None:
    problem = linear_problem()
    planner = MPPIPlanner(MPPIConfig(iterations=60, noise_std=0.1, temperature=0.2))
    assert float(gap(problem, run(planner, problem.cost), problem.best_plan()).max()) < 0.01


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_every_optimizer_finds_the_closed_form_plan(optimizer: str) -> None:
    problem = linear_problem()
    rate = {"sgd": 0.1, "momentum": 0.03, "adam": 0.1, "adamw": 0.1}[optimizer]
    config = GradientConfig(optimizer=optimizer, learning_rate=rate, steps=200, noise_std=0.0)  # type: ignore[arg-type]
    result = run(GradientPlanner(config), problem.cost)
    assert float(gap(problem, result, problem.best_plan()).max()) < 1e-3


@every_planner
def test_finds_the_optimum_on_the_box(name: str) -> None:
    problem = replace(
        linear_problem(),
        gain=torch.diag(torch.tensor([1.0, 0.5])),
        start=torch.zeros(4, M),
        goal=torch.tensor([[2.0, -2.0], [-2.0, 2.0], [0.3, 0.1], [2.0, 0.0]]),
    )
    low, high = torch.tensor([-0.2, -0.5]), torch.tensor([0.4, 0.1])
    optimum = problem.best_plan_in_box(low, high)
    assert bool((optimum == high).any())
    assert bool((optimum == low).any())
    result = run(PLANNERS[name](), problem.cost, low=low, high=high)
    excess = gap(problem, result, optimum)
    assert float(excess.min()) > -1e-5
    assert float(excess.max()) < (0.15 if name == "mppi" else 0.01)


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
def test_a_row_does_not_depend_on_its_neighbours(name: str) -> None:
    problem = linear_problem()
    initial = torch.randn(4, H, M, generator=torch.Generator().manual_seed(3))
    warm = torch.tensor([True, False, True, False])
    together = run(small(name), problem.cost, initial=initial, warm=warm)
    for index in range(4):
        rows = slice(index, index + 1)
        alone = run(small(name), problem.row(index).cost, 1, initial=initial[rows], warm=warm[rows])
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
    iterations = config.steps if name == "gradient" else config.iterations
    assert result.cost_trace.shape == (iterations + 1, 4)


@every_planner
def test_evaluations_are_counted_per_problem(name: str) -> None:
    problem = linear_problem()
    counts = {"evaluations": 0, "gradients": 0}

    def cost(actions: Tensor) -> Tensor:
        counts["evaluations"] += actions.shape[1]
        counts["gradients"] += actions.shape[1] * actions.requires_grad
        return problem.cost(actions)

    result = run(small(name), cost)
    assert result.evaluations == counts["evaluations"]
    assert result.gradient_steps == counts["gradients"]


@every_planner
def test_the_best_plan_is_kept_where_the_search_goes_astray(name: str) -> None:
    """The cost is least at the start and its gradient points away from there."""

    class Misleading(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, actions: Tensor) -> Tensor:  # type: ignore[override]
            return actions.square().sum(dim=(-2, -1))

        @staticmethod
        def backward(context: Any, upstream: Tensor) -> Tensor:  # type: ignore[override]
            return -upstream[..., None, None].expand(*upstream.shape, H, M)

    initial = torch.full((4, H, M), 1e-6)
    warm = torch.ones(4, dtype=torch.bool)
    result = run(small(name), Misleading.apply, initial=initial, warm=warm)
    assert torch.equal(result.model_actions, initial)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_a_huge_learning_rate_does_no_harm(optimizer: str) -> None:
    problem = linear_problem()
    config = GradientConfig(optimizer=optimizer, learning_rate=1e30, steps=10)  # type: ignore[arg-type]
    zeros = problem.cost(torch.zeros(4, 1, H, M))[:, 0]
    for bound in (5.0, math.inf):
        result = run(GradientPlanner(config), problem.cost, low=-bound, high=bound)
        assert bool((result.cost <= zeros).all())
        assert bool(torch.isfinite(result.model_actions).all())


def test_the_final_point_is_evaluated() -> None:
    """One step of gradient descent with the exact step length lands on the optimum."""

    def cost(actions: Tensor) -> Tensor:
        return 0.5 * (actions - 1).square().sum(dim=(-2, -1))

    config = GradientConfig(optimizer="sgd", learning_rate=1.0, steps=1, noise_std=0.0)
    result = run(GradientPlanner(config), cost)
    assert torch.equal(result.model_actions, torch.ones(4, H, M))
    assert torch.equal(result.cost, torch.zeros(4))


@every_planner
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_region_without_a_finite_cost_is_avoided(name: str, bad: float) -> None:
    problem = linear_problem()

    def cost(actions: Tensor) -> Tensor:
        outside = actions.abs().amax(dim=(-2, -1)) > 0.2
        return torch.where(outside, problem.cost(actions) * bad, problem.cost(actions))

    result = run(small(name), cost)
    zeros = problem.cost(torch.zeros(4, 1, H, M))[:, 0]
    assert bool((result.cost <= zeros).all())
    assert bool((result.model_actions.abs() <= 0.2).all())


@every_planner
def test_a_row_without_any_finite_cost_harms_no_other(name: str) -> None:
    problem = linear_problem()
    poison = torch.tensor([1.0, math.nan, 1.0, 1.0])[:, None]
    clean = run(small(name), problem.cost)
    result = run(small(name), lambda actions: problem.cost(actions) * poison, low=0.1)
    assert float(result.cost[1]) == math.inf
    assert bool(torch.isfinite(result.model_actions).all())
    assert bool((result.model_actions >= 0.1).all())
    result = run(small(name), lambda actions: problem.cost(actions) * poison)
    keep = torch.tensor([0, 2, 3])
    assert torch.equal(result.model_actions[keep], clean.model_actions[keep])


def test_a_gradient_that_is_not_finite_leaves_the_point_where_it_is() -> None:
    """The square root has an infinite slope at zero, where the cold rows start."""

    def cost(actions: Tensor) -> Tensor:
        return (actions[..., 0].abs().sqrt() + (actions[..., 1] - 1).square()).sum(dim=-1)

    config = GradientConfig(steps=50, noise_std=0.0)
    result = run(GradientPlanner(config), cost)
    torch.testing.assert_close(result.cost, torch.zeros(4), atol=1e-2, rtol=0)


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


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_optimizers_equal_those_of_torch(optimizer: str) -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(2, 3, H, M, generator=generator, dtype=torch.float64)
    reference = points.clone().requires_grad_(True)
    theirs: torch.optim.Optimizer = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.2),
        "momentum": lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr=0.2),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.2),
    }[optimizer]([reference])
    moments = (torch.zeros_like(points), torch.zeros_like(points))
    for step in range(1, 21):
        gradient = torch.randn(points.shape, generator=generator, dtype=torch.float64)
        OPTIMIZERS[optimizer](points, gradient, moments, step, 0.2)
        reference.grad = gradient.clone()
        theirs.step()
        torch.testing.assert_close(points, reference.detach(), rtol=1e-13, atol=1e-14)


def test_gradcem_ranks_the_refined_samples() -> None:
    """Adam's first step has length 0.3 in every number, towards a goal far away."""
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions.detach().clone())
        return (actions - 100).square().sum(dim=(-2, -1))

    config = GradCEMConfig(samples=2, elites=2, iterations=1, gradient_steps=2)
    run(GradCEMPlanner(config), cost, low=-200, high=200)
    drawn, _, refined, mean = seen
    torch.testing.assert_close(refined, drawn + 0.6, atol=1e-2, rtol=0)
    torch.testing.assert_close(mean[:, 0], refined.mean(dim=1))


@pytest.mark.parametrize("name", ["cem", "mppi"])
def test_the_final_mean_is_evaluated_and_may_be_the_best(name: str) -> None:
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        costs = (actions - 1).square().sum(dim=(-2, -1))
        seen.append(costs)
        return costs

    planners: dict[str, Planner] = {
        "cem": CEMPlanner(CEMConfig(iterations=5)),
        "mppi": MPPIPlanner(MPPIConfig(iterations=3, temperature=0.1)),
    }
    result = run(planners[name], cost)
    *sampled, final = seen
    assert bool((final[:, 0] < torch.cat(sampled, dim=1).amin(dim=1)).all())
    assert torch.equal(result.cost, final[:, 0])


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
        "cem": CEMPlanner(CEMConfig(samples=50, elites=50, iterations=1)),
        "mppi": MPPIPlanner(MPPIConfig(samples=50, iterations=1)),
    }
    run(planners[name], half_feasible(seen), 1)
    samples, mean = seen[0][0], seen[1][0, 0]
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
    assert float(seen[1][0, :, 0, 0].std()) == pytest.approx(expected, rel=0.05)


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


def test_cem_with_momentum_moves_by_the_remaining_share() -> None:
    means: dict[float, Tensor] = {}
    for momentum in (0.0, 0.75):
        seen: list[Tensor] = []
        config = CEMConfig(samples=50, elites=50, iterations=1, momentum=momentum)
        run(CEMPlanner(config), half_feasible(seen))
        means[momentum] = seen[1]
    torch.testing.assert_close(means[0.75], 0.25 * means[0.0])


def test_mppi_follows_the_best_sample_as_the_temperature_falls() -> None:
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions.clone())
        return (actions - 1).square().sum(dim=(-2, -1))

    run(MPPIPlanner(MPPIConfig(iterations=1, temperature=1e-4)), cost)
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


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (GradientConfig, {"optimizer": "rmsprop"}),
        (GradientConfig, {"learning_rate": 0.0}),
        (GradientConfig, {"learning_rate": math.nan}),
        (GradientConfig, {"steps": -1}),
        (GradientConfig, {"steps": 1.5}),
        (GradientConfig, {"init": "ones"}),
        (GradientConfig, {"init_std": -1.0}),
        (GradientConfig, {"restarts": 0}),
        (GradientConfig, {"noise_std": -0.1}),
        (GradientConfig, {"tolerance": -0.1}),
        (GradientConfig, {"patience": 0}),
        (CEMConfig, {"samples": 1}),
        (CEMConfig, {"iterations": 0}),
        (CEMConfig, {"elites": 1}),
        (CEMConfig, {"elites": 301}),
        (CEMConfig, {"init_std": 0.0}),
        (CEMConfig, {"min_std": -1.0}),
        (CEMConfig, {"momentum": 1.0}),
        (CEMConfig, {"max_rollouts": 0}),
        (GradCEMConfig, {"samples": 1}),
        (GradCEMConfig, {"gradient_steps": 0}),
        (GradCEMConfig, {"learning_rate": math.inf}),
        (MPPIConfig, {"samples": 0}),
        (MPPIConfig, {"iterations": True}),
        (MPPIConfig, {"temperature": 0.0}),
        (MPPIConfig, {"noise_std": 0.0}),
        (MPPIConfig, {"max_rollouts": -4}),
    ],
)
def test_bad_settings_are_refused(config: Callable[..., Any], settings: dict[str, Any]) -> None:
    (field,) = settings
    with pytest.raises(ValueError, match=f"{field} is .*, expected .*; "):
        config(**settings)


@pytest.mark.parametrize("config", [GradientConfig, CEMConfig, GradCEMConfig, MPPIConfig])
def test_settings_are_never_written_to(config: Callable[[], Any]) -> None:
    with pytest.raises(FrozenInstanceError):
        config().samples = 3


@every_planner
@pytest.mark.parametrize(
    "arguments",
    [
        {"initial": torch.zeros(4, M)},
        {"initial": torch.zeros(4, H, M, dtype=torch.long)},
        {"initial": torch.full((4, H, M), math.nan)},
        {"warm": torch.zeros(3, dtype=torch.bool)},
        {"warm": torch.zeros(4)},
        {"low": torch.tensor([0.0, 1.0]), "high": torch.tensor([1.0, 0.0])},
        {"high": math.nan},
    ],
)
def test_arguments_that_do_not_fit_are_refused(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected .*; "):
        run(small(name), linear_problem().cost, **arguments)


@every_planner
def test_a_cost_of_the_wrong_shape_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cost returned shape"):
        run(small(name), lambda actions: actions.sum(dim=-1))


@pytest.mark.parametrize("name", ["gradient", "gradcem"])
def test_a_cost_without_a_graph_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="differentiable"):
        run(small(name), lambda actions: actions.detach().sum(dim=(-2, -1)))


def test_planners_are_made_by_name_or_passed_through() -> None:
    for name, kind in PLANNERS.items():
        assert type(make_planner(name)) is kind
    planner = small("cem")
    assert make_planner(planner) is planner


def test_unknown_planners_are_refused() -> None:
    with pytest.raises(KeyError, match=r"cem.*gradcem.*gradient.*mppi"):
        make_planner("newton")
    for wrong in (GradientPlanner, 3):
        with pytest.raises(TypeError, match="planner object"):
            make_planner(wrong)  # type: ignore[arg-type]
