"""Profiles of simulated devices: the schema, and reading them. docs/prediction.md explains every key."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgedistill.errors import UsageError, nearest

from . import counts
from .graphs import graph as graphs

if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA = "edgedistill.profile/1"
SHIPPED = Path(__file__).parents[1] / "profiles"
Milliseconds = Annotated[float, Field(gt=0)]
Arithmetic = Literal["float", "int8"]
Status = Literal["calibrated", "few-shot", "transferred", "spec-only"]
ID = r"[a-z0-9][a-z0-9.+_-]*"
"""Of a profile: it names the file, too."""
_HALF = "cortex-a76"
"""The emulated core of boards whose cores compute in half floats (A55, A76 and later), which ncnn makes use of."""
ORDER: tuple[Status, ...] = ("calibrated", "few-shot", "transferred", "spec-only")
"""The best-founded first."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cluster(_Frozen):
    """Cores of one kind; `ghz` is null where it is not known."""

    core: str
    count: int = Field(ge=1)
    ghz: float | None = Field(gt=0, lt=10)


class Memory(_Frozen):
    """RAM of the device, or SRAM and flash of a microcontroller, and what an application may take of it."""

    ram_mb: float | None = Field(default=None, gt=0)
    sram_kb: float | None = Field(default=None, gt=0)
    flash_kb: float | None = Field(default=None, gt=0)
    dram: str | None = None
    peak_gbs: float | None = Field(default=None, gt=0)
    app_budget_mb: float | None = Field(default=None, gt=0)


class Predictor(_Frozen):
    """Fitted costs and what was seen of their error.

    Attributes:
        costs: feature -> milliseconds per unit.
        kernels: the emulated core whose counts the costs belong to (counts alone).
        seen: operator classes with at least three families behind their cost.
        anchors: networks of the fit.
        families: architecture families among them.
        method: how the errors below were found.
        mdape: median of |predicted / measured - 1|, held out.
        within10: share of anchors with an error of at most 10%.
        within20: of at most 20%.
        rank: Spearman's correlation, held out; null with fewer than three anchors.
        spread: half-width in log of the 80% interval.
        coverage: share of anchors in intervals made without their family.
        held_out: network, measured ms, predicted ms with its family held out.
    """

    costs: dict[str, float]
    kernels: str | None = None
    seen: tuple[str, ...]
    anchors: int = Field(ge=0)
    families: int = Field(ge=0)
    method: str
    mdape: float | None = Field(default=None, ge=0)
    within10: float | None = Field(default=None, ge=0, le=1)
    within20: float | None = Field(default=None, ge=0, le=1)
    rank: float | None = Field(default=None, ge=-1, le=1)
    spread: float = Field(gt=0, le=3)
    coverage: float | None = Field(default=None, ge=0, le=1)
    held_out: tuple[tuple[str, Milliseconds, Milliseconds], ...] = ()

    @model_validator(mode="after")
    def _is_whole(self) -> Predictor:
        if any(not 0 <= cost < float("inf") for cost in self.costs.values()) or not any(self.costs.values()):
            raise ValueError("costs must be finite, nonnegative and not all zero")
        strange = [name for name in self.seen if name not in graphs.CLASSES]
        if strange:
            raise ValueError(f"seen: {', '.join(strange)} is none of {', '.join(graphs.CLASSES)}")
        if self.held_out and self.mdape is None:
            raise ValueError("mdape must tell the error of the anchors in held_out")
        return self


class Block(_Frozen):
    """One runtime on one device with so many threads, so bound, in one precision: never shared."""

    runtime: str
    versions: str
    threads: int = Field(ge=1)
    affinity: str
    precision: Arithmetic
    status: Status
    source: str
    counts: Predictor | None = None
    graph: Predictor | None = None

    @model_validator(mode="after")
    def _has_a_predictor(self) -> Block:
        if self.counts is None and self.graph is None:
            raise ValueError("a block needs `counts`, `graph` or both")
        for name, one, features in (
            ("counts", self.counts, counts.FEATURES),
            ("graph", self.graph, graphs.FEATURES),
        ):
            if one is not None and set(one.costs) != set(features):
                wrong = sorted(set(one.costs) ^ set(features))
                raise ValueError(
                    f"{name}.costs: {', '.join(wrong)} missing or unknown; the keys are {', '.join(features)}"
                )
        if self.counts is not None and self.counts.kernels not in counts.LAST_LEVEL:
            raise ValueError(f"counts.kernels: {self.counts.kernels} is none of {', '.join(counts.LAST_LEVEL)}")
        return self


class Provenance(_Frozen):
    """Where a field's value comes from; `verified` is false where nobody checked it against the maker's papers."""

    source: str
    licence: str
    verified: bool


