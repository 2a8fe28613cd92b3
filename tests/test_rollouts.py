"""How the agent calls its model's roll-out: nothing but memory and time may change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FAMILIES, SIZE
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from gbp_agent import MPCConfig
from gbp_agent.planners.common import cost_and_gradient, evaluate
from gbp_agent.rollouts import rollouts_from
from gbp_agent.types import CostFunction, Latent

H = 6
VECTORS = {"predictor_width": 64, "predictor_depth": 8}
WIDE = {"compact": VECTORS, "ensemble": VECTORS, "patch": {"mlp_width": 64}}


def at_random(model: Any, rows: int) -> tuple[Latent, Tensor, Latent]:
    """Random frames, the actions between them, four wide, and a goal, on the model's device."""
    generator = torch.Generator().manual_seed(0)
    frames, device = model.history, model.device
    pixels = torch.randint(256, (rows, frames + 1, SIZE, SIZE, 3), generator=generator).byte()
    proprio = torch.randn(rows, frames + 1, 2, generator=generator)
    with torch.no_grad():
        known = model.encode(pixels.to(device), proprio.to(device))
    start, goal = (Latent(*(part[:, i] for part in known)) for i in (slice(frames), frames))
    return start, torch.randn(rows, frames - 1, 4, generator=generator).to(device), goal


def plans(rows: int, samples: int) -> Tensor:
    return torch.randn(rows, samples, H, 4, generator=torch.Generator().manual_seed(1))


