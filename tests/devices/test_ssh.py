"""Boards behind ssh, end to end against OpenSSH's own server on loopback: what works, and each way to fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgedistill.errors import ArtifactError, DeviceError, EdgeDistillError, UsageError
from edgedistill.plugins import known_runtimes, load_device
from edgedistill.types import AgentCall, file_sha256
from tests.conftest import documents, edgedistill
from tests.helpers.boards import Loopback, doubling, key, loopback, needs_sshd, scaling, wait_for
from tests.helpers.calls import call, opener_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = needs_sshd
ID = "ssh:loopback"
FOREVER_S = 1e6


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    board = loopback(tmp_path_factory.mktemp("sshd"))
    board.start()
    yield board
    board.stop()


@pytest.fixture
def board(server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """A board that is described in devices.toml of the current folder, its cache empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nowhere"))
    described = dict(server.keys)
    server.describe()
    yield server
    server.keys = described
    server.unwrap()
    shutil.rmtree(server.workdir, ignore_errors=True)
    if server.process is None:
        server.start()


@pytest.fixture
def device(board: Loopback) -> Any:
    del board
    return load_device(ID)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return doubling(tmp_path / "double.onnx")


@pytest.fixture
def job(model: Path, tmp_path: Path) -> AgentCall:
    given = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.savez(tmp_path / "in.npz", x=given)
    return call(
        model, "onnxruntime", inputs=tmp_path / "in.npz", outputs=tmp_path / "out.npz", min_queries=64, timeout_s=60
    )


def failure(device: Any, job: AgentCall) -> EdgeDistillError:
    """The one error of a job, complete."""
    with pytest.raises(EdgeDistillError) as caught:
        device.run(ID, job)
    error = caught.value
    assert error.exit_code in (2, 3)
    assert error.where
    assert error.expected
    assert error.got
    assert error.fix
    return error


def works(device: Any, job: AgentCall) -> dict[str, Any]:
    """The document of a job whose outputs are right."""
    document: dict[str, Any] = device.run(ID, job).document
    assert job.inputs is not None
    assert job.outputs is not None
    assert np.array_equal(np.load(job.outputs)["y"], 2 * np.load(job.inputs)["x"])
    return document


# What works.


def test_the_document_is_the_boards_and_a_second_run_sends_no_file_again(
    board: Loopback, device: Any, job: AgentCall
) -> None:
    document = works(device, replace(job, threads=2, profile=5, sustained_min=0.001, affinity=(0,)))
    assert len(document["latency_ns"]) >= 64
    assert (document["threads"], document["cores"]) == (2, [0])
    assert document["profile"]["operators"]
    assert document["minutes_ms"]
    told = document["facts"]["board"]
    assert told["cpu"] == load_device("cpu").describe("cpu").name
    assert told["cores"] == sorted(os.sched_getaffinity(0))
    assert {"before", "after"} <= set(told)
    assert job.inputs is not None
    assert {file_sha256(job.artifact), file_sha256(job.inputs)} < board.files()
    written = {path.name: path.stat().st_ino for path in board.workdir.glob("files/*")}
    works(device, job)
    assert {path.name: path.stat().st_ino for path in board.workdir.glob("files/*")} == written
    assert board.left() == []


