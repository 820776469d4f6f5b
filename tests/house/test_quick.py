"""`make quick` finds the tests that a change touches."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tests.quick import touched


@pytest.mark.parametrize(
    ("file", "test"),
    [
        ("edgedistill/statistics/faster.py", "tests/statistics/test_faster.py"),  # mirrors it
        ("edgedistill/stages/code.py", "tests/stages/test_keys.py"),  # imports it
        ("tests/stages/test_runs.py", "tests/stages/test_runs.py"),  # is it
        ("pyproject.toml", "tests/house/test_architecture.py"),
    ],
)
def test_a_changed_file_touches_its_tests(file: str, test: str) -> None:
    found = touched([file])
    assert test in found
    assert all((ROOT / path).is_file() for path in found)
    assert len(found) < len(list((ROOT / "tests").rglob("test_*.py"))) / 2


def test_prose_touches_none() -> None:
    assert touched(["docs/arm.md"]) == []
