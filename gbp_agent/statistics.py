"""Intervals of the figures that are reported."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


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
