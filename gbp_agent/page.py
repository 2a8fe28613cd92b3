"""A web page of evaluations: one file that loads nothing, with plots and clips of episodes.

recorder = EpisodeRecorder()
report = evaluate(agent, env_id, recorder=recorder)
write_page("out/index.html", [Section("my agent", report, recorder.clips(agent, report))])
"""

from __future__ import annotations

import base64
import html
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym

from .clips import Clip
from .plots import Plot, plots
from .report import COLUMNS, EvaluationReport, write_text
from .statistics import mcnemar, task_of

# Nothing is loaded and nothing is run, whatever the texts hold.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c2024; --soft: #5a636d; --line: #d5dae0;
  --head: #f3f5f7; --accent: #2563a8; --good: #1a7f37; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --ink: #e3e7ec; --soft: #a0a9b4;
  --line: #363d46; --head: #1f242a; --accent: #6cb0f5; --good: #5cc26f; --bad: #f5857a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; background: var(--page);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .25rem; overflow-wrap: anywhere; }
p { margin: .25rem 0 .75rem; max-width: 48rem; }
a { color: var(--accent); }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .55rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
thead th { background: var(--head); vertical-align: bottom; }
tbody th { font-weight: 600; }
.wide tbody th, .wide td { white-space: nowrap; }
.settings th, .settings td { overflow-wrap: anywhere; min-width: 8rem; }
.grid { display: grid; gap: 1.25rem; }
.plots { grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
.clips { grid-template-columns: repeat(auto-fill, minmax(min(100%, 28rem), 1fr)); }
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 32rem; }
svg text { font-family: inherit !important; }
/* Room below the picture, which the controls would else cover. */
video { display: block; width: 100%; border-radius: 4px; background: #fff;
  object-fit: contain; object-position: top; }
