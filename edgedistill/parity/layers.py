"""Which tensor of a graph first departs: two models' tensors for one sample, side by side. Pure numpy.

Every tensor of the reference looks for its counterpart: by its name where both files are of one format, else by its
values under a change of layout. What finds none was either fused away, or computed wrong. The two are told apart
downstream: what was fused away reaches the outputs through tensors that agree; what was computed wrong does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.parity.departure import Departure, Limits, departure, laid_out

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgedistill.documents.answers import FirstDeparture, TensorState, TracedDocument, TracedRow, Way
    from edgedistill.types import Array, TracedTensor


@dataclass(frozen=True)
class Layers:
    """The reference's tensors in the order of its graph, each with its counterpart; and the first that departs."""

    rows: tuple[TracedRow, ...]
    first_departure: FirstDeparture | None

    def to_json(self) -> Way:
        """`layers`, `layers_absent` (how many have no counterpart) and `first_departure`."""
        absent = sum(row["state"] == "absent" for row in self.rows)
        return {"layers": list(self.rows), "layers_absent": absent, "first_departure": self.first_departure}


def align(
    reference: Sequence[TracedTensor],
    candidate: Sequence[TracedTensor],
    outputs: Mapping[str, str],
    limits: Limits,
    *,
    same_format: bool,
) -> Layers:
    """Lay two graphs side by side, and find the first tensor that departs.

    Args:
        reference: tensors of the model that is right, for one sample, in the order of its graph.
        candidate: tensors of the other, for the same sample.
        outputs: the reference's outputs -> those of the other.
        limits: when a tensor departs.
        same_format: whether names mean the same in both.
    """
    pairs = _Pairs(reference, candidate, limits)
    pairs.by_value()
    pairs.by_name({f"output {a}": f"output {b}" for a, b in outputs.items()}, _output)
    if same_format:
        pairs.by_name({t.origin: t.origin for t in reference if t.origin}, lambda tensor: tensor.origin)
    graph = _Graph(reference)
    agrees = _agreeing(pairs, graph, limits)
    lost = graph.lost(agrees)
    departed = [graph.counts[n] and not agrees[n] and (n in pairs.found or lost[n]) for n in range(len(reference))]
    pairs.by_order([n for n, bad in enumerate(departed) if bad and n not in pairs.found], agrees)
    rows = tuple(
        _row(n, pairs, "agrees" if agrees[n] else "departs" if departed[n] and n in pairs.found else "absent")
        for n in range(len(reference))
        if graph.counts[n]
    )
    return Layers(rows, _first(departed, agrees, pairs, graph))


def _output(tensor: TracedTensor) -> str:
    return f"output {tensor.output}" if tensor.output else ""


def _agreeing(pairs: _Pairs, graph: _Graph, limits: Limits) -> list[bool]:
    """Who has a counterpart within the limits, at the level of the nearest tensors above that have one, too."""
    agrees: list[bool] = []
    levels: list[float] = []  # dB; of a tensor that departs, what it should have had
    for number, sources in enumerate(graph.sources):
        level = min((levels[source] for source in sources), default=float("inf"))
        found = pairs.found[number][1] if number in pairs.found else None
        agrees.append(found is not None and limits.met(found) and not limits.fell(found, level))
        levels.append(min(level, found.snr_db) if found is not None and agrees[-1] else level)
    return agrees


class _Pairs:
    """Counterparts as they are found: position in the reference -> (position in the other, departure)."""

    def __init__(self, reference: Sequence[TracedTensor], candidate: Sequence[TracedTensor], limits: Limits) -> None:
        self.reference, self.candidate, self.limits = reference, candidate, limits
        self.found: dict[int, tuple[int, Departure]] = {}

    def by_value(self) -> None:
        """Whoever has the same values in some layout; the sorted values rule out most at once."""
        known: dict[int, list[tuple[int, Array]]] = {}
        for number, tensor in enumerate(self.candidate):
            known.setdefault(tensor.value.size, []).append((number, np.sort(tensor.value, axis=None)))
        for number, tensor in enumerate(self.reference):
            values = np.sort(tensor.value, axis=None)
            if values.size < 2 or values[0] == values[-1]:  # a constant is like any other
                continue
            likely = [n for n, other in known.get(values.size, []) if self.limits.sure(departure(values, other))]
            measured = [(n, laid_out(tensor.value, self.candidate[n].value)) for n in likely]
            good = [(n, found) for n, found in measured if self.limits.sure(found)]
            if good:
                self.found[number] = max(good, key=lambda pair: pair[1].snr_db)

    def by_name(self, names: Mapping[str, str], name_of: Callable[[TracedTensor], str]) -> None:
        """The last tensor of a name, as it is stored; unless its values say that it is another's."""
        owners: dict[int, set[int]] = {}
        for number, (other, _) in self.found.items():
            owners.setdefault(other, set()).add(number)
        last = {name_of(tensor): number for number, tensor in enumerate(self.candidate) if name_of(tensor)}
        for number, tensor in enumerate(self.reference):
            other = last.get(names.get(name_of(tensor), ""), -1)
            if other < 0 or self.candidate[other].value.size != tensor.value.size:
                continue
            there = self.candidate[other].value
            compared = departure if there.shape == tensor.value.shape else laid_out  # what has the name has the layout
            found = compared(tensor.value, there)
            if self.limits.met(found) or not owners.get(other, set()) - {number}:
                self.found[number] = (other, found)

    def by_order(self, wanted: Sequence[int], agrees: Sequence[bool]) -> None:
        """Tensors of the same size in the same order: the longest such chain, the likest in values if there are many.

        Of the other graph, those that reach its outputs through tensors that agree are no candidates.
        """
        taken = [False] * len(self.candidate)
        for number, (other, _) in self.found.items():
            taken[other] = taken[other] or agrees[number]
        bad = _Graph(self.candidate).lost(taken)
        used = {other for other, _ in self.found.values()}
        free = [n for n in range(len(self.candidate)) if n not in used and bad[n]]
        best = np.zeros((len(wanted) + 1, len(free) + 1))
        measured: dict[tuple[int, int], Departure] = {}
        for i in range(len(wanted) - 1, -1, -1):
            for j in range(len(free) - 1, -1, -1):
                best[i, j] = max(best[i + 1, j], best[i, j + 1])
                mine, theirs = self.reference[wanted[i]], self.candidate[free[j]]
                if mine.value.size == theirs.value.size:
                    found = measured[i, j] = laid_out(mine.value, theirs.value)
                    likeness = 1 + float(np.clip(found.snr_db, 0, 20)) / 10 + (mine.name == theirs.name)
                    best[i, j] = max(best[i, j], best[i + 1, j + 1] + likeness)
        i = j = 0
        while i < len(wanted) and j < len(free):
            if best[i, j] == best[i + 1, j]:
                i += 1
            elif best[i, j] == best[i, j + 1]:
                j += 1
            else:
                self.found[wanted[i]] = (free[j], measured[i, j])
                i, j = i + 1, j + 1


