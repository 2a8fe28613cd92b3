"""Draws what reproduce.py has measured: PNG files and Markdown tables beside the JSON.

python examples/figures.py --out results/evidence
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from gbp_agent import EvaluationReport, distance_difference, mcnemar
from gbp_agent.report import write_text

matplotlib.use("Agg")
CONTROLS = ("base", "offline", "multi-step", "more-data", "more-data-one-step", "noise")
MODELS = (
    *CONTROLS,
    "online",
    "online-from-zeros",
    "online-one-step",
    "adversarial",
    "adversarial-tuned",
    "online+adversarial",
)
TITLES = {
    "pusht": "PushT", "point_maze": "PointMaze", "wall": "Wall", "rope": "Rope",
    "granular": "Granular", "rope-linear": "Rope, linear latents", "rope-mlp": "Rope, MLP",
    "granular-linear": "Granular, linear latents",
    "pusht-small": "PushT, little data", "wall-small": "Wall, little data",
    "wall-patch": "Wall, patch tokens", "pusht-patch": "PushT, patch tokens",
    "pusht-patch-one-step": "PushT, patch tokens, teacher forcing",
}  # fmt: skip
# Besides success.
JUDGED_BY_DISTANCE = ("rope", "granular", "rope-linear", "granular-linear", "rope-mlp")
PLANNERS = {
    "gd": "GD", "adam": "Adam", "gradient": "Adam, shipped", "gradient-long": "Adam, long",
    "cem": "CEM", "cem-tuned": "CEM, shipped",
}  # fmt: skip
MODES = {
    "mpc": "MPC", "open-loop": "open loop", "continuing": "MPC, episodes go on after a success",
}  # fmt: skip
COLORS = {
    "gd": "#999999", "adam": "#4477aa", "gradient": "#223377", "cem": "#cc6677", "mppi": "#ddaa33",
}  # fmt: skip


Cells = dict[tuple[str, str], EvaluationReport]  # by model and planner


@dataclass
class Args:
    out: Path = Path("results/evidence")
    """Folder that reproduce.py writes."""


def draw(out: Path) -> None:
    """Everything that can be drawn from the files in `out`."""
    write(out / "table.md", "\n".join(tables(out)))
    for name, picture in (
        ("gap", gap), ("landscape", landscape), ("efficiency", efficiency), ("ablations", radii),
    ):  # fmt: skip
        file = out / f"{name}.json"
        if file.exists():
            figure = picture(json.loads(file.read_text()))
            temporary = out / f"{name}.tmp.png"
            figure.savefig(temporary, dpi=110)
            temporary.replace(out / f"{name}.png")
            plt.close(figure)


def write(file: Path, text: str) -> None:
    """A file of lines, under a temporary name first."""
    write_text(file, text + "\n")


# The table ---------------------------------------------------------------------------------------


def tables(out: Path) -> Iterator[str]:
    """Markdown lines: success per task and mode, milliseconds, tests."""
    for task, title in TITLES.items():
        for mode, words in MODES.items():
            cells = {
                (model, planner): EvaluationReport.from_json(file)
                for model in MODELS
                for planner in PLANNERS
                if (file := out / "table" / f"{task}-{model}-{planner}-{mode}.json").exists()
            }
            if cells:
                yield f"### {title}, {words}\n"
                yield from grid(cells, success)
                yield ""
                if task in JUDGED_BY_DISTANCE:
                    yield "Final distance, half arenas, with its bootstrap 95 % interval:\n"
                    yield from grid(cells, distance)
                    yield ""
                    yield from paired_rows(cells, "final distance, a less b", further)
                    yield ""
                yield from paired_rows(cells, "only a | only b | p (McNemar)", tested)
                yield ""


def grid(cells: Cells, figure: Callable[[EvaluationReport], str]) -> Iterator[str]:
    """One row per model, one column per planner."""
    shown = [planner for planner in PLANNERS if any(p == planner for _, p in cells)]
    yield f"| model | {' | '.join(PLANNERS[p] for p in shown)} |"
    yield "|---|" + "---|" * len(shown)
    for model in MODELS:
        found = [cells.get((model, planner)) for planner in shown]
        row = [figure(report) if report else "–" for report in found]
        if any(cell != "–" for cell in row):
            yield f"| {model} | {' | '.join(row)} |"
    speed = []
    for planner in shown:
        ms = [report.planning.median_ms for (_, p), report in cells.items() if p == planner]
        speed.append(f"{np.median(ms):.3g}")
    yield f"| ms per decision | {' | '.join(speed)} |"


def success(report: EvaluationReport) -> str:
    """Per cent with its interval."""
    low, high = report.interval
    return f"{100 * report.success_rate:.1f} ({100 * low:.0f}–{100 * high:.0f})"


def distance(report: EvaluationReport) -> str:
    """Mean final distance with its interval."""
    low, high = report.distance_interval
    return f"{report.mean_distance:.3f} ({low:.3f}–{high:.3f})"


def compared(cells: Cells) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Pairs of cells: finetuned against base and controls, Adam against CEM on the same model."""
    pairs = [
        ((model, planner), (control, planner))
        for planner in ("adam", "gradient")
        for model in MODELS[1:]
        for control in CONTROLS
        if MODELS.index(control) < MODELS.index(model)
    ]
    pairs += [((model, p), ("base", "cem")) for p in ("adam", "gradient") for model in MODELS]
    pairs += [((model, "adam"), (model, "cem")) for model in MODELS[1:]]
    pairs += [((model, "gradient"), (model, "cem-tuned")) for model in MODELS]
    return [(a, b) for a, b in pairs if a in cells and b in cells]


