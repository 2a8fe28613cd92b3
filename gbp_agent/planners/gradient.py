"""Gradient-based planning: descend the cost by back-propagating through the model."""

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
    cost_and_gradient,
    draw_noise,
    evaluate,
    take_plain_numbers,
    take_samples,
)
from gbp_agent.planners.optimizers import BETAS, OPTIMIZERS
from gbp_agent.planners.starts import (
    beam_of,
    check_beam,
    offered,
    start_from_proposals,
)
from gbp_agent.types import CostFunction, PlannerResult

INITS = ("proposals", "beam", "zeros", "normal", "network")


@dataclass(frozen=True)
class GradientConfig:
    """Settings of `GradientPlanner`; lengths are in model-action units (z-scored).

    optimizer: "sgd", "momentum", "adam" or "adamw", with torch.optim's constants (momentum 0.9).
    learning_rate: > 0.
    beta1, beta2: 0 ≤ β < 1, how much of Adam's and AdamW's first and second moment is kept in a
        step. The usual ones average over ten and a thousand steps; a search of ten steps goes
        further with 0.5 and 0.8.
    steps: ≥ 0, gradient steps; 0 returns the best start.
    warm_steps: ≥ 0, gradient steps of warm rows, which go on with a plan that is good already; None
        takes `steps` for them too, and more than `steps` are not taken.
    warm_restarts: ≥ 1, restarts of warm rows; None takes `restarts`, and more are not taken.
    proposals: ≥ 0, how many proposals are looked at, the first ones, which are the nearest where
        the model has keys; None looks at all.
    warm_proposals: ≥ 0, the same of warm rows; None takes `proposals`, and more are not looked at.
    init: where rows start, "proposals", "beam", "zeros", "normal" or "network"; see
        `GradientPlanner`.
    init_std: ≥ 0, standard deviation of "normal" and of further restarts that are noise.
    restarts: ≥ 1, starts per problem, optimised side by side; the best one is returned.
    halvings: ≥ 0, how many times the dearer half of a problem's restarts is given up, after equal
        shares of `steps`, so that many starts are tried for the price of few; 0 keeps all.
    noise_std: ≥ 0, standard deviation of the noise added after each step.
    tolerance: ≥ 0, stop a problem whose best cost has not fallen by more than this fraction
        within `patience` steps; 0 always takes all steps.
    patience: ≥ 1.
    max_rollouts: ≥ 1, most roll-outs in one call of the cost function while proposals are
        screened, as in `CEMConfig`; a gradient step takes B·restarts at once in any case.
    beam_width, beam_branches: ≥ 1, with "beam", plans of each length that are continued, and in how
        many ways each; see `beam_search`.

    Raises ValueError for a value outside these ranges.
    """

    optimizer: Literal["sgd", "momentum", "adam", "adamw"] = "adam"
    learning_rate: float = 0.2
    steps: int = 100
    init: Literal["proposals", "beam", "zeros", "normal", "network"] = "proposals"
    init_std: float = 1.0
    restarts: int = 1
    noise_std: float = 0.003
    tolerance: float = 0.0
    patience: int = 10
    max_rollouts: int = 4096
    warm_steps: int | None = None
    halvings: int = 0
    warm_restarts: int | None = None
    warm_proposals: int | None = None
    proposals: int | None = None
    beta1: float = BETAS[0]
    beta2: float = BETAS[1]
    beam_width: int = 8
    beam_branches: int = 16

    def __post_init__(self) -> None:
        take_plain_numbers(self)
        check_choice("optimizer", self.optimizer, OPTIMIZERS, "'adam' is the published one.")
        check_choice("init", self.init, INITS, "give 'zeros' to ignore proposals.")
        check_number("learning_rate", self.learning_rate, "0.2 is usual with Adam.", above=0)
        check_count("steps", self.steps, 0, "100 is usual.")
        for name, least in (("steps", 0), ("restarts", 1), ("proposals", 0)):
            few = getattr(self, f"warm_{name}")
            if few is not None:
                check_count(f"warm_{name}", few, least, "give None to treat all rows alike.")
        if self.proposals is not None:
            check_count("proposals", self.proposals, 0, "give None to look at all.")
        for name in ("beta1", "beta2"):
            check_number(name, getattr(self, name), "0.9 and 0.999 are usual.", below=1)
        check_number("init_std", self.init_std, "1 is the spread of model actions.")
        check_count("restarts", self.restarts, 1, "give 1 for a single start.")
        check_count("halvings", self.halvings, 0, "give 0 to keep every restart to the end.")
        check_number("noise_std", self.noise_std, "give 0 for no noise.")
        check_number("tolerance", self.tolerance, "give 0 to take all steps.")
        check_count("patience", self.patience, 1, "10 is the default.")
        check_count("max_rollouts", self.max_rollouts, 1, "lower it when memory runs out.")
        check_beam(self)


