"""What the planners share: input checks, guarded evaluation, and the best plan."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gbp_agent.types import CostFunction


def take_plain_numbers(config: Any) -> None:
    """Turn NumPy's numbers in the fields of a frozen dataclass into Python's, which JSON knows."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, np.generic):
            object.__setattr__(config, field.name, value.item())


def check_count(name: str, value: int, minimum: int, remedy: str) -> None:
    """Raise ValueError unless `value` is an integer ≥ `minimum`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ValueError(f"{name} is {value!r}, expected an integer ≥ {minimum}; {remedy}")


def check_number(
    name: str, value: float, remedy: str, *, above: float | None = None, below: float = math.inf
) -> None:
    """Raise ValueError unless `above` < `value` < `below`; without `above`, 0 ≤ `value`. True and
    False are no numbers."""
    large_enough = value >= 0 if above is None else value > above
    if isinstance(value, bool) or not (large_enough and value < below):
        lower = "≥ 0" if above is None else f"> {above:g}"
        upper = "finite" if below == math.inf else f"< {below:g}"
        raise ValueError(f"{name} is {value!r}, expected a number {lower} and {upper}; {remedy}")


def check_choice(name: str, value: str, choices: Collection[str], remedy: str) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {sorted(choices)}; {remedy}")


def check_inputs(
    initial: Tensor,
    warm: Tensor,
    proposals: Tensor,
    low: Tensor,
    high: Tensor,
    generator: torch.Generator,
) -> None:
    """Check a planner's arguments once, at its entry.

    initial: (B, H, M) finite floats; warm: (B,) bool; proposals: (K, H, M) or (B, K, H, M), K ≥ 0,
    finite, of the dtype and device of `initial`; low, high: (M,), low ≤ high, ±inf allowed;
    generator: on the device of `initial`. Raises ValueError otherwise.
    """
    if initial.dim() != 3 or not initial.is_floating_point() or initial.numel() == 0:
        raise ValueError(
            f"initial has shape {tuple(initial.shape)} and dtype {initial.dtype}, expected a "
            "non-empty (B, H, M) of floats; give zeros where there is no earlier plan."
        )
    problems, _, width = initial.shape
    if warm.shape != (problems,) or warm.dtype != torch.bool:
        raise ValueError(
            f"warm has shape {tuple(warm.shape)} and dtype {warm.dtype}, expected ({problems},) "
            "bool; give one flag for each row of `initial`."
        )
    leading = tuple(proposals.shape[:-3])
    if (
        proposals.dim() < 3
        or leading not in ((), (problems,))
        or (proposals.shape[-2:] != initial.shape[1:])
    ):
        raise ValueError(
            f"proposals has shape {tuple(proposals.shape)}, expected (K, {initial.shape[1]}, "
            f"{width}), or each problem's own with a leading {problems}; give an empty tensor with "
            "K = 0 where there are none."
        )
    if proposals.dtype != initial.dtype or proposals.device != initial.device:
        raise ValueError(
            f"proposals is {proposals.dtype} on {proposals.device}, expected {initial.dtype} on "
            f"{initial.device}; give proposals.to(initial)."
        )
    if low.shape != (width,) or high.shape != (width,):
        raise ValueError(
            f"low and high have shapes {tuple(low.shape)} and {tuple(high.shape)}, expected "
            f"({width},); give one bound for each number of a model action."
        )
    if generator.device.type != initial.device.type:
        raise ValueError(
            f"generator is on {generator.device}, expected {initial.device}; "
            "make it with torch.Generator(device=initial.device)."
        )
    # One synchronisation with the device for all checks of values.
    valid = (low <= high).all()
    for plans in (initial, proposals):
        if plans.numel():
            valid &= plans.abs().amax() < torch.inf  # not for NaN
    if not bool(valid):
        raise ValueError(
            "initial or proposals hold non-finite numbers or low exceeds high somewhere, expected "
            "finite plans and low ≤ high; check the last plan, the data and the action space."
        )


def draw_noise(generator: torch.Generator, samples: int, initial: Tensor) -> Tensor:
    """Standard normal noise (S, H, M), the same for all B rows of `initial` (B, H, M)."""
    return torch.randn(
        (samples, *initial.shape[1:]),
        generator=generator,
        device=initial.device,
        dtype=initial.dtype,
    )


def evaluate(cost: CostFunction, candidates: Tensor) -> Tensor:
    """Cost (B, S) of candidates (B, S, H, M) without gradients; non-finite counts as +inf."""
    with torch.no_grad():
        return _finite_or_inf(_checked_cost(cost, candidates), candidates)


def cost_and_gradient(cost: CostFunction, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Cost (B, S) of candidates (B, S, H, M) and its gradient (B, S, H, M).

    Differentiates with respect to the candidates alone, so parameters collect nothing.
    A non-finite cost counts as +inf, a non-finite number of the gradient as 0.
    Raises ValueError for a cost that is not differentiable in the actions.
    """
    with torch.enable_grad():
        leaf = candidates.detach().requires_grad_(True)
        costs = _checked_cost(cost, leaf)
        if not costs.requires_grad:
            raise ValueError(
                "cost returned a tensor without a graph, expected one that is differentiable in "
                "the actions; remove torch.no_grad() or detach() from it, or plan with 'cem'."
            )
        (gradient,) = torch.autograd.grad(costs, leaf, torch.ones_like(costs))
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    return _finite_or_inf(costs.detach(), candidates), gradient


