"""The cross-entropy method: sample, keep the elites, fit a Gaussian to them, repeat."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gbp_agent.planners.common import (
    BestOfEach,
    BestPlan,
    check_choice,
    check_count,
    check_inputs,
    check_number,
    draw_noise,
    evaluate,
    split_samples,
    take_plain_numbers,
    take_samples,
)
from gbp_agent.planners.starts import (
    STARTS,
    Starts,
    beam_of,
    check_beam,
    offered,
    start_from_proposals,
)
from gbp_agent.types import CostFunction, PlannerResult


@dataclass(frozen=True)
class CEMConfig:
    """Settings of `CEMPlanner`; lengths are in model-action units (z-scored).

    samples: ≥ 2, candidates per problem and iteration, the present mean among them.
    iterations: ≥ 1.
    elites: 2..samples, how many of the best candidates the Gaussian is fitted to.
    init: where the Gaussian starts, "proposals", "beam" or "zeros"; see `CEMPlanner`.
    init_std: > 0, standard deviation of the first samples.
    min_std: ≥ 0, floor of the fitted standard deviation; keeps the search from freezing.
    momentum: in [0, 1), share of the old mean and standard deviation in the new ones.
    max_rollouts: ≥ 1, most roll-outs in one call of the cost function (B·s, where s samples
        of each of the B problems go into a call); bounds memory. B above it cannot be split,
        because a cost function takes all problems at once: then s = 1.
    beam_width, beam_branches: ≥ 1, with "beam", plans of each length that are continued, and in how
        many ways each; see `beam_search`.

    Raises ValueError for a value outside these ranges.
    """

    samples: int = 300
    iterations: int = 30
    elites: int = 30
    init: Literal["proposals", "beam", "zeros"] = "proposals"
    init_std: float = 1.0
    min_std: float = 0.01
    momentum: float = 0.0
    max_rollouts: int = 4096
    beam_width: int = 8
    beam_branches: int = 16

    def __post_init__(self) -> None:
        take_plain_numbers(self)
        check_count("samples", self.samples, 2, "300 is usual.")
        check_count("iterations", self.iterations, 1, "30 is usual.")
        check_count("elites", self.elites, 2, "a tenth of the samples is usual.")
        if self.elites > self.samples:
            raise ValueError(
                f"elites is {self.elites}, expected at most samples = {self.samples}; "
                "take fewer elites or more samples."
            )
        check_choice("init", self.init, STARTS, "give 'zeros' to ignore proposals.")
        check_number("init_std", self.init_std, "1 is the spread of model actions.", above=0)
        check_number("min_std", self.min_std, "give 0 for no floor.")
        check_number("momentum", self.momentum, "give 0 for none.", below=1)
        check_count("max_rollouts", self.max_rollouts, 1, "lower it when memory runs out.")
        check_beam(self)


class CEMPlanner:
    """Cross-entropy method with a diagonal Gaussian over the model actions.

    With `init` "zeros" the Gaussian starts at `initial` (warm rows) or zero (other rows). With
    "proposals" every proposal is rolled out once; the Gaussian of a warm row starts at the
    cheaper of `initial` and the cheapest proposal, that of another row at the cheapest
    proposal, and where there is none (K = 0, or no finite cost) as with "zeros". With "beam" the
    plans that `beam_search` makes of the proposals' steps take their place. Its first standard
    deviation is `init_std`; samples are clamped into the bounds.

    The best point ever evaluated is returned, proposals included: `cost_trace` has a row for each
    iteration. No Gaussian is fitted to the last elites, since nothing would be sampled from it.

    A candidate without a finite cost is no elite; a row with none keeps its mean. Where all of the
    first elites are finite those of later iterations are taken to be, which makes an iteration
    cheaper and need not wait for a GPU, and if in the end some were not, the search is done again,
    from the same noise and with what is finite alone.

    Noise is drawn once per iteration with shape (S, H, M) for all rows, so a row's plan does
    not depend on the rows beside it.

    Raises ValueError for arguments that do not fit together.
    Source: Rubinstein & Kroese, The Cross-Entropy Method, 2004; settings of arXiv 2411.04983.
    """

    config: CEMConfig

    def __init__(self, config: CEMConfig | None = None) -> None:
        self.config = CEMConfig() if config is None else config

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config})"

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
        before = generator.get_state()
        trace, best, sound = self._search(cost, starts, low, high, generator, careful=False)
        searches = 1
        if not sound:
            generator.set_state(before)
            trace, best, _ = self._search(cost, starts, low, high, generator, careful=True)
            searches = 2
        scored = searches * config.iterations * config.samples
        return PlannerResult(
            model_actions=best.plan,
            cost=best.cost,
            cost_trace=trace,
            evaluations=starts.evaluations + scored * (1 + self._gradient_steps_per_sample),
            gradient_steps=scored * self._gradient_steps_per_sample,
        )

    def _search(
        self,
        cost: CostFunction,
        starts: Starts,
        low: Tensor,
        high: Tensor,
        generator: torch.Generator,
        *,
        careful: bool,
    ) -> tuple[Tensor, BestPlan, bool]:
        """The lowest cost so far after each iteration (I, B), the best plans, and whether no elite
        without a finite cost was fitted. careful: ask that of all; otherwise it is asked of the
        first elites, and in the end."""
        config = self.config
        mean, best = starts.plans, copy(starts.best)
        std = torch.full_like(mean, config.init_std)
        found, dearest = BestOfEach(best), []
        for iteration in range(config.iterations):
            noise = draw_noise(generator, config.samples, best.plan)
            noise[0].zero_()  # the present mean is one of the samples
            samples = torch.addcmul(mean, std, noise).clamp_(low, high)
            ranked = [
                self._score(cost, part, low, high, best)
                for part in split_samples(samples, config.max_rollouts)
            ]
            points, costs = (_joined(parts) for parts in zip(*ranked, strict=True))
            if iteration == 0:
                best.update(points[:, :1], costs[:, :1])  # where it starts, which a tie goes to
            costs, index = costs.topk(config.elites, dim=1, largest=False)
            elites = take_samples(points, index)
            if iteration == 0 and not careful:
                careful = not bool(costs[:, -1].amax() < torch.inf)
            # The lowest comes first; a copy, so that the other elites can be let go.
            found.add(elites[:, 0].clone(), costs[:, 0])
            if iteration + 1 < config.iterations:
                dearest.append(costs[:, -1])
                fit = self._fit_finite if careful else self._fit_all
                mean, std = fit(elites, costs, mean, std)
        sound = careful or not dearest or bool(torch.stack(dearest).amax() < torch.inf)
        trace = found.settle()
        return trace, best, sound

    @property
    def _gradient_steps_per_sample(self) -> int:
        return 0

    def _score(
        self, cost: CostFunction, samples: Tensor, low: Tensor, high: Tensor, best: BestPlan
    ) -> tuple[Tensor, Tensor]:
        """Points (B, s, H, M) to be ranked by their costs (B, s); others that were evaluated on the
        way there go to `best`."""
        return samples, evaluate(cost, samples)

    def _fit_all(
        self, elites: Tensor, costs: Tensor, mean: Tensor, std: Tensor
    ) -> tuple[Tensor, Tensor]:
        """New mean and standard deviation (B, 1, H, M), of all elites (B, K, H, M)."""
        fitted_mean = elites.mean(dim=1, keepdim=True)
        variance = (elites - fitted_mean).square_().mean(dim=1, keepdim=True)
        return self._moved(fitted_mean, variance, mean, std)

    def _fit_finite(
        self, elites: Tensor, costs: Tensor, mean: Tensor, std: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same, of the elites with a finite cost among (B, K); where these are all, the numbers
        are the same to the bit.

        A mean needs one such elite and a standard deviation two; rows with fewer keep theirs.
        """
        finite = (costs < torch.inf)[:, :, None, None]
        count = finite.sum(dim=1, keepdim=True)
        divisor = count.clamp(min=1)
        fitted_mean = torch.where(finite, elites, 0.0).sum(dim=1, keepdim=True) / divisor
        squares = (elites - fitted_mean).square_()
        variance = torch.where(finite, squares, 0.0).sum(dim=1, keepdim=True) / divisor
        fitted_mean, fitted_std = self._moved(fitted_mean, variance, mean, std)
        return torch.where(count >= 1, fitted_mean, mean), torch.where(count >= 2, fitted_std, std)

    def _moved(
        self, fitted_mean: Tensor, variance: Tensor, mean: Tensor, std: Tensor
    ) -> tuple[Tensor, Tensor]:
        """From the old mean and standard deviation towards the fitted ones."""
        fitted_std = variance.sqrt_().clamp_(min=self.config.min_std)
        if self.config.momentum > 0:
            fitted_mean = fitted_mean.lerp(mean, self.config.momentum)
            fitted_std = fitted_std.lerp(std, self.config.momentum)
        return fitted_mean, fitted_std


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    """Parts (B, s, ...) as (B, S, ...)."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
