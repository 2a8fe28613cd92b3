"""Intervals of the figures that are reported, and whether two agents differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from .report import Episode, EvaluationReport


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval (low, high) of a success rate, each 0…1.

    Raises ValueError unless 0 ≤ successes ≤ n and n ≥ 1.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"expected 0 ≤ successes ≤ n with n ≥ 1, got {successes} and {n}")
    z = 1.959963984540054
    share = successes / n
    center = share + z * z / (2 * n)
    margin = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # The interval holds the share itself, whatever rounding does.
    low, high = (center - margin) / scale, (center + margin) / scale
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def bootstrap_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Bootstrap 95 % interval (low, high) of the mean of values (n,): percentiles of the means of
    1,000 resamples, which are always the same.

    Raises ValueError for no values, or other than one dimension.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"expected values (n,) with n ≥ 1, got shape {array.shape}")
    means = np.random.default_rng(0).choice(array, (1000, len(array))).mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


class McNemar(NamedTuple):
    """only_a, only_b: episodes that one agent alone solved. p_value: exact and two-sided."""

    only_a: int
    only_b: int
    p_value: float


def mcnemar(report_a: EvaluationReport, report_b: EvaluationReport) -> McNemar:
    """Whether two agents differ on the same episodes: the exact two-sided McNemar test.

    Raises ValueError when the two did not play the same episodes.
    """
    pairs = [(a.success, b.success) for a, b in _paired(report_a, report_b)]
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return McNemar(only_a, only_b, min(1.0, 2 * tail / 2**n))


class Difference(NamedTuple):
    """mean: of a's figure less b's over the episodes; low, high: its bootstrap 95 % interval."""

    mean: float
    low: float
    high: float


def distance_difference(report_a: EvaluationReport, report_b: EvaluationReport) -> Difference:
    """How much further from their goals a ended than b, on the same episodes, in the env's unit.

    Raises ValueError when the two did not play the same episodes.
    """
    values = [a.distance - b.distance for a, b in _paired(report_a, report_b)]
    return Difference(float(np.mean(values)), *bootstrap_interval(values))


def task_of(report: EvaluationReport) -> tuple[str, dict[str, Any], list[int]]:
    """What an agent was judged by: env_id, env_kwargs and seeds. How it saw the env is no part of
    it, so that an agent on pictures and one on the simulator's state compare."""
    seen = ("obs_type", "render_mode", "image_size")
    kwargs = {key: value for key, value in report.env_kwargs.items() if key not in seen}
    return report.env_id, kwargs, sorted(episode.seed for episode in report.episodes)


def _paired(
    report_a: EvaluationReport, report_b: EvaluationReport
) -> list[tuple[Episode, Episode]]:
    """The two agents' episodes, side by side."""
    tasks = task_of(report_a), task_of(report_b)
    for name, a, b in zip(("env_id", "env_kwargs", "seeds"), *tasks, strict=True):
        if a != b:
            raise ValueError(
                f"the reports have different {name} ({_short(a)} and {_short(b)}); "
                "evaluate both agents on the same episodes"
            )
    of_b = {episode.seed: episode for episode in report_b.episodes}
    return [(episode, of_b[episode.seed]) for episode in report_a.episodes]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
