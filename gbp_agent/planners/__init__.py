"""Planners by name. Each is a function of a cost, bounds, an initial plan and a generator."""

from __future__ import annotations

from collections.abc import Callable

from gbp_agent.planners.cem import CEMConfig, CEMPlanner
from gbp_agent.planners.gradcem import GradCEMConfig, GradCEMPlanner
from gbp_agent.planners.gradient import GradientConfig, GradientPlanner
from gbp_agent.planners.mppi import MPPIConfig, MPPIPlanner
from gbp_agent.types import Planner

__all__ = [
    "PLANNERS",
    "CEMConfig",
    "CEMPlanner",
    "GradCEMConfig",
    "GradCEMPlanner",
    "GradientConfig",
    "GradientPlanner",
    "MPPIConfig",
    "MPPIPlanner",
    "make_planner",
]

PLANNERS: dict[str, Callable[[], Planner]] = {
    "gradient": GradientPlanner,
    "cem": CEMPlanner,
    "gradcem": GradCEMPlanner,
    "mppi": MPPIPlanner,
}


def make_planner(planner: str | Planner) -> Planner:
    """The planner of that name with its default settings, or the given planner object itself.

    Raises KeyError for an unknown name and TypeError for what is neither name nor planner.
    """
    if isinstance(planner, str):
        if planner not in PLANNERS:
            raise KeyError(
                f"unknown planner {planner!r}, expected one of {sorted(PLANNERS)}; "
                "give one of these names or a planner object."
            )
        return PLANNERS[planner]()
    if isinstance(planner, type) or not callable(planner):
        raise TypeError(
            f"planner is {planner!r}, expected a name of {sorted(PLANNERS)} or a planner object; "
            "call a planner class to make an object, e.g. GradientPlanner()."
        )
    return planner
