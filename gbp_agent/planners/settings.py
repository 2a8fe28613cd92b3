"""Planner settings as plain dictionaries, as they stand in a checkpoint's config.json."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from gbp_agent.planners import PLANNERS
from gbp_agent.types import Planner


def planner_from_settings(name: str, settings: dict[str, dict[str, Any]]) -> Planner:
    """The planner of that name with the settings given for it, defaults elsewhere.

    settings: planner name → fields of its config. Raises ValueError for a field that is none.
    """
    planner: Any = PLANNERS[name]()
    own = settings.get(name)
    if not own:
        return planner  # type: ignore[no-any-return]
    try:
        config = replace(planner.config, **own)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"bad settings for planner {name!r}: {error}") from error
    return type(planner)(config)  # type: ignore[no-any-return]


def settings_of(planner: Planner) -> dict[str, dict[str, Any]]:
    """{name: fields of its config}, empty for a planner that is not in `PLANNERS`."""
    for name, known in PLANNERS.items():
        if type(planner) is known:
            config: Any = getattr(planner, "config", None)
            return {name: {} if config is None else asdict(config)}
    return {}
