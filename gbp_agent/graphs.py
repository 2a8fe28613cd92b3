"""Costs as CUDA graphs: a planner's step on a GPU is hundreds of small kernels, and to start them
one by one takes longer than to run them. A graph starts all of them at once."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .types import CostFunction, CostOf, Latent

RECORD_AT = 3
"""The call with plans of one shape that records it; those before it warm up."""
MOST_SIZES = 8
"""Numbers of problems whose graphs are kept."""


class CostGraphs:
    """`cost_of` for a GPU: the costs that it returns give the same numbers, and from the third call
    with plans of one shape on are replayed from a CUDA graph, their gradient as well.

    The graphs read the problems from memory of their own, so that they serve all decisions about
    as many problems: a cost is good until the next one for as many is asked for.

    What is recorded must neither wait for the device nor depend on anything that changes later but
    its arguments and the weights in place; and a plan's cost may depend on no other plan.

    cost_of: its costs take plans (B, S, H, M).
    """

    def __init__(self, cost_of: CostOf):
        self._cost_of = cost_of
        self._problems: dict[int, _Problems] = {}
        self._pool: Any = None  # one for all graphs, of which only one runs at a time

    def __call__(self, start: Latent, past_actions: Tensor, goal: Latent) -> CostFunction:
        """The cost of plans for these problems; arguments as for `cost_of`.

        Raises, here or when it is called:
            RuntimeError: something in it cannot be recorded.
        """
        known = (*start, past_actions, *goal)
        rows = len(past_actions)
        problems = self._problems.pop(rows, None)
        if problems is None:
            while len(self._problems) >= MOST_SIZES:
                del self._problems[next(iter(self._problems))]
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            with torch.inference_mode(False):  # in case later calls are made outside of it
                problems = _Problems(self._cost_of, known, self._pool)
        self._problems[rows] = problems  # the last one used stands last
        problems.set(known)
        return problems.cost


class _Problems:
    """The graphs for B problems, which all read the same copy of them."""

    def __init__(self, cost_of: CostOf, known: tuple[Tensor, ...], pool: Any):
        self._known = [part.detach().clone() for part in known]
        visual, proprio, past_actions, *goal = self._known
        self._pool = pool
        self._calls: Counter[Any] = Counter()
        self._recorded: dict[Any, _CostGraph] = {}

        def prepare() -> CostFunction:
            for part in self._known:  # a graph must hold something, and not all models share
                part.mul_(1)
            return cost_of(Latent(visual, proprio), past_actions, Latent(*goal))

        prepare()
        self._prepare, self._cost = _record(prepare, self._pool)

    def set(self, known: tuple[Tensor, ...]) -> None:
        for mine, given in zip(self._known, known, strict=True):
            mine.copy_(given)
        self._prepare.replay()

    def cost(self, model_actions: Tensor) -> Tensor:
        differentiable = torch.is_grad_enabled() and model_actions.requires_grad
        key = model_actions.shape, differentiable
        if key not in self._recorded:
            self._calls[key] += 1
            if self._calls[key] < RECORD_AT:
                return self._cost(model_actions)
            # Likewise not in inference mode.
            with torch.inference_mode(False), torch.set_grad_enabled(differentiable):
                graph = _CostGraph(self._cost, model_actions, differentiable, self._pool)
            self._recorded[key] = graph
        return self._recorded[key](model_actions)


class _CostGraph:
    """The cost of plans of one shape, with or without its gradient."""

    def __init__(self, cost: CostFunction, like: Tensor, differentiable: bool, pool: Any):
        self._plans = like.detach().clone().requires_grad_(differentiable)

        def once() -> tuple[Tensor, Tensor | None]:
            costs = cost(self._plans)
            if not costs.requires_grad:
                return costs, None
            (gradient,) = torch.autograd.grad(costs, self._plans, torch.ones_like(costs))
            return costs.detach(), gradient

        self._graph, (self._costs, self._gradient) = _record(once, pool)

    def __call__(self, model_actions: Tensor) -> Tensor:
        if self._gradient is None:
            return self.replay(model_actions)[0]
        costs: Tensor = _Differentiable.apply(model_actions, self)
        return costs

    def replay(self, model_actions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Costs (B, S) of plans (B, S, H, M) and their gradient, if it was recorded."""
        with torch.no_grad():
            self._plans.copy_(model_actions)
        self._graph.replay()
        # The next replay writes to the same memory.
        gradient = None if self._gradient is None else self._gradient.clone()
        return self._costs.clone(), gradient


class _Differentiable(torch.autograd.Function):
    """A cost whose gradient is known already when it is computed."""

    @staticmethod
    def forward(ctx: Any, model_actions: Tensor, graph: _CostGraph) -> Tensor:
        costs, gradient = graph.replay(model_actions)
        ctx.save_for_backward(gradient)
        return costs

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_costs: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_costs[:, :, None, None], None


def _record(function: Callable[[], Any], pool: Any) -> tuple[torch.cuda.CUDAGraph, Any]:
    """The function's graph, not yet run, and what it returned, which replays write to."""
    graph = torch.cuda.CUDAGraph()
    collecting = gc.isenabled()
    gc.disable()  # to free another graph while one is recorded breaks the recording
    try:
        # Another thread, such as one that loads data, may go on with the device.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            found = function()
    except RuntimeError as error:
        raise RuntimeError(
            f"the planning cost cannot be recorded as a CUDA graph "
            f"({str(error).strip().splitlines()[0]}); plan with MPCConfig(cuda_graphs=False)"
        ) from error
    finally:
        if collecting:
            gc.enable()
    return graph, found
