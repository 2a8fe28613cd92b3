"""The judge of a world model: what its latents hold, and how well it predicts.

Everything here looks at held-out episodes and uses the simulator's states, which no model sees.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .data import TrajectoryDataset, evenly_chosen
from .data.latents import LatentDataset
from .networks import initialize
from .world_model import LatentWorldModel, join


def effective_rank(latents: Tensor) -> float:
    """Number of dimensions that the latents (N, L) use: exp of the entropy of the normalised
    eigenvalues of their covariance; between 1 and L. A collapsed encoder has few."""
    share = spectrum(latents)
    share = share / share.sum().clamp(min=1e-12)
    return float(torch.exp(-(share * share.clamp(min=1e-12).log()).sum()))


def spectrum(latents: Tensor) -> Tensor:
    """Eigenvalues (L,) of the covariance of latents (N, L), largest first."""
    return torch.linalg.eigvalsh(torch.cov(latents.double().T)).flip(0).clamp(min=0)


class StateProbe(nn.Module):
    """Small MLP from a latent vector to the simulator's state.

    Args:
        latent_dim: L.
        names: one per state number; "block x" and "block y" are judged together as "block".
        periods: one per state number, 0 where it is no angle; an angle is predicted by its sine
            and cosine, and its error is the shorter way round.
    """

    def __init__(self, latent_dim: int, names: Sequence[str], periods: Sequence[float]):
        super().__init__()
        self.names = list(names)
        self.periods = torch.tensor(list(periods), dtype=torch.float32)
        outputs = len(names) + int((self.periods > 0).sum())
        self.register_buffer("center", torch.zeros(len(names)))
        self.register_buffer("scale", torch.ones(len(names)))
        self.network = nn.Sequential(
            nn.Linear(latent_dim, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(),
            nn.Linear(256, outputs),
        )  # fmt: skip

    center: Tensor
    scale: Tensor

    def targets(self, states: Tensor) -> Tensor:
        """States (N, s) → what the network regresses (N, outputs)."""
        plain = ((states - self.center) / self.scale)[:, self.periods == 0]
        angle = states[:, self.periods > 0] * (2 * torch.pi / self.periods[self.periods > 0])
        return torch.cat([plain, angle.cos(), angle.sin()], -1)

    @torch.no_grad()
    def forward(self, latents: Tensor) -> Tensor:
        """Latents (N, L) → states (N, s), angles within their period."""
        output = self.network(latents)
        round_ = self.periods > 0
        plain, angles = int((~round_).sum()), int(round_.sum())
        states = torch.empty(len(latents), len(self.names))
        states[:, ~round_] = output[:, :plain] * self.scale[~round_] + self.center[~round_]
        cosine, sine = output[:, plain : plain + angles], output[:, plain + angles :]
        period = self.periods[round_]
        states[:, round_] = (
            torch.atan2(sine, cosine).remainder(2 * torch.pi) * period / 2 / torch.pi
        )
        return states

    def fit(
        self, latents: Tensor, states: Tensor, generator: torch.Generator, steps: int = 3000
    ) -> None:
        """Train on latents (N, L) and states (N, s) with a one-cycle AdamW."""
        self.center, self.scale = states.mean(0), states.std(0).clamp(min=1e-6)
        wanted = self.targets(states)
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=3e-3, weight_decay=1e-4)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
        for _ in range(steps):
            rows = torch.randint(len(latents), (512,), generator=generator)
            loss = F.mse_loss(self.network(latents[rows]), wanted[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()

    def errors(self, latents: Tensor, states: Tensor) -> dict[str, float]:
        """Median error per quantity, in the state's units (angles in its units too); that of
        numbered ones, such as "x 0" and "x 1", over all of them."""
        difference = self(latents) - states
        period = self.periods.where(self.periods > 0, torch.inf)
        wrapped = difference - period * torch.round(difference / period).nan_to_num()
        difference = torch.where(self.periods > 0, wrapped, difference)
        together: dict[str, list[int]] = {}
        for index, name in enumerate(self.names):
            group, _, axis = name.rpartition(" ")
            together.setdefault(group if group and axis in "xyz" else name, []).append(index)
        errors: dict[str, list[Tensor]] = {}
        for name, columns in together.items():
            quantity = re.sub(r" \d+$", "", name)
            errors.setdefault(quantity, []).append(difference[:, columns].norm(dim=-1))
        return {k: float(torch.cat(found).median()) for k, found in errors.items()}


@torch.no_grad()
def rollout_errors(model: LatentWorldModel, latents: Tensor, model_actions: Tensor) -> Tensor:
    """Mean squared error, over the numbers of a latent, of each of H frames (N, H) that are
    predicted from the first T alone.

    latents: (N, T + H, L) joined latents, one model step apart; model_actions: (N, T + H - 1, M).
    """
    past = model.history - 1
    errors = []
    most = model.rollouts_at_once
    for seen, actions in zip(latents.split(most), model_actions.split(most), strict=True):
        start = model.split(seen[:, : past + 1])
        predicted = join(model.rollout(start, actions[:, :past], actions[:, past:]))
        errors.append((predicted - seen[:, past + 1 :]).square().mean(-1))
    return torch.cat(errors)


@torch.no_grad()
def prediction_errors(
    model: LatentWorldModel, latents: Tensor, model_actions: Tensor
) -> dict[str, list[float]]:
    """Multi-step error on held-out windows against predicting no change.

    latents, model_actions: as for `rollout_errors`.
    Returns mean squared errors of `model` and `copy` after 1…H model steps, averaged over
    the numbers of a latent, and their `ratio` (below 1 is better than copying).
    """
    history = model.history
    own = rollout_errors(model, latents, model_actions).mean(0)
    copy = (latents[:, history - 1 : history] - latents[:, history:]).square().mean((0, 2))
    ratio = own / copy.clamp(min=1e-12)
    return {"model": own.tolist(), "copy": copy.tolist(), "ratio": ratio.tolist()}


def judge(
    model: LatentWorldModel,
    dataset: TrajectoryDataset,
    latents: LatentDataset,
    training: np.ndarray,
    held_out: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    """Probe, spectrum and multi-step error of a model, all on held-out episodes.

    Returns {"probe": median errors, "effective_rank", "spectrum": eigenvalues of the visual part
    (of one token, over all tokens), "prediction": see prediction_errors, five model steps ahead or
    as many as fit into an episode, and under "prediction_training" the same on as many episodes of
    the training}.
    """
    generator = torch.Generator().manual_seed(seed)
    names = dataset.metadata["state_names"]
    periods = [dataset.metadata["state_periods"].get(name, 0.0) for name in names]
    seen, states = _labelled(dataset, latents, held_out)
    errors: dict[str, float] = {}
    if names:
        probe = StateProbe(latents.latents.shape[1], names, periods)
        initialize(probe, generator)
        known = training[:: max(1, len(training) // 1000)]
        probe.fit(*_labelled(dataset, latents, known), generator)
        errors = probe.errors(seen, states)
    visual = model.split(seen).visual.flatten(0, 1) if model.token_width else seen

    def predicted(episodes: np.ndarray) -> dict[str, list[float]]:
        history, frameskip = model.history, model.config.frameskip
        longest = int(latents.length[torch.from_numpy(episodes)].max())
        ahead = min(5, (longest - 1) // frameskip + 1 - history)
        if ahead < 1:  # too short to predict anything
            return {"model": [], "copy": [], "ratio": []}
        frames = history + ahead
        rows = latents.evenly(episodes, frames, frameskip, stride=7)
        windows, actions = latents.window(rows, frames, frameskip)
        return prediction_errors(model, windows.to(model.device), actions.to(model.device))

    return {
        "probe": errors,
        "effective_rank": effective_rank(visual),
        "spectrum": [round(float(v), 4) for v in spectrum(visual)],
        "prediction": predicted(held_out),
        "prediction_training": predicted(evenly_chosen(training, len(held_out))),
    }


def _labelled(
    dataset: TrajectoryDataset, latents: LatentDataset, episodes: np.ndarray
) -> tuple[Tensor, Tensor]:
    rows = latents.evenly(episodes, 1, 1, stride=1)
    states = torch.from_numpy(dataset.array("state", episodes)).float()
    return latents.latents[rows].float(), states
