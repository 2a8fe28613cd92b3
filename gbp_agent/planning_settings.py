"""How an agent plans, as JSON values: the "planning" of a checkpoint's config.json."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from typing import Any

from .mpc import MPCConfig
from .objectives import GoalObjective
from .observations import ObservationKeys
from .planners import PLANNERS
from .planners.settings import planner_from_settings, settings_of
from .types import Objective, Planner

OPEN_LOOP = "open_loop"
"""Beside "mpc", "objective" and "planners": which of their settings differ where a plan is acted
out whole, each as "where.name"."""
Parts = tuple[str | Planner, Objective, MPCConfig, ObservationKeys]


def parts_from(
    planning: Mapping[str, Any],
    planner: str | Planner,
    objective: Objective | None,
    config: MPCConfig | None,
    keys: ObservationKeys | None,
) -> Parts:
    """What an agent is made of beside its model: what is given, else as `planning` says.

    Raises:
        ValueError: a setting has an unknown name or a bad value.
    """
    if isinstance(planner, str) and planner in PLANNERS:
        planner = planner_from_settings(planner, planning.get("planners", {}))
    try:
        return (
            planner,
            objective or GoalObjective(**planning.get("objective", {})),
            config or MPCConfig(**planning.get("mpc", {})),
            keys or ObservationKeys(**planning.get("keys", {})),
        )
    except TypeError as error:
        raise ValueError(f"bad planning settings: {error}") from error


def settings_from(
    planner: Planner,
    objective: Objective,
    config: MPCConfig,
    keys: ObservationKeys,
    known: Mapping[str, Any],
) -> dict[str, Any]:
    """The way back from `parts_from`. What is `known` of other planners stays, for whoever loads it
    and takes another one."""
    settings: dict[str, Any] = {"mpc": asdict(config)}
    own = settings_of(planner)
    if own.keys() - {"gradient"}:
        settings["planner"] = next(iter(own))
    if keys != ObservationKeys():
        settings["keys"] = asdict(keys)
    if isinstance(objective, GoalObjective):
        settings["objective"] = asdict(objective)
    if known.get(OPEN_LOOP):
        settings[OPEN_LOOP] = dict(known[OPEN_LOOP])
    return {**settings, "planners": {**known.get("planners", {}), **own}}


def with_keys_of(
    metadata: Mapping[str, Any], planning: Mapping[str, Any], keys: ObservationKeys | None = None
) -> dict[str, Any]:
    """The settings, with these keys, or those of the dataset that this is the metadata of, unless
    there are some."""
    found = keys or ObservationKeys(**metadata.get("keys", {}))
    known = {} if found == ObservationKeys() else {"keys": asdict(found)}
    return {**known, **planning}


def warn_of_what_is_lost(planner: Planner, objective: Objective) -> None:
    """Tell of parts that `settings_from` cannot write."""
    for part, written in (
        (objective, isinstance(objective, GoalObjective)),
        (planner, settings_of(planner)),
    ):
        if not written:
            warnings.warn(f"{part!r} is not saved; give it to from_pretrained", stacklevel=3)


def changed(
    planning: Mapping[str, Any], settings: Mapping[str, Any], places: Sequence[str]
) -> dict[str, Any]:
    """A checkpoint's planning settings with some of them changed.

    settings: each as "where.name", where is one of `places`, "mpc", "objective" or a planner.

    Raises:
        ValueError: a setting is of no such place.
    """
    found = deepcopy(dict(planning))
    for path, value in settings.items():
        where, _, name = path.partition(".")
        if where not in places or not name:
            raise ValueError(
                f"there is no setting {path!r} here, expected WHERE.NAME where WHERE is one of "
                f"{', '.join(places) or 'nothing'}; such as 'mpc.horizon'"
            )
        parts = found if where in ("mpc", "objective") else found.setdefault("planners", {})
        parts.setdefault(where, {})[name] = value
    return found


def changed_for_open_loop(
    planning: Mapping[str, Any], settings: Mapping[str, Any], places: Sequence[str]
) -> dict[str, Any]:
    """The same for an agent that acts its plans out whole. What the checkpoint says of that comes
    before `settings`, as far as it is of one of `places`."""
    own = planning.get(OPEN_LOOP, {})
    fitting = {path: own[path] for path in own if path.partition(".")[0] in places}
    found = changed(planning, {**fitting, **settings}, places)
    if "mpc" in places and "mpc.execute" not in settings:
        mpc = found.setdefault("mpc", {})
        mpc["execute"] = mpc.get("horizon", MPCConfig.horizon)
    return found
