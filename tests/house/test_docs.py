"""The README is run, not believed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from edgedistill.recipe.document import Recipe, load_recipe
from edgedistill.stages import NAMES
from tests.conftest import ROOT, edgedistill

if TYPE_CHECKING:
    from pathlib import Path

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.removeprefix("$ ").split("#")[0].strip()
    for kind, text in BLOCKS
    if kind == "console"
    for line in text.splitlines()
    if line.startswith("$ ")
]


def edgedistill_commands() -> list[list[str]]:
    parts = [part.strip() for command in COMMANDS for part in command.split("&&")]
    return [shlex.split(part)[1:] for part in parts if part.startswith("edgedistill ")]


def test_make_targets_exist_and_ci_calls_the_test_command() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in {c.split()[1] for c in COMMANDS if c.startswith("make ")} | {"test-slow"}:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    assert "make test" in COMMANDS
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").strip().endswith("make test")


@pytest.mark.parametrize("command", edgedistill_commands(), ids=" ".join)
def test_every_command_of_the_readme_works_on_a_finished_run(
    command: list[str], finished: tuple[Path, dict[str, Any]], recipe: Path, tmp_path: Path
) -> None:
    """On the session's small run in place of runs/digits, up to the cheapest stage where it would train."""
    (tmp_path / "policy.yaml").write_text("parity: true\n", encoding="utf-8")
    if command[0] == "verify":
        assert edgedistill("bundle", finished[0], "-o", tmp_path / command[1]).returncode == 0
    places = {"examples/digits.yaml": str(recipe), "runs/digits": str(finished[0])}
    real = [places.get(word, word.replace("runs/digits/", f"{finished[0]}/")) for word in command]
    if command[0] == "compress":
        if command[1] != "examples/digits.yaml":
            real[1] = str(ROOT / command[1])
        real += ["--until", "data"]
    done = edgedistill(*real, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_the_python_example_runs(tmp_path: Path) -> None:
    (code,) = [text for kind, text in BLOCKS if kind == "python"]
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    quick = code.replace('"distill.baseline=false"', '"teacher.train.epochs=1", "export.formats=[onnx]"')
    done = subprocess.run([sys.executable, "-c", quick], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "ran"


def test_the_recipe_table_names_every_section() -> None:
    sections = set(Recipe.model_fields) - {"name", "seed", "threads"}
    table = README[README.index("| section |") : README.index("**Your own model")]
    assert all(f"`{section}`" in table for section in sections)


def test_the_readmes_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
    for path in re.findall(r"`((?:examples|edgedistill|docs)/[\w./]+)`", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.yaml")), ids=lambda p: p.name)
def test_every_example_is_a_valid_recipe(path: Path) -> None:
    load_recipe(path)
    assert edgedistill("recipe", "check", path).returncode == 0


def test_the_help_of_until_names_every_stage() -> None:
    told = " ".join(edgedistill("compress", "--help").stdout.split())
    assert all(stage in told for stage in NAMES)
