"""A stage is made once, whole or not at all; whatever happened to its files, nothing wrong is believed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgedistill.errors import StorageError
from edgedistill.runs import Run, Stage, open_run, publish
from edgedistill.storage import atomically, require_space, storage_errors, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

HOLD = """
import pathlib, sys
from edgedistill.runs import open_run
with open_run(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def writer(text: str = "made") -> Callable[[Path], None]:
    """Makes two files, one in a folder."""

    def make(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "a.txt").write_text(text, encoding="utf-8")
        (folder / "sub" / "b.txt").write_text("always", encoding="utf-8")

    return make


def never(folder: Path) -> None:
    pytest.fail(f"made again in {folder}")


def once(root: Path, make: Callable[[Path], None], depends: dict[str, Any] | None = None) -> tuple[Stage, str]:
    """Run one stage in a command of its own: the stage and whether it ran or was reused."""
    with open_run(root) as run:
        stage = run.stage("one", depends or {"x": 1}, make)
    return stage, manifest(root)[0]["state"]


def manifest(root: Path) -> list[dict[str, Any]]:
    document = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    assert document["schema"] == "edgedistill.manifest/1"
    stages: list[dict[str, Any]] = document["stages"]
    return stages


def no_space(_path: object) -> SimpleNamespace:
    return SimpleNamespace(total=1, used=1, free=0)


def full_on_fsync(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_stage_runs_once_and_is_reused_by_the_next_command(tmp_path: Path) -> None:
    first, state = once(tmp_path / "run", writer())
    assert state == "ran"
    assert (first.path / "a.txt").read_text(encoding="utf-8") == "made"
    second, state = once(tmp_path / "run", never)
    assert state == "reused"
    assert second == first


def test_the_manifest_tells_name_key_state_seconds_and_cached(tmp_path: Path) -> None:
    stage, _ = once(tmp_path, writer())
    (record,) = manifest(tmp_path)
    assert record.pop("seconds") >= 0
    assert record == {"name": "one", "key": stage.key, "state": "ran", "cached": False}


def test_progress_is_told_as_it_happens(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    for _ in range(2):
        with open_run(tmp_path, lambda name, state: told.append((name, state))) as run:
            run.stage("one", {}, writer())
    assert told == [("one", "running"), ("one", "ran"), ("one", "reused")]


def test_another_key_runs_and_the_former_stage_stays(tmp_path: Path) -> None:
    once(tmp_path, writer("old"), {"x": 1})
    changed, state = once(tmp_path, writer("new"), {"x": 2})
    assert state == "ran"
    assert (changed.path / "a.txt").read_text(encoding="utf-8") == "new"
    former, state = once(tmp_path, never, {"x": 1})
    assert state == "reused"
    assert (former.path / "a.txt").read_text(encoding="utf-8") == "old"


def test_stages_of_two_names_are_apart(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        one, two = run.stage("one", {}, writer("1")), run.stage("two", {}, writer("2"))
    assert one.key != two.key
    assert (one.path / "a.txt").read_bytes() != (two.path / "a.txt").read_bytes()


@pytest.mark.parametrize("file", ["a.txt", "sub/b.txt", "stage.json"])
@pytest.mark.parametrize("damage", ["changed", "truncated", "deleted", "emptied"])
def test_a_stage_with_a_damaged_file_is_not_believed_and_made_again(tmp_path: Path, file: str, damage: str) -> None:
    stage, _ = once(tmp_path, writer())
    path = stage.path / file
    content = path.read_bytes()
    match damage:
        case "changed":
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "truncated":
            path.write_bytes(content[:-1])
        case "emptied":
            path.write_bytes(b"")
        case _:
            path.unlink()
    again, state = once(tmp_path, writer())
    assert state == "ran"
    assert again == stage
    assert path.read_bytes() == content


def test_an_unfinished_folder_of_a_killed_command_is_not_believed(tmp_path: Path) -> None:
    stage, _ = once(tmp_path, writer())
    stage.path.rename(stage.path.parent.parent / ".making-one")
    again, state = once(tmp_path, writer())
    assert (state, again) == ("ran", stage)


def test_leftovers_of_a_killed_command_do_not_enter_the_stage(tmp_path: Path) -> None:
    leftover = tmp_path / "stages" / ".making-one" / "half.bin"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    stage, _ = once(tmp_path, writer())
    assert sorted(p.name for p in stage.path.rglob("*")) == ["a.txt", "b.txt", "stage.json", "sub"]


def fail_halfway(folder: Path) -> None:
    (folder / "a.txt").write_text("half", encoding="utf-8")
    raise ValueError("boom")


def test_a_stage_that_raises_leaves_nothing_believed_and_is_told_as_failed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"):
        once(tmp_path, fail_halfway)
    assert manifest(tmp_path)[0]["state"] == "failed"
    assert not list(tmp_path.glob("stages/one/*"))
    stage, state = once(tmp_path, writer())
    assert state == "ran"
    assert (stage.path / "a.txt").read_text(encoding="utf-8") == "made"


def test_stages_before_a_failed_one_are_kept(tmp_path: Path) -> None:
    def both(make_second: Callable[[Path], None]) -> None:
        with open_run(tmp_path) as run:
            run.stage("first", {}, writer())
            run.stage("second", {}, make_second)

    with pytest.raises(KeyboardInterrupt):
        both(interrupted)
    assert [record["state"] for record in manifest(tmp_path)] == ["ran", "failed"]
    both(writer())
    assert [record["state"] for record in manifest(tmp_path)] == ["reused", "ran"]


def interrupted(_folder: Path) -> None:
    raise KeyboardInterrupt


def test_a_stage_that_ran_again_to_the_same_bytes_does_not_run_the_next(tmp_path: Path) -> None:
    def two_stages(setting: int, text: str) -> list[str]:
        with open_run(tmp_path) as run:
            first = run.stage("first", {"setting": setting}, writer(text))
            run.stage("second", {"first": first.digest}, writer())
        return [record["state"] for record in manifest(tmp_path)]

    assert two_stages(1, "same") == ["ran", "ran"]
    assert two_stages(2, "same") == ["ran", "reused"]
    assert two_stages(3, "other") == ["ran", "ran"]


def test_a_run_directory_in_use_is_refused(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StorageError) as raised, open_run(tmp_path):
            pytest.fail("two commands at once")
    assert raised.value.exit_code == 2
    assert raised.value.where == str(tmp_path)
    assert "--run" in raised.value.fix


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StorageError, match="another command"):
            once(tmp_path, writer())
        holder.communicate()
    assert holder.returncode == 0
    assert once(tmp_path, writer())[1] == "ran"


def test_a_refused_command_does_not_touch_the_manifest(tmp_path: Path) -> None:
    once(tmp_path, writer())
    before = (tmp_path / "manifest.json").read_bytes()
    with (tmp_path / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StorageError):
            once(tmp_path, never)
    assert (tmp_path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("below", ["file", "file/run", "file/a/b"])
def test_a_run_directory_at_or_below_a_file_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    with pytest.raises(StorageError) as raised:
        once(tmp_path / below, never)
    assert raised.value.exit_code == 2
    assert "--run" in raised.value.fix
    assert (tmp_path / "file").read_text(encoding="utf-8") == "kept"


def test_a_run_directory_where_nothing_can_be_written_is_refused() -> None:
    with pytest.raises(StorageError) as raised:
        once(Path("/proc/edgedistill-run"), never)
    assert raised.value.exit_code == 2
    assert "/proc/edgedistill-run" in raised.value.where


def library_error(folder: Path) -> None:
    (folder / "a.txt").write_text("half", encoding="utf-8")
    raise RuntimeError("basic_ios::clear: iostream error")


@pytest.mark.parametrize("quota", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_while_a_stage_writes_is_told_as_full(tmp_path: Path, quota: int) -> None:
    def make(folder: Path) -> None:
        (folder / "a.txt").write_text("half", encoding="utf-8")
        raise OSError(quota, "full")

    with pytest.raises(StorageError, match="disk is full") as raised:
        once(tmp_path, make)
    assert raised.value.exit_code == 2
    assert manifest(tmp_path)[0]["state"] == "failed"
    assert once(tmp_path, writer())[1] == "ran"


def test_a_disk_that_fills_while_files_are_flushed_is_told_and_nothing_is_believed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_on_fsync)
        with pytest.raises(StorageError, match="disk is full"):
            once(tmp_path, writer())
    assert not list(tmp_path.glob("stages/one/*"))
    assert once(tmp_path, writer())[1] == "ran"


@pytest.mark.parametrize("make", [writer(), library_error], ids=["no word", "an error of its own"])
def test_a_library_that_hides_a_full_disk_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", no_space)
        with pytest.raises(StorageError, match="disk is full"):
            once(tmp_path, make)
    assert not list(tmp_path.glob("stages/one/*"))
    assert once(tmp_path, writer())[1] == "ran"


def test_a_full_disk_keeps_finished_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once(tmp_path, writer())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_on_fsync)
        with pytest.raises(StorageError):
            once(tmp_path, writer(), {"x": 2})
    assert once(tmp_path, never)[1] == "reused"


def test_an_error_on_a_disk_with_space_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="iostream"):
        once(tmp_path, library_error)


def test_publish_copies_a_file_and_a_folder_without_its_list(tmp_path: Path) -> None:
    stage, _ = once(tmp_path / "run", writer())
    publish(stage.path, tmp_path / "folder")
    publish(stage.path / "a.txt", tmp_path / "file.txt")
    assert sorted(p.name for p in (tmp_path / "folder").rglob("*")) == ["a.txt", "b.txt", "sub"]
    assert (tmp_path / "file.txt").read_text(encoding="utf-8") == "made"


@pytest.mark.parametrize("source", [".", "a.txt"])
def test_publish_does_nothing_when_target_is_equal(tmp_path: Path, source: str) -> None:
    stage, _ = once(tmp_path / "run", writer())
    publish(stage.path / source, tmp_path / "target")
    before = (tmp_path / "target").stat()
    publish(stage.path / source, tmp_path / "target")
    after = (tmp_path / "target").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_publish_replaces_a_folder_that_differs(tmp_path: Path) -> None:
    stage, _ = once(tmp_path / "run", writer())
    publish(stage.path, tmp_path / "target")
    (tmp_path / "target" / "a.txt").write_text("edited", encoding="utf-8")
    (tmp_path / "target" / "stale.txt").touch()
    publish(stage.path, tmp_path / "target")
    assert (tmp_path / "target" / "a.txt").read_text(encoding="utf-8") == "made"
    assert not (tmp_path / "target" / "stale.txt").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "target"]


def test_publish_replaces_a_file_that_differs_and_a_folder_by_a_file_of_its_name(tmp_path: Path) -> None:
    stage, _ = once(tmp_path / "run", writer())
    (tmp_path / "target").write_text("old", encoding="utf-8")
    publish(stage.path / "a.txt", tmp_path / "target")
    assert (tmp_path / "target").read_text(encoding="utf-8") == "made"
    publish(stage.path, tmp_path / "target")
    assert (tmp_path / "target" / "a.txt").is_file()
    publish(stage.path / "a.txt", tmp_path / "target")
    assert (tmp_path / "target").read_text(encoding="utf-8") == "made"


def test_publish_to_a_full_disk_is_told_and_keeps_the_former_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, _ = once(tmp_path / "run", writer())
    (tmp_path / "target").write_text("old", encoding="utf-8")

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StorageError, match="disk is full"):
        publish(stage.path / "a.txt", tmp_path / "target")
    assert (tmp_path / "target").read_text(encoding="utf-8") == "old"


