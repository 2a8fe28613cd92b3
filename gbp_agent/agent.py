"""The agent: observation → latent → plan → action.

The path of one decision, four files long:

    agent.py        act(obs) → predict → plan: encodes, plans, hands out the plan's actions
    planners/*.py   the optimiser, which sees a cost function and nothing else
    vector.py       rollout; compact.py encode (patch.py does both for patch tokens)
    networks/*.py   the encoder and the predictor
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .apart import plan_apart
from .checkpoint import load_checkpoint, save_checkpoint
from .goals import GoalLatents, same_goal
from .graphs import CostGraphs
from .hub import default_card, upload
from .mpc import (
    MPCConfig,
    actions_within,
    check_parts,
    check_plans,
    expected_frames,
    hold_still,
    planner_from_network,
    uses_cuda_graphs,
    warn_of_short_proposals,
)
from .objectives import GoalObjective
from .observations import ObservationKeys, check_observation
from .planners import make_planner
from .planning_cost import PlanningCost
from .planning_settings import (
    changed,
    changed_for_open_loop,
    parts_from,
    settings_from,
    warn_of_what_is_lost,
)
from .proposals import make_proposals
from .report import EvaluationReport
from .state import AgentState, check_state
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
from .world_model import LatentWorldModel

MANY = 10  # actions without a state, which nobody means
_MADE = (
    "device", "_cost_of", "_search_cost_of", "_noise", "_propose", "_encode", "_goals",
    "_from_network", "_stateless", "_lowest", "_highest", "_low", "_high",
)  # fmt: skip


class WorldModelMPCAgent:
    """Plans through a world model and acts; a policy object for any Gymnasium loop.

    `last_plan` is the Plan that the last `predict` made, for the rows that were due; None where
    it handed out actions that were planned before.

    Args:
        model: a world model with its statistics. To change its weights later use `load_state_dict`
            or `copy_` under no_grad, not `.data`: PyTorch does not count the changes of that, and
            on a processor the agent would plan on with what it made of the weights before.
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
        self._planner = make_planner(planner)
        self._objective: Objective = GoalObjective() if objective is None else objective
        self._config = MPCConfig() if config is None else config
        self.keys = ObservationKeys() if keys is None else keys
        check_parts(self._objective, self._config, self.keys)
        self.seed = int(seed)
        self.last_plan: Plan | None = None
        self._planning: dict[str, Any] = {}  # of the checkpoint
        self._goal: dict[str, np.ndarray] | None = None
        self._state: AgentState | None = None
        self._make()

    def _make(self) -> None:
        """What follows from the parts."""
        model, shape = self.model, self.model.config
        self.device = model.device
        self._stateless = 0  # calls of `predict` in a row without a state
        self._cost_of: CostOf = PlanningCost(model, self.objective, self.config)
        graphs = uses_cuda_graphs(self.config, self.objective, self.device)
        self._search_cost_of: CostOf = CostGraphs(self._cost_of) if graphs else self._cost_of
        self._noise = torch.Generator(self.device).manual_seed(self.seed)
        self._propose = make_proposals(
            model, self.objective, self.config.proposals, self.config.horizon
        )
        self._encode = partial(_encode, model)
        self._goals = GoalLatents(self._encode)
        # Told of the network's plans as if they were the rest of earlier ones; None without it.
        self._from_network = planner_from_network(self.planner, model, self.config)
        warn_of_short_proposals(self.planner, model, self.config)
        self._lowest, self._highest = actions_within(shape.action_low, shape.action_high)
        self._low, self._high = model.action_normalizer.bounds(
            self._lowest,
            self._highest,
            shape.frameskip,
            self.config.action_limit,
        )

    @property
    def planner(self) -> Planner:
        """The optimiser. As the objective and the config, an agent has it for good; to make another
        agent of the same model, `WorldModelMPCAgent(agent.model, …)`, takes no time."""
        return self._planner

    @property
    def objective(self) -> Objective:
        """What is minimised."""
        return self._objective

    @property
    def config(self) -> MPCConfig:
        """Horizon and execution."""
        return self._config

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickle: all but the last plan and what is made of the rest."""
        kept = {key: value for key, value in self.__dict__.items() if key not in _MADE}
        noise = (self.device.type, self._noise.get_state())
        return {**kept, "last_plan": None, "noise": noise}

    def __setstate__(self, state: dict[str, Any]) -> None:
        device, noise = state["noise"]
        self.__dict__.update({key: value for key, value in state.items() if key != "noise"})
        self._make()
        if device == self.device.type:
            self._noise.set_state(noise)

    # Making, saving ---------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        planner: str | Planner | None = None,
        device: str | torch.device | None = None,
        *,
        revision: str | None = None,
        settings: Mapping[str, Any] | None = None,
        open_loop: bool = False,
        config: MPCConfig | None = None,
        objective: Objective | None = None,
        keys: ObservationKeys | None = None,
        seed: int = 0,
    ) -> WorldModelMPCAgent:
        """Load a shipped model by name, a folder, or "hf://owner/repo" (see load_checkpoint).

        planner: a name takes the settings that were found best for this model; by default that of
            the checkpoint, "gradient" for all that are shipped.
        device: the processor by default; "auto" takes a GPU where there is one.
        settings: some of the checkpoint's settings changed, each as "where.name", such as
            {"gradient.steps": 50, "mpc.horizon": 10, "objective.base": 4.0}.
        open_loop: act every plan out before the next one (`execute` is the horizon), and search for
            it as long as was found best for that; a plan that is soon made anew needs less.
        config, objective, keys, seed: as of the class; by default those of the checkpoint, and a
            config or a planner object that is given takes nothing over from it.

        Raises:
            ValueError: a setting that is none, or is of another planner or of what is given whole.
        """
        model, planning = load_checkpoint(name_or_path, revision=revision)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        planner = planner or planning.get("planner", "gradient")
        places = [
            *(["mpc"] if config is None else []),
            *(["objective"] if objective is None else []),
        ]
        places += [planner] if isinstance(planner, str) else []
        change = changed_for_open_loop if open_loop else changed
        planning = change(planning, settings or {}, places)
        if open_loop and config is not None:
            config = replace(config, execute=config.horizon)
        return cls.from_settings(
            model.to(device or "cpu"), planning, planner, config, objective, keys, seed
        )

    @classmethod
    def from_settings(
        cls,
        model: LatentWorldModel,
        planning: dict[str, Any],
        planner: str | Planner = "gradient",
        config: MPCConfig | None = None,
        objective: Objective | None = None,
        keys: ObservationKeys | None = None,
        seed: int = 0,
    ) -> WorldModelMPCAgent:
        """An agent that plans as a checkpoint's "planning" says, where nothing else is given.

        Raises:
            ValueError: a setting has an unknown name or a bad value.
        """
        agent = cls(model, *parts_from(planning, planner, objective, config, keys), seed)
        agent._planning = planning
        return agent

    def save_pretrained(self, folder: str | Path, card: str = "") -> None:
        """Write a folder that `from_pretrained` reads, with this agent's settings as its own, and
        a model card of them unless there is a better one. An objective that is no `GoalObjective`
        and a planner that is not in `PLANNERS` cannot be written, and have to be given to
        `from_pretrained` again.

        Raises:
            ValueError: the folder holds other things than a checkpoint.
        """
        warn_of_what_is_lost(self.planner, self.objective)
        card = card or default_card(self)
        save_checkpoint(folder, self.model, planning=self.settings(), card=card)

    def settings(self) -> dict[str, Any]:
        """How this agent plans, as JSON values: the "planning" of a checkpoint's config.json."""
        parts = (self.planner, self.objective, self.config, self.keys)
        return settings_from(*parts, known=self._planning)

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
        the same picture and proprioception keys as the others; None takes it back. Another goal
        than before makes `act` begin anew, as after `reset`: what was planned is for the old one.

        Raises:
            KeyError: the goal has none of these keys.
        """
        if goal is not None:
            names = (self.keys.pixels, self.keys.proprio)
            parts = self.keys.as_dict(goal)
            goal = {name: np.array(value) for name, value in parts.items() if name in names}
            if not goal:
                raise KeyError(
                    f"the goal has none of {names}, only {', '.join(map(repr, parts))}; give an "
                    "observation of it"
                )
        if not same_goal(goal, self._goal):
            self.reset()
        self._goal = goal

    def act(self, observation: Observation, episode_start: np.ndarray | None = None) -> np.ndarray:
        """One environment action, float32 (A,) inside the action space, or (B, A) for a batch.

        episode_start: (B,) bool, rows of a vector env that were reset since the last call; an
            agent of one env is told by `reset`.
        """
        action, self._state = self._act(observation, self._state, episode_start, True)
        return action

    def predict(
        self,
        observation: Observation,
        state: AgentState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, AgentState]:
        """Stable-Baselines3's protocol, as its recurrent policies have it: the action, and the
        state to pass in next time, without which every action is the first of a new plan.

        observation: one, or a batch with a leading dimension.
        state: what the last call returned; None at the start of all episodes.
        episode_start: (B,) bool, rows that begin a new episode and forget the old one.

        Raises:
            KeyError: the observation lacks a key.
            ValueError: a part of it has the wrong shape or type, or is not finite.
            TypeError: the state is none of an agent's.
        """
        self._stateless = self._stateless + 1 if state is None and episode_start is None else 0
        if self._stateless == MANY:
            warnings.warn(
                f"predict() was called {MANY} times in a row without a state, so that every action "
                "began an episode and was planned from scratch; if that is not meant, pass on what "
                "it returns (action, state = agent.predict(observation, state)), or call "
                "agent.act(observation)",
                stacklevel=2,
            )
        return self._act(observation, state, episode_start, deterministic)

    def _act(
        self,
        observation: Observation,
        state: AgentState | None,
        episode_start: np.ndarray | None,
        deterministic: bool,
    ) -> tuple[np.ndarray, AgentState]:
        """As `predict`, whose arguments these are."""
        batch, single = self._batched(observation)
        rows = len(batch["proprio"])
        if state is not None:
            check_state(state, rows)
        fresh = np.ones(rows, bool) if state is None else np.zeros(rows, bool)
        if episode_start is not None:
            begun = np.asarray(episode_start, bool)
            if begun.size != rows:
                raise ValueError(
                    f"episode_start has {begun.size} flag(s), the observation {rows} episode(s)"
                )
            fresh = fresh | begun.reshape(rows)
        action, state = self._advance(state, batch, fresh, deterministic).hand_out()
        return (action[0] if single else action), state

    def plan(
        self, observation: Observation, state: AgentState | None = None, deterministic: bool = True
    ) -> Plan:
        """Plan once from this observation: `horizon` model steps, nothing is executed.

        state: what the last `predict` returned, whose history the observation joins if a model step
            is over; None plans as at the start of an episode.

        Raises:
            KeyError, ValueError: as `predict`.
        """
        batch, _ = self._batched(observation)
        rows = np.arange(len(batch["proprio"]))
        begun = time.perf_counter()
        if state is None:
            state = self._first_state(batch)
        else:
            check_state(state, len(rows))
            state = self._observe(state, batch, np.zeros(len(rows), bool))
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
        if self._from_network is not None:
            with torch.no_grad():
                guess = model.initial_plan(start, goal)[:, : self.config.horizon]
            initial = torch.where(warm[:, None, None], initial, guess)
        proposals = self._propose(start, goal, state.plans[due])

        def search(group: Tensor) -> PlannerResult:
            generator, planner, flags = self._noise, self.planner, warm[group]
            if deterministic:
                generator = torch.Generator(self.device).manual_seed(self.seed)
            if self._from_network is not None and not flags.any():
                planner, flags = self._from_network, torch.ones_like(flags)
            return planner(
                self._search_cost_of(_rows(start, group), past[group], _rows(goal, group)),
                initial[group],
                warm=flags,
                proposals=proposals if proposals.dim() == 3 else proposals[group],
                low=self._low,
                high=self._high,
                generator=generator,
            )

        with torch.inference_mode(False):  # in which nothing could be differentiated
            result = plan_apart(search, warm)
        check_plans(result, initial, self.planner)
        idle = torch.zeros_like(warm)
        if self.config.dead_band:
            result, idle = hold_still(result, start, goal, model, self.objective, self.config)
        lost = int((~torch.isfinite(result.cost)).sum())
        if lost:
            warnings.warn(f"{lost} plan(s) without a finite cost; see the objective", stacklevel=5)
        with torch.no_grad():
            actions = model.action_normalizer.to_env(result.model_actions).cpu().numpy()
        return Plan(
            actions=np.clip(actions, self._lowest, self._highest),
            model_actions=result.model_actions,
            rollout=partial(expected_frames, model, start, past, result.model_actions, idle),
            goal=goal,
            cost=result.cost,
            cost_trace=result.cost_trace,
            evaluations=result.evaluations,
            gradient_steps=result.gradient_steps,
            seconds=time.perf_counter() - begun,
        )


def _rows(latent: Latent, rows: Tensor) -> Latent:
    return Latent(*(part[rows] for part in latent))


# A function, since a bound method that an agent keeps would keep the agent, and a GPU's memory with
# it, until the next collection of cycles.


def _encode(
    model: LatentWorldModel, batch: dict[str, np.ndarray], rows: np.ndarray, which: str = ""
) -> Latent:
    """The latents of these rows' observations, or with "goal_" of their goals."""
    with torch.no_grad():
        return model.encode(
            torch.from_numpy(batch[f"{which}pixels"][rows]).to(model.device),
            torch.from_numpy(batch[f"{which}proprio"][rows]).to(model.device),
        )
