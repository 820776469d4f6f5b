"""What several exporters share: the way from torch to ONNX, and telling a converter's failure."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedistill import agent
from edgedistill.errors import EdgeDistillError, ModelError
from edgedistill.types import Check, State

from ._support_onnx import keep_modules
from ._support_replacements import replacement
from ._support_torch import blamed, places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from edgedistill.types import Array, Artifact, Signature


@contextmanager
def conversion(what: str, tool: str, model: Any = None, inputs: tuple[Any, ...] = ()) -> Iterator[None]:
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
        modules = places(model, inputs, operator) if operator and inputs else []
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


def example(signature: Signature, batch: int, given: Mapping[str, Array] | None = None) -> tuple[Any, ...]:
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


def require_torch(model: Any, name: str, fmt: str) -> None:
    """Refuse an ONNX file where only a torch model can be converted.

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


def torch_to_onnx(
    model: Any,
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


def opens(artifact: Artifact, runtime: str) -> Check:
    """Whether a runtime opens the file and computes one inference, tried in a process of its own.

    tflite-runtime dies of a segmentation fault on a damaged file; the process that asks must not.
    """
    name = f"support:{artifact.id}:{runtime}"
    command = [sys.executable, agent.__file__, str(artifact.path), "--runtime", runtime]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Check(name, State.PASS, f"{runtime} opens {artifact.path.name}")
    try:
        error = json.loads(done.stdout.splitlines()[-1])["error"]
        told = error["message"]
    except (IndexError, ValueError, KeyError):
        error, told = {}, f"it died with exit code {done.returncode}"
    if error.get("code") == "unsized":
        return Check(name, State.PASS, f"{runtime} opens {artifact.path.name}; nothing was computed: {told}")
    return Check(name, State.FAIL, f"{runtime} refuses {artifact.path.name}: {told}")


def supported(
    artifact: Artifact, runtimes: Iterable[str], refusals: Callable[[Artifact], Mapping[str, str]]
) -> list[Check]:
    """For each runtime: refused by the operators of the file, or opened."""
    try:
        refused = refusals(artifact)
    except Exception:  # noqa: BLE001 - a damaged or missing file has many errors of its reader; opening tells better
        refused = {}
    return [
        Check(f"support:{artifact.id}:{runtime}", State.FAIL, f"not for {runtime}: {refused[runtime]}")
        if runtime in refused
        else opens(artifact, runtime)
        for runtime in runtimes
    ]


def weighted_macs(weights: Sequence[int], output: Sequence[int], channel_axis: int) -> int:
    """MACs of a convolution or dense layer: every weight is used once for each output position."""
    return math.prod(weights) * math.prod(output) // output[channel_axis]
