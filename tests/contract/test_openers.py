"""The contract suite: every runtime file stands alone, and opens a format for the agent that hands itself in."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgedistill import agent
from edgedistill.contracts import Agent, Opener
from edgedistill.errors import ArtifactError
from edgedistill.plugins import find_devices, find_exporters, load_device
from edgedistill.types import AgentCall
from tests.helpers import boards

if TYPE_CHECKING:
    from collections.abc import Iterator

OPENERS = {
    *(exporter.OPENER for exporter in find_exporters().values()),
    *(opener for device in find_devices().values() for opener in device.TRAITS.own_openers.values()),
}
TOY = Path(__file__).parents[1] / "helpers" / "toy_runtime.py"
EVERY = [*sorted(OPENERS), TOY]
BROUGHT_ALONG = {"tflite_micro": {"flatbuffers"}}
"""What a runtime's own package needs, and so brings."""


def module(path: Path) -> Any:
    return agent.load_opener(str(path))


def executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from executed(node)


def imported(source: str) -> set[str]:
    """Top-level names of all modules that a source imports, inside its functions too."""
    nodes = list(executed(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {"." * node.level + (node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= set(re.findall(r'import(?:_module|__)\("([\w.]+)"\)', source))
    return {name.partition(".")[0] or name for name in names}


@pytest.mark.parametrize("path", EVERY, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_it_imports_the_standard_library_numpy_and_its_runtimes_alone(path: Path) -> None:
    runtimes = {name.split(".")[0] for name, _ in module(path).RUNTIMES.values()}
    also = {one for runtime in runtimes for one in BROUGHT_ALONG.get(runtime, ())}
    assert imported(path.read_text(encoding="utf-8")) - sys.stdlib_module_names <= {"numpy", *runtimes, *also}


@pytest.mark.parametrize(
    "line", ["import torch", "from edgedistill import agent", "from .agent import Session", 'import_module("torch")']
)
def test_the_check_of_imports_can_fail(line: str) -> None:
    assert imported(f"def f():\n    {line}") - sys.stdlib_module_names - {"numpy"}
    assert not imported(f"if TYPE_CHECKING:\n    {line.replace('import_module', '')}")


@pytest.mark.parametrize("path", EVERY, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_it_is_loaded_without_its_runtime_and_without_edgedistill(path: Path) -> None:
    absent = ["edgedistill", *(name.split(".")[0] for name, _ in module(path).RUNTIMES.values() if name != "numpy")]
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        f"import runpy; print(sorted(runpy.run_path({str(path)!r})['RUNTIMES']))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(sorted(module(path).RUNTIMES)), done.stderr


@pytest.mark.parametrize("path", EVERY, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_its_functions_take_what_the_agent_gives(path: Path) -> None:
    opener = module(path)
    opens = list(inspect.signature(Opener.open).parameters)[1:]
    told = {"open": opens, "open_reference": opens, "profile": [*opens[:-1], "samples", "count"]}
    assert "open" in vars(opener)
    for name, parameters in told.items():
        if name in vars(opener):
            assert list(inspect.signature(vars(opener)[name]).parameters) == parameters


def test_the_agent_has_what_it_says() -> None:
    for name, member in vars(Agent).items():
        if inspect.isfunction(member) and name[0] != "_":
            assert [*inspect.signature(member).parameters][1:] == [*inspect.signature(vars(agent)[name]).parameters]
    assert isinstance(agent.Session, type)


@pytest.fixture
def factor(tmp_path: Path) -> AgentCall:
    (tmp_path / "three.toy").write_text("3", encoding="ascii")
    np.savez(tmp_path / "x.npz", x=np.arange(8, dtype=np.float32).reshape(2, 4))
    asked = AgentCall(tmp_path / "three.toy", "toy", TOY, min_queries=3, profile=2)
    return replace(asked, inputs=tmp_path / "x.npz", outputs=tmp_path / "y.npz")


@pytest.mark.parametrize("device", ["cpu", "ssh:loopback"])
def test_a_third_partys_format_needs_nothing_of_ours(
    device: str, factor: AgentCall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ssh device stands for all to which files are sent; here without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/programs:{os.environ['PATH']}")
    boards.stand_in(tmp_path).describe()
    document = load_device(device).run(device, factor).document
    assert (document["runtime"], document["runtime_version"]) == ("toy", np.__version__)
    assert document["inputs"] == [{"name": "x", "shape": [1, 4], "dtype": "float32"}]
    assert document["facts"]["factor"] == 3.0
    assert document["profile"]["operators"] == [
        {"name": "times", "type": "Mul", "ms": 4.0, "least_ms": 2.0, "share": 1.0}
    ]
    assert factor.outputs is not None
    with np.load(factor.outputs) as archive:
        np.testing.assert_array_equal(archive["y"], 3 * np.arange(8, dtype=np.float32).reshape(2, 4))


def test_kernels_that_a_format_does_not_have_are_refused(factor: AgentCall) -> None:
    with pytest.raises(ArtifactError, match="toy has no reference kernels"):
        load_device("cpu").run("cpu", replace(factor, reference_kernels=True))


def test_an_error_of_the_opener_is_the_runtimes_refusal(factor: AgentCall) -> None:
    factor.artifact.write_text("no number", encoding="ascii")
    with pytest.raises(ArtifactError, match=r"toy refuses three\.toy: ValueError: could not convert"):
        load_device("cpu").run("cpu", factor)
