"""What the doctor finds, and whether its advice mends it."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

from edgedistill.cli.doctor import Finding, examine, healthy

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say of some distributions that another version, or none, is installed."""
    real = importlib.metadata.version

    def install(versions: dict[str, str | None]) -> None:
        def version(name: str) -> str:
            if name not in versions:
                return real(name)
            told = versions[name]
            if told is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return told

        monkeypatch.setattr(importlib.metadata, "version", version)

    return install


def _of(package: str, group: str) -> Finding:
    (found,) = [f for f in examine() if (f.package, f.group) == (package, group)]
    return found


def test_this_environment_is_healthy_and_every_finding_tells_its_version() -> None:
    findings = examine()
    assert healthy(findings)
    assert {f.group for f in findings} == {"core", "onnx", "tflite", "openvino", "ncnn", "arm", "micro", "dev"}
    for finding in findings:
        if finding.state == "ok":
            assert finding.installed == importlib.metadata.version(finding.package)
            assert finding.fix == ""
        else:
            assert finding.installed is None
            assert finding.fix


def test_every_requirement_of_the_package_is_examined_once() -> None:
    wanted = [Requirement(text) for text in importlib.metadata.requires("edgedistill") or []]
    named = {r.name for r in wanted if r.name != "edgedistill"}
    findings = examine()
    assert {f.package for f in findings} == named
    assert len({(f.group, f.package) for f in findings}) == len(findings)
    assert {f.package for f in findings if f.group == "core"} == {r.name for r in wanted if r.marker is None}


@pytest.mark.parametrize(
    ("package", "group"),
    [("onnxruntime", "onnx"), ("tflite-runtime", "tflite"), ("nncf", "openvino"), ("mypy", "dev")],
)
def test_a_missing_extra_is_no_illness_and_has_its_command(
    pretend: Callable[..., None], package: str, group: str
) -> None:
    pretend({package: None})
    found = _of(package, group)
    assert (found.state, found.installed) == ("missing", None)
    assert found.fix == f"pip install 'edgedistill[{group}]'"
    assert healthy(examine())


def test_a_missing_core_package_is_an_illness(pretend: Callable[..., None]) -> None:
    pretend({"torch": None})
    found = _of("torch", "core")
    assert (found.state, found.fix) == ("missing", "pip install edgedistill")
    assert not healthy(examine())


@pytest.mark.parametrize(
    ("package", "version", "group"),
    [("torch", "1.0", "core"), ("onnxruntime", "1.0", "onnx"), ("tflite-runtime", "2.13.0", "tflite")],
)
def test_a_wrong_version_is_an_illness_whose_command_asks_for_a_right_one(
    pretend: Callable[..., None], package: str, version: str, group: str
) -> None:
    pretend({package: version})
    found = _of(package, group)
    assert (found.state, found.installed) == ("wrong version", version)
    asked = Requirement(found.fix.removeprefix("pip install ").strip("'"))
    assert asked.name == package
    assert str(asked.specifier) == found.wanted
    assert not asked.specifier.contains(version)
    assert not healthy(examine())


def test_a_prerelease_that_is_new_enough_is_ok(pretend: Callable[..., None]) -> None:
    pretend({"torch": "99.0.dev20300101"})
    assert _of("torch", "core").state == "ok"


@pytest.mark.parametrize(("runtime", "state", "well"), [("2.14.0", "wrong version", False), (None, "missing", True)])
def test_numpy_2_contradicts_tflite_runtime_only_where_that_is_installed(
    pretend: Callable[..., None], runtime: str | None, state: str, *, well: bool
) -> None:
    pretend({"numpy": "2.1.0", "tflite-runtime": runtime})
    assert _of("numpy", "core").state == "ok"
    assert _of("numpy", "tflite").state == state
    assert healthy(examine()) is well


def test_a_finding_as_json_has_its_fields() -> None:
    found = Finding("core", "numpy", ">=1.26", "1.26.4", "ok", "")
    assert found.to_json() == {
        "group": "core",
        "package": "numpy",
        "wanted": ">=1.26",
        "installed": "1.26.4",
        "state": "ok",
        "fix": "",
    }