class _Graph:
    """Who is computed from whom; `counts` tells who the outputs depend on."""

    def __init__(self, tensors: Sequence[TracedTensor]) -> None:
        self.sources = [tensor.sources for tensor in tensors]
        self.users: list[list[int]] = [[] for _ in tensors]
        self.ends = [bool(tensor.output) for tensor in tensors]
        self.counts = list(self.ends)
        for number in range(len(tensors) - 1, -1, -1):
            for source in self.sources[number]:
                self.users[source].insert(0, number)
                self.counts[source] = self.counts[source] or self.counts[number]

    def lost(self, agrees: Sequence[bool]) -> list[bool]:
        """Who reaches an output without passing a tensor that agrees: it cannot be told to be right."""
        found = [False] * len(agrees)
        for number in range(len(agrees) - 1, -1, -1):
            ends = self.ends[number] or any(found[user] for user in self.users[number])
            found[number] = ends and not agrees[number]
        return found

    def above(self, marked: Sequence[bool]) -> list[bool]:
        """Whether each is computed from something marked."""
        found: list[bool] = []
        for sources in self.sources:
            found.append(any(marked[source] or found[source] for source in sources))
        return found


def _first(departed: Sequence[bool], agrees: Sequence[bool], pairs: _Pairs, graph: _Graph) -> FirstDeparture | None:
    """The first departed tensor that has no departed one above it, with the operators that may have done it."""
    above = graph.above(departed)
    starts = [n for n, bad in enumerate(departed) if bad and not above[n]]
    if not starts:
        return None
    paths = [_path(start, departed, pairs, graph) for start in starts]
    path = next((path for path in paths if path[-1] in pairs.found), paths[0])
    layer = next((n for n in path if pairs.reference[n].weighted), path[0])
    return {
        **_row(path[-1], pairs, "departs"),
        "layer": _told(pairs.reference[layer]),
        "path": [_told(pairs.reference[n]) for n in path],
        "preceded_by": [_row(n, pairs, "agrees") for n in _before(path, agrees, graph)],
        "also": [_told(pairs.reference[other[-1]]) for other in paths if other is not path],
    }


def _path(start: int, departed: Sequence[bool], pairs: _Pairs, graph: _Graph) -> list[int]:
    """Operators without a counterpart above a departed tensor, itself, and on to the first one that was measured."""
    path = {start}
    left = [start]
    while left:
        lost = [source for source in graph.sources[left.pop()] if source not in pairs.found and source not in path]
        path.update(lost)
        left += lost
    while start not in pairs.found:
        following = [user for user in graph.users[start] if departed[user]]
        if not following:
            break
        start = following[0]
        path.add(start)
    return sorted(path)


def _before(path: Sequence[int], agrees: Sequence[bool], graph: _Graph) -> list[int]:
    """The tensors that a path starts from, which agree."""
    return sorted({source for number in path for source in graph.sources[number] if agrees[source]})


def _told(tensor: TracedTensor) -> TracedDocument:
    return {
        "tensor": tensor.name,
        "operator": tensor.operator,
        "module": tensor.module,
        "shape": list(tensor.value.shape),
    }


def _row(number: int, pairs: _Pairs, state: TensorState) -> TracedRow:
    """A tensor of the reference beside its counterpart."""
    row: TracedRow = {
        **_told(pairs.reference[number]),
        "state": state,
        "artifact": None,
        "snr_db": None,
        "max_relative": None,
    }
    if number in pairs.found and state != "absent":
        other, found = pairs.found[number]
        row = {**row, "artifact": _told(pairs.candidate[other]), **found.to_json()}
    return row