def paired_rows(
    cells: Cells, head: str, figure: Callable[[EvaluationReport, EvaluationReport], str]
) -> Iterator[str]:
    """One row per pair; head and figure: the cells of the row after its two names."""
    pairs = compared(cells)
    if pairs:
        yield f"| a | b | {head} |\n|---|---|{'---|' * len(head.split('|'))}"
    for a, b in pairs:
        names = " | ".join(f"{model}, {PLANNERS[planner]}" for model, planner in (a, b))
        yield f"| {names} | {figure(cells[a], cells[b])} |"


def tested(a: EvaluationReport, b: EvaluationReport) -> str:
    """McNemar's test of success."""
    found = mcnemar(a, b)
    return f"{found.only_a} | {found.only_b} | {found.p_value:.3g}"


def further(a: EvaluationReport, b: EvaluationReport) -> str:
    """Difference of the final distance with its bootstrap 95 % interval."""
    mean, low, high = distance_difference(a, b)
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def card_rows(out: Path, task: str, model: str) -> Iterator[str]:
    """Markdown lines for a model card: every planner that the model was tried with."""
    yield "Held-out episodes, % with Wilson 95 % interval, and median milliseconds per decision.\n"
    far = task in JUDGED_BY_DISTANCE
    heads = ["planner", "success", *["final distance"] * far, "ms", "episodes", "planned together"]
    yield from (f"| {' | '.join([*heads, 'machine'])} |", "|---" * (len(heads) + 1) + "|")
    for planner, name in PLANNERS.items():
        for mode, words in MODES.items():
            file = out / "table" / f"{task}-{model}-{planner}-{mode}.json"
            if file.exists():
                report = EvaluationReport.from_json(file)
                plan = report.planning
                cells = [f"{name}, {words}", success(report), *[distance(report)] * far]
                cells += [f"{plan.median_ms:.1f}", f"{len(report.episodes)}"]
                cells += [f"{plan.batch_size:g}", report.machine]
                yield f"| {' | '.join(cells)} |"
    yield "\nMade by `python examples/reproduce.py`."


# The pictures ------------------------------------------------------------------------------------