def test_a_failed_atomic_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    monkeypatch.setattr(os, "fsync", full_on_fsync)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new and longer")
    assert path.read_text(encoding="utf-8") == "old"


def test_an_atomic_write_replaces_and_leaves_no_other_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.json", "old")
    write_atomically(tmp_path / "a.json", "né")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "né"


def test_what_fails_half_way_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, b"old")

    def fail() -> None:
        with atomically(path) as temporary:
            temporary.write_bytes(b"ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert path.read_bytes() == b"old"


def test_a_contended_file_is_whole_whoever_is_first(tmp_path: Path) -> None:
    """The second begins and ends while the first has not ended."""
    path = tmp_path / "a.txt"
    with atomically(path, contended=True) as first:
        first.write_text("first")
        write_atomically(path, "second", contended=True)
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


leaf = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
value = st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


def key_of(depends: dict[str, Any]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return Run(Path(folder)).stage("one", depends, lambda _folder: None).key


@settings(max_examples=40, deadline=None)
@given(depends=st.dictionaries(st.text(max_size=3), value, min_size=1, max_size=4), other=value, data=st.data())
def test_any_change_in_what_a_stage_depends_on_changes_its_key(
    depends: dict[str, Any], other: Any, data: st.DataObject
) -> None:
    which = data.draw(st.sampled_from(sorted(depends)))
    assume(depends[which] != other)
    assert key_of({**depends, which: other}) != key_of(depends)
    assert key_of({name: depends[name] for name in depends if name != which}) != key_of(depends)
    assert key_of({**depends, which + "'": other}) != key_of(depends) or which + "'" in depends


@settings(max_examples=20, deadline=None)
@given(depends=st.dictionaries(st.text(max_size=3), value, max_size=4))
def test_the_order_of_what_a_stage_depends_on_does_not_change_its_key(depends: dict[str, Any]) -> None:
    assert key_of(dict(reversed(depends.items()))) == key_of(depends)


def test_too_little_space_is_told_before_a_converter_starts(tmp_path: Path) -> None:
    require_space(tmp_path, 1)
    with pytest.raises(StorageError, match="disk is full") as caught:
        require_space(tmp_path, 2**62)
    assert str(2**62) in caught.value.got


def test_a_librarys_own_error_about_a_full_disk_is_told_as_one(tmp_path: Path) -> None:
    told = f"Error while serializing: {os.strerror(errno.ENOSPC)} (os error 28)"
    with pytest.raises(StorageError, match="disk is full"), storage_errors(tmp_path):
        raise RuntimeError(told)
    with pytest.raises(RuntimeError, match="something else"), storage_errors(tmp_path):
        raise RuntimeError("something else")
