"""What an evaluation found: rows per episode, statistics, JSON, CSV, Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .statistics import bootstrap_interval, wilson_interval

COLUMNS = (
    "environment", "agent", "episodes", "success (95 % interval)", "steps to success",
    "final distance (95 % interval)", "ms per decision, median (p95)", "planned together",
    "roll-outs", "gradient steps",
)  # fmt: skip


@dataclass(frozen=True)
class Episode:
    """One episode.

    seed: that the env was reset with. success: whether the goal was reached within the budget.
    steps: environment steps until then, or until the end. final_return: sum of rewards.
    distance: from the goal at the end, in the env's own measure; NaN where the env tells none.
    """

    seed: int
    success: bool
    steps: int
    final_return: float
    distance: float


@dataclass(frozen=True)
class Planning:
    """The cost of deciding, over all decisions of an evaluation.

    decisions: plans made, one per row and replanning; for an agent without plans, all actions.
    median_ms, p95_ms: wall-clock milliseconds per decision: a call's time over the rows that
        were planned for in it.
    batch_size: median number of rows that were planned for together.
    evaluations, gradient_steps: model roll-outs and back-propagations per decision; NaN for an
        agent without plans.
    """

    decisions: int
    median_ms: float
    p95_ms: float
    batch_size: float
    evaluations: float
    gradient_steps: float


@dataclass(frozen=True)
class EvaluationReport:
    """The result of `evaluate`.

    agent: its name; settings: its planner, objective and execution, where it tells them.
    env_id, env_kwargs: as passed to gymnasium.make. seed: episode i was reset with
        EVALUATION_SEEDS_BEGIN + seed + i. num_envs: played at once.
    env_steps_per_second: of the simulation and drawing alone, in one process.
    seconds: of the whole evaluation.
    """

    agent: str
    env_id: str
    env_kwargs: dict[str, Any]
    seed: int
    num_envs: int
    episodes: list[Episode]
    planning: Planning
    env_steps_per_second: float
    seconds: float
    settings: dict[str, Any]
    machine: str
    versions: dict[str, str]

    @property
    def successes(self) -> int:
        """Episodes that reached the goal."""
        return sum(episode.success for episode in self.episodes)

    @property
    def success_rate(self) -> float:
        """Share of the episodes that reached the goal, 0…1."""
        return self.successes / len(self.episodes)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of the success rate."""
        return wilson_interval(self.successes, len(self.episodes))

    @property
    def steps_to_success(self) -> float:
        """Median over the successful episodes; NaN where there are none."""
        steps = [episode.steps for episode in self.episodes if episode.success]
        return float(np.median(steps)) if steps else math.nan

    @property
    def mean_distance(self) -> float:
        """From the goal at the end of an episode, in the env's own measure; NaN if it has none."""
        return float(np.mean([episode.distance for episode in self.episodes]))

    @property
    def distance_interval(self) -> tuple[float, float]:
        """Bootstrap 95 % interval of the mean distance; NaN where there is none."""
        return bootstrap_interval([episode.distance for episode in self.episodes])

    def summary(self) -> dict[str, Any]:
        """The figures of a table's row, as JSON values."""
        low, high = self.interval
        nearest, farthest = self.distance_interval
        return {
            "episodes": len(self.episodes),
            "success_rate": self.success_rate,
            "success_low": low,
            "success_high": high,
            "steps_to_success": self.steps_to_success,
            "mean_distance": self.mean_distance,
            "distance_low": nearest,
            "distance_high": farthest,
            **asdict(self.planning),
        }

    def to_json(self, path: str | Path) -> None:
        """Write everything; `from_json` reads it back."""
        content = {**asdict(self), "summary": self.summary()}
        write_text(Path(path), json.dumps(_without_nan(content), indent=2) + "\n")

    @classmethod
    def from_json(cls, path: str | Path) -> EvaluationReport:
        """Read what `to_json` wrote; a ValueError for anything else."""
        content = json.loads(Path(path).read_text())
        names = {f.name for f in fields(cls)}
        if not isinstance(content, dict) or not names <= set(content):
            raise ValueError(f"{path} is no evaluation report; write one with to_json()")
        values = {name: content[name] for name in names}
        values["episodes"] = [Episode(**_with_nan(row)) for row in content["episodes"]]
        values["planning"] = Planning(**_with_nan(content["planning"]))
        return cls(**values)

    def to_csv(self, path: str | Path) -> None:
        """Write one line per episode."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [f.name for f in fields(Episode)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(episode) for episode in self.episodes)
        write_text(Path(path), text.getvalue())

    def cells(self) -> tuple[str, ...]:
        """The figures as words, one for each of COLUMNS."""
        low, high = self.interval
        plan = self.planning
        return (
            self.env_id,
            self.agent,
            str(len(self.episodes)),
            f"{self.success_rate:.1%} ({100 * low:.1f}–{100 * high:.1f})",
            _number(self.steps_to_success),
            self._distance_in_words(),
            f"{short_number(plan.median_ms)} ({short_number(plan.p95_ms)})",
            _number(plan.batch_size),
            _number(plan.evaluations),
            _number(plan.gradient_steps),
        )

    def _distance_in_words(self) -> str:
        if math.isnan(self.mean_distance):
            return "–"
        low, high = map(short_number, self.distance_interval)
        return f"{short_number(self.mean_distance)} ({low}–{high})"

    @staticmethod
    def markdown_header() -> str:
        """The head of a table of `markdown_row`s, two lines."""
        return f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"

    def markdown_row(self) -> str:
        """This evaluation as a row under `markdown_header`."""
        return f"| {' | '.join(self.cells())} |"

    def __str__(self) -> str:
        low, high = self.interval
        plan = self.planning
        return (
            f"{self.agent} on {self.env_id}: success {self.successes} of {len(self.episodes)} = "
            f"{self.success_rate:.1%} (95 % interval {100 * low:.1f}–{100 * high:.1f}), "
            f"{_number(self.steps_to_success)} steps to success, "
            f"{short_number(plan.median_ms)} ms per decision "
            f"(95th percentile {short_number(plan.p95_ms)}, "
            f"{_number(plan.batch_size)} planned together)"
        )


def machine() -> str:
    """The machine in words, for figures."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{platform.machine()}, {os.cpu_count()} cores, {device}, torch {torch.__version__}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:g}"


def short_number(value: float) -> str:
    """Three digits that count: 0.00147, 885, 1,380."""
    return f"{float(f'{value:.3g}'):,g}"


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null in its place."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {key: math.nan if item is None else item for key, item in row.items()}


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name and rename, so that no half a file is left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
