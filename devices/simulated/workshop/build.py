"""Profiles out of published timings: every figure in devices/profiles comes from here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import yaml

from .. import counts
from ..fit import FEW_STRENGTH, STRENGTH, Anchors, fit, shared_prior, validate
from ..graphs import graph as graphs
from ..profiles import SCHEMA, Block, Predictor, Profile, best
from ..published.data import (
    DATA,
    count_anchors,
    graph_anchors,
    ncnn_times,
    paddle_anchors,
    pixel_anchors,
    source,
    tiny_anchors,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgedistill.types import Array, Json

    from ..profiles import Arithmetic, Status

COMMON = ("stem", "conv3x3", "convkxk", "conv1x1", "depthwise", "dense", "memory")
"""Operator classes that published networks have in plenty: boards that lend their proportions saw them."""
CALIBRATED = 12
"""Anchors from which on a block is calibrated; with fewer it is few-shot."""
_ENOUGH = 3
_SHARE = 0.01
MICRO = ("stem", "conv3x3", "conv1x1", "depthwise", "dense", "memory")
"""Operator classes of MLPerf Tiny's four networks: on a microcontroller a MAC costs much the same in each."""
MICRO_PRIOR = np.array([1, 1, 1, 1, 1.5, 1, 1, 0.25, 0.1, 0.1, 0.05, 2000])
"""Proportions of the operator classes' costs on a microcontroller, where no data lies far away. By hand."""
SPECIFICATION_SPREAD = float(np.log(2))
"""Half-width in log of a spec-only interval: a factor of two. A guess, and printed as one."""


def boards() -> Json:
    """The devices and their sources, as written by hand."""
    document: Json = yaml.safe_load((DATA / "boards.yaml").read_text(encoding="utf-8"))
    return document


def build() -> list[Profile]:
    """Every shipped profile, in the order of the file."""
    document = boards()
    return _pooled([_profile(device, document) for device in document["devices"]])


def _pooled(profiles: list[Profile]) -> list[Profile]:
    """A handful of anchors says too little of its own spread: it is at least that of all such blocks together."""
    few: dict[tuple[str, ...], list[float]] = {}
    for key, found in _few(profiles):
        few.setdefault(key, []).extend(abs(np.log(measured / told)) for _, measured, told in found.held_out)
    least = {key: float(np.quantile(distances, 0.8)) for key, distances in few.items()}

    def widened(block: Block) -> Block:
        update = {}
        for name in ("counts", "graph"):
            found, key = getattr(block, name), _kind(block, name)
            if found is not None and key in least and 0 < found.anchors < CALIBRATED:
                update[name] = found.model_copy(update={"spread": max(found.spread, least[key])})
        return block.model_copy(update=update)

    return [p.model_copy(update={"runtimes": tuple(map(widened, p.runtimes))}) for p in profiles]


def _kind(block: Block, name: str) -> tuple[str, ...]:
    return (block.runtime, block.precision, name)


def _few(profiles: list[Profile]) -> Iterator[tuple[tuple[str, ...], Predictor]]:
    for block in (block for profile in profiles for block in profile.runtimes):
        for name in ("counts", "graph"):
            found = getattr(block, name)
            if found is not None and 0 < found.anchors < CALIBRATED:
                yield _kind(block, name), found


def predictor(
    anchors: Anchors,
    features: Sequence[str],
    prior: Array,
    *,
    few: bool = False,
    kernels: str | None = None,
    method: str = "leave-one-family-out",
    classes: Sequence[set[str]] = (),
    known: tuple[str, ...] = (),
) -> Predictor:
    """Fit and validate.

    `classes`: per anchor, the operator classes that take a part of its time worth the name; `known`: those that the
    boards saw whose proportions the prior is.
    """
    strength = FEW_STRENGTH if few else STRENGTH
    costs, found = fit(anchors, prior, strength), validate(anchors, prior, strength)
    seen = [c for c in graphs.CLASSES if c in known or _families_with(c, anchors, classes) >= _ENOUGH]
    return Predictor(
        costs=dict(zip(features, costs.tolist(), strict=True)),
        kernels=kernels,
        seen=tuple(seen),
        anchors=len(anchors.names),
        families=len(set(anchors.families)),
        method=method,
        mdape=found.mdape,
        within10=found.within(0.1),
        within20=found.within(0.2),
        rank=found.rank if len(anchors.names) >= _ENOUGH else None,
        spread=max(found.spread, 1e-3),
        coverage=float(np.mean(found.covered)),
        held_out=tuple(zip(anchors.names, found.measured_ms.tolist(), found.predicted_ms.tolist(), strict=True)),
    )


