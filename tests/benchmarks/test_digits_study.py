"""What the demo claims: on the digits, over five seeds, the teacher helps a student of a few hundred parameters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from edgedistill.pipeline import compress
from edgedistill.recipe.document import load_recipe
from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_distilled_beats_label_only_by_two_points_in_the_mean_of_five_seeds(tmp_path: Path) -> None:
    gains = []
    for seed in range(5):
        recipe = load_recipe(ROOT / "examples" / "digits.yaml", [f"seed={seed}"])
        outcome = compress(recipe, tmp_path, tmp_path / "run", until="distill")
        folder = tmp_path / "run" / "stages" / "distill" / outcome.stages[-1]["key"]
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        assert 400 <= facts["parameters"] <= 700
        distilled, baseline = (
            json.loads((folder / f"{name}.quality.json").read_text(encoding="utf-8"))["value"]
            for name in ("student", "student-labels-only")
        )
        gains.append(distilled - baseline)
    assert sum(gains) / len(gains) >= 0.02, gains