class Profile(_Frozen):
    """A simulated device."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["edgedistill.profile/1"] = Field(alias="schema")
    id: str = Field(pattern=f"^{ID}$")
    aliases: tuple[str, ...] = ()
    name: str
    class_: str = Field(alias="class")
    soc: str
    clusters: tuple[Cluster, ...]
    simd: tuple[str, ...]
    caches_kb: dict[str, float] | None
    memory: Memory
    status: Status
    runtimes: tuple[Block, ...] = Field(min_length=1)
    sustained_factor: None = Field(description="Throttling is not modelled.")
    provenance: dict[str, Provenance]

    @property
    def emulated(self) -> frozenset[str]:
        """Emulated cores whose counts its costs belong to: none, but for ARM boards."""
        return frozenset(str(block.counts.kernels) for block in self.runtimes if block.counts is not None)

    @property
    def half_floats(self) -> bool:
        """Whether ncnn computes in half floats there."""
        return _HALF in self.emulated

    @model_validator(mode="after")
    def _blocks_differ(self) -> Profile:
        keys = [(b.runtime, b.threads, b.affinity, b.precision) for b in self.runtimes]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice:
            raise ValueError(f"two blocks for {' '.join(map(str, twice))}")
        if self.status != best(block.status for block in self.runtimes):
            raise ValueError(f"status: {self.status}, but its blocks' best is {best(b.status for b in self.runtimes)}")
        return self


def own_folder() -> Path:
    """The user's own profiles: EDGEDISTILL_PROFILES, else edgedistill/profiles in the configuration folder."""
    configuration = os.environ.get("XDG_CONFIG_HOME") or str(Path("~/.config").expanduser())
    return Path(os.environ.get("EDGEDISTILL_PROFILES") or Path(configuration) / "edgedistill" / "profiles")


def read(path: Path) -> Profile:
    """Read one profile.

    Raises:
        UsageError: no YAML, another schema, a key that is missing, unknown or wrong; it names file and key.
    """
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_loader())  # noqa: S506 - a safe loader, in C where there is one
        return Profile.model_validate(document)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"{path.name} cannot be read", where=str(path), expected="a profile in YAML", got=told, fix=_FIX
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the profile"
        raise UsageError(
            f"{path.name} is no valid profile: {key}: {first['msg']}",
            where=f"{path}, key {key}",
            expected=f"a profile of schema {SCHEMA}",
            got=repr(first["input"])[:120],
            fix=_FIX,
        ) from error


_FIX = (
    "mend the key (docs/prediction.md tells what each holds), or write the profile anew: edgedistill devices calibrate"
)


def _loader() -> type[yaml.SafeLoader | yaml.CSafeLoader]:
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def _load(folders: tuple[Path, ...], stamp: float) -> dict[str, Profile]:
    del stamp  # a new file, a new reading
    found: dict[str, tuple[Path, Profile]] = {}
    names: dict[str, Path] = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.yaml"))):
        profile = read(path)
        for name in (profile.id, *profile.aliases):
            if name in names:
                raise UsageError(
                    f"two profiles have the id {name!r}",
                    where=f"{names[name]} and {path}",
                    expected="an id and aliases of its own for every profile",
                    got=name,
                    fix=f"change the key id or aliases in {path}",
                )
            names[name] = path
        found[profile.id] = (path, profile)
    return {name: profile for name, (_, profile) in found.items()}


def profiles() -> dict[str, Profile]:
    """Id -> profile: the shipped ones, then the user's own.

    Raises:
        UsageError: a profile is malformed, or two have one id.
    """
    folders = (SHIPPED, own_folder())
    return _load(folders, sum(path.stat().st_mtime for folder in folders for path in folder.glob("*.yaml")))


def find(name: str) -> Profile:
    """A profile by its id or an alias.

    Raises:
        UsageError: there is none; it names the nearest.
    """
    known = profiles()
    for profile in known.values():
        if name in (profile.id, *profile.aliases):
            return profile
    raise UsageError(
        f"no profile {name!r}",
        where=f"device: sim:{name}",
        expected=nearest(name, known),
        got=repr(name),
        fix="`edgedistill devices list` shows them; `edgedistill devices calibrate` makes one of your own board",
    )


def write(profile: Profile, folder: Path) -> Path:
    """Write a profile as FOLDER/ID.yaml."""
    document = profile.model_dump(mode="json", by_alias=True, exclude_none=False)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{profile.id}.yaml"
    text = yaml.dump(_rounded(document), sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    path.write_text(text, encoding="utf-8")
    return path


def _rounded(value: object) -> object:
    """Numbers to five significant digits: more is noise, and files stay the same on every machine."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def best(statuses: Iterable[Status]) -> Status:
    """The best-founded of several."""
    return min(statuses, key=ORDER.index)
