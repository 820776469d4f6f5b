"""The main path over and over: what is reused, what is redone, and what survives a kill."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgedistill.recipe.document import load_recipe, recipe_sha256
from edgedistill.stages import NAMES
from tests.conftest import digests, documents, edgedistill, kill_in, states

Finished = tuple[Path, dict[str, Any]]


def test_the_unchanged_recipe_executes_nothing_and_imports_no_torch(tiny: Path, copied_tiny: Path) -> None:
    script = (
        "import sys; from edgedistill.cli.main import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'nncf'}; "
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "compress", str(tiny), "--run", str(copied_tiny), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(states(documents(done)).values()) == {"reused"}
    assert done.stderr.strip().endswith("[]")


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ("gate.size.max_ratio=1.9", "gate"),
        ("benchmark.rounds=2", "benchmark"),
        ("parity.fp32.max_relative=1e-3", "parity"),
    ],
)
def test_a_change_redoes_only_its_stage_and_what_follows(
    tiny: Path, copied_tiny: Path, change: str, first: str
) -> None:
    done = edgedistill("compress", tiny, "--run", copied_tiny, "--json", "--set", change)
    found = states(documents(done))
    ran = [name for name, state in found.items() if state == "ran"]
    report = documents(done)["report"]
    assert report["recipe_sha256"] == recipe_sha256(load_recipe(tiny, [change]))
    assert {a["producer"]["recipe_sha256"] for a in report["artifacts"]} == {report["recipe_sha256"]}
    if first == "parity":  # the benchmark does not read parity
        assert ran == ["parity", "report", "gate", "bundle"]
    else:
        assert ran == list(NAMES[NAMES.index(first) :])


def test_until_stops_after_the_named_stage(tiny: Path, tmp_path: Path) -> None:
    done = edgedistill("compress", tiny, "--run", tmp_path / "run", "--until", "student", "--json")
    answer = documents(done)
    assert done.returncode == 0
    assert list(states(answer)) == ["data", "teacher", "student"]
    assert answer["report"] is None


def test_a_damaged_stage_is_made_again_with_the_same_digests(
    tiny: Path, copied_tiny: Path, finished_tiny: Finished
) -> None:
    (damaged,) = (copied_tiny / "stages" / "export").glob("*/onnx/student-fp32.onnx")
    damaged.write_bytes(damaged.read_bytes()[:100])
    answer = documents(edgedistill("compress", tiny, "--run", copied_tiny, "--json"))
    assert [name for name, state in states(answer).items() if state == "ran"] == ["export"]
    assert digests(answer["report"]) == digests(finished_tiny[1]["report"])


@pytest.mark.long
def test_kill_9_in_every_stage_then_the_same_command_finishes_with_the_same_artifacts(
    tiny: Path, finished_tiny: Finished, tmp_path: Path
) -> None:
    """A stage of milliseconds may be over before the signal arrives; most are not."""
    run = tmp_path / "killed"
    killed = 0
    for position, stage in enumerate(NAMES):
        killed += kill_in(stage, tiny, run)
        believed = {p.parent.parent.name for p in run.glob("stages/*/*/stage.json")} & set(NAMES)
        assert set(NAMES[:position]) <= believed  # nothing that was finished is lost
    assert killed >= 8
    answer = documents(edgedistill("compress", tiny, "--run", run, "--json"))
    assert {name for name, state in states(answer).items() if state == "ran"} <= {"bundle"}
    assert digests(answer["report"]) == digests(finished_tiny[1]["report"])


def test_two_commands_cannot_share_a_run_directory(tiny: Path, copied_tiny: Path) -> None:
    import fcntl

    with (copied_tiny / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = edgedistill("compress", tiny, "--run", copied_tiny, "--json")
    assert done.returncode == 2
    assert documents(done)["error"]["code"] == "storage_error"


def test_python_api_gives_the_same_outcome(tiny: Path, copied_tiny: Path) -> None:
    import edgedistill as public

    outcome = public.compress(public.load_recipe(tiny), tiny.parent, copied_tiny)
    assert isinstance(outcome, public.Outcome)
    assert outcome.verdict is not None
    assert outcome.verdict.exit_code == 0
    assert {stage["state"] for stage in outcome.stages} == {"reused"}


def test_a_stage_that_fills_the_disk_is_told_and_not_believed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that writes half a file without an error: only the full disk tells."""
    from edgedistill import pipeline
    from edgedistill.errors import StorageError

    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=0))
        with pytest.raises(StorageError, match="disk is full") as caught:
            pipeline.compress(load_recipe(tiny), tiny.parent, tmp_path / "run", until="data")
    assert caught.value.exit_code == 2
    assert not list((tmp_path / "run" / "stages").glob("data/*"))
    outcome = pipeline.compress(load_recipe(tiny), tiny.parent, tmp_path / "run", until="data")
    assert outcome.stages[0]["state"] == "ran"