def by_task(rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{"TASK NAME": row} → {task: {name: row}}, in the order of TITLES."""
    found: dict[str, dict[str, Any]] = {task: {} for task in TITLES}
    for key, row in rows.items():
        task, _, name = key.partition(" ")
        found[task][name] = row
    return {task: named for task, named in found.items() if named}


def panels(count: int, height: float = 3.6, rows: int = 1) -> tuple[Figure, np.ndarray]:
    """A row of panels, or several."""
    return plt.subplots(
        rows, count, figsize=(4.2 * count, height * rows), squeeze=False, layout="constrained"
    )


def filled(line: np.ndarray, count: int) -> np.ndarray:
    """The first panels of a row; the others are left blank."""
    for axis in line[count:]:
        axis.set_axis_off()
    return line[:count]


def gap(rows: dict[str, Any]) -> Figure:
    """One-step model error along expert and planner trajectories, per model."""
    tasks = by_task(rows)
    figure, axes = panels(len(tasks))
    for axis, (task, models) in zip(axes[0], tasks.items(), strict=True):
        names = [name for name in MODELS if name in models]
        for shift, (who, color) in enumerate((("expert", "#88ccee"), ("planner", "#cc6677"))):
            found = [models[name][who]["one_step"] for name in names]
            mean = np.array([f["mean"] for f in found])
            low, high = (np.array([f[k] for f in found]) for k in ("low", "high"))
            place = np.arange(len(names)) + 0.4 * shift - 0.2
            axis.bar(place, mean, 0.38, color=color, label=f"{who}'s trajectories")
            axis.errorbar(place, mean, (mean - low, high - mean), fmt="none", ecolor="black", lw=1)
        axis.set_title(TITLES[task])
        axis.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
        axis.margins(y=0.3)  # room for the legend
        axis.legend(fontsize=8)
    axes[0, 0].set_ylabel("one-step error\n(mean squared, latent)")
    return figure


def landscape(rows: dict[str, Any]) -> Figure:
    """Cost slices round the expert's plan: a row per task, a panel for each of its models."""
    tasks = by_task(rows)
    figure, axes = panels(max(len(models) for models in tasks.values()), 3.4, len(tasks))
    for line, (task, models) in zip(axes, tasks.items(), strict=True):
        costs = [np.log10(np.array(row["cost"]) + 1e-4) for row in models.values()]
        levels = np.linspace(min(c.min() for c in costs), max(c.max() for c in costs), 24)
        names = [name for name in MODELS if name in models]
        for axis, name in zip(filled(line, len(names)), names, strict=True):
            row = models[name]
            axis.contourf(
                row["axis"], row["axis"], np.log10(np.array(row["cost"]) + 1e-4), levels,
                cmap="viridis",
            )  # fmt: skip
            axis.plot(0, 0, "w+")
            axis.set(xlabel="first direction", ylabel="second direction")
            turn = row["gradient_variation"]
            axis.set_title(
                f"{TITLES[task]}, {name}\ngradient variation {turn['mean']:.2f} "
                f"({turn['low']:.2f}–{turn['high']:.2f})",
                fontsize=9,
            )
    return figure


def efficiency(rows: dict[str, Any]) -> Figure:
    """Success against milliseconds per decision: one row per task, with a panel for each of its
    models. Names are "MODEL PLANNER BUDGET"."""
    tasks: dict[str, dict[str, dict[str, list[Any]]]] = {}  # rows by task, model and planner
    for task, named in by_task(rows).items():
        for name, row in named.items():
            model, planner, _ = name.split(" ")
            lines = tasks.setdefault(task, {}).setdefault(model, {})
            lines.setdefault(planner, []).append(row)
    figure, axes = panels(max(len(models) for models in tasks.values()), 3.4, len(tasks))
    for line, (task, models) in zip(axes, tasks.items(), strict=True):
        for axis, (model, planners) in zip(filled(line, len(models)), models.items(), strict=True):
            for planner, found in planners.items():
                error_line(axis, planner, sorted(found, key=lambda row: row["ms_alone"]))
            axis.set(title=f"{TITLES[task]}, {model}", xscale="log", ylim=(0, 1))
            axis.set(xlabel="milliseconds per decision, one environment", ylabel="success")
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.legend(fontsize=7, loc="lower right")
    return figure


def error_line(axis: Axes, planner: str, found: list[Any]) -> None:
    """A planner's budgets, with intervals."""
    ms = [row["ms_alone"] for row in found]
    rate = np.array([row["success_rate"] for row in found])
    low, high = (np.array([row[k] for row in found]) for k in ("success_low", "success_high"))
    axis.errorbar(
        ms, rate, (rate - low, high - rate), fmt="o-", ms=4, lw=1.2, capsize=2,
        color=COLORS.get(planner), label=PLANNERS.get(planner, planner.upper()),
    )  # fmt: skip


def radii(rows: dict[str, Any]) -> Figure:
    """Success for each pair of radii (a panel per planner and mode) and for all other variants,
    per task. Names are "PLANNER MODE latent λ action λ", or others."""
    tasks = by_task(rows)
    cells = {
        tuple(name.split(" ")[:2]): None
        for named in tasks.values()
        for name in named
        if " latent " in name
    }
    figure, axes = panels(len(cells) + 1, 3.8, len(tasks))
    for line, (task, named) in zip(axes, tasks.items(), strict=True):
        for axis, (planner, mode) in zip(line, cells, strict=False):
            draw_radii(axis, f"{planner} {mode} latent", named)
            axis.set_title(f"{TITLES[task]}: {PLANNERS[planner]}, {MODES[mode]}", fontsize=10)
        others = {name: row for name, row in named.items() if " latent " not in name}
        if not others:
            line[-1].set_axis_off()
            continue
        rate, low, high = (
            np.array([row[f"success_{key}"] for row in others.values()])
            for key in ("rate", "low", "high")
        )
        places = range(len(others))
        line[-1].barh(places, rate, xerr=(rate - low, high - rate), color="#88ccee")
        line[-1].set_yticks(places, list(others), fontsize=7)
        line[-1].set(title=TITLES[task], xlabel="success", xlim=(0, 1))
    return figure


def draw_radii(axis: Axes, kind: str, named: dict[str, Any]) -> None:
    """Success as an image, action radii across and latent radii up, of rows "KIND λ action λ"."""
    grid = {
        (float(words[-3]), float(words[-1])): row["success_rate"]
        for name, row in named.items()
        if name.startswith(kind) and (words := name.split(" "))
    }
    latent, action = (sorted({pair[i] for pair in grid}) for i in (0, 1))
    image = np.array([[grid.get((row, column), np.nan) for column in action] for row in latent])
    if image.size:
        axis.imshow(image, vmin=0, vmax=1, cmap="viridis", origin="lower")
        for (i, j), value in np.ndenumerate(image):
            if not np.isnan(value):
                color = "black" if value > 0.7 else "white"
                axis.text(j, i, f"{value:.0%}", ha="center", va="center", color=color)
    axis.set(xlabel="λ action", ylabel="λ latent")
    axis.set_xticks(range(len(action)), [f"{a:g}" for a in action])
    axis.set_yticks(range(len(latent)), [f"{v:g}" for v in latent])


if __name__ == "__main__":
    draw(tyro.cli(Args, description=__doc__).out)
