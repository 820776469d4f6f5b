"""Every tensor of a model for one sample: of a file, by its exporter; of a torch program, node by node."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedistill.contracts import ShowsTensors
from edgedistill.errors import ModelError, PluginError
from edgedistill.plugins import load_exporter, offers
from edgedistill.types import Array, TracedTensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgedistill.types import Artifact


def trace_file(artifact: Artifact, runtime: str, sample: Mapping[str, Array]) -> list[TracedTensor]:
    """Every tensor of a file, in the order of its graph.

    Args:
        artifact: the file.
        runtime: one of its format's.
        sample: input name -> one row.

    Raises:
        PluginError: the exporter has no verb `tensors`.
        ArtifactError: the runtime refuses the file or the sample.
    """
    exporter = load_exporter(artifact.format)
    shows = offers(exporter, ShowsTensors)
    if shows is None:
        raise PluginError(
            f"the exporter {artifact.format!r} cannot show the tensors of its files",
            where=getattr(exporter, "__name__", artifact.format),
            expected="the verb `tensors`",
            got="an exporter without it",
            fix="compare without --layers, or add the verb to the plug-in",
        )
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "sample.npz"
        np.savez(inputs, **dict(sample))
        return shows.tensors(artifact, runtime, inputs)


def trace_program(graph: Any, sample: Sequence[Array], outputs: Sequence[str], rows: int | None) -> list[TracedTensor]:
    """Every float tensor of an exported torch program, in the order of its graph.

    Args:
        graph: the program's module, a GraphModule of aten operators.
        sample: one row of each input.
        outputs: names of its outputs.
        rows: its batch, where it is fixed; the sample is repeated, and the first row's tensors are kept.

    Raises:
        ModelError: the program does not run on the sample.
    """
    failure: Exception | None = None
    for count in [rows] if rows is not None else [1, 2]:  # programs traced with a free batch may refuse one row
        try:
            values = _values(graph, sample, count)
        except Exception as error:  # noqa: BLE001 - whatever its operators and guards raise
            failure = error
        else:
            return _tensors(graph.graph, values, outputs, count)
    raise ModelError(
        f"the program does not run on one sample: {(str(failure).splitlines() or [''])[0][:300]}",
        where="reference",
        expected="a program that takes one row, or its own batch",
        got=type(failure).__name__,
        fix="export it with a dynamic first axis (torch.export.Dim)",
    ) from failure


def _values(graph: Any, sample: Sequence[Array], rows: int) -> dict[str, Any]:
    """Node name -> tensor."""
    import torch

    from edgedistill.models.graph import Recording

    values: dict[str, Any] = {}

    def see(name: str, tensor: Any) -> None:
        values[name] = tensor.clone()  # a later operator may write into it

    given = [torch.from_numpy(np.repeat(array[:1], rows, axis=0)) for array in sample]
    with torch.no_grad():
        Recording(graph, see).run(*given)
    return values


def _tensors(graph: Any, values: Mapping[str, Any], outputs: Sequence[str], rows: int) -> list[TracedTensor]:
    from edgedistill.models.graph import operator_name

    (end,) = (node for node in graph.nodes if node.op == "output")
    named = {node.name: name for node, name in zip(end.all_input_nodes, outputs, strict=False)}
    found: list[TracedTensor] = []
    behind: dict[str, tuple[int, ...]] = {}
    for node in graph.nodes:
        above = sorted({number for source in node.all_input_nodes for number in behind.get(source.name, ())})
        if node.op != "placeholder" and (not above or operator_name(node.target).startswith("sym_")):
            continue  # weights and sizes, and what depends on them alone
        value = values.get(node.name)
        if value is None or not (value.is_floating_point() or node.name in named or node.op == "placeholder"):
            behind[node.name] = tuple(above)
            continue
        behind[node.name] = (len(found),)
        maker = node.args[0] if operator_name(node.target) == "getitem" else node
        stack = list((maker.meta.get("nn_module_stack") or {}).values())
        found.append(
            TracedTensor(
                name=node.name,
                operator="input" if node.op == "placeholder" else operator_name(maker.target),
                module=str(stack[-1][0]) if stack and node.op != "placeholder" else "",
                value=_first_row(value.float().numpy(), rows),
                sources=tuple(above),
                weighted=any(_is_weight(source, values) for source in maker.all_input_nodes),
                output=named.get(node.name, ""),
            )
        )
    return found


def _is_weight(node: Any, values: Mapping[str, Any]) -> bool:
    value = values.get(node.name)
    return node.op == "get_attr" and value is not None and value.is_floating_point() and value.numel() > 1


def _first_row(value: Array, rows: int) -> Array:
    """Of a batch; batches that were merged with another axis have the first row first, too."""
    return value[: len(value) // rows] if value.ndim and len(value) % rows == 0 else value
