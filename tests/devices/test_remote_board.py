"""The board's half by itself, over pipes: what it answers, what it leaves behind, and whom it believes."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import json
import os
import re
import signal
import sys
import threading
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgedistill.errors import UsageError
from edgedistill.plugins import find_plugin
from edgedistill.types import file_sha256
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

find_plugin("devices", "ssh")
HALF: Any = sys.modules["edgedistill.devices._remote.board_half"]
BOARDS: Any = sys.modules["edgedistill.devices._remote.described"]
SSH: Any = sys.modules["edgedistill.devices._remote.ssh_call"]
_ECHO = "import json, sys; print('chatter'); print(json.dumps(sys.argv[1:]))"


@dataclass
class Line:
    """A caller's end of both pipes, and the board's half in a thread at the others."""

    to: int
    answers: Any
    thread: threading.Thread
    codes: list[int] = field(default_factory=list)

    def event(self) -> dict[str, Any]:
        line = self.answers.readline().decode()
        assert line.startswith(HALF.MARK), line
        told: dict[str, Any] = json.loads(line.removeprefix(HALF.MARK))
        return told

    def until(self, name: str) -> dict[str, Any]:
        """The next event of a name."""
        while (told := self.event())["event"] != name:
            pass
        return told

    def end(self) -> int:
        """Hang up; the exit code."""
        with contextlib.suppress(OSError):
            os.close(self.to)
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.answers.close()
        return self.codes[0]


@pytest.fixture
def lines() -> Iterator[list[Line]]:
    made: list[Line] = []
    yield made
    for one in made:
        if one.thread.is_alive():
            one.end()


@pytest.fixture
def ask(lines: list[Line]) -> Any:
    def asked(**request: Any) -> Line:
        (come, to), (back, go) = os.pipe(), os.pipe()
        made = Line(to, os.fdopen(back, "rb", 0), threading.Thread())

        def work() -> None:
            made.codes.append(HALF.serve(come, go))
            os.close(come)
            os.close(go)

        made.thread = threading.Thread(target=work)
        made.thread.start()
        os.write(to, json.dumps(request).encode() + b"\n")
        lines.append(made)
        return made

    return asked


@pytest.fixture
def request_of(tmp_path: Path) -> Any:
    """A run whose agent is a script of ours; `numpy` stands for the runtime, which is there."""

    def made(script: str = _ECHO, **changed: Any) -> dict[str, Any]:
        agent = tmp_path / "agent.py"
        agent.write_text(script, encoding="utf-8")
        return {
            "verb": "run",
            "workdir": str(tmp_path / "board"),
            "lock": str(tmp_path / "lock"),
            "lock_timeout_s": 5,
            "holder": "the test",
            "runtimes": {"numpy": ["numpy", "numpy"]},
            "runtime": "numpy",
            "arguments": ["a", "b"],
            "files": [{"name": "agent.py", "sha256": file_sha256(agent), "bytes": agent.stat().st_size}],
            "threads": 1,
            "timeout_s": 30,
            **changed,
        }

    return made


def send(line: Line, path: Path) -> None:
    """Send a file as it is asked for."""
    told = line.until("send")
    os.write(line.to, path.read_bytes()[told["offset"] :])


def test_it_is_python_3_8_and_the_standard_library_alone() -> None:
    source = Path(HALF.__file__).read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(source, feature_version=(3, 8))))
    imported = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {(node.module or ".").split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported <= set(sys.stdlib_module_names) | {"__future__"}


def test_a_run_tells_its_document_and_leaves_only_the_cache(ask: Any, request_of: Any, tmp_path: Path) -> None:
    script = f"{_ECHO}; open('outputs.npz', 'wb').write(b'outputs')"
    request = request_of(script)
    line = ask(**request)
    send(line, tmp_path / "agent.py")
    done = line.until("done")
    assert done["document"] == ["a", "b"]
    assert line.answers.read(done["outputs_bytes"]) == b"outputs"
    assert done["board"]["cores"] == sorted(os.sched_getaffinity(0))
    assert line.end() == 0
    assert list((tmp_path / "board" / "runs").iterdir()) == []
    assert (tmp_path / "lock").read_text(encoding="utf-8") == ""
    again = ask(**request)
    assert again.event()["event"] == "running"  # nothing is asked for again
    again.until("done")
    assert again.end() == 0


def test_facts_tell_runtimes_that_are_there_and_no_others(ask: Any) -> None:
    asked = {"numpy": ["numpy", "numpy"], "abacus": ["abacus.beads", "abacus"]}
    line = ask(verb="facts", workdir="~/x", runtimes=asked)
    found = line.until("done")["facts"]
    assert list(found["runtimes"]) == ["numpy"]
    assert found["cpu"]
    assert found["memory_bytes"] > 2**20
    assert line.end() == 0


def test_what_arrives_damaged_is_not_kept(ask: Any, request_of: Any, tmp_path: Path) -> None:
    line = ask(**request_of())
    line.until("send")
    os.write(line.to, b"x" * (tmp_path / "agent.py").stat().st_size)
    assert line.until("error")["code"] == "damaged"
    assert line.end() == 0
    assert list((tmp_path / "board" / "files").iterdir()) == []


def test_a_runtime_that_is_missing_is_told_before_anything_is_sent(ask: Any, request_of: Any) -> None:
    line = ask(**request_of(runtime="abacus"))
    error = line.event()
    assert (error["event"], error["code"]) == ("error", "runtime_missing")
    assert "abacus" in error["message"]


@pytest.mark.parametrize(
    ("script", "code", "told"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "died", "SIGILL"),
        ("raise SystemExit('out of ideas')", "died", "exit code 1, out of ideas"),
        ("raise OSError(28, 'No space left on device')", "full", "No space left"),
        ("import time; time.sleep(1000)", "timeout", "no answer within 0.5 s"),
        ("import os, time; os.close(1); os.close(2); time.sleep(1000)", "timeout", "no answer"),
    ],
)
def test_an_agent_that_does_not_answer(
    ask: Any, request_of: Any, tmp_path: Path, script: str, code: str, told: str
) -> None:
    line = ask(**request_of(script, timeout_s=0.5 if code == "timeout" else 30))
    send(line, tmp_path / "agent.py")
    error = line.until("error")
    assert error["code"] == code
    assert told in error["message"]
    assert list((tmp_path / "board" / "runs").iterdir()) == []


def test_a_caller_that_goes_stops_the_agent(ask: Any, request_of: Any, tmp_path: Path) -> None:
    line = ask(**request_of("import time; time.sleep(1000)"))
    send(line, tmp_path / "agent.py")
    pid = line.until("running")["pid"]
    assert line.end() == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert list((tmp_path / "board" / "runs").iterdir()) == []


def test_the_lock_is_waited_for_and_told(ask: Any, request_of: Any, tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as held:
        held.write("a colleague")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        busy = ask(**request_of(lock_timeout_s=0.2))
        assert busy.until("error")["holder"] == "a colleague"
        gone = ask(**request_of())
        gone.until("waiting")
        assert gone.end() == 1
        patient = ask(**request_of())
        assert patient.event() == {"event": "waiting", "holder": "a colleague"}
    send(patient, tmp_path / "agent.py")
    assert (tmp_path / "lock").read_text(encoding="utf-8") == "the test"
    patient.until("done")


def test_a_lock_that_was_removed_is_made_again(tmp_path: Path) -> None:
    caller = HALF.Caller(0, 1)
    first = HALF.hold(caller, str(tmp_path / "lock"), 0, "one")
    (tmp_path / "lock").unlink()
    second = HALF.hold(caller, str(tmp_path / "lock"), 0, "two")
    assert (tmp_path / "lock").read_text(encoding="utf-8") == "two"
    os.close(first)
    os.close(second)
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o666  # for every user of the board
    with pytest.raises(HALF.Failed, match="lock"):
        HALF.hold(caller, str(tmp_path / "no folder" / "lock"), 0, "three")


def test_the_agent_keeps_the_lock_when_the_boards_half_is_killed(ask: Any, request_of: Any, tmp_path: Path) -> None:
    """The lock's descriptor is the agent's too: else another would measure beside an orphan."""
    script = (
        "import glob, os\n"
        "held = [os.path.realpath(name) for name in glob.glob('/proc/self/fd/*')]\n"
        "print(str(any(os.path.basename(path) == 'lock' for path in held)).lower())"
    )
    line = ask(**request_of(script))
    send(line, tmp_path / "agent.py")
    assert line.until("done")["document"] is True


def test_files_that_nobody_used_for_long_are_removed(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "old").write_bytes(b"1")
    (files / "new").write_bytes(b"1")
    long_ago = time.time() - (HALF.UNUSED_DAYS + 1) * 86400
    os.utime(files / "old", (long_ago, long_ago))
    HALF.tidy(str(tmp_path))
    assert [path.name for path in files.iterdir()] == ["new"]


def test_arm_cores_are_named_by_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = "".join(f"processor\t: {n}\nCPU part\t: {part}\n" for n, part in enumerate(["0xd05"] * 6 + ["0xd0a"] * 2))
    monkeypatch.setattr(HALF, "_text", lambda path: parts if path == "/proc/cpuinfo" else "")
    assert HALF.cpu_name() == "6 x Cortex-A55 + 2 x Cortex-A75"


def test_conditions_are_what_the_kernel_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"governor": "performance\n", "thermal": "48312\n", "get_throttled": "0x50005\n"}
    monkeypatch.setattr(HALF.glob, "glob", lambda pattern: [pattern])
    monkeypatch.setattr(HALF, "_text", lambda path: next((v for k, v in texts.items() if k in path), ""))
    assert HALF.conditions() == {"governors": ["performance"], "temperature_c": 48.312, "throttled": "0x50005"}


def test_a_signal_ends_the_work() -> None:
    with pytest.raises(HALF.Gone):
        HALF._ended(signal.SIGTERM, None)


# devices.toml.


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("[ssh.pi]\nhots = 'x'", "ssh.pi.hots", "did you mean 'host'"),
        ("[ssh.pi]\nport = '22'", "ssh.pi.port", "a port from 1 to 65535"),
        ("[ssh.pi]\nport = 70000", "ssh.pi.port", "a port"),
        ("[ssh.pi]\nhost = 5", "ssh.pi.host", "a text"),
        ("[ssh.pi]\nhost = '-oProxyCommand=x'", "ssh.pi.host", "does not begin with a dash"),
        ("[ssh.pi]\nidentity_file = 'nowhere'", "ssh.pi.identity_file", "the path of a file"),
        ("[ssh.pi]\nlock_timeout_s = -1", "ssh.pi.lock_timeout_s", "seconds"),
        ("[ssh.pi]\nruntimes = 'litert'", "ssh.pi.runtimes", "a list"),
        ("[ssh.pi]\nruntimes = ['lite']", "ssh.pi.runtimes", "did you mean 'litert'"),
        ("[ssh]\npi = 3", "ssh.pi", "a table [ssh.pi]"),
        ("ssh = 3", "ssh", "tables [ssh.NAME]"),
        ("[shh.pi]\nhost = 'x'", "shh", "did you mean 'ssh'"),
        ("[ssh.pi", "", "a TOML file"),
    ],
)
def test_a_wrong_devices_toml_is_told_by_file_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, key: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("devices.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        BOARDS.find_ssh_board("ssh:pi", ["litert", "onnxruntime"])
    assert caught.value.where == (f"devices.toml, key {key}" if key else "devices.toml")
    assert expected in caught.value.expected


def test_a_folder_that_a_phones_shell_would_misread_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("devices.toml").write_text("[adb.X]\nworkdir = '/data/local/tmp/my cache'\n", encoding="utf-8")
    with pytest.raises(UsageError, match="workdir"):
        BOARDS.adb_boards()


def test_boards_of_this_folder_win_over_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, users = tmp_path / "here", tmp_path / "config" / "edgedistill"
    own.mkdir()
    users.mkdir(parents=True)
    (own / "devices.toml").write_text("[ssh.pi]\nhost = 'here'\n", encoding="utf-8")
    (users / "key").write_text("", encoding="utf-8")
    more = "[ssh.pi]\nhost = 'there'\n[ssh.desk]\nidentity_file = 'key'\nlock_timeout_s = 5\n"
    (users / "devices.toml").write_text(more, encoding="utf-8")
    monkeypatch.chdir(own)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    found = BOARDS.ssh_boards()
    assert (found["pi"].host, list(found)) == ("here", ["pi", "desk"])
    assert found["desk"].identity_file == users / "key"  # beside the file that names it
    assert (found["desk"].shell_workdir, found["desk"].lock_timeout_s) == ('"$HOME"/.cache/edgedistill', 5.0)


def test_the_examples_of_the_docs_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "boards.md").read_text(encoding="utf-8")
    text = "\n".join(re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL))
    for name in re.findall(r'"((?:keys|tools)/[^"]+)"', text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    Path("devices.toml").write_text(text, encoding="utf-8")
    for board in (BOARDS.ssh_boards()["pi4"], BOARDS.adb_boards()["R58M12ABCDE"]):
        assert all(f"{one.name} = " in text for one in fields(board) if one.name != "name"), "a key is not documented"


# The connection, as far as it can be told without one.


@pytest.mark.parametrize(
    ("code", "told", "message"),
    [
        (255, "ssh: connect to host pi port 22: Connection refused", "nothing answers at pi"),
        (255, "ssh: connect to host pi port 22: Connection timed out", "pi does not answer"),
        (255, "ssh: connect to host pi port 22: No route to host", "there is no way to pi"),
        (255, "connect to host pi port 22: Network is unreachable", "there is no way to pi"),
        (255, "ssh: Could not resolve hostname pi: Name or service not known", "nobody knows the host pi"),
        (255, "motd\nme@pi: Permission denied (publickey).\n", "does not let us in"),
        (255, "No ED25519 host key is known for pi.\nHost key verification failed.\r\n", "host key"),
        (127, "/bin/sh: 1: exec: python3: not found", "no Python at python3"),
        (9, "edgedistill-python 3.6", "too old"),
        (1, "something new", "cannot be used"),
        (255, "", "cannot be used"),
    ],
)
def test_what_ssh_says_is_told_in_one_sentence(code: int, told: str, message: str) -> None:
    error = SSH.explain(BOARDS.SshBoard("pi"), code, told)
    assert message in error.message
    assert (error.exit_code, error.where) == (3, "device: ssh:pi")
    assert error.expected
    assert error.got
    assert error.fix


def test_hosts_are_read_from_the_ssh_config_and_what_it_includes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "more.d").mkdir()
    (tmp_path / "more.d" / "lab").write_text('Host "rock5" *.lab !x\n', encoding="utf-8")
    config = f"Include {tmp_path}/more.d/*\nHost=pi desk\n HostName 10.0.0.2\nHost *\n User me\nHost 'open\n"
    (tmp_path / "config").write_text(config, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEDISTILL_SSH_CONFIG", str(tmp_path / "config"))
    assert BOARDS.ssh_hosts() == ["desk", "pi", "rock5"]
    assert BOARDS.find_ssh_board("ssh:rock5") == BOARDS.SshBoard("rock5")
    with pytest.raises(UsageError) as caught:
        BOARDS.find_ssh_board("ssh:dsk")
    assert "did you mean 'ssh:desk'" in caught.value.expected


def test_without_ssh_the_package_to_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="no ssh"), SSH.call(BOARDS.SshBoard("pi"), {}):
        pass


def test_a_pis_word_on_throttling_becomes_a_flag() -> None:
    throttled = find_plugin("devices", "ssh")._throttled
    assert throttled({"after": {"throttled": "0x50005"}}) == [
        "throttled: the board says voltage is too low, clock is lowered"
    ]
    assert throttled({"after": {"throttled": "50000"}}) == []  # past, not present
    assert throttled({"after": {}}) == []
