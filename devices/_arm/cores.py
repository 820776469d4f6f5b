"""The cores that can be emulated: what they are, and what Linux tells of them on the real part."""

from __future__ import annotations

from dataclasses import dataclass

from edgedistill.errors import UsageError, nearest

PROCESSORS = 4
_V8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_V8_2 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
_V7 = "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae"


@dataclass(frozen=True)
class Core:
    """One core.

    Attributes:
        name: as ARM writes it, `cortex-a53`.
        model: the emulator's model of it; another core's name where the emulator lacks it but has its instructions.
        part: the part number of its identification register.
        variant: revision, major.
        revision: revision, minor.
        features: as /proc/cpuinfo lists them.
        caches: size in KiB and ways of L1 data and L2, one common choice of those its manual allows.
    """

    name: str
    model: str
    part: int
    variant: int
    revision: int
    features: str
    caches: tuple[tuple[int, int], tuple[int, int]]

    @property
    def stands_in(self) -> bool:
        """Whether another core's model runs for it: same instructions, and its own name in /proc/cpuinfo."""
        return self.name != self.model

    def cpuinfo(self) -> str:
        """What /proc/cpuinfo says on such a core; runtimes choose their kernels by it."""
        architecture = 7 if self.features == _V7 else 8
        return "".join(
            f"processor\t: {number}\nBogoMIPS\t: 100.00\nFeatures\t: {self.features}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: {architecture}\nCPU variant\t: {self.variant:#x}\nCPU part\t: {self.part:#x}\n"
            f"CPU revision\t: {self.revision}\n\n"
            for number in range(PROCESSORS)
        )


def _cores(*cores: Core) -> dict[str, Core]:
    return {core.name: core for core in cores}


CORES = {
    "arm": _cores(
        Core("cortex-a35", "cortex-a35", 0xD04, 0, 4, _V8, ((32, 4), (256, 8))),
        Core("cortex-a53", "cortex-a53", 0xD03, 0, 4, _V8, ((32, 4), (512, 16))),
        Core("cortex-a55", "cortex-a76", 0xD05, 1, 0, _V8_2, ((32, 4), (128, 4))),
        Core("cortex-a57", "cortex-a57", 0xD07, 1, 1, _V8, ((32, 2), (1024, 16))),
        Core("cortex-a72", "cortex-a72", 0xD08, 0, 3, _V8, ((32, 2), (1024, 16))),
        Core("cortex-a73", "cortex-a72", 0xD09, 0, 2, _V8, ((32, 4), (1024, 16))),
        Core("cortex-a75", "cortex-a76", 0xD0A, 2, 1, _V8_2, ((64, 16), (256, 8))),
        Core("cortex-a76", "cortex-a76", 0xD0B, 4, 1, _V8_2, ((64, 4), (512, 8))),
        Core("neoverse-n1", "neoverse-n1", 0xD0C, 4, 1, f"{_V8_2} ssbs", ((64, 4), (1024, 8))),
    ),
    "armv7": _cores(
        Core("cortex-a7", "cortex-a7", 0xC07, 0, 5, _V7, ((32, 4), (512, 8))),
        Core("cortex-a15", "cortex-a15", 0xC0F, 4, 3, _V7, ((32, 2), (1024, 16))),
    ),
}
"""Scheme of the device id -> its cores by name."""


@dataclass(frozen=True)
class Target:
    """A device id, read: a core, and whether the cache model runs too."""

    scheme: str
    core: Core
    caches: bool


def read_target(device_id: str) -> Target:
    """Read `arm:cortex-a53`, or `arm:cortex-a53+caches`.

    Raises:
        UsageError: no such core.
    """
    scheme, _, rest = device_id.partition(":")
    name, _, extra = rest.partition("+")
    if name not in CORES[scheme] or extra not in ("", "caches"):
        known = CORES[scheme] if name not in CORES[scheme] else {f"{name}+caches"}
        raise UsageError(
            f"unknown emulated core {device_id!r}",
            where=f"device: {device_id}",
            expected=nearest(rest, known),
            got=repr(device_id),
            fix="use a known core (`edgedistill arm status` lists them); `+caches` adds the cache model",
        )
    return Target(scheme, CORES[scheme][name], extra == "caches")