class GradientPlanner:
    """Projected gradient descent on the model actions.

    Rolls out, back-propagates, steps the optimiser, adds noise, clamps into the bounds. Every
    point that is evaluated counts, the start and the final one included, and the best is
    returned: `cost_trace` has a row for the best start and one for each step of the longest search.

    `init` says where the R = restarts searches of a row start, always clamped:
    - "proposals": every proposal is rolled out once without gradients, and the R cheapest are
      the starts. In a warm row restart 0 is `initial` and the others are proposals; with R = 1
      it is the cheaper of `initial` and the cheapest proposal. Where proposals run short (few,
      or without a finite cost) the rest is as with "zeros", so with K = 0 everything is. The
      result is never worse than the best proposal.
    - "beam": the same with the plans that `beam_search` makes of the proposals' steps, of which
      there are beam_width · beam_branches, in their place.
    - "zeros": restart 0 is `initial` (warm rows) or zeros (other rows), further ones add noise
      of `init_std` to that.
    - "normal": as "zeros", but restart 0 of a row that is not warm is noise too.
    - "network": as "zeros", from the plan of the model's initialisation network, which the agent
      gives as `initial` to rows that are not warm and calls them so.

    With `halvings`, successive halving: the cheaper half of `restarts`, the odd one too, goes on
    each time a share of `steps` is over, whatever number of steps a row itself takes. A row that
    has fewer restarts loses none as long as they are not more than that.

    Noise is drawn once per step for all rows, of one shape whether they are warm or not, and a row
    that stops early stops by itself, so a row's plan does not depend on the rows beside it. Warm
    settings save time only where all rows are warm.

    Raises ValueError for arguments that do not fit together and for a cost that is not
    differentiable in the actions.
    Source: arXiv 2512.09929, section on gradient-based planning; the bounds, the
    proposals, the best iterate and the halvings (arXiv 1502.07943) are additions.
    """

    def __init__(self, config: GradientConfig | None = None) -> None:
        self.config = GradientConfig() if config is None else config

    def __repr__(self) -> str:
        return f"GradientPlanner({self.config})"

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
        update, betas = OPTIMIZERS[config.optimizer], (config.beta1, config.beta2)
        few, all_warm = self._warm_restarts(), bool(warm.all())
        fewer_in_some = few < config.restarts and bool(warm.any()) and not all_warm
        defaults = self._default_starts(initial, warm, generator).clamp(low, high)
        starts = start_from_proposals(
            cost,
            defaults[:, :few] if all_warm else defaults,
            warm=warm,
            proposals=self._looked_at(proposals),
            low=low,
            high=high,
            max_rollouts=config.max_rollouts,
            beam=beam_of(config),
            warm_proposals=config.warm_proposals,
            warm_starts=few,
        )
        best = starts.best
        points = starts.plans.clone()  # (B, S, H, M), changed in place from here on
        found = BestOfEach(best)
        moments = (torch.zeros_like(points), torch.zeros_like(points))
        most = self._steps(warm)  # (B,)
        steps = int(most.max())
        restarts, halve_at = config.restarts, self._halve_at()
        evaluations = gradient_steps = 0
        running = _Running(most, config.tolerance, config.patience, like=best.cost)
        for step in range(steps + 1):  # taken so far
            if step < steps:
                costs, gradient = cost_and_gradient(cost, points)
            else:
                costs = evaluate(cost, points)
            costs = running.hide_stopped(costs, step)
            if fewer_in_some:
                costs[:, few:] = costs[:, few:].masked_fill(warm[:, None], torch.inf)
            found.add(*cheapest(points, costs))
            evaluations += points.shape[1]
            gradient_steps += points.shape[1] if step < steps else 0
            if step == steps or running.all_stopped(costs):
                break
            if step in halve_at:
                restarts = (restarts + 1) // 2
                kept = costs.argsort(dim=1, stable=True)[:, :restarts]  # hidden ones stay last
                points, gradient = take_samples(points, kept), take_samples(gradient, kept)
                moments = (take_samples(moments[0], kept), take_samples(moments[1], kept))
            update(points, gradient, moments, step + 1, config.learning_rate, betas)
            if config.noise_std > 0:
                noise = draw_noise(generator, restarts, initial)[: points.shape[1]]
                points.add_(noise, alpha=config.noise_std)
            points.clamp_(low, high)
        trace = found.settle()
        return PlannerResult(
            model_actions=best.plan,
            cost=best.cost,
            cost_trace=trace,
            evaluations=starts.evaluations + evaluations,
            gradient_steps=gradient_steps,
        )

    def _looked_at(self, proposals: Tensor) -> Tensor:
        """Those of the proposals (K, H, M) or (B, K, H, M) that rows may start from."""
        return offered(proposals, self.config)[..., : self.config.proposals, :, :]

    def _steps(self, warm: Tensor) -> Tensor:
        """Gradient steps (B,) of each row."""
        config = self.config
        few = config.steps if config.warm_steps is None else min(config.warm_steps, config.steps)
        return torch.where(warm, few, config.steps)

    def _warm_restarts(self) -> int:
        """Restarts of a warm row."""
        config = self.config
        few = config.restarts if config.warm_restarts is None else config.warm_restarts
        return min(few, config.restarts)

    def _halve_at(self) -> set[int]:
        """After how many steps the number of restarts is halved."""
        shares = self.config.halvings + 1
        return {share * self.config.steps // shares for share in range(1, shares)}

    def _default_starts(self, initial: Tensor, warm: Tensor, generator: torch.Generator) -> Tensor:
        """Starting points (B, S, H, M) where there are no proposals."""
        config = self.config
        centre = torch.where(warm[:, None, None], initial.detach(), 0.0)
        if config.restarts == 1 and config.init != "normal":
            return centre[:, None]
        noise = draw_noise(generator, config.restarts, initial)
        starts = centre[:, None] + config.init_std * noise
        exact = warm[:, None, None] | (config.init != "normal")
        starts[:, 0] = torch.where(exact, centre, starts[:, 0])
        return starts


class _Running:
    """Which of B searches go on: those that have steps left, and still improve where there is a
    tolerance; without one nothing is counted."""

    def __init__(self, most: Tensor, tolerance: float, patience: int, like: Tensor) -> None:
        self._most = most
        self._tolerance = tolerance
        self._patience = patience
        self._reference = torch.full_like(like, torch.inf)
        self._stale = torch.zeros_like(like, dtype=torch.long)
        self._end_together = tolerance == 0 and bool((most == most.max()).all())

    def hide_stopped(self, costs: Tensor, step: int) -> Tensor:
        """Costs (B, S) after so many steps, with +inf in the rows that have stopped."""
        if self._end_together:
            return costs
        stopped = step > self._most
        if self._tolerance > 0:
            stopped |= self._stale >= self._patience
        return costs.masked_fill(stopped[:, None], torch.inf)

    def all_stopped(self, costs: Tensor) -> bool:
        """Count the steps since the lowest cost of (B, S) last fell by more than the tolerance;
        whether no row has improved for `patience` steps."""
        if self._tolerance == 0:
            return False
        cost = costs.amin(dim=1)
        drop = self._reference - cost
        first_finite = torch.isinf(self._reference) & torch.isfinite(cost)
        improved = first_finite | (drop > self._tolerance * self._reference.abs())
        self._reference = torch.where(improved, cost, self._reference)
        self._stale = torch.where(improved, 0, self._stale + 1)
        return bool((self._stale >= self._patience).all())
