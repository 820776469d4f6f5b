"""The run directory: content-addressed stages, written whole or not at all.

    RUN/manifest.json                 the stages of the last command: name, key, state, seconds, cached
    RUN/stages/NAME/KEY/...           what a stage made; KEY is a digest of all that it depends on
    RUN/stages/NAME/KEY/stage.json    the digest of every file, written last

A stage works in a temporary folder; its files are flushed to disk and listed in stage.json before the
folder gets its name. Whatever has no name or does not match its list is not believed and made again.
Keys of later stages are made of the digests of what earlier ones wrote, so a stage that ran again and
wrote the same bytes does not run the rest.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import shutil
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from edgedistill.errors import StorageError
from edgedistill.storage import atomically, fsync, is_full, storage_error, storage_errors, write_atomically
from edgedistill.types import Json, file_sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_LIST = "stage.json"
RESUME = ".resume"
"""Folder in a stage's working folder that outlives a kill: what is needed to go on, in the same stage and key."""


@dataclass(frozen=True)
class Stage:
    """A finished stage: where its files are and the digest of what they contain."""

    name: str
    key: str
    path: Path
    digest: str

    def only(self, *files: str) -> Stage:
        """The same stage as one sees it who reads these files alone: its digest is theirs."""
        listing = json.loads((self.path / _LIST).read_text(encoding="utf-8"))
        return replace(self, digest=_listing_digest({file: listing[file] for file in files}))


@dataclass
class _Record:
    name: str
    key: str
    state: str
    seconds: float
    cached: bool


class Run:
    """One run directory, held by one process at a time."""

    def __init__(self, root: Path, on_stage: Callable[[str, str], None] = lambda _name, _state: None) -> None:
        """Use `open_run`, which takes the lock."""
        self.root = root
        self.records: list[_Record] = []
        self._on_stage = on_stage

    def stage(self, name: str, depends: Mapping[str, Any], make: Callable[[Path], None]) -> Stage:
        """Reuse the stage's files, or make them.

        Args:
            name: the stage.
            depends: everything the result depends on, as JSON.
            make: writes the files into the folder it is given.

        Raises:
            StorageError: the disk is full or not writable.
        """
        key = hashlib.sha256(json.dumps([name, depends], sort_keys=True, default=str).encode()).hexdigest()[:20]
        folder = self.root / "stages" / name / key
        started = time.monotonic()
        listing = _believed(folder)
        cached = listing is not None
        record = _Record(name, key, "reused" if cached else "running", 0.0, cached)
        self.records.append(record)
        if listing is None:
            self._write_manifest()
            self._on_stage(name, "running")
            listing = self._make(name, folder, make)
            record.state = "ran"
        record.seconds = round(time.monotonic() - started, 3)
        self._on_stage(name, record.state)
        return Stage(name, key, folder, _listing_digest(listing))

    def _make(self, name: str, folder: Path, make: Callable[[Path], None]) -> dict[str, str]:
        work = self.root / "stages" / f".making-{name}-{folder.name}"
        with storage_errors(self.root):
            for unfinished in (self.root / "stages").glob(f".making-{name}-*"):
                _clear(unfinished, keep=RESUME if unfinished == work else "")
            work.mkdir(parents=True, exist_ok=True)
            make(work)
            shutil.rmtree(work / RESUME, ignore_errors=True)
            if is_full(self.root):  # libraries may have written half a file without a word
                raise OSError(errno.ENOSPC, "no free space left after writing", str(work))
            listing = {
                path.relative_to(work).as_posix(): file_sha256(path)
                for path in sorted(work.rglob("*"))
                if path.is_file()
            }
            for file in listing:
                fsync(work / file)
            write_atomically(work / _LIST, json.dumps(listing, indent=1))
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            work.rename(folder)
            fsync(folder.parent)
        return listing

    def finish(self) -> None:
        """Write the manifest of this command."""
        self._write_manifest()

    def stages_json(self) -> list[Json]:
        """The stages of this command: name, key, state, seconds, cached."""
        return [asdict(record) for record in self.records]

    def _write_manifest(self) -> None:
        with storage_errors(self.root):
            document = {"schema": "edgedistill.manifest/1", "stages": self.stages_json()}
            write_atomically(self.root / "manifest.json", json.dumps(document, indent=1))


@contextmanager
def open_run(root: Path, on_stage: Callable[[str, str], None] = lambda _name, _state: None) -> Iterator[Run]:
    """Create or open a run directory and hold its lock.

    Raises:
        StorageError: it cannot be written, or another process works in it.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / ".lock").open("a")
    except OSError as error:  # whatever it is, nothing can be written there
        raise storage_error(root, full=error.errno == errno.ENOSPC, error=error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(
                "another command works in this run directory",
                where=str(root),
                expected="a run directory for one command at a time",
                got="a lock held by another process",
                fix="wait for it, or give another directory with --run",
            ) from error
        run = Run(root, on_stage)
        try:
            yield run
        except BaseException:
            if run.records and run.records[-1].state == "running":
                run.records[-1].state = "failed"
            _try_manifest(run)
            raise
        run.finish()


def _try_manifest(run: Run) -> None:
    """Write the manifest if that is possible; the first error is the one to tell."""
    try:
        run.finish()
    except (StorageError, OSError):
        return


def publish(source: Path, target: Path) -> None:
    """Make `target` a copy of a stage's file or folder, unless it is one already."""
    with storage_errors(target.parent):
        if _same(source, target):
            return
        if source.is_dir():
            _publish_folder(source, target)
            return
        with atomically(target) as temporary:
            _remove(temporary)
            shutil.copyfile(source, temporary)
            if target.is_dir():
                _remove(target)


def _publish_folder(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.part")
    _remove(temporary)
    shutil.copytree(source, temporary, ignore=shutil.ignore_patterns(_LIST))
    _remove(target)
    temporary.rename(target)


def _same(source: Path, target: Path) -> bool:
    if source.is_file():
        return target.is_file() and file_sha256(source) == file_sha256(target)

    def listing(folder: Path) -> dict[str, str]:
        return {
            p.relative_to(folder).as_posix(): file_sha256(p)
            for p in folder.rglob("*")
            if p.is_file() and p.name != _LIST
        }

    return target.is_dir() and listing(source) == listing(target)


def _clear(folder: Path, keep: str) -> None:
    """Remove what a killed stage left, but for what lets it go on."""
    for path in folder.iterdir():
        if path.name != keep:
            _remove(path)
    if not keep:
        folder.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _believed(folder: Path) -> dict[str, str] | None:
    """The stage's list of files, if every one of them is there and unchanged."""
    try:
        listing: dict[str, str] = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {_LIST}
        intact = present == set(listing) and all(file_sha256(folder / f) == digest for f, digest in listing.items())
    except (OSError, ValueError, AttributeError):
        return None
    return listing if intact else None


def _listing_digest(listing: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()
