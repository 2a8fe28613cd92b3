"""Beam search: plans to start from, put together of the data's actions step by step.

A sequence of the data that does what a problem asks for in its first step seldom does so in its
later ones as well. Here single steps are tried, by what plans cost that end with them, and the best
plans of h steps are continued to plans of h + 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gbp_agent.planners.common import evaluate_in_parts, take_samples
from gbp_agent.types import CostFunction


class Beam(NamedTuple):
    """width: ≥ 1, plans of each length that are continued; branches: ≥ 1, in how many ways each."""

    width: int
    branches: int


class Found(NamedTuple):
    """plans: (B, S, H, M); costs: (B, S), +inf where not finite; evaluations: of H steps each, of
    each problem, rounded up."""

    plans: Tensor
    costs: Tensor
    evaluations: int


def beam_search(
    cost: CostFunction,
    actions: Tensor,
    hidden: Tensor | None,
    horizon: int,
    beam: Beam,
    max_rollouts: int,
) -> Found:
    """Plans of `horizon` steps, each step one of the actions (B, N, M), with N ≥ 1.

    All actions are plans of one step. The `width` cheapest plans of each length are continued, each
    by `branches` of the width · branches actions that cost least as plans of one step: the cheapest
    plan by the cheapest of them and every width-th behind it, the next plan by the second and every
    width-th behind that, and so on. What has no finite cost is not continued and continues nothing.
    `cost` is asked for plans of 1…H steps.

    hidden: (B, N) bool, actions that a problem may not take; None for none.
    Source: B. T. Lowerre, The Harpy speech recognition system, 1976, where it is first used.
    """
    plans = actions[:, :, None]  # (B, N, 1, M)
    costs = evaluate_in_parts(cost, plans, max_rollouts)
    if hidden is not None:
        costs = costs.masked_fill(hidden, torch.inf)
    count = min(beam.width * beam.branches, actions.shape[1])
    own, ranked = costs.topk(count, dim=1, largest=False)
    steps, nothing = actions.shape[1], torch.isinf(own)
    for length in range(2, horizon + 1):
        kept, index = costs.topk(min(beam.width, costs.shape[1]), dim=1, largest=False)
        behind = _branches(index.shape[1], beam.branches, count).to(actions.device)
        heads = take_samples(plans, index).repeat_interleave(beam.branches, dim=1)
        tails = take_samples(actions[:, :, None], ranked[:, behind])
        plans = torch.cat([heads, tails], dim=2)
        costs = evaluate_in_parts(cost, plans, max_rollouts)
        ends = torch.isinf(kept).repeat_interleave(beam.branches, dim=1) | nothing[:, behind]
        costs = costs.masked_fill(ends, torch.inf)
        steps += length * plans.shape[1]
    return Found(plans, costs, -(-steps // horizon))


def _branches(width: int, branches: int, count: int) -> Tensor:
    """Which of the `count` ranked actions continue each of the plans, (width · branches,). Where
    there are fewer of them than that, plans share some."""
    plan, branch = torch.arange(width)[:, None], torch.arange(branches)
    return ((plan + max(1, count // branches) * branch) % count).flatten()
