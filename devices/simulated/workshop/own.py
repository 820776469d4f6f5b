"""A profile of the user's own board, from timings of files."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.errors import UsageError
from edgedistill.types import file_sha256

from .. import profiles as shelf
from ..answer import RUNTIMES
from ..fit import Anchors, shared_prior
from ..graphs import graph as graphs
from ..graphs.read import read_graph
from ..profiles import SCHEMA, Block, Profile
from .build import CALIBRATED, COMMON, graph_predictor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgedistill.types import Array, Json

    from ..graphs.graph import Graph
    from ..profiles import Arithmetic, Status

LEAST = 3
_FASTER, _SLOWER = 8.0, 30.0
"""Beyond these factors of the fastest and the slowest profile a timing is taken for one in another unit."""
_X86 = ("x86_64", "AMD64", "i686")


def require_free(name: str, *, replace: bool) -> None:
    """Whether a profile of this name may be written.

    Raises:
        UsageError: the name is no id, is a shipped profile's, or an own one's and `replace` is false.
    """
    if not re.fullmatch(shelf.ID, name):
        raise UsageError(
            f"{name!r} is no id", where="--name", expected="a-z, 0-9, then also - . _ +", got=repr(name), fix="my-board"
        )
    known = shelf.profiles()
    own = shelf.own_folder() / f"{name}.yaml"
    shipped = any(name in (profile.id, *profile.aliases) for profile in known.values()) and not own.is_file()
    if shipped or (own.is_file() and not replace):
        raise UsageError(
            f"there is a profile {name!r} already",
            where=str(own if own.is_file() else shelf.SHIPPED / f"{name}.yaml"),
            expected="a name of its own",
            got=name,
            fix="give another --name" + ("" if shipped else ", or --replace"),
        )


def calibrate(
    name: str, rows: Sequence[Json], facts: Json, *, runtime: str, threads: int, app_budget_mb: float | None
) -> Json:
    """Fit the timings, hold each family out, write the profile.

    Args:
        name: its id.
        rows: `path`, `family`, `ms` of each network.
        facts: `name`, `machine`, `cores`, `ram_mb`, `source` of the board; `given`: people wrote the timings down.
        runtime: in which it was measured.
        threads: with which.
        app_budget_mb: what an application may take; None: not known.

    Returns:
        `path`, `status`, `anchors`, `mdape`, `coverage`, `networks`.

    Raises:
        UsageError: too few rows, the same network twice, or another unit than milliseconds.
    """
    if len(rows) < LEAST or len({row["family"] for row in rows}) < LEAST:
        raise UsageError(
            f"{len(rows)} timings are too few",
            where=facts["source"],
            expected=f"{LEAST} networks of {LEAST} families or more",
            got=", ".join(row["path"].name for row in rows) or "none",
            fix="add networks",
        )
    _require_different(rows, facts)
    read = [read_graph(row["path"]) for row in rows]
    for row, graph in zip(rows, read, strict=True) if facts["given"] else ():
        _require_milliseconds(row, graph, facts)
    precision: Arithmetic = "int8" if all(graph.quantized for graph in read) else "float"
    anchors = Anchors(
        tuple(row["path"].stem for row in rows),
        tuple(row["family"] for row in rows),
        np.array([graphs.features(graph) for graph in read]),
        np.array([row["ms"] for row in rows]),
    )
    predictor = graph_predictor(anchors, like(facts["machine"]), few=True, known=COMMON)
    status: Status = "calibrated" if len(rows) >= CALIBRATED else "few-shot"
    if status == "few-shot":
        predictor = predictor.model_copy(update={"spread": max(predictor.spread, _typical_spread())})
    block = Block(
        runtime=RUNTIMES.get(runtime, runtime),
        versions="as installed then",
        threads=threads,
        affinity="all",
        precision=precision,
        status=status,
        source=facts["source"],
        graph=predictor,
    )
    profile = _profile(name, facts, block, app_budget_mb)
    path = shelf.write(profile, shelf.own_folder())
    return {
        "path": str(path),
        "device": f"sim:{name}",
        "status": status,
        "anchors": predictor.anchors,
        "mdape": predictor.mdape,
        "coverage": predictor.coverage,
        "interval_factor": math.exp(predictor.spread),
        "networks": [{"name": n, "ms": m, "held_out_ms": p} for n, m, p in predictor.held_out],
    }


def _profile(name: str, facts: Json, block: Block, app_budget_mb: float | None) -> Profile:
    origin = {"source": facts["source"], "licence": "yours", "verified": True}
    return Profile.model_validate(
        {
            "schema": SCHEMA,
            "id": name,
            "aliases": [],
            "name": facts["name"],
            "class": "own board",
            "soc": facts["machine"],
            "clusters": [{"core": facts["machine"], "count": facts["cores"], "ghz": None}],
            "simd": [],
            "caches_kb": None,
            "memory": {"ram_mb": facts["ram_mb"], "app_budget_mb": app_budget_mb},
            "status": block.status,
            "runtimes": [block.model_dump()],
            "sustained_factor": None,
            "provenance": {"anchors": origin, "clusters": origin},
        }
    )


def like(machine: str) -> Array:
    """Proportions of operator-class costs on shipped boards of the same architecture, one thread, float."""
    costs = [found for profile, found in _calibrated() if profile.class_.startswith("x86") == (machine in _X86)]
    return shared_prior(costs, [_typical()] * len(costs))


def _calibrated() -> Iterator[tuple[Profile, Array]]:
    """Operator-class costs of each board calibrated in ncnn: one thread, float."""
    for profile in shelf.profiles().values():
        for block in profile.runtimes:
            kind = (block.runtime, block.threads, block.precision, block.status)
            if kind == ("ncnn", 1, "float", "calibrated") and block.graph is not None:
                yield profile, np.array([block.graph.costs[name] for name in graphs.FEATURES])


def _typical() -> Array:
    """Features of a network of a middling size: by it proportions of different boards are made comparable."""
    from ..published.data import graph_anchors, ncnn_names

    return np.asarray(np.median(graph_anchors(dict.fromkeys(ncnn_names(), 1.0)).features, axis=0))


def _typical_spread() -> float:
    """Half-width in log that few-shot blocks of shipped profiles have in the median."""
    found = [
        block.graph.spread
        for profile in shelf.profiles().values()
        for block in profile.runtimes
        if block.status == "few-shot" and block.precision == "float" and block.graph is not None
    ]
    return float(np.median(found))


def _require_different(rows: Sequence[Json], facts: Json) -> None:
    digests: dict[str, str] = {}
    for row in rows:
        digest = file_sha256(row["path"])
        if digest in digests:
            raise UsageError(
                f"{row['path'].name} and {digests[digest]} are one network",
                where=facts["source"],
                expected="different files",
                got=digest[:16],
                fix="keep one of them: a network twice tells nothing new",
            )
        digests[digest] = row["path"].name


def _require_milliseconds(row: Json, graph: Graph, facts: Json) -> None:
    """Seconds or microseconds stand far outside what any profile says of the network, one thread, float."""
    features = graphs.features(graph)
    times = [float(features @ costs) for _, costs in _calibrated()]
    low, high = min(times) / _FASTER, max(times) * _SLOWER
    if not low <= row["ms"] <= high:
        unit = "seconds" if row["ms"] < low else "microseconds"
        raise UsageError(
            f"{row['ms']:g} ms for {row['path'].name} ({graph.macs / 1e6:.1f} million MACs): are these {unit}?",
            where=f"{facts['source']}, {row['path'].name}",
            expected=f"milliseconds, between {low:.2g} and {high:.2g}",
            got=f"{row['ms']:g}",
            fix=f"give milliseconds: {row['ms'] * (1000 if unit == 'seconds' else 1e-3):g}?",
        )