def test_benchmark_against_another_file_runs_its_rounds_over_one_connection(board: Loopback, model: Path) -> None:
    before = _accepted(board)
    done = edgedistill(
        "benchmark",
        model,
        "--against",
        scaling(model.with_name("other.onnx"), 8),
        "--device",
        ID,
        "--preset",
        "quick",
        "--rounds",
        "2",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    own, other = documents(done)["measurements"]
    assert (own["device"], own["source"]) == (ID, "measured")
    assert own["ratio_to_reference"]["reference"] == other["artifact"]
    assert own["facts"]["board"]["cpu"]
    assert _accepted(board) == before + 1


def test_describe_is_steady_and_names_the_runtimes(board: Loopback, device: Any) -> None:
    assert device.describe(ID) == device.describe(ID)
    assert "onnxruntime" in device.runtimes(ID, known_runtimes())
    board.describe(runtimes="litert")
    with pytest.raises(UsageError, match="runtimes"):
        device.runtimes(ID, known_runtimes())


def test_a_board_whose_shell_is_talkative_is_understood(board: Loopback, device: Any, job: AgentCall) -> None:
    board.wrap('echo Welcome; echo; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"')
    works(device, job)


def test_the_candidates_of_a_recipe_are_measured_on_its_board(board: Loopback, model: Path) -> None:
    from edgedistill.artifacts.identify import artifact_of
    from edgedistill.conversion.fastest import race
    from edgedistill.recipe.document import Benchmark

    base = artifact_of(model)
    files = [artifact_of(scaling(model.with_name(f"candidate-{n}.onnx"), n)) for n in (8, 9)]
    found = race(base, files, Benchmark(device=ID))
    assert found.device == ID
    assert [len(rounds) for rounds in found.rounds] == [3, 3]
    assert {one.sha256 for one in (base, *files)} < board.files()


# The cache.

_RELAY = """
import os
left = 1_500_000
while left and (data := os.read(0, min(left, 65536))):
    os.write(1, data)
    left -= len(data)
"""
"""What comes, up to a megabyte and a half of it."""


def test_files_that_changed_on_the_board_are_not_believed(board: Loopback, device: Any, job: AgentCall) -> None:
    works(device, job)
    held = board.workdir / "files" / file_sha256(job.artifact)
    held.write_bytes(b"rot" + held.read_bytes()[3:])
    works(device, job)
    assert file_sha256(held) == held.name


def test_the_rest_of_a_push_that_was_cut_is_sent(board: Loopback, device: Any, job: AgentCall) -> None:
    big = replace(job, artifact=scaling(job.artifact.with_name("big.onnx"), 2000), inputs=None, outputs=None)
    (board.folder / "relay.py").write_text(_RELAY, encoding="utf-8")
    board.wrap(f'{sys.executable} {board.folder}/relay.py | /bin/sh -c "$SSH_ORIGINAL_COMMAND"; kill -9 $PPID')
    error = failure(device, big)
    assert isinstance(error, DeviceError)
    assert "was cut" in error.message
    part = board.workdir / "files" / f"{file_sha256(big.artifact)}.part"
    sent = part.stat().st_size
    assert 1_000_000 < sent < 1_500_000
    assert (board.left(), _held(board)) == ([], "")
    board.wrap(f'/bin/sh -c "$SSH_ORIGINAL_COMMAND" | tee {board.folder}/events')
    device.run(ID, big)
    assert f'"offset": {sent}'.encode() in (board.folder / "events").read_bytes()


def test_a_damaged_part_is_sent_from_its_beginning(board: Loopback, device: Any, job: AgentCall) -> None:
    (board.workdir / "files").mkdir(parents=True)
    (board.workdir / "files" / f"{file_sha256(job.artifact)}.part").write_bytes(b"something else")
    works(device, job)
    assert not list(board.workdir.glob("files/*.part"))


def test_what_a_power_cut_left_is_removed_by_the_next_run(board: Loopback, device: Any, job: AgentCall) -> None:
    (board.workdir / "runs" / "old").mkdir(parents=True)
    (board.workdir / "runs" / "old" / "outputs.npz").write_bytes(b"half")
    works(device, job)
    assert board.left() == []


# The connection.


def test_a_host_where_nothing_listens(board: Loopback, device: Any, job: AgentCall) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        board.describe(port=nobody.getsockname()[1])
        error = failure(device, job)
    assert isinstance(error, DeviceError)
    assert "nothing answers" in error.message


def test_a_host_that_has_no_address(board: Loopback, device: Any, job: AgentCall) -> None:
    board.describe(host="no-such-board.invalid")
    assert "nobody knows the host" in failure(device, job).message


def test_a_key_that_the_board_does_not_know(board: Loopback, device: Any, job: AgentCall, tmp_path: Path) -> None:
    key(tmp_path / "other")
    board.describe(identity_file=str(tmp_path / "other"))
    assert "does not let us in" in failure(device, job).message


def test_a_host_key_that_is_unknown_or_another(board: Loopback, device: Any, job: AgentCall, tmp_path: Path) -> None:
    (tmp_path / "known").write_text("", encoding="utf-8")
    board.describe(known_hosts=str(tmp_path / "known"))
    assert "host key" in failure(device, job).message
    other = key(tmp_path / "other")
    (tmp_path / "known").write_text(f"[127.0.0.1]:{board.port} {other}\n", encoding="utf-8")
    assert "host key" in failure(device, job).message


def test_a_board_that_goes_away_between_push_and_run(board: Loopback, device: Any, job: AgentCall) -> None:
    works(device, job)
    written = {path.name: path.stat().st_ino for path in board.workdir.glob("files/*")}
    board.stop()
    assert isinstance(failure(device, job), DeviceError)
    board.start()
    works(device, job)
    assert {path.name: path.stat().st_ino for path in board.workdir.glob("files/*")} == written


def test_a_connection_that_is_cut_during_the_run(board: Loopback, device: Any, job: AgentCall) -> None:
    board.wrap(f'echo $PPID > {board.folder}/session; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"')
    caught: list[EdgeDistillError] = []
    client = threading.Thread(target=lambda: caught.append(failure(device, replace(job, min_duration_s=FOREVER_S))))
    client.start()
    wait_for(board.agents)
    os.kill(int((board.folder / "session").read_text()), signal.SIGKILL)
    client.join()
    assert "was cut" in caught[0].message
    wait_for(lambda: not board.agents())
    wait_for(lambda: not board.left() and not _held(board))
    works(device, job)


def test_a_client_that_is_killed_leaves_nothing_behind(board: Loopback, job: AgentCall) -> None:
    script = (
        "import sys, pathlib; from edgedistill.plugins import load_device; from edgedistill.types import AgentCall\n"
        "load_device(sys.argv[1]).run(sys.argv[1], AgentCall(pathlib.Path(sys.argv[2]), 'onnxruntime', "
        "pathlib.Path(sys.argv[3]), min_queries=1, min_duration_s=1e6))"
    )
    sockets = set(Path(tempfile.gettempdir()).glob("edgedistill-ssh-*"))
    client = subprocess.Popen([sys.executable, "-c", script, ID, str(job.artifact), str(job.opener)])
    wait_for(board.agents)
    client.kill()
    client.wait()
    for folder in set(Path(tempfile.gettempdir()).glob("edgedistill-ssh-*")) - sockets:
        shutil.rmtree(folder)
    wait_for(lambda: not board.agents() and not board.left() and not _held(board))


# The board.


def test_a_disk_that_is_full_for_the_push(board: Loopback, device: Any, job: AgentCall) -> None:
    big = replace(job, artifact=scaling(job.artifact.with_name("big.onnx"), 2000))
    board.wrap('ulimit -f 1000; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"')
    error = failure(device, big)
    assert "disk is full" in error.message
    assert not list(board.workdir.glob("files/*.part"))  # what fills it is taken away again
    assert (board.left(), _held(board)) == ([], "")
    works(device, job)  # a smaller file fits


def test_a_disk_that_is_full_for_the_outputs(board: Loopback, device: Any, job: AgentCall, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.zeros((2000, 3), np.float32))
    works(device, job)
    board.wrap('ulimit -f 20; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"')
    assert "disk is full" in failure(device, job).message
    assert board.left() == []


def test_a_folder_that_cannot_be_made(board: Loopback, device: Any, job: AgentCall) -> None:
    board.describe(workdir="/proc/edgedistill")
    assert "workdir" in failure(device, job).fix


def test_a_board_without_python(board: Loopback, device: Any, job: AgentCall) -> None:
    board.describe(python="/nowhere/python3")
    error = failure(device, job)
    assert "no Python at /nowhere/python3" in error.message


def test_a_board_whose_python_is_too_old(board: Loopback, device: Any, job: AgentCall) -> None:
    old = board.folder / "old-python"
    older = "import sys; sys.version_info = (3, 6, 9); exec(sys.argv[1])"
    old.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{older}' \"$2\"\n", encoding="utf-8")
    old.chmod(0o755)
    board.describe(python=str(old))
    error = failure(device, job)
    assert "too old" in error.message
    assert "3.6" in error.got


def test_a_board_without_the_runtime_names_the_bootstrap(board: Loopback, device: Any, job: AgentCall) -> None:
    bare = board.folder / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n', encoding="utf-8")  # -S: no installed packages
    bare.chmod(0o755)
    board.describe(python=str(bare))
    assert failure(device, job).fix == f"edgedistill devices bootstrap {ID} --runtime onnxruntime"
    done = edgedistill("benchmark", job.artifact, "--device", ID)
    assert done.returncode == 2
    assert f"fix: edgedistill devices bootstrap {ID} --runtime onnxruntime" in done.stderr


def test_a_model_that_hangs_is_stopped_there(board: Loopback, device: Any, job: AgentCall) -> None:
    error = failure(device, replace(job, timeout_s=1.5, min_duration_s=FOREVER_S))
    assert isinstance(error, DeviceError)
    assert "did not finish" in error.message
    assert (board.agents(), board.left(), _held(board)) == ([], [], "")


def test_an_agent_that_dies(board: Loopback, device: Any, job: AgentCall) -> None:
    caught: list[EdgeDistillError] = []
    client = threading.Thread(target=lambda: caught.append(failure(device, replace(job, min_duration_s=FOREVER_S))))
    client.start()
    wait_for(board.agents)
    for agent in board.agents():
        agent.kill()
    client.join()
    assert "died" in caught[0].message
    assert "SIGKILL" in caught[0].got
    assert board.left() == []


def test_cores_that_the_board_does_not_have(device: Any, job: AgentCall) -> None:
    error = failure(device, replace(job, affinity=(9999,)))
    assert isinstance(error, UsageError)
    assert str(sorted(os.sched_getaffinity(0))) in error.expected


def test_a_file_that_the_runtime_refuses(device: Any, job: AgentCall, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    assert isinstance(failure(device, replace(job, artifact=tmp_path / "bad.onnx")), ArtifactError)


# Two clients.

_CLIENT = """
import json, sys, pathlib
from edgedistill.plugins import load_device
from edgedistill.types import AgentCall
opener = pathlib.Path(sys.argv[3])
for _ in range(3):
    job = AgentCall(pathlib.Path(sys.argv[2]), "onnxruntime", opener, min_queries=64, min_duration_s=0.05)
    print(json.dumps(load_device(sys.argv[1]).run(sys.argv[1], job).document["board_held_s"]))
"""


def test_two_clients_never_measure_at_once(board: Loopback, model: Path) -> None:
    """Both wait at first for the lock that this test holds, so that they certainly meet."""
    import fcntl

    with board.lock.open("w") as held:
        held.write("the test")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        command = [sys.executable, "-c", _CLIENT, ID, str(model), str(opener_of("onnxruntime"))]
        clients = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "12"]
        waiting = [one.stderr.readline() for one in clients if one.stderr is not None]
    assert waiting == [f"{ID}: waiting for the test\n"] * 2
    spans = sorted(json.loads(line) for one in clients for line in one.communicate()[0].splitlines())
    assert [one.returncode for one in clients] == [0, 0]
    assert len(spans) == 6
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_a_board_that_stays_in_use_is_told_with_its_holder(board: Loopback, device: Any, job: AgentCall) -> None:
    import fcntl

    board.describe(lock_timeout_s=0.3)
    with board.lock.open("w") as held:
        held.write("a colleague")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        error = failure(device, job)
    assert "in use" in error.message
    assert "a colleague" in error.got
    works(device, job)  # what the file says does not count: it is stale once nobody holds the lock


# Bootstrap.


def wheel(folder: Path, name: str, version: str, module: str, code: str = "") -> None:
    """A wheel with one module, as pip takes it."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


def test_bootstrap_installs_from_wheels_and_what_it_made_is_used(
    board: Loopback, device: Any, job: AgentCall, tmp_path: Path
) -> None:
    """The wheels are small ones of the same names: what is shown is the way, not the runtime."""
    wheel(tmp_path, "numpy", "1.99", "numpy")
    wheel(tmp_path, "onnxruntime", "1.2.3", "onnxruntime")
    command = ("devices", "bootstrap", ID, "--runtime", "onnxruntime==1.2.3", "--wheels", tmp_path, "--json")
    done = edgedistill(*command)
    assert done.returncode == 0, done.stderr
    told = documents(done)["bootstrap"]
    assert told["versions"] == {"numpy": "1.99", "onnxruntime": "1.2.3"}
    assert told["venv"] == str(board.workdir / "venv")
    assert device.runtimes(ID, known_runtimes()) == {"onnxruntime": "1.2.3"}  # the venv's
    (board.workdir / "venv" / "ready").unlink()  # as after a cut: a half-made one is not used
    works(device, job)  # with the board's own Python: the wheel above computes nothing
    assert board.left() == []

    wheel(tmp_path, "onnxruntime", "1.2.4", "onnxruntime", "import os; os.abort()")
    with pytest.raises(DeviceError, match="SIGABRT") as caught:  # as a runtime that is built for another core
        device.bootstrap(ID, ["onnxruntime==1.2.4"], tmp_path, known_runtimes())
    assert "import onnxruntime" in caught.value.message
    with pytest.raises(DeviceError, match="onnxruntime==7") as caught:
        device.bootstrap(ID, ["onnxruntime==7"], tmp_path, known_runtimes())
    assert "--wheels" in caught.value.fix
    assert not (board.workdir / "venv" / "ready").exists()  # the runtime in it aborts
    wheel(tmp_path, "onnxruntime", "1.2.5", "onnxruntime")
    device.bootstrap(ID, ["onnxruntime==1.2.5"], tmp_path, known_runtimes())
    with pytest.raises(DeviceError, match="onnxruntime==7"):
        device.bootstrap(ID, ["onnxruntime==7"], tmp_path, known_runtimes())
    assert device.runtimes(ID, known_runtimes()) == {"onnxruntime": "1.2.5"}  # what works stays


def test_bootstrap_wants_a_known_runtime_and_wheels(device: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="which runtime"):
        device.bootstrap(ID, [], None, known_runtimes())
    with pytest.raises(UsageError, match="unknown runtime") as caught:
        device.bootstrap(ID, ["onnxruntme"], None, known_runtimes())
    assert "did you mean 'onnxruntime'" in caught.value.expected
    with pytest.raises(UsageError, match="no wheels"):
        device.bootstrap(ID, ["onnxruntime"], tmp_path / "nowhere", known_runtimes())
    assert edgedistill("devices", "bootstrap", "cpu", "--runtime", "onnxruntime").returncode == 2


# Names.


def test_hosts_of_the_ssh_config_are_boards(board: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = board.keys
    (tmp_path / "more").write_text(
        f"Host desk pattern-*\n Hostname 127.0.0.1\n Port {board.port}\n User {keys['user']}\n"
        f" IdentityFile {keys['identity_file']}\n UserKnownHostsFile {keys['known_hosts']}\n",
        encoding="utf-8",
    )
    (tmp_path / "config").write_text(f"Include {tmp_path}/more\nHost *\n LogLevel ERROR\n", encoding="utf-8")
    monkeypatch.setenv("EDGEDISTILL_SSH_CONFIG", str(tmp_path / "config"))
    listed = documents(edgedistill("devices", "list", "--json"))["devices"]
    assert [one["id"] for one in listed if one["id"].startswith("ssh:")] == [ID, "ssh:desk"]
    shown = edgedistill("devices", "show", "ssh:desk", "--json")
    assert shown.returncode == 0, shown.stderr
    assert documents(shown)["devices"][0]["cores"] == len(os.sched_getaffinity(0))
    wrong = edgedistill("devices", "show", "ssh:dsk")
    assert wrong.returncode == 2
    assert "did you mean 'ssh:desk'" in wrong.stderr


def _accepted(board: Loopback) -> int:
    return (board.folder / "sshd.log").read_text(encoding="utf-8").count("Accepted publickey")


def _held(board: Loopback) -> str:
    """Who stands in the lock."""
    return board.lock.read_text(encoding="utf-8") if board.lock.exists() else ""
