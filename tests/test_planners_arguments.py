"""What planners refuse: settings, arguments, costs and names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from planning_problems import H, M, every_planner, linear_problem, run, small

from gbp_agent.planners import (
    PLANNERS,
    CEMConfig,
    GradCEMConfig,
    GradientConfig,
    GradientPlanner,
    MPPIConfig,
    make_planner,
)


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (GradientConfig, {"optimizer": "rmsprop"}),
        (GradientConfig, {"learning_rate": 0.0}),
        (GradientConfig, {"learning_rate": math.nan}),
        (GradientConfig, {"learning_rate": True}),
        (GradientConfig, {"beta1": 1.0}),
        (GradientConfig, {"beta2": -0.1}),
        (GradientConfig, {"steps": -1}),
        (GradientConfig, {"steps": 1.5}),
        (GradientConfig, {"init": "ones"}),
        (GradientConfig, {"init_std": -1.0}),
        (GradientConfig, {"restarts": 0}),
        (GradientConfig, {"halvings": -1}),
        (GradientConfig, {"noise_std": -0.1}),
        (GradientConfig, {"tolerance": -0.1}),
        (GradientConfig, {"patience": 0}),
        (GradientConfig, {"warm_steps": -1}),
        (GradientConfig, {"warm_restarts": 0}),
        (GradientConfig, {"warm_proposals": -1}),
        (GradientConfig, {"proposals": -1}),
        (GradientConfig, {"max_rollouts": 0}),
        (CEMConfig, {"samples": 1}),
        (CEMConfig, {"iterations": 0}),
        (CEMConfig, {"elites": 1}),
        (CEMConfig, {"elites": 301}),
        (CEMConfig, {"init": "normal"}),
        (CEMConfig, {"init_std": 0.0}),
        (CEMConfig, {"min_std": -1.0}),
        (CEMConfig, {"momentum": 1.0}),
        (CEMConfig, {"max_rollouts": 0}),
        (GradCEMConfig, {"samples": 1}),
        (GradCEMConfig, {"gradient_steps": 0}),
        (GradCEMConfig, {"learning_rate": math.inf}),
        (MPPIConfig, {"samples": 0}),
        (MPPIConfig, {"iterations": True}),
        (MPPIConfig, {"init": "normal"}),
        (MPPIConfig, {"temperature": 0.0}),
        (MPPIConfig, {"noise_std": 0.0}),
        (MPPIConfig, {"max_rollouts": -4}),
    ],
)
def test_bad_settings_are_refused(config: Callable[..., Any], settings: dict[str, Any]) -> None:
    (field,) = settings
    with pytest.raises(ValueError, match=f"{field} is .*, expected .*; "):
        config(**settings)


@pytest.mark.parametrize("config", [GradientConfig, CEMConfig, GradCEMConfig, MPPIConfig])
def test_settings_are_never_written_to(config: Callable[[], Any]) -> None:
    with pytest.raises(FrozenInstanceError):
        config().samples = 3


@every_planner
@pytest.mark.parametrize(
    "arguments",
    [
        {"initial": torch.zeros(4, M)},
        {"initial": torch.zeros(4, H, M, dtype=torch.long)},
        {"initial": torch.full((4, H, M), math.nan)},
        {"warm": torch.zeros(3, dtype=torch.bool)},
        {"warm": torch.zeros(4)},
        {"proposals": torch.zeros(H, M)},
        {"proposals": torch.zeros(5, H + 1, M)},
        {"proposals": torch.zeros(0, H, M + 1)},
        {"proposals": torch.zeros(5, H, M, dtype=torch.float64)},
        {"proposals": torch.full((5, H, M), math.nan)},
        {"low": torch.tensor([0.0, 1.0]), "high": torch.tensor([1.0, 0.0])},
        {"high": math.nan},
    ],
)
def test_arguments_that_do_not_fit_are_refused(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected .*; "):
        run(small(name), linear_problem().cost, **arguments)


@every_planner
def test_a_cost_of_the_wrong_shape_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cost returned shape"):
        run(small(name), lambda actions: actions.sum(dim=-1))


@pytest.mark.parametrize("name", ["gradient", "gradcem"])
def test_a_cost_without_a_graph_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="differentiable"):
        run(small(name), lambda actions: actions.detach().sum(dim=(-2, -1)))


def test_planners_are_made_by_name_or_passed_through() -> None:
    for name, kind in PLANNERS.items():
        assert type(make_planner(name)) is kind
    planner = small("cem")
    assert make_planner(planner) is planner


def test_unknown_planners_are_refused() -> None:
    with pytest.raises(KeyError, match=r"cem.*gradcem.*gradient.*mppi"):
        make_planner("newton")
    for wrong in (GradientPlanner, 3):
        with pytest.raises(TypeError, match="planner object"):
            make_planner(wrong)  # type: ignore[arg-type]