.good, .bad { font-weight: 600; color: var(--good); }
.bad { color: var(--bad); }
summary { cursor: pointer; padding: .3rem 0; overflow-wrap: anywhere; }
"""


CONTROLS = 64  # px, below a clip's picture
LEGEND = (
    "Left: the episode, with the goal drawn into it for people. Right of it: the goal and the "
    "present observation as the agent gets them; then, of an agent whose model can draw, what it "
    "imagines: the end of its plan and of the model step that it is in. Of successes and of "
    "failures those with the lowest seeds are shown."
)


@dataclass(frozen=True)
class Section:
    """One agent's evaluation on a page.

    name: heads it.
    clips: of some of the report's episodes.
    note: a sentence beside them, such as why there are none.
    """

    name: str
    report: EvaluationReport
    clips: Sequence[Clip] = field(default_factory=list)
    note: str = ""


def write_page(path: str | Path, sections: Sequence[Section], title: str = "Evaluation") -> None:
    """Write one HTML file with everything in it; it appears whole.

    Raises ValueError without a section.
    """
    if not sections:
        raise ValueError("sections is empty, expected at least one evaluation")
    names = [section.name for section in sections]
    reports = [section.report for section in sections]
    lead = str(reports[0]) if len(sections) == 1 else f"{len(sections)} evaluations."
    header = ("evaluation", *COLUMNS)
    rows = [(name, *report.cells()) for name, report in zip(names, reports, strict=True)]
    body = [
        f"<h1>{_text(title)}</h1>\n<p>{_text(lead)}</p>",
        "<h2>Results</h2>",
        _soft("An episode is a success when the goal is reached within the budget of environment "
              "steps. Intervals are Wilson's. Steps to success: the median. Milliseconds: a call's "
              "time over the environments that were planned for in it."),
        _wide(_table(header, rows), "Results"),
        '<div class="grid plots">', *map(_plot, plots(names, reports)), "</div>",
        *_comparisons(sections),
        "<h2>Episodes</h2>",
        _soft(LEGEND),
        *itertools.chain.from_iterable(map(_episodes, sections)),
        "<h2>Settings, machine, versions</h2>",
        *(_settings(section, is_open=len(sections) == 1) for section in sections),
    ]  # fmt: skip
    write_text(Path(path), _document(title, "\n".join(body)))


def _document(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,">
<title>{_text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _comparisons(sections: Sequence[Section]) -> Iterator[str]:
    """Paired tests of those that played the same episodes."""
    rows = []
    for a, b in itertools.combinations(sections, 2):
        if task_of(a.report) == task_of(b.report):
            found = mcnemar(a.report, b.report)
            rows.append((a.name, b.name, found.only_a, found.only_b, f"{found.p_value:.3g}"))
    if rows:
        yield "<h2>Paired comparisons</h2>"
        yield _soft(
            "On the same episodes: how many one alone solved, and the exact two-sided McNemar test."
        )
        yield _wide(_table(("a", "b", "only a", "only b", "p"), rows), "Paired comparisons")


def _episodes(section: Section) -> Iterator[str]:
    """The clips of one evaluation."""
    report = section.report
    count = f"{report.successes} of {len(report.episodes)} episodes reached the goal."
    yield f"<h3>{_text(section.name)}</h3>"
    yield _soft(f"{count} {section.note}".strip())
    if section.clips:
        yield '<div class="grid clips">'
        yield from (_clip(section.name, clip) for clip in section.clips)
        yield "</div>"


def _clip(name: str, clip: Clip) -> str:
    episode = clip.episode
    kind, outcome = ("good", "reached") if episode.success else ("bad", "not reached")
    words = f"goal {outcome} after {episode.steps} steps, seed {episode.seed}"
    width, height = clip.size
    return (
        f'<figure><video controls muted playsinline preload="metadata" '
        f'style="aspect-ratio: {width} / {height + CONTROLS}" '
        f'aria-label="{_text(f"{name}: {words}")}" poster="{_data("image/jpeg", clip.poster)}" '
        f'src="{_data("video/mp4", clip.mp4)}"></video>\n'
        f'<figcaption><span class="{kind}">Goal {outcome}</span> after {episode.steps} steps, '
        f"seed {episode.seed}</figcaption></figure>"
    )


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _plot(plot: Plot) -> str:
    return (
        f"<figure><h3>{_text(plot.title)}</h3>{plot.svg}"
        f"<figcaption>{_text(plot.caption)}</figcaption></figure>"
    )


def _settings(section: Section, is_open: bool) -> str:
    """What is needed to make the evaluation again, folded unless it is the only one."""
    report = section.report
    spec = gym.registry.get(report.env_id)
    budget = report.env_kwargs.get("max_episode_steps", getattr(spec, "max_episode_steps", None))
    seeds = [episode.seed for episode in report.episodes]
    rows: list[tuple[str, Any]] = [
        ("agent", report.agent),
        ("environment", report.env_id),
        ("environment's arguments", json.dumps(report.env_kwargs, default=str)),
        ("budget, environment steps", "not known" if budget is None else budget),
        ("first seed", f"{report.seed}; environments were reset with {min(seeds)}…{max(seeds)}"),
        ("environments at once", report.num_envs),
        *_flat(report.settings),
        ("seconds in all", f"{report.seconds:.1f}"),
        ("environment steps per second", f"{report.env_steps_per_second:.0f}"),
        ("machine", report.machine),
        *((f"version of {name}", version) for name, version in sorted(report.versions.items())),
    ]
    table = _table(("setting", "value"), rows)
    opened = " open" if is_open else ""
    return (
        f"<details{opened}><summary>{_text(section.name)}</summary>\n"
        f'<div class="settings">{table}</div></details>'
    )


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """{"mpc": {"horizon": 5}} → ("mpc.horizon", "5")."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table whose first column heads the rows."""
    heads = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in header)
    lines = [f"<thead><tr>{heads}</tr></thead>", "<tbody>"]
    for first, *rest in rows:
        cells = "".join(f"<td>{_text(cell)}</td>" for cell in rest)
        lines.append(f'<tr><th scope="row">{_text(first)}</th>{cells}</tr>')
    return "\n".join(["<table>", *lines, "</tbody>", "</table>"])


def _wide(table: str, label: str) -> str:
    """A table that scrolls sideways on a narrow screen, by keyboard too."""
    return f'<div class="wide" role="region" aria-label="{label}" tabindex="0">{table}</div>'


def _soft(text: str) -> str:
    return f'<p class="soft">{_text(text)}</p>'


def _text(value: object) -> str:
    return html.escape(str(value))
