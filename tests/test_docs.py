"""What `make docs` shows: every public name says what it is."""

from __future__ import annotations

import pytest

import gbp_agent

DOCUMENTED = [name for name in gbp_agent.__all__ if callable(getattr(gbp_agent, name))]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_public_name_has_a_docstring(name: str) -> None:
    thing = getattr(gbp_agent, name)
    words = thing.__doc__ or ""
    assert words.strip()
    assert not words.startswith(f"{name}(")  # what a dataclass or a named tuple writes by itself