def kept_bytes(cost: CostFunction, candidates: Tensor) -> int:
    """What a gradient of the cost keeps for backward, weights and frames left out."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        costs = cost(candidates.requires_grad_(True))
    nodes, seen = [costs.grad_fn], set()
    while nodes:  # what the written-out roll-out keeps by itself
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [before for before, _ in node.next_functions]
            for tensor in getattr(node, "kept", None) or ():
                keep(tensor)
    return sum(kept.values())


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_activations(
    family: str, history: int, families: Any, make_agent: Any
) -> None:
    model = families[family](history=history, **WIDE[family])
    plain, checkpointed = (
        make_agent(model=model, config=config).cost_of(*at_random(model, rows=2))
        for config in (MPCConfig(H), MPCConfig(H, checkpoint_activations=True))
    )
    expected, slope = cost_and_gradient(plain, plans(2, 3))
    found = cost_and_gradient(checkpointed, plans(2, 3))
    torch.testing.assert_close(found, (expected, slope), rtol=1e-6, atol=1e-6)
    assert slope.abs().max() > 0
    assert kept_bytes(checkpointed, plans(2, 3)) < kept_bytes(plain, plans(2, 3)) / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_costs_in_parts(family: str, families: Any, make_agent: Any, monkeypatch: Any) -> None:
    """Without gradients at most so many plans are rolled out at once; with them all are."""
    model = families[family](history=2)
    monkeypatch.setattr(type(model), "rollouts_at_once", 5)
    counts = []

    def counted(*arguments: Any, **options: Any) -> Any:
        rollouts = rollouts_from(*arguments, **options)

        def counting(start: Latent, past: Tensor) -> Any:
            rollout = rollouts(start, past)
            return lambda actions: counts.append(len(actions)) or rollout(actions)

        return counting

    monkeypatch.setattr("gbp_agent.planning_cost.rollouts_from", counted)
    cost = make_agent(model=model, config=MPCConfig(H)).cost_of(*at_random(model, rows=2))
    together = cost(plans(2, 7)).detach()
    torch.testing.assert_close(evaluate(cost, plans(2, 7)), together)
    assert counts == [14, 4, 4, 4, 2]


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_costs_without_gradients_are_like_any_tensor(
    family: str, history: int, families: Any, make_agent: Any
) -> None:
    """And what the model keeps of that call serves gradients afterwards."""
    model = families[family](history=history)
    cost = make_agent(model=model, config=MPCConfig(H)).cost_of(*at_random(model, rows=2))
    with torch.no_grad():
        found = cost(plans(2, 3))
    found += 1
    expected, slope = cost_and_gradient(cost, plans(2, 3))
    torch.testing.assert_close(found, expected + 1)
    assert slope.abs().max() > 0


def test_an_objective_may_differentiate_by_itself(make_model: Any, make_agent: Any) -> None:
    def steepness(predicted: Latent, goal: Latent) -> Tensor:
        with torch.enable_grad():
            reached = predicted.visual[:, -1].clone().requires_grad_(True)
            (slope,) = torch.autograd.grad((reached - goal.visual).square().sum(), reached)
        return slope.square().sum((1, 2)) / 4

    model = make_model()
    start, past, goal = at_random(model, rows=2)
    agent = make_agent(model=model, objective=steepness, config=MPCConfig(H))
    found = evaluate(agent.cost_of(start, past, goal), plans(2, 1))
    ends = model.rollout(start, past, plans(2, 1)[:, 0]).visual[:, -1]
    torch.testing.assert_close(found[:, 0], (ends - goal.visual).square().sum((1, 2)))


@pytest.mark.parametrize("history", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_rollouts_from_known_frames(family: str, history: int, families: Any) -> None:
    """What is kept for further calls changes nothing, whatever the horizon."""
    model = families[family](history=history).requires_grad_(False)
    start, past, _ = at_random(model, rows=2)
    rollout = rollouts_from(model, MPCConfig(H))(start, past)
    for samples, horizon in ((3, H), (2, 1), (3, 2), (1, H)):
        candidates = plans(2, samples)[:, :, :horizon].flatten(0, 1)
        torch.testing.assert_close(rollout(candidates), model.rollout(start, past, candidates))


def test_seen_frames_are_passed_through_a_transformer_once(make_patch_model: Any) -> None:
    model = make_patch_model(history=3).requires_grad_(False)
    start, past, _ = at_random(model, rows=2)
    passed, forward = [], model.predictor.vit.attention[0].forward

    def counted(x: Tensor, *rest: Any) -> Any:
        passed.append(x.shape[:2])
        return forward(x, *rest)

    model.predictor.vit.attention[0].forward = counted
    rollout = model.rollouts_from(start, past)
    assert passed == [(2, 2), (2, 1)]
    passed.clear()
    rollout(plans(2, 5).flatten(0, 1))
    assert passed == [(10, 1), (10, 2), *([(10, 3)] * (H - 2))]


def test_a_large_model_has_small_parts(make_patch_model: Any) -> None:
    """Twice the frames or tokens make half of the plans."""
    few = make_patch_model(history=1).rollouts_at_once
    assert make_patch_model(history=4).rollouts_at_once == few // 4
    assert make_patch_model(image_size=32, encoder_size=32).rollouts_at_once == few // 4


@pytest.mark.parametrize("history", [1, 2])
def test_compiled_once_for_any_number_of_plans(make_model: Any, history: int) -> None:
    model = make_model(history=history).requires_grad_(False)
    compilations = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        compilations.append(graph)
        return graph.forward

    start, past, _ = at_random(model, rows=2)
    rollout = rollouts_from(model, MPCConfig(H, compile=True), backend)(start, past)
    assert not compilations
    for samples in (5, 4, 7):  # dimensions that are alike in the first call are taken for one
        candidates = plans(2, samples).flatten(0, 1)
        found = rollout(candidates)
        torch.testing.assert_close(found, model.rollout(start, past, candidates))
    assert len(compilations) == 1


def test_compiled_and_checkpointed(make_model: Any) -> None:
    model = make_model(history=2).requires_grad_(False)
    start, past, _ = at_random(model, rows=2)
    both = MPCConfig(H, compile=True, checkpoint_activations=True)
    slopes = []
    for config in (MPCConfig(H), both):
        rollout = rollouts_from(model, config, "aot_eager")(start, past)
        leaf = plans(2, 3).flatten(0, 1).requires_grad_(True)
        slopes += torch.autograd.grad(rollout(leaf).visual.square().sum(), leaf)
    torch.testing.assert_close(*slopes)


def test_no_compiler(make_model: Any) -> None:
    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        raise OSError("No working C++ compiler found\nlooked in:\ng++")

    model = make_model()
    start, past, _ = at_random(model, rows=1)
    rollout = rollouts_from(model, MPCConfig(H, compile=True), backend)(start, past)
    with pytest.raises(RuntimeError, match=r"compiler found.*; install.*compile=False") as caught:
        rollout(plans(1, 2)[0])
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__
