"""What each converter will not take, told from a captured program before anything is converted.

torch.onnx and litert-torch are asked through their own registries. What these do not tell, and what pnnx and OpenVINO
do not take, are lists that were tried one by one (tests/conversion/test_operators_of_models.py tries them again).
They hold what is refused for certain: a model that converts is never refused here.
"""

from __future__ import annotations

import re
from contextlib import redirect_stdout, suppress
from io import StringIO
from typing import TYPE_CHECKING

from .torch_graph import lacking, varying

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch.export import ExportedProgram
    from torch.fx import Node

    from edgedistill.types import Operator


def cautiously(ask: Callable[[], list[Operator]]) -> list[Operator]:
    """What a registry answers; nothing where it cannot be asked, as after a change of these private interfaces."""
    with suppress(Exception), redirect_stdout(StringIO()):  # litert-torch tells every step
        return ask()
    return []  # what cannot be foreseen is told by the conversion itself


def tried(program: ExportedProgram, runtime: str, table: Mapping[str, str]) -> list[Operator]:
    """Operators of a list, where they depend on the inputs; a pattern may also ask for types."""
    from_inputs = varying(program)

    def why(name: str, node: Node) -> str:
        if node not in from_inputs:
            return ""
        text = f"{name}{_types(node)}"
        return next((told for pattern, told in table.items() if re.match(pattern, text)), "")

    return lacking(program, runtime, why)


def _types(node: Node) -> str:
    """What the lists ask of a result: ` integers`, or ` of any shape` where it depends on values."""
    import torch

    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return ""
    whole = " integers" if not value.is_floating_point() and value.dtype is not torch.bool else ""
    return whole + ("" if all(isinstance(size, int) for size in value.shape) else " of any shape")