def _families_with(name: str, anchors: Anchors, classes: Sequence[set[str]]) -> int:
    return len({family for family, found in zip(anchors.families, classes, strict=True) if name in found})


def graph_predictor(
    anchors: Anchors,
    prior: Array,
    *,
    few: bool = False,
    method: str = "leave-one-family-out",
    known: tuple[str, ...] = (),
) -> Predictor:
    """The operator-class predictor of graph anchors."""
    costs = fit(anchors, prior, FEW_STRENGTH if few else STRENGTH)
    classes = [classes_of(features, np.maximum(costs, 0.1 * scaled(anchors, prior))) for features in anchors.features]
    return predictor(anchors, graphs.FEATURES, prior, few=few, method=method, classes=classes, known=known)


def scaled(anchors: Anchors, prior: Array) -> Array:
    """The prior costs in milliseconds at the scale of the anchors."""
    return np.asarray(prior * np.median(anchors.times_ms / (anchors.features @ prior)))


def classes_of(features: Array, costs: Array) -> set[str]:
    """Operator classes that take at least 1% of a network's time."""
    times = features * costs
    total = max(times.sum(), 1e-30)
    named = dict(zip(graphs.FEATURES, times / total, strict=True))
    found = {name.removesuffix("_macs") for name in named if name.endswith("_macs") and named[name] >= _SHARE}
    found |= {"dense"} if named["dense_weight_bytes"] >= _SHARE else set()
    return found | ({"memory"} if named["memory_io_bytes"] >= _SHARE else set())


def count_predictor(anchors: Anchors, graph: Anchors, prior: Array, kernels: str, *, few: bool = False) -> Predictor:
    """The counts predictor; what it has seen is told by the anchors' graphs."""
    rows = dict(zip(graph.names, graph.features, strict=True))
    typical = scaled(graph, graphs.PRIOR)
    classes = [classes_of(rows[name], typical) for name in anchors.names]
    return predictor(anchors, counts.FEATURES, prior, few=few, kernels=kernels, classes=classes)


def _profile(device: Json, document: Json) -> Profile:
    blocks = list(_blocks(device, document))
    given = device["from"]
    provenance = {field: document["sources"][code] for field, code in given.items()}
    provenance["memory.app_budget_mb"] = document["sources"]["S"]
    return Profile.model_validate(
        {
            "schema": SCHEMA,
            "id": device["id"],
            "aliases": device.get("aliases", []),
            "name": device["name"],
            "class": device["class"],
            "soc": device["soc"],
            "clusters": device["clusters"],
            "simd": device["simd"],
            "caches_kb": device["caches_kb"],
            "memory": device["memory"],
            "status": best(b.status for b in blocks),
            "runtimes": [block.model_dump() for block in blocks],
            "sustained_factor": None,
            "provenance": provenance,
        }
    )


def _blocks(device: Json, document: Json) -> Iterator[Block]:
    for anchor in device["anchors"]:
        ((kind, name),) = [(key, value) for key, value in anchor.items() if key != "threads"]
        if kind == "ncnn":
            for threads, cluster in anchor["threads"].items():
                yield from _ncnn_blocks(device, name, threads, cluster)
        elif kind == "tflite":
            yield from _pixel_blocks(name)
        elif kind == "paddle-lite":
            yield from _paddle_blocks(device, name, document)
        else:
            yield _tiny_block(*name)
    if "peak" in device:
        yield _specification(device, document)


def _status(anchors: Anchors) -> Status:
    return "calibrated" if len(anchors.names) >= CALIBRATED else "few-shot"


