"""Model predictive path integral control: average samples by exponential weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gbp_agent.planners.common import (
    BestOfEach,
    cheapest,
    check_choice,
    check_count,
    check_inputs,
    check_number,
    draw_noise,
    evaluate_in_parts,
    take_plain_numbers,
)
from gbp_agent.planners.starts import (
    STARTS,
    beam_of,
    check_beam,
    offered,
    start_from_proposals,
)
from gbp_agent.types import CostFunction, PlannerResult


@dataclass(frozen=True)
class MPPIConfig:
    """Settings of `MPPIPlanner`; lengths are in model-action units (z-scored).

    samples: ≥ 2, candidates per problem and iteration, the present mean among them.
    iterations: ≥ 1.
    init: where the mean starts, "proposals", "beam" or "zeros"; see `MPPIPlanner`.
    temperature: > 0, λ of the weights exp(-cost / λ); lower follows the best samples closer.
    noise_std: > 0, standard deviation of the samples about the mean.
    normalize: True measures λ in standard deviations of a problem's sample costs, so that it
        does not depend on the scale of the latents; False in units of the cost, as published.
    max_rollouts: ≥ 1, most roll-outs in one call of the cost function, as in `CEMConfig`.
    beam_width, beam_branches: ≥ 1, with "beam", plans of each length that are continued, and in how
        many ways each; see `beam_search`.

    Raises ValueError for a value outside these ranges.
    """

    samples: int = 300
    iterations: int = 10
    init: Literal["proposals", "beam", "zeros"] = "proposals"
    temperature: float = 1.0
    noise_std: float = 0.5
    normalize: bool = True
    max_rollouts: int = 4096
    beam_width: int = 8
    beam_branches: int = 16

    def __post_init__(self) -> None:
        take_plain_numbers(self)
        check_count("samples", self.samples, 2, "300 is usual.")
        check_count("iterations", self.iterations, 1, "10 is the default.")
        check_choice("init", self.init, STARTS, "give 'zeros' to ignore proposals.")
        check_number("temperature", self.temperature, "1 is usual.", above=0)
        check_number("noise_std", self.noise_std, "0.5 is the default.", above=0)
        check_count("max_rollouts", self.max_rollouts, 1, "lower it when memory runs out.")
        check_beam(self)


class MPPIPlanner:
    """Path-integral control with a Gaussian of fixed width about a moving mean.

    With `init` "zeros" the mean starts at `initial` (warm rows) or zero (other rows). With
    "proposals" every proposal is rolled out once; the mean of a warm row starts at the cheaper
    of `initial` and the cheapest proposal, that of another row at the cheapest proposal, and
    where there is none (K = 0, or no finite cost) as with "zeros". With "beam" the plans that
    `beam_search` makes of the proposals' steps take their place. It becomes the average of the
    samples, clamped into the bounds, with weights ∝ exp(-(cost - lowest cost) / λ). A
    candidate without a finite cost has weight 0; a row with none finite keeps its mean. The
    quadratic control term of the original is left out: the cost function is the whole cost.

    The best point ever evaluated is returned, proposals included: `cost_trace` has a row for each
    iteration. The samples of the last one are not averaged, since no more follow.
    Noise is drawn once per iteration with shape (S, H, M) for all rows, so a row's plan does
    not depend on the rows beside it.

    Raises ValueError for arguments that do not fit together.
    Source: Williams et al., Information Theoretic MPC for Model-Based Reinforcement Learning,
    ICRA 2017, algorithms 1 and 2.
    """

    def __init__(self, config: MPPIConfig | None = None) -> None:
        self.config = MPPIConfig() if config is None else config

    def __repr__(self) -> str:
        return f"MPPIPlanner({self.config})"

    def __call__(
        self,
        cost: CostFunction,
        initial: Tensor,
        *,
        warm: Tensor,
        proposals: Tensor,
        low: Tensor,
        high: Tensor,
        generator: torch.Generator,
    ) -> PlannerResult:
        """Minimise `cost` as `gbp_agent.types.Planner` says; (B, H, M) in and out."""
        check_inputs(initial, warm, proposals, low, high, generator)
        config = self.config
        centre = torch.where(warm[:, None, None], initial.detach(), 0.0).clamp(low, high)
        starts = start_from_proposals(
            cost,
            centre[:, None],
            warm=warm,
            proposals=offered(proposals, config),
            low=low,
            high=high,
            max_rollouts=config.max_rollouts,
            beam=beam_of(config),
        )
        mean, best = starts.plans[:, 0], starts.best
        found = BestOfEach(best)
        for iteration in range(config.iterations):
            noise = draw_noise(generator, config.samples, initial)
            noise[0] = 0.0  # the present mean is one of the samples
            samples = (mean[:, None] + config.noise_std * noise).clamp_(low, high)
            costs = evaluate_in_parts(cost, samples, config.max_rollouts)
            plan, lowest = cheapest(samples, costs)
            found.add(plan, lowest)
            if iteration + 1 < config.iterations:
                average = torch.einsum("bs,bshm->bhm", self._weights(costs), samples)
                finite = torch.isfinite(lowest)[:, None, None]
                mean = torch.where(finite, average.clamp(low, high), mean)
        trace = found.settle()
        return PlannerResult(
            model_actions=best.plan,
            cost=best.cost,
            cost_trace=trace,
            evaluations=starts.evaluations + config.iterations * config.samples,
            gradient_steps=0,
        )

    def _weights(self, costs: Tensor) -> Tensor:
        """Weights (B, S) that add up to 1, from costs (B, S); NaN in rows with none finite."""
        finite = torch.isfinite(costs)
        excess = torch.where(finite, costs - costs.amin(dim=1, keepdim=True), 0.0)
        if self.config.normalize:
            count = finite.sum(dim=1, keepdim=True).clamp(min=1)
            average = excess.sum(dim=1, keepdim=True) / count
            deviation = torch.where(finite, excess - average, 0.0)
            std = (deviation.square().sum(dim=1, keepdim=True) / count).sqrt()
            # Where all costs are equal the excess is 0 as well, and the weights are uniform.
            excess = excess / std.clamp(min=torch.finfo(std.dtype).tiny)
        logits = (-excess / self.config.temperature).masked_fill(~finite, -torch.inf)
        return torch.softmax(logits, dim=1)
