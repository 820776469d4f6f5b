"""The ARM emulator's parts that need no emulator: decoding, parsing, pins, apt, errors, the plug-in's source.

What needs the emulator is in test_arm_guest.py.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.errors import ArtifactError, CoreError, DeviceError, StorageError, UsageError
from edgedistill.events import QUIET
from edgedistill.plugins import find_plugin, load_device
from edgedistill.types import AgentCall
from tests.conftest import documents, edgedistill
from tests.helpers.calls import call

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


def part(name: str) -> Any:
    """A module beside the plug-in; nobody imports a shelf by name."""
    return importlib.import_module(f".{name}", find_plugin("devices", "emulated").__package__)


apt, cores, counts, guest, install, layouts, store, devices = (
    part(f"_arm.{name}") for name in ("apt", "cores", "counts", "guest", "install", "layout", "store", "device")
)

# assembled by hand from the Arm Architecture Reference Manual's encodings
A64 = {
    "4e829420": "dot",  # sdot v0.4s, v1.16b, v2.16b
    "6e829420": "dot",  # udot
    "4f82e020": "dot",  # sdot by element
    "4e82a420": "matrix",  # smmla v0.4s, v1.16b, v2.16b
    "4e22cc20": "fma",  # fmla v0.4s, v1.4s, v2.4s
    "4f821020": "fma",  # fmla by element
    "1f020c20": "fma",  # fmadd s0, s1, s2, s3
    "0e62c020": "multiply_long",  # smull v0.4s, v1.4h, v2.4h
    "4e628020": "multiply_long",  # smlal2 v0.4s, v1.8h, v2.8h
    "0f62a020": "multiply_long",  # smull by element
    "9b227c20": "other",  # smull x0, w1, w2: of one integer
    "3dc00020": "load_store",  # ldr q0, [x1]
    "f9000020": "load_store",  # str x0, [x1]
    "4cdf7020": "load_store",  # ld1 {v0.16b}, [x1], #16
    "14000001": "branch",  # b
    "d65f03c0": "branch",  # ret
    "8b020020": "other",  # add x0, x1, x2
    "4e228420": "simd_other",  # add v0.16b, v1.16b, v2.16b
    "65a20020": "sve",  # fmla z0.s, p0/m, z1.s, z2.s
    "44820020": "sve",  # sdot z0.s, z1.b, z2.b
}
A32 = {
    "vmlal.s8": "multiply_long",
    "vmull.s16": "multiply_long",
    "vqdmlal.s16": "multiply_long",
    "vmla.f32": "fma",
    "vfma.f32": "fma",
    "vmla.i32": "simd_other",
    "vsdot.s8": "dot",
    "ldr": "load_store",
    "ldrb.w": "load_store",
    "strd": "load_store",
    "push": "load_store",
    "pop.w": "load_store",
    "vld1.8": "load_store",
    "vstmia": "load_store",
    "ldm.w": "load_store",
    "stmdb": "load_store",
    "b": "branch",
    "beq.w": "branch",
    "bl": "branch",
    "bxeq": "branch",
    "cbnz": "branch",
    "bic": "other",
    "bfi": "other",
    "adds": "other",
    "vadd.f32": "simd_other",
    "vmov.f32": "simd_other",
}


@pytest.mark.parametrize(("word", "expected"), A64.items())
def test_an_aarch64_word_has_its_class(word: str, expected: str) -> None:
    found = counts.classify(counts.Blocks({word: 1}))
    assert found["total"] == 1
    assert {name: found[name] for name in counts.CLASSES if found[name]} == {expected: 1}


@pytest.mark.parametrize(("name", "expected"), A32.items())
def test_a_32_bit_mnemonic_has_its_class(name: str, expected: str) -> None:
    assert counts.class_a32(name) == expected


def by_bits(word: int) -> str | None:
    """An independent reading of the encodings that matter, by masks, without any disassembler."""
    if word & 0x9FE0FC00 == 0x0E809400 or word & 0x9FC0F400 == 0x0F80E000:
        return "dot"
    if word & 0xBFA0FC00 == 0x0E20CC00 and (word >> 22 & 1 == 0 or word >> 30 & 1):
        return "fma"
    if word & 0x9F20FC00 in (0x0E208000, 0x0E20C000) and word >> 22 & 3 != 3:
        return "multiply_long"
    return None


@given(st.sampled_from(["dot", "fma", "multiply_long"]), st.integers(0, 2**15 - 1), st.booleans(), st.booleans())
def test_two_readings_of_an_encoding_agree(kind: str, registers: int, wide: bool, unsigned: bool) -> None:
    base = {"dot": 0x0E809400, "fma": 0x0E20CC00, "multiply_long": 0x0E608000}[kind]
    operands = (registers >> 10) << 16 | registers & 0x3FF
    word = base | operands | wide << 30 | (unsigned << 29 if kind != "fma" else 0)
    assert by_bits(word) == kind
    assert counts.classify(counts.Blocks({f"{word:08x}": 7}))[kind] == 7


@given(st.dictionaries(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6).map(tuple), st.integers(1, 10**9)))
def test_the_classes_sum_to_the_total_whatever_the_words(blocks: dict[tuple[int, ...], int]) -> None:
    made = counts.Blocks({"".join(f"{w:08x}" for w in words): times for words, times in blocks.items()})
    found = counts.classify(made)
    assert found["total"] == made.total == sum(len(words) * times for words, times in blocks.items())
    assert sum(found[name] for name in counts.CLASSES) == found["total"]
    assert found["undecoded"] <= found["total"]


def test_the_middle_inference_is_taken_whole() -> None:
    three = [counts.Blocks({"d65f03c0": n, "8b020020": 1}) for n in (9, 1, 4)]
    assert counts.middle(three) is three[2]


def test_counts_are_read_and_a_broken_off_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "counts.2"
    file.write_text("cache 10 2 1\n4000 3 d65f03c08b020020\n5000 2 d65f03c08b020020\nend\n", encoding="ascii")
    found = counts.read_blocks(file)
    assert (found.runs, found.caches, found.total) == ({"d65f03c08b020020": 5}, (10, 2, 1), 10)
    file.write_text(file.read_text(encoding="ascii")[:-4], encoding="ascii")
    with pytest.raises(DeviceError, match="not whole"):
        counts.read_blocks(file)
    with pytest.raises(DeviceError, match="not whole"):
        counts.read_blocks(tmp_path / "absent")


def test_32_bit_blocks_are_mnemonics() -> None:
    found = counts.classify(counts.Blocks({"vmlal.s8;b": 10, "bl": 2}))
    assert (found["total"], found["multiply_long"], found["branch"]) == (22, 10, 12)


def test_resident_memory_counts_the_guest_alone() -> None:
    smaps = (
        "1000-2000 r-xp 00000000 00:00 0 /a b\nSize: 4 kB\nRss:                 4 kB\nVmFlags: rd\n"
        "2000-9000 rw-p 00000000 00:00 0\nRss:                 8 kB\n9000-a000 rw-p 0 00:00 0\nRss: 16 kB\n"
    )
    assert guest.resident(smaps, [(0x1000, 0x2000), (0x8000, 0x8800)]) == 12 * 1024
    assert guest.resident(smaps, []) == 0


def test_the_pins_name_what_the_guests_need() -> None:
    pins = layouts.pins()
    assert pins.suite == "bookworm"
    assert {deb.place for deb in pins.debs} == {"amd64", "arm64", "armhf"}
    assert all(len(wheel.sha256) == 64 for wheel in pins.wheels)
    for scheme, place in guest.PLACES.items():
        shipped = {wheel.name for wheel in pins.wheels if wheel.place == place}
        distributions = {"litert": "ai-edge-litert"}
        assert {distributions.get(r, r) for r in devices.RUNTIMES[scheme]} <= shipped
    (numpy,) = [wheel for wheel in pins.wheels if wheel.name == "numpy"]
    assert numpy.version.startswith("1.")  # tflite-runtime is built against numpy 1
    with pytest.raises(ValueError, match="not a pin"):
        layouts.read_pins("deb arm64 libc6\n")


def test_another_pin_is_another_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(layouts.SOURCES, tmp_path / "arm")
    before = layouts.Layout(tmp_path).digest
    with (tmp_path / "arm" / "pins.txt").open("a") as stream:
        stream.write("deb arm64 more=1\n")
    monkeypatch.setattr(layouts, "SOURCES", tmp_path / "arm")
    assert layouts.Layout(tmp_path).digest != before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("deb http://m.example/debian bookworm main contrib\n", ["http://m.example/debian"]),
        ("deb [arch=amd64 signed-by=/k.gpg] https://m.example/d trixie main\n", ["https://m.example/d"]),
        (
            "Types: deb\n# URIs: http://no.example\nURIs: http://a.example/debian\nSuites: sid\nComponents: main\n",
            ["http://a.example/debian"],
        ),
        ("deb http://m.example/debian-security bookworm-security main\n", []),
        ("deb http://archive.example/ubuntu noble main\n", []),
        ("# deb http://m.example/debian bookworm main\n", []),
        ("Types: deb\nURIs: https://n.example\nSuites: nodistro\nComponents: main\n", []),
        (
            "Types: deb\nURIs: http://a.example/\n http://b.example\nSuites: sid\nComponents: main\n",
            ["http://a.example", "http://b.example"],
        ),
        ("Enabled: no\nTypes: deb\nURIs: http://off.example\nSuites: sid\nComponents: main\n", []),
        ("deb http://flat.example ./\n", []),
        ("deb cdrom:[Debian GNU/Linux 12]/ bookworm main\ndeb http://m.example sid main\n", ["http://m.example"]),
    ],
)
def test_the_mirror_is_the_one_that_the_machine_uses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, expected: list[str]
) -> None:
    machine_with(monkeypatch, tmp_path, text)
    assert apt.debian_mirrors() == expected


def machine_with(monkeypatch: pytest.MonkeyPatch, folder: Path, sources: str) -> None:
    """Apt with these sources, and no index fetched yet."""
    if shutil.which("apt-get") is None:
        pytest.skip("no apt-get")
    parts = folder / "parts"
    parts.mkdir()
    (parts / f"a.{'list' if sources.lstrip('# ').startswith('deb') else 'sources'}").write_text(sources)
    settings = f'Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "{parts}"; Dir::State "{folder}";\n'
    (folder / "apt.conf").write_text(settings)
    monkeypatch.setenv("APT_CONFIG", str(folder / "apt.conf"))


def test_sources_that_apt_cannot_read_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine_with(monkeypatch, tmp_path, "deb rubbish\n")
    with pytest.raises(UsageError, match="cannot read its sources") as caught:
        apt.debian_mirrors()
    assert "Malformed entry" in caught.value.got


def test_a_machine_without_apt_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="no apt-get") as caught:
        apt.mirror()
    assert "Debian machine" in caught.value.fix


def test_apt_is_private_signed_and_keeps_the_machines_proxy(tmp_path: Path) -> None:
    files = apt.configuration(
        tmp_path, "http://m.example/d", "bookworm", 'Acquire::http::Proxy "http://p:1";\nDir "/";\n'
    )
    assert f'Dir "{tmp_path}"' in files["apt.conf"]
    assert 'Acquire::http::Proxy "http://p:1";' in files["apt.conf"]
    assert 'Dir "/"' not in files["apt.conf"]
    assert "signed-by=" in files["etc/sources.list"]
    assert "trusted=yes" not in files["etc/sources.list"]


def test_no_debian_mirror_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "debian_mirrors", list)
    with pytest.raises(UsageError, match="no Debian mirror") as caught:
        apt.mirror()
    assert "EDGEDISTILL_DEBIAN_MIRROR" in caught.value.fix
    monkeypatch.setenv("EDGEDISTILL_DEBIAN_MIRROR", "http://mine.example")
    assert apt.mirror() == "http://mine.example"


def machine_without(monkeypatch: pytest.MonkeyPatch, *lacking: str) -> None:
    found = shutil.which
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(install.shutil, "which", lambda name: None if name in lacking else found(name))


@pytest.mark.parametrize(
    ("lacking", "told"),
    [(("cc", "gcc", "clang"), "C compiler"), (("apt-get",), "apt-get"), (("dpkg-deb",), "apt-get and dpkg-deb")],
)
def test_what_the_machine_lacks_is_told_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lacking: tuple[str, ...], told: str
) -> None:
    machine_without(monkeypatch, *lacking)
    with pytest.raises(UsageError, match=told) as caught:
        install.install(layouts.Layout(tmp_path), layouts.pins(), QUIET, again=False)
    assert caught.value.exit_code == 2
    assert not layouts.Layout(tmp_path).root.exists()


def test_a_full_disk_is_told_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(install.shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 10**6}))
    with pytest.raises(StorageError, match="disk is full") as caught:
        install.install(layouts.Layout(tmp_path), layouts.pins(), QUIET, again=False)
    assert "EDGEDISTILL_ARM" in caught.value.fix
    assert not layouts.Layout(tmp_path).root.exists()


def test_steps_are_kept_and_the_rest_is_done_by_the_next_setup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    where = layouts.Layout(tmp_path)
    made: list[str] = []

    def step(name: str, make: Callable[[Path], None]) -> Any:
        return install.Step(name, where.root / "parts" / name, make)

    def good(out: Path) -> None:
        made.append("good")
        out.write_text("whole", encoding="utf-8")

    def broken(out: Path) -> None:
        out.write_text("half", encoding="utf-8")
        raise DeviceError("the network is gone")

    monkeypatch.setattr(install, "_require_machine", lambda _layout: None)
    monkeypatch.setattr(install, "_probe", lambda *_: {})
    monkeypatch.setattr(install, "_emulator_version", lambda _layout: "7.2")
    monkeypatch.setattr(install, "steps", lambda *_: [step("first", good), step("second", broken)])
    with pytest.raises(DeviceError, match="network"):
        install.install(where, layouts.pins(), QUIET, again=False)
    assert sorted(p.name for p in (where.root / "parts").iterdir()) == ["first"]
    with pytest.raises(UsageError, match="not installed"):
        where.require()
    monkeypatch.setattr(install, "steps", lambda *_: [step("first", good), step("second", good)])
    assert install.install(where, layouts.pins(), QUIET, again=False)
    assert made == ["good", "good"]
    assert where.require()["schema"] == "edgedistill.arm/1"
    assert not install.install(where, layouts.pins(), QUIET, again=False)


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_the_plugin_compiles_without_a_warning(tmp_path: Path) -> None:
    source = str(layouts.SOURCES / "counting.c")
    command = ["cc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", str(tmp_path / "plugin.so"), source], check=True)
    assert b"qemu_plugin_install" in (tmp_path / "plugin.so").read_bytes()
    head = (layouts.SOURCES / "counting.c").read_text(encoding="utf-8").splitlines()[:6]
    assert any("SPDX-License-Identifier: GPL-2.0-or-later" in line for line in head)


def test_a_compiler_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "false")
    with pytest.raises(DeviceError, match="compiling the counting plug-in failed"):
        install._compile(tmp_path / "out.so")


def test_an_unknown_core_is_told_with_the_nearest(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    for device, near in (("arm:cortex-a35x", "cortex-a35"), ("armv7:cortex-a77", "cortex-a7")):
        with pytest.raises(UsageError) as caught:
            load_device(device).run(device, call(model, "onnxruntime"))
        assert near in caught.value.expected
        assert caught.value.exit_code == 2
    assert cores.read_target("arm:cortex-a53+caches").caches
    with pytest.raises(UsageError):
        cores.read_target("arm:cortex-a53+cash")


def test_a_device_without_its_emulator_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEDISTILL_ARM", str(tmp_path / "nothing"))
    done = edgedistill("arm", "status", "--json")
    assert done.returncode == 3
    assert documents(done)["arm"]["fix"] == "edgedistill arm setup"
    with pytest.raises(UsageError) as caught:
        load_device("arm:cortex-a53").run("arm:cortex-a53", call(tmp_path / "m.onnx", "onnxruntime"))
    assert caught.value.fix == "edgedistill arm setup"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A lock that says that all is there."""
    monkeypatch.setenv("EDGEDISTILL_ARM", str(tmp_path / "arm"))
    where = layouts.layout()
    where.root.mkdir(parents=True)
    where.lock.write_text("{}", encoding="utf-8")
    return tmp_path


