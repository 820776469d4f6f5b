"""What a profile of one runtime says of another: tried on the published rows there are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import yaml

from .. import counts
from ..fit import spread
from ..graphs import graph as graphs
from .data import DATA, litert_counts, paddle_graph, paddle_times, rows

if TYPE_CHECKING:
    from edgedistill.types import Json

    from ..profiles import Predictor, Profile

FILE = DATA / "transfer.yaml"
_PADDLE = (
    ("graph", "RK3399", "rk3399"),
    ("graph", "Snapdragon 835", "snapdragon-835"),
    ("graph_half", "Snapdragon 855", "snapdragon-855-plus"),
)
KINDS = ("counts", "graph", "graph_half")
"""What was tried: counts; operator classes; these by costs of a board where ncnn computes in half floats, as the other
runtimes do not."""


@dataclass(frozen=True)
class Row:
    """A published latency in another runtime, and what the ncnn profile of the same device says."""

    device: str
    network: str
    runtime: str
    kind: str
    published_ms: float
    predicted_ms: float

    @property
    def predictor(self) -> str:
        """`counts` or `graph`."""
        return self.kind.partition("_")[0]


def tried(profiles: dict[str, Profile]) -> list[Row]:
    """Every row: TFLite by counts, Paddle-Lite by operator classes."""
    found = []
    for row in rows("tflite_transfer.csv"):
        features = litert_counts(row["network"], row["counted_on"])
        costs = _costs(_one_thread(profiles[row["profile"]], "counts"), counts.FEATURES)
        if features is not None:
            found.append(
                Row(row["device"], row["network"], "tflite", "counts", float(row["ms"]), float(features @ costs))
            )
    for kind, soc, profile in _PADDLE:
        costs = _costs(_one_thread(profiles[profile], "graph"), graphs.FEATURES)
        for name, published in paddle_times(soc, "fp32").items():
            graph = paddle_graph(name)
            if graph is not None:
                predicted = float(graphs.features(graph) @ costs)
                found.append(Row(soc, name, "paddle-lite", kind, published, predicted))
    return found


def _one_thread(profile: Profile, kind: str) -> Predictor:
    block = next(b for b in profile.runtimes if (b.runtime, b.threads, b.precision) == ("ncnn", 1, "float"))
    found: Predictor = getattr(block, kind)
    return found


def _costs(predictor: Predictor, names: tuple[str, ...]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([predictor.costs[name] for name in names])


def summarise(found: list[Row]) -> Json:
    """Per kind: rows, median error and ratio, and the half-width in log of an interval for one more row."""
    document = {}
    for kind in KINDS:
        ratios = np.array([row.published_ms / row.predicted_ms for row in found if row.kind == kind])
        document[kind] = {
            "rows": len(ratios),
            "mdape": float(f"{np.median(np.abs(1 / ratios - 1)):.4g}"),
            "factor": float(f"{np.median(ratios):.4g}"),
            "spread": float(f"{spread(ratios):.4g}"),
        }
    return document


@cache
def _summary() -> Json:
    document: Json = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return document


def kind_of(profile: Profile, predictor: str) -> str:
    """Which of KINDS tells how far the profile's ncnn costs are from another runtime."""
    return "graph_half" if predictor == "graph" and profile.half_floats else predictor


def widened(predictor: Predictor, kind: str, *, evidence: bool) -> tuple[float, float | None]:
    """Half-width in log and median error of a transferred prediction; without evidence twice the transfer's share."""
    found = _summary()[kind]
    return math.hypot(predictor.spread, found["spread"] * (1 if evidence else 2)), found["mdape"] if evidence else None


def told(kind: str) -> str:
    """What was tried, in words."""
    found = _summary()[kind]
    rows = f"tried on {found['rows']} published rows of "
    return (
        rows
        + {
            "counts": "TFLite",
            "graph": "Paddle-Lite on A72 and A73",
            "graph_half": f"Paddle-Lite on one A76, which took {found['factor']:.1f} times as long",
        }[kind]
    )
