"""The agent: observation → latent → plan → action.

The path of one decision, four files long:

    agent.py        act(obs) → predict → plan: encodes, plans, hands out the plan's actions
    planners/*.py   the optimiser, which sees a cost function and nothing else
    vector.py       rollout; compact.py encode (patch.py does both for patch tokens)
    networks/*.py   the encoder and the predictor
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .apart import plan_apart
from .checkpoint import load_checkpoint, save_checkpoint
from .goals import GoalLatents
from .graphs import CostGraphs
from .hub import default_card, upload
from .mpc import MPCConfig, starts_from_network, uses_cuda_graphs
from .objectives import GoalObjective
from .observations import ObservationKeys, check_observation
from .planners import PLANNERS, make_planner
from .planners.settings import planner_from_settings, settings_of
from .precision import uses_bfloat16
from .proposals import make_proposals
from .report import EvaluationReport
from .rollouts import in_parts, rollouts_from
from .state import AgentState
from .types import (
    CostFunction,
    CostOf,
    Latent,
    Objective,
    Observation,
    Plan,
    Planner,
    PlannerResult,
)
from .world_model import LatentWorldModel, repeat_rows


class WorldModelMPCAgent:
    """Plans through a world model and acts; a policy object for any Gymnasium loop.

    `last_plan` is the Plan that the last `predict` made, for the rows that were due; None where
    it handed out actions that were planned before.

    Args:
        model: a world model with its statistics.
        planner: a name in `PLANNERS` or a planner object.
        objective: what to minimise; distance to the goal's latent by default.
        config: horizon and execution.
        keys: which entries of an observation are the pictures and the proprioception.
        seed: of the planner's noise. With `deterministic=True` every plan draws the same noise, so
            that an action depends on nothing but the observations of its own episode.
    """

    def __init__(
        self,
        model: LatentWorldModel,
        planner: str | Planner = "gradient",
        objective: Objective | None = None,
        config: MPCConfig | None = None,
        keys: ObservationKeys | None = None,
        seed: int = 0,
    ):
        self.model = model.eval().requires_grad_(False)
        self.planner = make_planner(planner)
        self.objective: Objective = GoalObjective() if objective is None else objective
        self.config = MPCConfig() if config is None else config
        self.keys = ObservationKeys() if keys is None else keys
        self.seed = seed
        self.device = model.device
        self.last_plan: Plan | None = None
        self._cost_of: CostOf = _planning_cost(self.model, self.objective, self.config)
        graphs = uses_cuda_graphs(self.config, self.objective, self.device)
        self._search_cost_of: CostOf = CostGraphs(self._cost_of) if graphs else self._cost_of
        self._noise = torch.Generator(self.device).manual_seed(seed)
        self._goal: Observation | np.ndarray | None = None
        self._state: AgentState | None = None
        shape = model.config
        self._propose = make_proposals(
            model, self.objective, self.config.proposals, self.config.horizon
        )
        self._encode = partial(_encode, model)
        self._goals = GoalLatents(self._encode)
        # A planner is told of the network's plans as if they were the rest of earlier ones.
        self._network_starts = starts_from_network(self.planner, model, self.config)
        self._low, self._high = model.action_normalizer.bounds(
            np.asarray(shape.action_low, np.float32),
            np.asarray(shape.action_high, np.float32),
            shape.frameskip,
            self.config.action_limit,
        )

    # Making, saving ---------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        planner: str | Planner = "gradient",
        device: str | torch.device | None = None,
        *,
        revision: str | None = None,
        config: MPCConfig | None = None,
        objective: Objective | None = None,
        seed: int = 0,
    ) -> WorldModelMPCAgent:
        """Load a shipped model by name, a folder, or "hf://owner/repo" (see load_checkpoint).

        planner: a name takes the settings that were found best for this model.
        device: the processor by default; "auto" takes a GPU where there is one.
        """
        model, planning = load_checkpoint(name_or_path, revision=revision)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = model.to(device or "cpu")
        try:
            return cls.from_settings(model, planning, planner, config, objective, seed)
        except TypeError as error:
            raise ValueError(f"{name_or_path} has bad planning settings: {error}") from error

    @classmethod
    def from_settings(
        cls,
        model: LatentWorldModel,
        planning: dict[str, Any],
        planner: str | Planner = "gradient",
        config: MPCConfig | None = None,
        objective: Objective | None = None,
        seed: int = 0,
    ) -> WorldModelMPCAgent:
        """An agent that plans as a checkpoint's "planning" says, where nothing else is given.

        Raises:
            TypeError: a setting has an unknown name.
        """
        if isinstance(planner, str) and planner in PLANNERS:
            planner = planner_from_settings(planner, planning.get("planners", {}))
        objective = objective or GoalObjective(**planning.get("objective", {}))
        config = config or MPCConfig(**planning.get("mpc", {}))
        return cls(model, planner, objective, config, seed=seed)

    def save_pretrained(self, folder: str | Path, card: str = "") -> None:
        """Write a folder that `from_pretrained` reads, with this agent's settings as its own, and
        a model card of them unless there is a better one."""
        card = card or default_card(self)
        save_checkpoint(folder, self.model, planning=self.settings(), card=card)

    def settings(self) -> dict[str, Any]:
        """How this agent plans, as JSON values: the "planning" of a checkpoint's config.json."""
        settings: dict[str, Any] = {"mpc": asdict(self.config)}
        if isinstance(self.objective, GoalObjective):
            settings["objective"] = asdict(self.objective)
        return {**settings, "planners": settings_of(self.planner)}

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: str = "",
        reports: EvaluationReport | Sequence[EvaluationReport] = (),
        license: str = "mit",
        private: bool | None = None,
        **kwargs: Any,
    ) -> str:
        """Upload to the Hugging Face hub and return the address of the commit.

        repo_id: "owner/repo"; made if need be. card: Markdown of the model card; by default one of
            this agent's settings. Metadata that it lacks is added.
        reports: evaluations whose figures the card's metadata tell.
        license: of the model, unless the card names one. private: for a new repository.
        kwargs: passed to `huggingface_hub.HfApi.upload_folder`, e.g. `revision`, `token`.

        Raises:
            ValueError: a bad repository name, or metadata that cannot be read.
            OSError: the hub refused.
        """
        return upload(self, repo_id, card, reports, license, private, **kwargs)

    # Acting -----------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget the episode."""
        self._state = None
        self._goals.forget()

    def set_goal(self, goal: Observation | np.ndarray | None) -> None:
        """Give the goal once, for an env whose observations hold none: an observation of it, with
        the same picture and proprioception keys as the others; None takes it back."""
        self._goal = goal

    def act(self, observation: Observation) -> np.ndarray:
        """One environment action, float32 (A,) inside the action space, or (B, A) for a batch."""
        action, self._state = self.predict(observation, self._state)
        return action

    def predict(
        self,
        observation: Observation,
        state: AgentState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, AgentState]:
        """Stable-Baselines3's protocol: the action, and the state to pass in next time.

        observation: one, or a batch with a leading dimension.
        state: what the last call returned; None at the start of all episodes.
        episode_start: (B,) bool, rows that begin a new episode and forget the old one.

        Raises:
            KeyError: the observation lacks a key.
            ValueError: a part of it has the wrong shape or type, or is not finite.
        """
        batch, single = self._batched(observation)
        rows = len(batch["proprio"])
        if state is not None and len(state.position) != rows:
            raise ValueError(
                f"state is of {len(state.position)} episode(s), the observation of {rows}; "
                "call agent.reset(), or pass state=None, when the number of envs changes"
            )
        fresh = np.ones(rows, bool) if state is None else np.zeros(rows, bool)
        if episode_start is not None:
            fresh = fresh | np.asarray(episode_start, bool).reshape(rows)
        action, state = self._advance(state, batch, fresh, deterministic).hand_out()
        return (action[0] if single else action), state

    def plan(
        self, observation: Observation, state: AgentState | None = None, deterministic: bool = True
    ) -> Plan:
        """Plan once from this observation: `horizon` model steps, nothing is executed.

        state: None plans as at the start of an episode.
        """
        batch, _ = self._batched(observation)
        rows = np.arange(len(batch["proprio"]))
        begun = time.perf_counter()
        if state is None:
            state = self._first_state(batch)
        return self._plan(batch, state, rows, begun, deterministic)

    def cost(self, observation: Observation) -> CostFunction:
        """What the planner minimises from this observation, as at the start of an episode."""
        batch, _ = self._batched(observation)
        rows = np.arange(len(batch["proprio"]))
        state = self._first_state(batch)
        goal = self._encode(batch, rows, "goal_")
        return self.cost_of(state.history, state.past_actions, goal)

    def cost_of(self, start: Latent, past: Tensor, goal: Latent) -> CostFunction:
        """The planner's view of B problems: what candidate plans (B, S, H, M) cost, (B, S).

        start: Latent (B, T); past: (B, T-1, M), the model actions between; goal: Latent (B,).
        """
        return self._cost_of(start, past, goal)

    # Details ----------------------------------------------------------------------------------

    def _batched(self, observation: Observation) -> tuple[dict[str, np.ndarray], bool]:
        """The observation with its goal and a leading batch dimension; whether it had none."""
        if self._goal is not None:
            known = self.keys.as_dict(observation)
            observation = dict(known) | self.keys.as_goal(self._goal, known)
        needs_goal = getattr(self.objective, "needs_goal", True)
        return check_observation(observation, self.keys, self.model.config, needs_goal)

    def _first_state(self, batch: dict[str, np.ndarray]) -> AgentState:
        """The state at the start of all episodes, whose goals are not known yet."""
        self._goals.forget()
        shape, rows = self.model.config, np.arange(len(batch["proprio"]))
        return AgentState.empty(
            self._encode(batch, rows),
            history=shape.history,
            horizon=self.config.horizon,
            pending=self.config.execute * shape.frameskip,
            action_dim=shape.action_dim,
            width=self.model.model_action_dim,
        )

    def _advance(
        self,
        state: AgentState | None,
        batch: dict[str, np.ndarray],
        fresh: np.ndarray,
        deterministic: bool,
    ) -> AgentState:
        """The state with a non-empty queue in every row."""
        begun = time.perf_counter()
        state = self._first_state(batch) if state is None else self._observe(state, batch, fresh)
        due = state.due()
        self.last_plan = None
        if len(due) == 0:
            return state
        self.last_plan = self._plan(batch, state, due, begun, deterministic)
        return state.follow(due, self.last_plan, self.config.execute)

    def _observe(
        self, state: AgentState, batch: dict[str, np.ndarray], fresh: np.ndarray
    ) -> AgentState:
        """Take the frames of rows at a model step's end into the history; restart fresh rows."""
        frameskip = self.model.config.frameskip
        ended = np.flatnonzero((state.position % frameskip == 0) & ~fresh)
        begun = np.flatnonzero(fresh)
        rows = np.concatenate([ended, begun])
        if len(rows) == 0:
            return state
        latent = self._encode(batch, rows)
        if len(ended):
            first = Latent(*(part[: len(ended)] for part in latent))
            state = state.observe(ended, first, self.model.action_normalizer, frameskip)
        if len(begun):
            state = state.restart(begun, Latent(*(part[len(ended) :] for part in latent)))
        return state

    def _plan(
        self,
        batch: dict[str, np.ndarray],
        state: AgentState,
        due: np.ndarray,
        begun: float,
        deterministic: bool,
    ) -> Plan:
        """Plan for the rows `due` from their history."""
        model = self.model
        rows = torch.from_numpy(due).to(self.device)
        goal = self._goals(batch, due)
        start = _rows(state.history, rows)
        past, initial = state.past_actions[rows], state.plan[rows]
        warm = initial.flatten(1).any(1)
        if self._network_starts:
            with torch.no_grad():
                guess = model.initial_plan(start, goal)[:, : self.config.horizon]
            initial = torch.where(warm[:, None, None], initial, guess)
            warm = torch.ones_like(warm)

        proposals = self._propose(start, goal, state.plans[due])

        def search(group: Tensor) -> PlannerResult:
            generator = self._noise
            if deterministic:
                generator = torch.Generator(self.device).manual_seed(self.seed)
            return self.planner(
                self._search_cost_of(_rows(start, group), past[group], _rows(goal, group)),
                initial[group],
                warm=warm[group],
                proposals=proposals if proposals.dim() == 3 else proposals[group],
                low=self._low,
                high=self._high,
                generator=generator,
            )

        result = plan_apart(search, warm)
        with torch.no_grad():
            actions = model.action_normalizer.to_env(result.model_actions).cpu().numpy()
        low, high = model.config.action_low, model.config.action_high
        return Plan(
            actions=np.clip(actions, low, high).astype(np.float32),
            model_actions=result.model_actions,
            rollout=partial(_predict, model, start, past, result.model_actions),
            goal=goal,
            cost=result.cost,
            cost_trace=result.cost_trace,
            evaluations=result.evaluations,
            gradient_steps=result.gradient_steps,
            seconds=time.perf_counter() - begun,
        )


