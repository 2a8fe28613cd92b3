"""The goal objective against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from gbp_agent.objectives import GoalObjective, frame_weights, prefix_weights
from gbp_agent.types import Latent

N, H, P, D, E = 3, 4, 2, 5, 3


def constant_error_latents(errors: list[float], proprio_error: float) -> tuple[Latent, Latent]:
    """Predictions that miss a random goal by `errors[i]` in every number of frame i."""
    generator = torch.Generator().manual_seed(0)
    goal = Latent(torch.randn(N, P, D, generator=generator), torch.randn(N, E, generator=generator))
    offsets = torch.tensor(errors)
    predicted = Latent(
        goal.visual[:, None] + offsets[:, None, None],
        (goal.proprio[:, None] + proprio_error).expand(N, len(errors), E),
    )
    return predicted, goal


def test_last_compares_the_last_frame_alone() -> None:
    predicted, goal = constant_error_latents([9.0, 9.0, 9.0, 2.0], proprio_error=3.0)
    cost = GoalObjective(proprio_weight=0.5)(predicted, goal)
    torch.testing.assert_close(cost, torch.full((N,), 2.0**2 + 0.5 * 3.0**2))


def test_all_weighs_frames_by_powers_of_the_base() -> None:
    predicted, goal = constant_error_latents([1.0, 2.0, 3.0, 4.0], proprio_error=1.0)
    cost = GoalObjective(proprio_weight=1.0, frames="all", base=2.0)(predicted, goal)
    expected = (1 * 1 + 2 * 4 + 4 * 9 + 8 * 16) / 15 + 1.0
    torch.testing.assert_close(cost, torch.full((N,), expected))


def test_all_with_base_one_is_the_plain_mean() -> None:
    predicted, goal = constant_error_latents([1.0, 2.0, 3.0, 4.0], proprio_error=0.0)
    cost = GoalObjective(frames="all", base=1.0)(predicted, goal)
    torch.testing.assert_close(cost, torch.full((N,), 30 / 4))


@pytest.mark.parametrize(
    ("errors", "step_cost", "expected", "arrival"),
    [
        ([3.0, 2.0, 1.0, 0.0], 0.0, (9 + 8 + 4 + 0) / 15, 3),  # still coming nearer: all frames
        ([1.0, 2.0, 3.0, 4.0], 0.1, 1.0, 0),  # the first frame is the best
        ([2.0, 0.0, 0.0, 5.0], 0.1, 4 / 7 + 0.2, 2),  # there after the second, wanders off later
        ([2.0, 0.0, 0.0, 5.0], 1.0, (4 + 0) / 3 + 1.0, 1),  # the same, in more of a hurry
    ],
)
def test_with_a_step_cost_the_best_beginning_of_a_plan_counts(
    errors: list[float], step_cost: float, expected: float, arrival: int
) -> None:
    predicted, goal = constant_error_latents(errors, proprio_error=0.0)
    objective = GoalObjective(frames="all", base=2.0, step_cost=step_cost)
    torch.testing.assert_close(objective(predicted, goal), torch.full((N,), expected))
    assert objective.arrival(predicted, goal).tolist() == [arrival] * N


@pytest.mark.parametrize("frames", ["last", "all"])
def test_without_a_step_cost_a_plan_ends_with_its_last_frame(frames: str) -> None:
    predicted, goal = constant_error_latents([0.0, 2.0, 3.0, 4.0], proprio_error=0.0)
    objective = GoalObjective(frames=frames)  # type: ignore[arg-type]
    assert objective.arrival(predicted, goal).tolist() == [3] * N


def test_a_step_cost_prefers_to_go_now_to_going_later() -> None:
    """What waits and arrives in the last frame costs next to nothing without one."""
    now, goal = constant_error_latents([0.0, 0.0, 0.0, 0.01], proprio_error=0.0)
    later, _ = constant_error_latents([1.0, 0.0, 0.0, 0.0], proprio_error=0.0)
    patient = GoalObjective(frames="all", base=100.0)
    hurried = GoalObjective(frames="all", base=100.0, step_cost=1e-3)
    assert bool((patient(later, goal) < patient(now, goal)).all())
    assert bool((hurried(now, goal) < hurried(later, goal)).all())


@pytest.mark.parametrize("base", [0.01, 0.5, 1.0, 2.0, 1e30])
def test_prefix_weights_are_the_frame_weights_of_the_first_frames(base: float) -> None:
    like = torch.zeros(())
    rows = prefix_weights(6, base, like=like)
    for h, row in enumerate(rows, 1):
        torch.testing.assert_close(row[:h], frame_weights(h, base, like=like))
        assert not bool(row[h:].any())


@pytest.mark.parametrize("base", [0.01, 0.5, 1.0, 2.0, 1e30])
def test_frame_weights_add_up_to_one(base: float) -> None:
    weights = frame_weights(50, base, like=torch.zeros(()))
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    assert bool(torch.isfinite(weights).all())


def test_zero_weight_ignores_proprioception() -> None:
    predicted, goal = constant_error_latents([0.0, 0.0, 0.0, 1.0], proprio_error=float("nan"))
    cost = GoalObjective(proprio_weight=0.0)(predicted, goal)
    torch.testing.assert_close(cost, torch.ones(N))


def test_a_latent_without_proprioception_has_a_finite_cost() -> None:
    predicted = Latent(torch.ones(N, H, P, D), torch.zeros(N, H, 0))
    goal = Latent(torch.zeros(N, P, D), torch.zeros(N, 0))
    torch.testing.assert_close(GoalObjective()(predicted, goal), torch.ones(N))


@pytest.mark.parametrize("frames", ["last", "all"])
def test_one_goal_is_broadcast(frames: str) -> None:
    objective = GoalObjective(frames=frames)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    predicted = Latent(
        torch.randn(N, H, P, D, generator=generator), torch.randn(N, H, E, generator=generator)
    )
    goal = Latent(torch.randn(1, P, D, generator=generator), torch.randn(1, E, generator=generator))
    repeated = Latent(goal.visual.expand(N, -1, -1), goal.proprio.expand(N, -1))
    bare = Latent(goal.visual[0], goal.proprio[0])
    torch.testing.assert_close(objective(predicted, goal), objective(predicted, repeated))
    torch.testing.assert_close(objective(predicted, bare), objective(predicted, repeated))


def test_the_goal_itself_costs_nothing() -> None:
    predicted, goal = constant_error_latents([0.0] * H, proprio_error=0.0)
    assert torch.equal(GoalObjective(frames="all")(predicted, goal), torch.zeros(N))


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"proprio_weight": -1.0}, "proprio_weight"),
        ({"proprio_weight": float("nan")}, "proprio_weight"),
        ({"frames": "first"}, "frames"),
        ({"base": 0.0}, "base"),
        ({"base": float("inf")}, "base"),
        ({"step_cost": -0.1}, "step_cost"),
        ({"step_cost": float("nan")}, "step_cost"),
    ],
)
def test_bad_settings_are_refused(settings: dict, field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is .*expected"):
        GoalObjective(**settings)


@pytest.mark.parametrize(
    ("goal_visual", "goal_proprio"),
    [((N, P, D + 1), (N, E)), ((N, 1, D), (N, E)), ((N - 1, P, D), (N, E)), ((N, P, D), (N, 1))],
)
def test_shapes_that_do_not_fit_are_refused(
    goal_visual: tuple[int, ...], goal_proprio: tuple[int, ...]
) -> None:
    predicted = Latent(torch.zeros(N, H, P, D), torch.zeros(N, H, E))
    with pytest.raises(ValueError, match="expected"):
        GoalObjective()(predicted, Latent(torch.zeros(goal_visual), torch.zeros(goal_proprio)))


def test_a_prediction_without_a_horizon_is_refused() -> None:
    predicted = Latent(torch.zeros(N, P, D), torch.zeros(N, E))
    with pytest.raises(ValueError, match="rollout"):
        GoalObjective()(predicted, Latent(torch.zeros(N, P, D), torch.zeros(N, E)))


def test_weights_per_proprioceptive_number():
    predicted = Latent(torch.zeros(1, 2, 1, 1), torch.tensor([[[0.0, 0.0], [3.0, 5.0]]]))
    goal = Latent(torch.zeros(1, 1, 1), torch.zeros(1, 2))
    objective = GoalObjective(proprio_weight=(2.0, 0.0))
    assert objective(predicted, goal).item() == pytest.approx(2.0 * 9.0 / 2)
    with pytest.raises(ValueError, match="proprio_weight has 3 numbers, expected 2"):
        GoalObjective(proprio_weight=(1.0, 1.0, 1.0))(predicted, goal)
    with pytest.raises(ValueError, match="finite numbers"):
        GoalObjective(proprio_weight=(1.0, -1.0))
