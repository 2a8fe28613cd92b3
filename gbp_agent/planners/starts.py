"""Where a search starts: proposals, what is put together of their steps, or neither."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gbp_agent.planners.beam import Beam, Found, beam_search
from gbp_agent.planners.common import (
    BestPlan,
    check_count,
    evaluate,
    evaluate_in_parts,
    none_of,
    take_samples,
)
from gbp_agent.types import CostFunction

STARTS = ("proposals", "beam", "zeros")


class Starts(NamedTuple):
    """Where a search starts.

    plans: (B, S, H, M) within the bounds.
    best: the best of the plans that were rolled out to choose them.
    evaluations: how many these were for each problem.
    """

    plans: Tensor
    best: BestPlan
    evaluations: int


def start_from_proposals(
    cost: CostFunction,
    defaults: Tensor,
    *,
    warm: Tensor,
    proposals: Tensor,
    low: Tensor,
    high: Tensor,
    max_rollouts: int,
    warm_proposals: int | None = None,
    warm_starts: int | None = None,
    beam: Beam | None = None,
) -> Starts:
    """Start from the cheapest proposals, found by one roll-out each without gradients.

    defaults: (B, S, H, M) within the bounds, the starts where there are no proposals; the first
        is `initial` in rows that are `warm`, zeros in the others.
    proposals: (K, H, M) or (B, K, H, M), clamped into the bounds here.
    warm_proposals: how many of them, the first ones, warm rows look at; None for all.
    warm_starts: how many of the S starts warm rows use, the first ones; None for all.
    beam: None takes the proposals as they are, otherwise they are what `beam_search` makes of their
        steps.

    The first default is rolled out along with the proposals and counts as evaluated. In a warm
    row it stays the first of several starts, and a single start where it is no dearer than the
    cheapest proposal. In other rows it comes after all proposals. A proposal without a finite
    cost is no start; where proposals run short the defaults remain, so with K = 0 all do.
    """
    if warm_proposals is not None and warm.all():
        proposals = proposals[..., :warm_proposals, :, :]
    if proposals.shape[-3] == 0:
        return Starts(defaults, BestPlan(defaults[:, 0]), 0)
    problems, count = defaults.shape[:2]
    each = proposals.detach().clamp(low, high).expand(problems, -1, -1, -1)
    hidden = None if warm_proposals is None else _hidden(each, warm, warm_proposals)  # (B, K)
    candidates, costs, evaluations = _judged(
        cost, defaults[:, :1], each, hidden, beam, max_rollouts
    )
    dearest = torch.finfo(costs.dtype).max  # still before proposals without a finite cost
    # One start competes with the proposals; the first of several precedes them in any case.
    single = min(count, warm_starts or count) == 1
    first = costs[:, 0] if single else torch.full_like(costs[:, 0], -torch.inf)
    ranks = costs.clone()
    ranks[:, 0] = torch.where(warm, first, dearest)
    ranks, order = ranks.sort(dim=1, stable=True)  # a tie goes to the first default
    ranks, order = ranks[:, :count], order[:, :count]
    chosen = torch.where(
        (ranks < torch.inf)[:, :, None, None],
        take_samples(candidates, order),
        defaults[:, : order.shape[1]],
    )
    plans = torch.cat([chosen, defaults[:, order.shape[1] :]], dim=1)
    best = BestPlan(plans[:, 0])
    best.update(candidates, costs)
    return Starts(plans, best, evaluations)


def _judged(
    cost: CostFunction,
    first: Tensor,
    each: Tensor,
    hidden: Tensor | None,
    beam: Beam | None,
    max_rollouts: int,
) -> Found:
    """The first default (B, 1, H, M) and behind it the proposals (B, K, H, M), which are `hidden`
    (B, K) from some rows, or what a beam makes of their steps, with what they cost."""
    if beam is not None:
        horizon = each.shape[2]
        if hidden is not None:
            hidden = hidden.repeat_interleave(horizon, dim=1)
        found = beam_search(cost, each.flatten(1, 2), hidden, horizon, beam, max_rollouts)
        plans = torch.cat([first, found.plans], dim=1)
        costs = torch.cat([evaluate(cost, first), found.costs], dim=1)
        return Found(plans, costs, 1 + found.evaluations)
    plans = torch.cat([first, each], dim=1)
    costs = evaluate_in_parts(cost, plans, max_rollouts)
    if hidden is not None:
        costs[:, 1:].masked_fill_(hidden, torch.inf)
    return Found(plans, costs, plans.shape[1])


def _hidden(each: Tensor, warm: Tensor, warm_proposals: int) -> Tensor:
    """Which of the proposals (B, K, H, M) a row may not take, (B, K) bool."""
    return warm[:, None] & (torch.arange(each.shape[1], device=each.device) >= warm_proposals)


def check_beam(config: Any) -> None:
    """Raise ValueError unless the settings `beam_width` and `beam_branches` are counts ≥ 1."""
    check_count("beam_width", config.beam_width, 1, "8 is the default.")
    check_count("beam_branches", config.beam_branches, 1, "16 is the default.")


def beam_of(config: Any) -> Beam | None:
    """The beam that a planner's config asks for, if it does."""
    return Beam(config.beam_width, config.beam_branches) if config.init == "beam" else None


def offered(proposals: Tensor, config: Any) -> Tensor:
    """Those of the proposals (K, H, M) or (B, K, H, M) that a planner's config makes use of."""
    return proposals if config.init in ("proposals", "beam") else none_of(proposals)
