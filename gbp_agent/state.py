"""What an agent remembers of its episodes between two decisions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .normalize import ActionNormalizer
from .types import Latent, Plan


@dataclass(frozen=True)
class AgentState:
    """What the agent remembers of B episodes, from one `predict` to the next; never changed in
    place.

    history: Latent (B, T), the frames that the model starts from, one model step apart.
    past_actions: (B, T-1, M), the model actions between them.
    queue: (B, execute·F, A) env actions; position: (B,), the next one to hand out.
    plan: (B, H, M), the last plan, shifted by what has been handed out.
    plans: (B,), how many plans were made in each episode.
    """

    history: Latent
    past_actions: Tensor
    queue: np.ndarray
    position: np.ndarray
    plan: Tensor
    plans: np.ndarray

    @classmethod
    def empty(
        cls,
        latent: Latent,
        *,
        history: int,
        horizon: int,
        pending: int,
        action_dim: int,
        width: int,
    ) -> AgentState:
        """At the start of B episodes, where the history is the first frame repeated.

        latent: Latent (B,) of the first frames. pending: env actions that a plan hands out.
        width: M.
        """
        rows, of = len(latent.proprio), latent.proprio.new_zeros
        return cls(
            history=Latent(*(part[:, None].repeat_interleave(history, 1) for part in latent)),
            past_actions=of(rows, history - 1, width),
            queue=np.zeros((rows, pending, action_dim), np.float32),
            position=np.full(rows, pending),
            plan=of(rows, horizon, width),
            plans=np.zeros(rows, np.int64),
        )

    def take(self, rows: np.ndarray) -> AgentState:
        """The state of these rows alone, for when some of the envs are done with."""
        index = torch.from_numpy(np.asarray(rows, np.int64)).to(self.plan.device)
        return AgentState(
            history=Latent(*(part[index] for part in self.history)),
            past_actions=self.past_actions[index],
            queue=self.queue[rows],
            position=self.position[rows],
            plan=self.plan[index],
            plans=self.plans[rows],
        )

    def due(self) -> np.ndarray:
        """Rows whose queue is used up."""
        return np.flatnonzero(self.position >= self.queue.shape[1])

    def hand_out(self) -> tuple[np.ndarray, AgentState]:
        """The next env action of every row, (B, A), and the state after it."""
        action = self.queue[np.arange(len(self.position)), self.position]
        return action, replace(self, position=self.position + 1)

    def restart(self, rows: np.ndarray, latent: Latent) -> AgentState:
        """Begin new episodes in these rows, from Latent (rows,) of their first frames."""
        history = Latent(*(part.clone() for part in self.history))
        past, plan, position = self.past_actions.clone(), self.plan.clone(), self.position.copy()
        plans = self.plans.copy()
        for old, new in zip(history, latent, strict=True):
            old[rows] = new[:, None]
        past[rows] = 0.0
        plan[rows] = 0.0
        position[rows] = self.queue.shape[1]
        plans[rows] = 0
        return replace(
            self,
            history=history,
            past_actions=past,
            plan=plan,
            position=position,
            plans=plans,
        )

    def observe(
        self, rows: np.ndarray, latent: Latent, actions: ActionNormalizer, frameskip: int
    ) -> AgentState:
        """Append Latent (rows,) to the history of these rows, which are at a model step's end."""
        history, past = Latent(*(part.clone() for part in self.history)), self.past_actions.clone()
        for old, new in zip(history, latent, strict=True):
            old[rows, :-1] = old[rows, 1:]
            old[rows, -1] = new
        if past.shape[1]:
            taken = [self.queue[r, self.position[r] - frameskip : self.position[r]] for r in rows]
            tensor = torch.from_numpy(np.stack(taken)).to(past.device)
            past[rows, :-1] = past[rows, 1:]
            past[rows, -1] = actions.to_model(tensor, frameskip)[:, 0]
        return replace(self, history=history, past_actions=past)

    def follow(self, rows: np.ndarray, plan: Plan, execute: int) -> AgentState:
        """Fill the queues of these rows from their plans, of which `execute` model steps are
        acted out and the rest is kept to warm-start the next one."""
        queue, position, rest = self.queue.copy(), self.position.copy(), self.plan.clone()
        plans = self.plans.copy()
        queue[rows] = plan.actions[:, : queue.shape[1]]
        position[rows] = 0
        shifted = torch.zeros_like(plan.model_actions)
        shifted[:, : shifted.shape[1] - execute] = plan.model_actions[:, execute:]
        rest[torch.from_numpy(rows).to(rest.device)] = shifted
        plans[rows] += 1
        return replace(self, queue=queue, position=position, plan=rest, plans=plans)


def check_state(state: Any, rows: int) -> None:
    """Raise TypeError unless this is an agent's state, and ValueError unless it is of so many
    episodes."""
    if not isinstance(state, AgentState):
        raise TypeError(
            f"state is a {type(state).__name__}, expected what the last predict() returned, or None"
        )
    if len(state.position) != rows:
        raise ValueError(
            f"state is of {len(state.position)} episode(s), the observation of {rows}; "
            "call agent.reset(), or pass state=None, when the number of envs changes"
        )