def _rows(latent: Latent, rows: Tensor) -> Latent:
    return Latent(*(part[rows] for part in latent))


# Functions, since a bound method that an agent keeps would keep the agent, and a GPU's memory with
# it, until the next collection of cycles.


def _planning_cost(model: LatentWorldModel, objective: Objective, config: MPCConfig) -> CostOf:
    """What this agent's planner minimises, in the precision and the parts that fit the device."""
    rollouts_of = rollouts_from(model, config)
    half = uses_bfloat16(config.precision, model.device)
    precision = partial(torch.autocast, model.device.type, torch.bfloat16, enabled=half)

    def cost_of(start: Latent, past_actions: Tensor, goal: Latent) -> CostFunction:
        with precision():
            rollouts = rollouts_of(start, past_actions)

        def cost(model_actions: Tensor) -> Tensor:
            samples = model_actions.shape[1]
            with precision():
                predicted = rollouts(model_actions.flatten(0, 1))
            goals = Latent(*(repeat_rows(part, samples) for part in goal))
            return objective(predicted, goals).unflatten(0, (-1, samples))

        return in_parts(cost, model.rollouts_at_once)

    return cost_of


@torch.no_grad()
def _predict(model: LatentWorldModel, start: Latent, past: Tensor, plans: Tensor) -> Latent:
    """The frames that the model expects of plans (B, H, M)."""
    return model.rollout(start, past, plans)


def _encode(
    model: LatentWorldModel, batch: dict[str, np.ndarray], rows: np.ndarray, which: str = ""
) -> Latent:
    """The latents of these rows' observations, or with "goal_" of their goals."""
    with torch.no_grad():
        return model.encode(
            torch.from_numpy(batch[f"{which}pixels"][rows]).to(model.device),
            torch.from_numpy(batch[f"{which}proprio"][rows]).to(model.device),
        )