def test_threads_and_runtimes_that_cannot_be_counted_are_refused(installed: Path) -> None:
    with pytest.raises(UsageError, match="one thread"):
        load_device("arm:x").run("arm:cortex-a53", call(installed / "m.onnx", "onnxruntime", threads=2))
    with pytest.raises(UsageError, match="no onnxruntime for armv7"):
        load_device("armv7:x").run("armv7:cortex-a7", call(installed / "m.onnx", "onnxruntime"))


@pytest.mark.parametrize(
    ("code", "stderr", "told"),
    [
        (-4, "", "needs an instruction that cortex-a53 lacks"),
        (132, "", "needs an instruction that cortex-a53 lacks"),
        (1, "qemu: uncaught target signal 4 (Illegal instruction) - core dumped", "needs an instruction"),
        (-11, "qemu: uncaught target signal 11 (Segmentation fault)", "died on the emulated cortex-a53"),
    ],
)
def test_a_guests_death_is_explained(code: int, stderr: str, told: str) -> None:
    done = subprocess.CompletedProcess[str]([], code, "", stderr)
    error = guest._death(done, call(Path("m.tflite"), "litert"), cores.read_target("arm:cortex-a53"))
    assert told in error.message
    assert error.exit_code == 3
    assert isinstance(error, CoreError)


