"""A prediction: which block of a profile answers, what it says, how sure it is, and when it says nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.errors import DeviceError, UsageError, nearest

from . import counts
from .graphs import graph as graphs
from .host import EXPONENT, RUNTIME, corrected
from .memory import fits
from .memory import predict as predict_memory
from .profiles import ORDER
from .published.transfer import kind_of, told, widened

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgedistill.types import Array, Json

    from .graphs.graph import Graph
    from .profiles import Block, Predictor, Profile

RUNTIMES = {"tflite-runtime": "tflite", "litert": "tflite", "ort": "onnxruntime"}
"""Other names of a runtime that the profiles know as one."""
_MICRO = ("x-cube-ai", "hale", "vendor")
SPEAKS_FOR = {"tflite": ("ncnn",), "onnxruntime": ("ncnn",), "openvino": ("ncnn",), "tflite-micro": _MICRO}
"""Runtime -> those whose blocks speak for it, with less certainty."""
REFUSED_SHARE = 0.5
UNSEEN_FACTOR = 3.0
"""By how much an interval grows at most for what was never seen: the largest miss met was a factor of 2.6."""
_BEYOND = 0.15
_MOST_LAYERS = 12


@dataclass(frozen=True)
class Choice:
    """The block that answers, and how it stands to the runtime that was asked for.

    `standing` is the block's own status, `transferred` (another runtime's block, tried on published rows) or
    `no evidence` (another runtime's block, and nothing to try it on).
    """

    block: Block
    runtime: str
    standing: str


def choose(profile: Profile, runtime: str | None, threads: int | None, precision: str) -> Choice:
    """The block for a runtime, a number of threads and a precision (`float` or `int8`).

    Without a runtime, the profile's best-founded one; without threads, 1 or the fewest that it has.

    Raises:
        DeviceError: the profile has none; it names those that it has.
    """
    wanted = RUNTIMES.get(runtime or "", runtime)
    own = [b for b in profile.runtimes if wanted in (None, b.runtime)]
    from_elsewhere = not own and wanted in SPEAKS_FOR
    blocks = [b for b in profile.runtimes if b.runtime in SPEAKS_FOR[str(wanted)]] if from_elsewhere else own
    right = [b for b in blocks if b.precision == precision and threads in (None, b.threads)]
    if not right:
        held = sorted({f"{b.runtime} {b.precision} with {b.threads} threads" for b in profile.runtimes})
        others = {other for other, those in SPEAKS_FOR.items() for b in profile.runtimes if b.runtime in those}
        spoken = [f"the same for {', '.join(sorted(others))}, with less certainty"] if others else []
        raise DeviceError(
            f"{profile.id} has no evidence for {wanted or 'any runtime'} in {precision}"
            + (f" with {threads} threads" if threads else ""),
            where=f"device: sim:{profile.id}",
            expected="; ".join(held + spoken),
            got=f"{wanted}, {precision}, {threads}",
            fix="ask for one of these, or measure the board (edgedistill devices calibrate): nothing is scaled to fit",
        )
    block = min(right, key=lambda b: (ORDER.index(b.status), b.threads))
    if not from_elsewhere:
        return Choice(block, block.runtime, block.status)
    if block.status == "spec-only":
        return Choice(block, str(wanted), "spec-only")
    tried = (wanted, precision, block.status) == ("tflite", "float", "calibrated") and profile.emulated
    return Choice(block, str(wanted), "transferred" if tried else "no evidence")


def known_runtimes(profiles: Iterable[Profile]) -> set[str]:
    """Every name of a runtime that some profile can be asked for."""
    return {*SPEAKS_FOR, *RUNTIMES, *(block.runtime for profile in profiles for block in profile.runtimes)}


def require_known(runtime: str | None, profiles: Iterable[Profile]) -> None:
    """Whether a runtime is one that some profile knows. None: no runtime is asked for.

    Raises:
        UsageError: none does; it names the nearest.
    """
    known = known_runtimes(profiles)
    if runtime is not None and runtime not in known:
        raise UsageError(
            f"unknown runtime {runtime!r}",
            where="--runtime",
            expected=nearest(runtime, known),
            got=repr(runtime),
            fix="name a runtime that a profile has timings of",
        )


def usual_runtime(profile: Profile, runtime: str) -> str:
    """A file's own runtime as the device has it: a microcontroller runs TFLite files in tflite-micro."""
    own = {block.runtime for block in profile.runtimes}
    micro = profile.memory.sram_kb is not None and not own & {"tflite", *SPEAKS_FOR["tflite"]}
    return "tflite-micro" if runtime == "tflite" and micro else runtime


def answer(
    profile: Profile, choice: Choice, graph: Graph, counted: Array | None, residual: float | None = None
) -> Json:
    """The predicted measurement; by counts if they are given, else by operator classes.

    `residual`: measured over expected milliseconds on this machine, which correct operator classes.

    Raises:
        DeviceError: most of the time is in operators that the profile never saw, or nothing takes time.
    """
    kind = "graph" if counted is None else "counts"
    predictor: Predictor | None = getattr(choice.block, kind)
    if predictor is None:
        raise DeviceError(
            f"{profile.id} has no costs for the predictor {kind!r} in {choice.block.runtime}",
            where=f"device: sim:{profile.id}",
            expected="a predictor that the block holds",
            got=kind,
            fix="--predictor " + ("counts" if kind == "graph" else "graph"),
        )
    names = graphs.FEATURES if counted is None else counts.FEATURES
    costs = np.array([predictor.costs[name] for name in names])
    features = graphs.features(graph) if counted is None else counted
    costs, corrections = _corrected(costs, choice, kind, residual)
    total = float(features @ costs)
    if total <= 0:
        raise DeviceError(
            f"nothing in this network takes time by the costs of {profile.id}",
            where=f"device: sim:{profile.id}",
            expected="a convolution or a dense layer",
            got=", ".join(sorted(graph.macs_by_class())),
            fix="give the whole network",
        )
    half, mdape = predictor.spread, predictor.mdape
    if choice.standing in ("transferred", "no evidence"):
        half, mdape = widened(predictor, kind_of(profile, kind), evidence=choice.standing == "transferred")
    more, flags = _doubts(profile, choice, graph, predictor, costs, total, kind)
    half += more
    floats = "fp16" if choice.runtime == "ncnn" and profile.half_floats else "fp32"
    stored = graph.as_int8() if choice.block.precision == "int8" else graph
    memory = predict_memory(stored, choice.runtime)
    return {
        "device": f"sim:{profile.id}",
        "device_name": profile.name,
        "source": "predicted",
        "runtime": choice.runtime,
        "threads": choice.block.threads,
        "affinity": choice.block.affinity,
        "precision": choice.block.precision,
        "floats": floats,
        "predictor": kind,
        "latency_ms": {"p50": total},
        "interval80_ms": [total * math.exp(-half), total * math.exp(half)],
        "calibration": choice.standing,
        "mdape": mdape,
        "anchors": predictor.anchors,
        "method": predictor.method,
        "parts_ms": _parts(graph, features, costs, names, kind),
        "layers_ms": _layers(graph, costs) if counted is None else [],
        "predicted_memory_bytes": memory,
        "memory_budget": fits(stored, memory, profile.memory),
        "flags": flags + corrections + memory["flags"],
        "valid": True,
    }


def _corrected(costs: Array, choice: Choice, kind: str, residual: float | None) -> tuple[Array, list[str]]:
    """The costs by what this machine's measurement adds to operator classes, and the word for it."""
    if residual is None:
        return costs, []
    block = choice.block
    if kind != "graph" or (block.runtime, block.precision) != (RUNTIME, "float"):
        return costs, [f"not corrected by this machine: the timings are of {block.runtime} {block.precision}"]
    found = corrected(costs, np.array(residual))
    return found, [f"corrected by a measurement on this machine: x {residual**EXPONENT:.3g}"]


def _doubts(
    profile: Profile, choice: Choice, graph: Graph, predictor: Predictor, costs: Array, total: float, kind: str
) -> tuple[float, list[str]]:
    """What widens the interval (in log), and the words for it.

    Raises:
        DeviceError: the operator-class predictor is asked about what it mostly never saw.
    """
    flags = _standing(choice, predictor, kind_of(profile, kind))
    share, unseen = _unseen(graph, predictor, costs, total, kind)
    if kind == "graph" and share > REFUSED_SHARE:
        raise DeviceError(
            f"{share:.0%} of the work is in operators that {profile.id} hardly saw: {', '.join(unseen)}",
            where=f"device: sim:{profile.id}",
            expected=f"mostly {', '.join(predictor.seen)}",
            got=", ".join(unseen),
            fix=("--predictor counts needs no operator classes; or " if choice.block.counts else "")
            + "measure such networks: edgedistill devices calibrate",
        )
    more = share * math.log(UNSEEN_FACTOR)
    if share > 0.01:  # a percent is no doubt
        flags.append(f"widened: {share:.0%} of the work in operators with too few anchors ({', '.join(unseen)})")
    times = [measured for _, measured, _ in predictor.held_out]
    if times and not min(times) / 2 <= total <= 2 * max(times):
        beyond = min(times) / total if total < min(times) else total / max(times)
        more += _BEYOND * math.log(beyond)
        flags.append(f"extrapolated: a factor of {beyond:.0f} beyond the anchors; the interval's growth is a guess")
    return more, flags


def _standing(choice: Choice, predictor: Predictor, kind: str) -> list[str]:
    if choice.standing == "spec-only":
        return ["UNVALIDATED: from data sheets alone, nobody measured this device"]
    if choice.standing == "no evidence":
        costs = f"costs are those of {choice.block.runtime}"
        return [f"UNVALIDATED: no published timing of {choice.runtime} stands behind this; {costs}"]
    if choice.standing == "transferred":
        return [f"transferred: costs are those of ncnn, {told(kind)}"]
    return [f"few anchors: {predictor.anchors}"] if choice.standing == "few-shot" else []


def _unseen(graph: Graph, predictor: Predictor, costs: Array, total: float, kind: str) -> tuple[float, list[str]]:
    """Share of the work, by time or by MACs, whichever is more, in classes that are not among those seen."""
    seen = set(predictor.seen)
    if kind == "counts":  # instructions tell of every class but those whose kernels are a world of their own
        seen |= set(graphs.CLASSES) - {"matmul", "unknown"}
    macs = {name: number / max(graph.macs, 1) for name, number in graph.macs_by_class().items()}
    times: dict[str, float] = {}
    if kind == "graph":
        for layer in graph.layers:
            part = float(graphs.layer_features(graph, layer) @ costs) / max(total, 1e-30)
            times[layer.kind] = times.get(layer.kind, 0.0) + part
    work = {name: max(macs.get(name, 0.0), times.get(name, 0.0)) for name in graphs.CLASSES}
    if graph.unknown:
        steps = sum(layer.kind != "free" for layer in graph.layers)
        work["unknown"] = max(work["unknown"], sum(graph.unknown.values()) / max(steps, 1))
    found = {name: part for name, part in work.items() if part > 0 and name not in seen}
    words = [name if name != "unknown" else f"unknown ({', '.join(graph.unknown)})" for name in found]
    return min(1.0, sum(found.values())), words


def _parts(graph: Graph, features: Array, costs: Array, names: tuple[str, ...], kind: str) -> dict[str, float]:
    """Milliseconds per operator class, or per kind of instruction."""
    if kind == "counts":
        return dict(zip(names, (features * costs).tolist(), strict=True))
    parts: dict[str, float] = {}
    for layer in graph.layers:
        if layer.kind != "free":
            parts[layer.kind] = parts.get(layer.kind, 0.0) + float(graphs.layer_features(graph, layer) @ costs)
    return parts


def _layers(graph: Graph, costs: Array) -> list[Json]:
    """The layers that take most, the largest first."""
    found: list[Json] = [
        {"name": layer.name, "class": layer.kind, "ms": float(graphs.layer_features(graph, layer) @ costs)}
        for layer in graph.layers
        if layer.kind != "free"
    ]
    return sorted(found, key=lambda layer: -layer["ms"])[:_MOST_LAYERS]
