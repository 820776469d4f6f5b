"""A torch module to ONNX, the way there for several formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.errors import ModelError

from .modules import keep_modules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch.nn import Module

    from edgedistill.types import Array, Signature


def example(signature: Signature, batch: int, given: Mapping[str, Array] | None = None) -> tuple[Tensor, ...]:
    """Inputs of the signature's shapes as torch tensors: the given ones cut or repeated, else seeded.

    Made-up integers are 0 and 1: every table of embeddings has these two.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    tensors = []
    for spec in signature.inputs:
        rows = batch if isinstance(spec.shape[0], str) else int(spec.shape[0])
        if given is not None:
            tensor = torch.from_numpy(np.resize(given[spec.name], (rows, *given[spec.name].shape[1:])))
        elif spec.dtype.startswith("float"):
            tensor = torch.randn(rows, *(int(d) for d in spec.shape[1:]), generator=generator)
        else:
            tensor = torch.randint(0, 2, (rows, *(int(d) for d in spec.shape[1:])), generator=generator)
            tensor = tensor.to(getattr(torch, spec.dtype))
        tensors.append(tensor)
    return tuple(tensors)


def require_torch(model: Module | Path, name: str, fmt: str) -> Module:
    """The model, where only a torch model can be converted: an ONNX file is refused.

    Raises:
        ModelError: the model is a file.
    """
    if isinstance(model, Path):
        raise ModelError(
            f"{name} is written from torch models, not from ONNX files",
            where=str(model),
            expected="a .pt2 program or an import path",
            got=model.name,
            fix=f"give the torch model (torch.export.save writes a .pt2), or leave {fmt} out of --to",
        )
    return model


def torch_to_onnx(
    model: Module,
    signature: Signature,
    path: Path,
    given: Mapping[str, Array] | None = None,
    opset: int | None = None,
) -> None:
    """Write a torch module as one ONNX file; the batch axis is dynamic where the signature's is.

    The file holds no stack traces or paths of this machine, so the same weights give the same bytes; of each node
    it tells the module.
    """
    import torch

    inputs = example(signature, 2, given)  # with 1, the exporter takes the batch for a constant
    batch = torch.export.Dim("batch", min=1, max=1024)
    dynamic = isinstance(signature.inputs[0].shape[0], str)
    program = torch.onnx.export(
        model,
        inputs,
        dynamo=True,
        input_names=[spec.name for spec in signature.inputs],
        output_names=[spec.name for spec in signature.outputs],
        dynamic_shapes=tuple({0: batch} for _ in inputs) if dynamic else None,
        opset_version=opset,
        verbose=False,
    )
    if program is None:  # only without dynamo
        raise ModelError("torch.onnx.export returned nothing", where=str(path))
    proto = program.model_proto
    keep_modules(proto.graph)
    for node in proto.graph.node:
        node.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info, *proto.graph.initializer):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    path.write_bytes(proto.SerializeToString(deterministic=True))