def test_an_accident_is_not_blamed_on_the_core() -> None:
    """What is no signal may be a full disk or our own mistake: no artifact is said not to run for it."""
    done = subprocess.CompletedProcess[str]([], 1, "", "OSError: No space left on device")
    error = guest._death(done, call(Path("m.tflite"), "litert"), cores.read_target("arm:cortex-a53"))
    assert type(error) is DeviceError


@pytest.mark.parametrize(
    ("code", "inputs", "kind"),
    [
        ("artifact_refused", None, ArtifactError),
        ("run", "x.npz", ArtifactError),
        ("inputs", "x.npz", UsageError),
        ("unsized", None, UsageError),
        ("outputs", None, DeviceError),
    ],
)
def test_what_the_guest_refuses_is_told_by_whose_fault_it_is(code: str, inputs: str | None, kind: type) -> None:
    program = f'print(\'{{"error": {{"code": "{code}", "message": "a reason"}}}}\')'
    job = call(Path("m.onnx"), "onnxruntime", inputs=Path(inputs) if inputs else None)
    with pytest.raises(kind, match="a reason") as told:
        guest._answer([sys.executable, "-c", program], {}, job, cores.read_target("arm:cortex-a53"))
    assert type(told.value) is kind


def test_a_run_is_kept_whole_and_recalled(tmp_path: Path) -> None:
    artifact, outputs, folder = tmp_path / "m.tflite", tmp_path / "o.npz", tmp_path / "kept" / "key"
    artifact.write_bytes(b"model")
    outputs.write_bytes(b"outputs")
    run = guest.GuestRun({"runtime": "litert"}, counts.Blocks({"d65f03c0": 3}, (1, 2, 3)), (3, 3, 4))
    assert store.recall(folder, tmp_path / "back.npz") is None
    store.keep(folder, run, outputs, artifact)
    store.keep(folder, run, outputs, artifact)
    assert store.recall(folder, tmp_path / "back.npz") == run
    assert (tmp_path / "back.npz").read_bytes() == b"outputs"
    (folder / "blocks.json.gz").write_bytes(b"\x1f\x8bdamaged")
    assert store.recall(folder, tmp_path / "back.npz") is None


