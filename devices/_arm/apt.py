"""Debian packages without root: apt with folders of its own, the machine's mirror and Debian's signatures."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from .layout import Deb

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SUITES = re.compile(r"(buster|bullseye|bookworm|trixie|forky|sid|oldstable|stable|testing|unstable)(-updates)?$")
_SOURCES = "/etc/apt/sources.list, /etc/apt/sources.list.d"
_LISTING = ("apt-get", "--no-release-info", "indextargets")
"""What the sources name; without what Release files say, the indexes need not have been fetched."""
_LINE = "$(REPO_URI) $(RELEASE) $(COMPONENT)"


def debian_mirrors() -> list[str]:
    """Debian's mirrors that apt is set up with, in its order: those with a Debian suite and `main`.

    Raises:
        UsageError: there is no apt-get, or it cannot read its sources.
    """
    lines = [line.rsplit(maxsplit=2) for line in _listed().splitlines()]
    wanted = [uri for uri, suite, component in lines if component == "main" and _SUITES.match(suite)]
    return [uri.removesuffix("/") for uri in dict.fromkeys(wanted) if not uri.startswith("cdrom:")]


def _listed() -> str:
    """Address, suite and component of every index of packages, a line each."""
    command = [*_LISTING, "--format", _LINE, "Created-By: Packages"]
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UsageError(
            "there is no apt-get on this machine, which knows its Debian mirror",
            where="this machine",
            expected="apt-get",
            got="none found",
            fix="use a Debian machine or container; repeat",
        ) from error
    if done.returncode:
        raise UsageError(
            "apt-get cannot read its sources",
            where=_SOURCES,
            expected="sources that apt understands",
            got=_complaint(done.stderr),
            fix="correct them until `apt-get indextargets` answers, or set EDGEDISTILL_DEBIAN_MIRROR; repeat",
        )
    return done.stdout


def mirror() -> str:
    """EDGEDISTILL_DEBIAN_MIRROR, else the first mirror of the machine's apt.

    Raises:
        UsageError: this machine's apt knows no Debian mirror, or does not answer.
    """
    given = os.environ.get("EDGEDISTILL_DEBIAN_MIRROR")
    if given:
        return given
    found = debian_mirrors()
    if not found:
        raise UsageError(
            "apt on this machine knows no Debian mirror, from which the emulator comes",
            where=_SOURCES,
            expected="Debian, or a machine with apt and debian-archive-keyring, and a mirror",
            got="no source with a Debian suite and `main`",
            fix="set EDGEDISTILL_DEBIAN_MIRROR to the address of a Debian mirror, and repeat",
        )
    return found[0]


def configuration(root: Path, uri: str, suite: str, machine: str) -> dict[str, str]:
    """The private files of apt: path under `root` -> content. `machine` is `apt-config dump` (its proxies are kept)."""
    transport = [line for line in machine.splitlines() if re.match(r"Acquire::(https?|ftp)::", line)]
    settings = [
        'APT::Architecture "amd64"; APT::Architectures { "amd64"; "arm64"; "armhf"; };',
        f'Dir "{root}"; Dir::Etc "{root}/etc"; Dir::State "{root}/state";',
        f'Dir::Cache "{root}/cache"; Dir::Log "{root}";',
        f'Dir::State::status "{root}/status";',
        'Acquire::Languages "none"; Acquire::Retries "2"; APT::Update::Error-Mode "any"; APT::Sandbox::User "";',
        *transport,
    ]
    return {
        "apt.conf": "\n".join(settings) + "\n",
        "etc/sources.list": f"deb [arch=amd64,arm64,armhf signed-by={KEYRING}] {uri} {suite} main\n",
        "status": "",
    }


def prepare(root: Path, uri: str, suite: str) -> None:
    """Write apt's files, and fetch the index with its signature checked.

    Raises:
        DeviceError: the mirror cannot be reached, or its signature is wrong.
    """
    for folder in ("etc/apt.conf.d", "etc/preferences.d", "etc/trusted.gpg.d", "etc/sources.list.d"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    command = ["apt-config", "dump"]
    machine = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for name, content in configuration(root, uri, suite, machine).items():
        (root / name).write_text(content, encoding="utf-8")
    _apt(root, root, "update", what=f"the index of {uri}")


def download(root: Path, deb: Deb, into: Path) -> Path:
    """Fetch one package into an empty folder; apt checks it against the signed index.

    Raises:
        DeviceError: it cannot be fetched, or its version does not begin as pinned.
    """
    _apt(root, into, "download", f"{deb.name}:{deb.place}", what=f"{deb.name}:{deb.place}")
    (path,) = into.glob("*.deb")
    command = ["dpkg-deb", "-f", str(path), "Version"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    version = told.stdout.strip()
    if not version.startswith(deb.version):
        raise DeviceError(
            f"the mirror has another version of {deb.name} than this product was tried with",
            where=f"{deb.name}:{deb.place}",
            expected=f"{deb.version}...",
            got=version or told.stderr.strip(),
            fix="set EDGEDISTILL_DEBIAN_MIRROR to a mirror that has it, or update edgedistill",
        )
    return path


def _apt(root: Path, folder: Path, *arguments: str, what: str) -> None:
    environment = {**os.environ, "APT_CONFIG": str(root / "apt.conf"), "LC_ALL": "C"}
    command = ["apt-get", "-qq", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeviceError(
            f"apt could not fetch {what}",
            where=" ".join(command),
            expected="a mirror that answers, and room on the disk",
            got=_complaint(done.stderr),
            fix="look at the network (and http_proxy), then repeat: what was fetched is kept",
        )


def _complaint(told: str) -> str:
    """The first of apt's own errors and warnings."""
    return next((line for line in told.splitlines() if line.startswith(("E:", "W:"))), "no word")
