"""What several exporters share: the way from torch to ONNX, and telling a converter's failure."""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgedistill.errors import EdgeDistillError, ModelError

from .replacements import replacement
from .torch_graph import blamed, places

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor
    from torch.nn import Module


@contextmanager
def conversion(what: str, tool: str, model: Module | None = None, inputs: tuple[Tensor, ...] = ()) -> Iterator[None]:
    """Tell any failure of a converter as an error about the model: the operator it names, where it stands, a way out.

    Args:
        what: the model's name.
        tool: the converter's.
        model: the torch module, in which the operator is looked up.
        inputs: that it takes.

    Raises:
        ModelError: the converter failed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (EdgeDistillError, OSError):
        raise
    except Exception as error:
        operator, told = blamed(error)
        modules = places(model, inputs, operator) if operator and model is not None and inputs else []
        instead = replacement(operator) if operator else ""
        where = ", ".join(modules)
        named = f"{operator} ({where}): " if where else f"{operator}: " if operator else ""
        raise ModelError(
            f"{tool} cannot convert {what}: {named}{told[:300]}",
            where=where or operator or what,
            expected=f"a model that {tool} can convert",
            got=f"{type(error).__name__}: {told[:300]}",
            fix=f"{f'write instead: {instead}' if instead else 'replace the operation it names'}, "
            "or leave this format out (--to, export.formats); --debug shows all",
        ) from error


def weighted_macs(weights: Sequence[int], output: Sequence[int], channel_axis: int) -> int:
    """MACs of a convolution or dense layer: every weight is used once for each output position."""
    return math.prod(weights) * math.prod(output) // output[channel_axis]