def test_what_a_run_depends_on_is_in_its_key(installed: Path) -> None:
    artifact, inputs, opener = (installed / name for name in ("m.param", "x.npz", "runtime.py"))
    artifact.write_bytes(b"one")
    inputs.write_bytes(b"x")
    opener.write_bytes(b"opens")
    where = layouts.layout()

    def key(device: str = "arm:cortex-a53", runtime: str = "litert") -> str:
        job = AgentCall(artifact, runtime, opener, (artifact.with_suffix(".bin"),), inputs=inputs)
        return str(store.key_of(where, cores.read_target(device), job))

    keys = [key(), key("arm:cortex-a76"), key("arm:cortex-a53+caches"), key(runtime="tflite-runtime")]
    artifact.write_bytes(b"two")
    keys.append(key())
    artifact.with_suffix(".bin").write_bytes(b"weights")
    keys.append(key())
    inputs.write_bytes(b"y")
    keys.append(key())
    opener.write_bytes(b"opens otherwise")
    keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == keys[-1]


def test_a_core_says_who_it_is() -> None:
    told = cores.CORES["arm"]["cortex-a76"].cpuinfo()
    assert told.count("processor") == cores.PROCESSORS
    assert "0xd0b" in told
    assert "asimddp" in told
    assert "asimddp" not in cores.CORES["arm"]["cortex-a53"].cpuinfo()
    assert cores.CORES["arm"]["cortex-a55"].stands_in
    assert "CPU architecture: 7" in cores.CORES["armv7"]["cortex-a7"].cpuinfo()


def test_devices_list_shows_the_schemes() -> None:
    found = documents(edgedistill("devices", "list", "--json"))["devices"]
    assert {"arm", "armv7", "cpu"} <= {one["id"] for one in found}
    assert json.dumps(found)
