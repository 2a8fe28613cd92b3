"""CUDA graphs of a cost: nothing but the time may change.

Without a GPU a recording is played by calling what was recorded again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import FAMILIES
from test_rollouts import H, at_random, plans
from torch import Tensor

from gbp_agent import PLANNERS, GoalObjective, MPCConfig
from gbp_agent.graphs import MOST_SIZES, RECORD_AT, CostGraphs
from gbp_agent.mpc import uses_cuda_graphs
from gbp_agent.planners.common import cost_and_gradient, evaluate
from gbp_agent.types import Latent

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DEVICES = ("cpu", pytest.param("cuda", marks=GPU))


class Again:
    """A recording on a processor: calls the function anew and writes what it returns to where a
    graph would."""

    made: int = 0

    def __init__(self, function: Callable[[], Any]):
        self._function, self._differentiates = function, torch.is_grad_enabled()
        self._found = function()
        self.returned: Any = self._found
        if callable(self._found):
            self.returned = lambda model_actions: self._found(model_actions)
        Again.made += 1

    def replay(self) -> None:
        with torch.set_grad_enabled(self._differentiates):
            found = self._function()
        if callable(found):
            self._found = found
            return
        for mine, new in zip(self._found, found, strict=True):
            if mine is not None:
                mine.copy_(new)


@pytest.fixture
def recorded(monkeypatch: Any) -> Callable[[str], None]:
    """Say where to plan: without a GPU recordings are of the other kind."""

    def on(device: str) -> None:
        Again.made = 0
        if device == "cpu":

            def record(function: Callable[[], Any], pool: Any) -> Any:
                again = Again(function)
                return again, again.returned

            monkeypatch.setattr("gbp_agent.graphs._record", record)
            monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: None)

    return on


def problem(model: Any, rows: int, shift: float) -> tuple[Latent, Tensor, Latent]:
    """Others for every shift."""
    start, past, goal = at_random(model, rows)
    return Latent(*(part + shift for part in start)), past + shift, goal


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_same_costs_and_gradients(
    family: str,
    history: int,
    checkpoint: bool,
    device: str,
    families: Any,
    make_agent: Any,
    recorded: Any,
) -> None:
    recorded(device)
    config = MPCConfig(H, checkpoint_activations=checkpoint, cuda_graphs=False)
    agent = make_agent(model=families[family](history=history).to(device), config=config)
    graphs = CostGraphs(agent.cost_of)
    for call in range(RECORD_AT + 2):
        for rows, samples in ((2, 3), (1, 5)):
            known = problem(agent.model, rows, shift=0.1 * call)
            plain, cost = agent.cost_of(*known), graphs(*known)
            candidates = plans(rows, samples).to(device) + call
            expected, slope = cost_and_gradient(plain, candidates)
            assert slope.abs().max() > 0
            torch.testing.assert_close(cost_and_gradient(cost, candidates), (expected, slope))
            torch.testing.assert_close(evaluate(cost, candidates), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_recorded_once_for_each_shape(device: str, make_agent: Any, recorded: Any) -> None:
    recorded(device)
    agent = make_agent(config=MPCConfig(H, cuda_graphs=False))
    agent.model.to(device)
    calls = []

    def counted(*known: Any) -> Any:
        cost = agent.cost_of(*known)
        return lambda model_actions: calls.append(model_actions.shape) or cost(model_actions)

    graphs = CostGraphs(counted)
    for _ in range(2 * RECORD_AT):
        cost = graphs(*problem(agent.model, 2, 0.0))
        evaluate(cost, plans(2, 3).to(device))
    if device == "cuda":
        assert len(calls) == RECORD_AT
    else:  # prepared once, and recorded once
        assert Again.made == 2
    for rows in range(1, MOST_SIZES + 3):
        graphs(*problem(agent.model, rows, 0.0))
    assert list(graphs._problems) == list(range(3, MOST_SIZES + 3))


@pytest.mark.parametrize("device", DEVICES)
def test_recorded_by_a_solver_in_inference_mode(
    device: str, make_agent: Any, recorded: Any
) -> None:
    recorded(device)
    agent = make_agent(config=MPCConfig(H, cuda_graphs=False))
    agent.model.to(device)
    known = problem(agent.model, 2, 0.0)
    graphs, candidates = CostGraphs(agent.cost_of), plans(2, 3).to(device)
    with torch.inference_mode():
        cost = graphs(*known)
        for _ in range(RECORD_AT):
            cost(candidates)
    for shift in (0.0, 0.5):
        known = problem(agent.model, 2, shift)
        expected = evaluate(agent.cost_of(*known), candidates)
        torch.testing.assert_close(evaluate(graphs(*known), candidates), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_gradient_of_weighted_costs(device: str, make_agent: Any, recorded: Any) -> None:
    recorded(device)
    agent = make_agent(config=MPCConfig(H, cuda_graphs=False))
    agent.model.to(device)
    known = problem(agent.model, 2, 0.0)
    weights = torch.tensor([[1.0, -2.0, 0.0], [3.0, 0.5, 1.0]], device=device)
    slopes = []
    for cost in (agent.cost_of(*known), CostGraphs(agent.cost_of)(*known)):
        for _ in range(RECORD_AT + 1):
            leaf = plans(2, 3).to(device).requires_grad_(True)
            (slope,) = torch.autograd.grad((weights * cost(leaf)).sum(), leaf)
        slopes.append(slope)
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("planner", PLANNERS)
def test_same_plans(
    planner: str, device: str, make_agent: Any, recorded: Any, monkeypatch: Any
) -> None:
    recorded(device)
    monkeypatch.setattr("gbp_agent.agent.uses_cuda_graphs", lambda config, *_: config.cuda_graphs)
    agents = [
        make_agent(planner=planner, config=MPCConfig(4, cuda_graphs=flag)) for flag in (False, True)
    ]
    if device == "cuda":
        agents = [type(agents[0])(a.model.to(device), planner, config=a.config) for a in agents]
    random = torch.Generator().manual_seed(0)
    seen = {
        f"{which}{part}": value.numpy()
        for which in ("", "goal_")
        for part, value in (
            ("pixels", torch.randint(256, (3, 16, 16, 3), generator=random).byte()),
            ("proprio", torch.randn(3, 2, generator=random)),
        )
    }
    for turn in range(3):
        observation = {key: value[turn:] for key, value in seen.items()}
        first, second = (agent.plan(observation) for agent in agents)
        torch.testing.assert_close(first.model_actions, second.model_actions)
        torch.testing.assert_close(first.cost, second.cost)


def test_when_they_are_used() -> None:
    def other(predicted: Latent, goal: Latent) -> Tensor:
        return predicted.proprio.mean((1, 2))

    assert not uses_cuda_graphs(MPCConfig(cuda_graphs=True), GoalObjective(), "cpu")
    assert uses_cuda_graphs(MPCConfig(), GoalObjective(), "cuda:0")
    assert not uses_cuda_graphs(MPCConfig(), other, "cuda")
    assert uses_cuda_graphs(MPCConfig(cuda_graphs=True), other, "cuda")
    assert not uses_cuda_graphs(MPCConfig(cuda_graphs=False), GoalObjective(), "cuda")
    with pytest.raises(ValueError, match="cuda_graphs must be True, False or None, got 'yes'"):
        MPCConfig(cuda_graphs="yes")  # type: ignore[arg-type]


@GPU
def test_what_cannot_be_recorded(make_agent: Any) -> None:
    def waits(predicted: Latent, goal: Latent) -> Tensor:
        return predicted.proprio.mean((1, 2)) * float(goal.visual.mean().item())

    agent = make_agent(config=MPCConfig(H))
    agent = type(agent)(agent.model.to("cuda"), "gradient", waits, MPCConfig(H, cuda_graphs=True))
    known = problem(agent.model, 1, 0.0)
    cost = CostGraphs(agent.cost_of)(*known)
    candidates = plans(1, 2).to("cuda")
    for _ in range(RECORD_AT - 1):
        evaluate(cost, candidates)
    with pytest.raises(RuntimeError, match=r"recorded.*plan with MPCConfig\(cuda_graphs=False\)"):
        evaluate(cost, candidates)
    assert torch.isfinite(evaluate(agent.cost_of(*known), candidates)).all()
