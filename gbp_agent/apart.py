"""Planning for warm rows and for the others apart, since a planner may take far less time for rows
that go on with a plan: together all would take as long as the slowest."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .types import PlannerResult


def plan_apart(search: Callable[[Tensor], PlannerResult], warm: Tensor) -> PlannerResult:
    """One result for all B rows.

    search: plans for the rows of an index (b,).
    warm: (B,) bool.

    `evaluations` and `gradient_steps` are means over the rows, rounded; a `cost_trace` that is
    shorter than the other goes on with its last costs.
    """
    groups = [group.nonzero()[:, 0] for group in (~warm, warm) if bool(group.any())]
    results = [search(group) for group in groups]
    if len(results) == 1:
        return results[0]
    back = torch.cat(groups).argsort()
    steps = max(len(result.cost_trace) for result in results)
    traces = [
        torch.cat([trace, trace[-1:].expand(steps - len(trace), -1)])
        for trace in (result.cost_trace for result in results)
    ]

    def mean(numbers: list[int]) -> int:
        rows = [len(group) for group in groups]
        return round(sum(n * r for n, r in zip(numbers, rows, strict=True)) / sum(rows))

    return PlannerResult(
        model_actions=torch.cat([result.model_actions for result in results])[back],
        cost=torch.cat([result.cost for result in results])[back],
        cost_trace=torch.cat(traces, 1)[:, back],
        evaluations=mean([result.evaluations for result in results]),
        gradient_steps=mean([result.gradient_steps for result in results]),
    )