def _ncnn_blocks(device: Json, board: str, threads: int, cluster: str) -> Iterator[Block]:
    times, integer = (ncnn_times(board, threads, cluster, precision) for precision in ("float", "int8"))
    graph, graph8 = graph_anchors(times), graph_anchors(integer)
    by_counts = by_counts8 = None
    if device["kernels"]:
        anchors, prior = count_anchors(times, device["kernels"]), np.array(counts.PRIORS[device["costs"]])
        by_counts = count_predictor(anchors, graph, prior, device["kernels"])
        anchors8 = count_anchors(integer, device["kernels"], "_int8")
        if len(set(anchors8.families)) >= _ENOUGH:
            by_counts8 = count_predictor(anchors8, graph8, _floor(fit(anchors, prior)), device["kernels"], few=True)
    block = Block(
        runtime="ncnn",
        versions="of the row's date, 2018 to 2026",
        threads=threads,
        affinity=cluster,
        precision="float",
        status=_status(graph),
        source=source("ncnn_timings.csv"),
        counts=by_counts,
        graph=graph_predictor(graph, graphs.PRIOR),
    )
    yield block
    if len(integer) >= _ENOUGH:
        by_graph8 = graph_predictor(graph8, _floor(fit(graph, graphs.PRIOR)), few=True, known=COMMON)
        update = {"precision": "int8", "status": _status(graph8), "counts": by_counts8, "graph": by_graph8}
        yield block.model_copy(update=update)


def _floor(costs: Array) -> Array:
    """A prior must be positive."""
    return np.maximum(costs, 1e-6 * costs.max())


def _pixel_blocks(name: str) -> Iterator[Block]:
    kinds: tuple[Arithmetic, ...] = ("float", "int8")
    for precision in kinds:
        anchors = pixel_anchors(precision, name)
        yield Block(
            runtime="tflite",
            versions="of 2020, Android 10",
            threads=4,
            affinity="all",
            precision=precision,
            status="calibrated",
            source=source("tflite_pixel3.csv"),
            graph=graph_predictor(anchors, graphs.PRIOR, method="leave-one-width-out, MobileNetV1 alone"),
        )


def like_boards(costs: str, document: Json) -> Array:
    """Proportions of operator-class costs on calibrated boards with cores of the same group, one thread, float."""
    return _shape([device for device in document["devices"] if device["costs"] == costs])


def _shape(devices: Sequence[Json]) -> Array:
    """Mean proportions of the devices' operator-class costs, one thread, float."""
    found = [
        graph_anchors(ncnn_times(anchor["ncnn"], 1, anchor["threads"][1], "float"))
        for device in devices
        for anchor in device["anchors"]
        if 1 in anchor.get("threads", {})
    ]
    return shared_prior([fit(a, graphs.PRIOR) for a in found], [np.median(a.features, axis=0) for a in found])


def _paddle_blocks(device: Json, soc: str, document: Json) -> Iterator[Block]:
    prior = like_boards(device["costs"], document)
    columns: tuple[tuple[Arithmetic, str], ...] = (("float", "fp32"), ("int8", "int8"))
    for precision, column in columns:
        anchors = paddle_anchors(soc, column)
        if len(set(anchors.families)) >= _ENOUGH:
            yield Block(
                runtime="paddle-lite",
                versions="2.11",
                threads=1,
                affinity="big",
                precision=precision,
                status="few-shot",
                source=source("paddlelite.csv"),
                graph=graph_predictor(anchors, prior, few=True, known=COMMON),
            )


def _tiny_block(system: str, stack: str) -> Block:
    anchors = tiny_anchors(system)
    return Block(
        runtime=stack,
        versions="of MLPerf Tiny v1.2, 2024",
        threads=1,
        affinity="all",
        precision="int8",
        status="few-shot",
        source=source("mlperf_tiny.csv"),
        graph=graph_predictor(anchors, MICRO_PRIOR, few=True, method="leave-one-network-out", known=MICRO),
    )


def _specification(device: Json, document: Json) -> Block:
    """Proportions of like boards, the scale from the data sheet's peak: nobody measured such a device for us."""
    peak = device["peak"]
    shape = _shape([other for other in document["devices"] if other["id"] in peak["like"]])
    per_mac = 1e-6 / (peak["gmacs"] * peak["share"])
    costs = shape / shape[graphs.FEATURES.index("conv1x1_macs")] * per_mac
    return Block(
        runtime="ncnn",
        versions="any",
        threads=1,
        affinity="all",
        precision="float",
        status="spec-only",
        source=f"{peak['share']:.0%} (a guess) of the data sheet's {peak['gmacs']} GMAC/s; proportions of "
        + ", ".join(peak["like"]),
        graph=Predictor(
            costs=dict(zip(graphs.FEATURES, costs.tolist(), strict=True)),
            seen=COMMON,
            anchors=0,
            families=0,
            method="none: UNVALIDATED",
            spread=SPECIFICATION_SPREAD,
        ),
    )
