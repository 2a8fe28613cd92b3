"""What `make docs` shows, where every public name says what it is, and the pages in docs/."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gbp_agent

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
