"""Debian packages without root: apt with folders of its own, the machine's mirror and Debian's signatures."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .layout import Deb

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SUITES = re.compile(r"(buster|bullseye|bookworm|trixie|forky|sid|oldstable|stable|testing|unstable)(-updates)?$")


def debian_mirrors(texts: Iterable[str]) -> list[str]:
    """Debian's mirrors named by apt's source files, one-line and deb822: those with a Debian suite and `main`."""
    found = []
    for text in texts:
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        for line in lines:
            match re.sub(r"\[[^]]*\]", "", line).split():
                case ["deb", uri, suite, *components] if _SUITES.match(suite) and "main" in components:
                    found.append(uri)
        for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
            fields = {key.lower(): value.split() for key, value in re.findall(r"(?m)^([\w-]+):(.*)$", paragraph)}
            suites = [suite for suite in fields.get("suites", []) if _SUITES.match(suite)]
            if suites and "deb" in fields.get("types", []) and "main" in fields.get("components", []):
                found += fields.get("uris", [])
    return list(dict.fromkeys(found))


def mirror() -> str:
    """EDGEDISTILL_DEBIAN_MIRROR, else the first mirror of the machine's apt.

    Raises:
        UsageError: this machine's apt knows no Debian mirror.
    """
    given = os.environ.get("EDGEDISTILL_DEBIAN_MIRROR")
    if given:
        return given
    folder = Path("/etc/apt")
    files = [folder / "sources.list", *sorted(folder.glob("sources.list.d/*"))]
    found = debian_mirrors(f.read_text(encoding="utf-8", errors="replace") for f in files if f.is_file())
    if not found:
        raise UsageError(
            "apt on this machine knows no Debian mirror, from which the emulator comes",
            where="/etc/apt/sources.list, /etc/apt/sources.list.d",
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
    machine = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout  # noqa: S607
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
    told = subprocess.run(["dpkg-deb", "-f", path, "Version"], capture_output=True, text=True, check=False)  # noqa: S607
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
        told = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))] or ["no word"]
        raise DeviceError(
            f"apt could not fetch {what}",
            where=" ".join(command),
            expected="a mirror that answers, and room on the disk",
            got=told[0],
            fix="look at the network (and http_proxy), then repeat: what was fetched is kept",
        )
