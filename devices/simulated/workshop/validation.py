"""What is claimed of the predictors, tried on the published rows: one table for docs/prediction.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import counts, memory
from ..fit import FEW_STRENGTH, Anchors, fit, held_out, shared_prior, validate
from ..graphs import graph as graphs
from ..host import corrected
from ..profiles import profiles
from ..published.data import count_anchors, graph_anchors, host_times, ncnn_times, pixel_anchors
from ..published.transfer import summarise, tried
from .build import boards

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgedistill.types import Array, Json

    from ..fit import Validation

_TRIPLES = 20
_SEED = 0


@dataclass(frozen=True)
class Timed:
    """A board's published rows of one thread count."""

    device: str
    soc: str
    costs: str
    kernels: str
    times: dict[str, float]

    def counts(self) -> Anchors:
        """Anchors of the counts predictor."""
        return count_anchors(self.times, self.kernels)

    def prior(self) -> Array:
        """Prior costs of its core."""
        return np.array(counts.PRIORS[self.costs])


def arm_runs(threads: int) -> list[Timed]:
    """Every ARM board with float rows of so many threads."""
    return list(_arm_runs(threads))


def _arm_runs(threads: int) -> Iterator[Timed]:
    for device in boards()["devices"]:
        for anchor in device["anchors"]:
            if device["kernels"] and threads in anchor.get("threads", {}):
                times = ncnn_times(anchor["ncnn"], threads, anchor["threads"][threads], "float")
                yield Timed(device["id"], device["soc"], device["costs"], device["kernels"], times)


def validation() -> Json:
    """Every figure of the table."""
    one, four = arm_runs(1), arm_runs(4)
    by_counts = {run.device: validate(run.counts(), run.prior()) for run in one}
    by_graph = {run.device: validate(graph_anchors(run.times), graphs.PRIOR) for run in one}
    with_four = {run.device: validate(run.counts(), run.prior()) for run in four}
    graph_four = {run.device: validate(graph_anchors(run.times), graphs.PRIOR) for run in four}
    few = few_shot(one)
    hosted = {run.device: with_host(run) for run in one}
    rows = [
        {
            "device": run.device,
            "networks": len(by_counts[run.device].errors),
            "counts": _figures(by_counts[run.device]),
            "graph": _figures(by_graph[run.device]),
            "graph_with_host": hosted[run.device][0],
            "coverage_with_host": float(np.mean(hosted[run.device][1])),
            "few_shot": few[run.device],
            "counts_4_threads": with_four[run.device].mdape if run.device in with_four else None,
        }
        for run in one
    ]
    return {
        "boards": rows,
        "four_threads_alone": {name: found.mdape for name, found in with_four.items() if name not in by_counts},
        "summary": {
            "counts": _over_boards(by_counts),
            "graph": _over_boards(by_graph),
            "counts_4_threads": _over_boards(with_four),
            "graph_4_threads": _over_boards(graph_four),
            "graph_with_host": float(np.median([error for error, _ in hosted.values()])),
            "coverage_with_host": float(np.mean(np.concatenate([held for _, held in hosted.values()]))),
            "few_shot": float(np.median(list(few.values()))),
        },
        "pixel_3": {kind: validate(pixel_anchors(kind), graphs.PRIOR).mdape for kind in ("float", "int8")},
        "int8": int8(),
        "transfer": _transfer(),
        "memory": _memory(),
    }


def _figures(found: Validation) -> Json:
    return {
        "mdape": found.mdape,
        "within10": found.within(0.1),
        "within20": found.within(0.2),
        "rank": found.rank,
        "coverage": float(np.mean(found.covered)),
        "spread": found.spread,
    }


def _over_boards(found: dict[str, Validation]) -> Json:
    """The median board, and the share of all networks in their intervals."""
    every = list(found.values())
    return {
        "boards": len(every),
        "networks": sum(len(one.errors) for one in every),
        "mdape": float(np.median([one.mdape for one in every])),
        "worst": max(one.mdape for one in every),
        "rank": float(np.median([one.rank for one in every])),
        "coverage": float(np.mean(np.concatenate([one.covered for one in every]))),
    }


def with_host(run: Timed) -> tuple[float, Array]:
    """Median error of the operator classes after a correction by the same networks on a host (one server's rows).

    What the host is expected to take is held out by family too. The second: which networks lie in their intervals,
    which keep the width that they have without a host.
    """
    host = host_times()
    anchors = graph_anchors({name: ms for name, ms in run.times.items() if name in host})
    on_host = graph_anchors({name: host[name] for name in anchors.names})
    residual = on_host.times_ms / held_out(on_host, graphs.PRIOR)
    plain = validate(anchors, graphs.PRIOR)
    predicted = corrected(plain.predicted_ms, residual)
    return float(np.median(np.abs(predicted / anchors.times_ms - 1))), plain.holds(predicted)


def few_shot(runs: list[Timed]) -> dict[str, float]:
    """Median error per board when it was left out but for three random networks; their families are not tested."""
    fitted = {run.device: (run, run.counts()) for run in runs}
    rng = np.random.default_rng(_SEED)
    found = {}
    for name, (run, anchors) in fitted.items():
        others = [(r, a) for r, a in fitted.values() if r.soc != run.soc and r.costs == run.costs]
        others = others or [(r, a) for r, a in fitted.values() if r.soc != run.soc]
        prior = shared_prior([fit(a, r.prior()) for r, a in others], [np.median(a.features, axis=0) for _, a in others])
        errors = [_few(anchors, prior, rng.choice(len(anchors.names), 3, replace=False)) for _ in range(_TRIPLES)]
        found[name] = float(np.median(np.concatenate(errors)))
    return found


def _few(anchors: Anchors, prior: Array, chosen: Array) -> Array:
    mask = np.zeros(len(anchors.names), dtype=bool)
    mask[chosen] = True
    known = {anchors.families[i] for i in chosen}
    test = np.array([family not in known for family in anchors.families])
    costs = fit(anchors.take(mask), prior, FEW_STRENGTH)
    rest = anchors.take(test)
    return np.asarray(np.abs(rest.features @ costs / rest.times_ms - 1))


def int8() -> Json:
    """Median error of int8 blocks of ncnn with one thread, per profile."""
    found = {}
    for profile in profiles().values():
        for block in profile.runtimes:
            if (block.runtime, block.threads, block.precision) == ("ncnn", 1, "int8"):
                kinds = {"counts": block.counts, "graph": block.graph}
                found[profile.id] = {kind: one.mdape for kind, one in kinds.items() if one is not None}
    return found


def _transfer() -> Json:
    rows = tried(profiles())
    told = [
        {
            "device": row.device,
            "network": row.network,
            "runtime": row.runtime,
            "predictor": row.predictor,
            "published_ms": row.published_ms,
            "predicted_ms": row.predicted_ms,
        }
        for row in rows
    ]
    return {"rows": told, "summary": summarise(rows)}


def _memory() -> Json:
    result = {}
    for runtime, anchors in memory.every_anchors().items():
        _, found = memory.fitted(runtime, anchors)
        result[runtime] = {"networks": len(found.errors), "mdape": found.mdape, "within20": found.within(0.2)}
    return result