def split_samples(candidates: Tensor, max_rollouts: int) -> tuple[Tensor, ...]:
    """Split (B, S, H, M) along S into parts (B, s, H, M) with B·s ≤ `max_rollouts`.

    A cost function always takes all B problems, so where B alone exceeds the limit a part
    holds one sample of each problem, and B roll-outs.
    """
    if candidates.shape[0] * candidates.shape[1] <= max_rollouts:
        return (candidates,)
    return candidates.split(max(1, max_rollouts // candidates.shape[0]), dim=1)


def evaluate_in_parts(cost: CostFunction, candidates: Tensor, max_rollouts: int) -> Tensor:
    """As `evaluate`, with at most `max_rollouts` at once."""
    parts = split_samples(candidates, max_rollouts)
    return torch.cat([evaluate(cost, part) for part in parts], dim=1)


def none_of(proposals: Tensor) -> Tensor:
    """No proposals, of the same shape otherwise."""
    return proposals[..., :0, :, :]


def take_samples(candidates: Tensor, index: Tensor) -> Tensor:
    """Candidates (B, s, H, M) at `index` (B, s) along the samples of (B, S, H, M)."""
    return candidates.gather(1, index[:, :, None, None].expand(-1, -1, *candidates.shape[2:]))


def cheapest(candidates: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    """Of candidates (B, S, H, M) with costs (B, S) each problem's cheapest (B, H, M), a copy, and
    its cost (B,)."""
    if costs.shape[1] == 1:
        return candidates[:, 0].clone(), costs[:, 0]
    cost, index = costs.min(dim=1)
    return take_samples(candidates, index[:, None])[:, 0], cost


class BestPlan:
    """The best evaluated plan so far of each of B problems.

    plan: (B, H, M), the plan to fall back on until a finite cost is found.
    cost: (B,), +inf until then.
    """

    def __init__(self, fallback: Tensor) -> None:
        self.plan = fallback
        self.cost = torch.full_like(fallback[:, 0, 0], math.inf)

    def update(self, candidates: Tensor, costs: Tensor) -> None:
        """Take over what is better among candidates (B, S, H, M) with costs (B, S)."""
        plan, cost = cheapest(candidates, costs)
        self.plan = torch.where((cost < self.cost)[:, None, None], plan, self.plan)
        self.cost = torch.minimum(cost, self.cost)


class BestOfEach:
    """The best plan of each iteration of a search, compared in the end and not on the way, which
    saves a planner's step half a dozen operations.

    best: the best before the search, and of what is evaluated outside of its iterations.
    """

    def __init__(self, best: BestPlan) -> None:
        self._best = best
        self._plans: list[Tensor] = []
        self._costs: list[Tensor] = []
        self._others: list[Tensor] = []

    def add(self, plan: Tensor, cost: Tensor) -> None:
        """An iteration's best plan (B, H, M) and its cost (B,), which nobody changes any more."""
        self._plans.append(plan)
        self._costs.append(cost)
        self._others.append(self._best.cost)

    def settle(self) -> Tensor:
        """Give `best` the best of all, the first where several cost the same. Returns the lowest
        cost so far after each iteration (iterations, B)."""
        costs = torch.stack(self._costs)
        first = costs.argmin(dim=0)
        rows = torch.arange(len(first), device=first.device)
        self._best.update(torch.stack(self._plans)[first, rows][:, None], costs[first, rows, None])
        return torch.minimum(costs.cummin(dim=0).values, torch.stack(self._others))


def _checked_cost(cost: CostFunction, candidates: Tensor) -> Tensor:
    costs = cost(candidates)
    if costs.shape != candidates.shape[:2]:
        raise ValueError(
            f"cost returned shape {tuple(costs.shape)} for {tuple(candidates.shape[:2])} "
            "candidates, expected (B, S); reduce over the horizon and keep both leading axes."
        )
    return costs


def _finite_or_inf(costs: Tensor, candidates: Tensor) -> Tensor:
    costs = torch.nan_to_num(costs, nan=math.inf, posinf=math.inf, neginf=math.inf)
    return costs.to(candidates.dtype)
