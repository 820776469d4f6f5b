"""`make quick`: lint of the files that changed, and the tests that these touch; what takes tens of seconds is left out.

Changed is what git says is not committed; where all is, what the last commit changed. A test is touched that changed
itself, that stands in the folder that mirrors a changed file's and is named after it, or that imports it.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
GIT = shutil.which("git") or "git"
SOURCES = ("edgedistill", "exporters", "devices", "benchmarks", "examples", "tests")
EVERYWHERE = {"tests/conftest.py", "pyproject.toml"}
"""Files that every test depends on: the house's own tests tell most."""


def changed() -> list[str]:
    """Paths from the root, as git tells them."""
    told = _git("status", "--porcelain", "--untracked-files=all").splitlines()
    found = [line[3:].split(" -> ")[-1] for line in told]
    return found or _git("diff", "--name-only", "HEAD~1").splitlines()


def touched(files: list[str]) -> list[str]:
    """Test files for these changed files."""
    modules = {_module(file) for file in files if file.endswith(".py")}
    stems = {(Path(file).parent.name, Path(file).stem) for file in files}
    found = set()
    for test in sorted((ROOT / "tests").rglob("test_*.py")):
        path = test.relative_to(ROOT).as_posix()
        mirrors = (test.parent.name, test.stem.removeprefix("test_")) in stems
        if path in files or mirrors or modules & _imports(test):
            found.add(path)
    return sorted(found | ({"tests/house/test_architecture.py"} if EVERYWHERE & set(files) or found else set()))


def _module(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imports(test: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(test.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _git(*arguments: str) -> str:
    return subprocess.run([GIT, *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Run it; the exit code is that of the first thing that fails."""
    files = [file for file in changed() if (ROOT / file).is_file()]
    python = [file for file in files if file.endswith(".py") and file.startswith(SOURCES)]
    tests = touched(files)
    tools = Path(sys.executable).parent
    commands: list[list[str | Path]] = []
    if python:
        commands += [
            [tools / "ruff", "check", *python],
            [tools / "ruff", "format", "--check", *python],
            [tools / "mypy"],
        ]
    if tests:
        commands.append([tools / "pytest", "-q", "-x", "-n", "2", "-m", "not slow and not long", *tests])
    for command in commands:
        sys.stderr.write(f"$ {' '.join(str(word) for word in command)}\n")
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        if code not in (0, 5):  # 5: none of these tests is left
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
