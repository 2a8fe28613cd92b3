"""What `make docs` shows, where every public name says what it is, and the pages in docs/."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gbp_agent
from gbp_agent import EvaluationReport

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
DOCUMENTED = [name for name in gbp_agent.__all__ if callable(getattr(gbp_agent, name))]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_public_name_has_a_docstring(name: str) -> None:
    thing = getattr(gbp_agent, name)
    words = thing.__doc__ or ""
    assert words.strip()
    assert not words.startswith(f"{name}(")  # what a dataclass or a named tuple writes by itself


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    links = re.findall(r"\]\((?!https?://)([^)#]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    files = re.findall(r"`((?:results|examples|gbp_agent|envs)/[^`\s{}]+)`", text)
    assert [name for name in files if not list(ROOT.glob(name))] == []


def _readme_rows(*first_cells: str) -> list[list[str]]:
    """The README's table rows that begin with one of these, cell by cell."""
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if row[0] in first_cells]


def _success(name: str) -> EvaluationReport:
    return EvaluationReport.from_json(ROOT / "results" / f"{name}.json")


def test_the_readme_says_what_was_played() -> None:
    """Its two tables of the shipped models are their raw rows."""
    tasks = {"`pusht`": "pusht", "`point_maze`": "point_maze", "`wall`": "wall"}
    rows = [row for row in _readme_rows(*tasks) if len(row) == 5 and "(" in row[1]]
    assert len(rows) == len(tasks)
    columns = ("gradient", "cem", "gradient-open-loop", "cem-open-loop")
    for name, *cells in rows:
        for cell, agent in zip(cells, columns, strict=True):
            report = _success(f"{tasks[name]}-{agent}")
            low, high = report.interval
            rate = f"{100 * report.success_rate:.1f}"
            assert cell == f"{rate} ({100 * low:.0f}–{100 * high:.0f})", (name, agent)

    agents = {
        "random": "random",
        "behaviour policy, which made the data": "behavior",
        "PPO": "ppo",
        "SAC + HER": "sac",
        "behaviour cloning": "bc",
        "world model, gradient": "gradient",
        "world model, CEM": "cem",
        "world model, GradCEM": "gradcem",
        "world model, MPPI": "mppi",
        "world model finetuned online, gradient": "online-gradient",
    }
    baselines = _readme_rows(*agents)
    assert len(baselines) == len(agents)
    for name, _, *cells in baselines:
        found = [
            f"{100 * _success(f'{t}-{agents[name]}').success_rate:.1f}" for t in tasks.values()
        ]
        assert cells == found, name
