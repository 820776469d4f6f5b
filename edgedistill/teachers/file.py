"""A teacher in a file: a black box that onnxruntime runs."""

from __future__ import annotations

import math
import os
import shutil
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from edgedistill.errors import ModelError, PluginError
from edgedistill.models.facts import BlackBox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jaxtyping import Float
    from onnxruntime import InferenceSession


class OnnxModel(BlackBox):
    """An ONNX file behind the face of a torch module. It has no parameters and gives no gradients."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.session = _session(path)
        self.file_parameters = _parameters(path)
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            raise ModelError(
                f"{path.name} takes {len(inputs)} inputs",
                where=str(path),
                expected="one input: a batch of samples",
                got=", ".join(i.name for i in inputs) or "none",
                fix="export the model with a single input",
            )
        self.input_name = inputs[0].name
        batch = inputs[0].shape[0] if inputs[0].shape else None
        self.batch = batch if isinstance(batch, int) else None

    def forward(self, inputs: Float[Tensor, "batch ..."]) -> Tensor | dict[str, Tensor]:
        """The only output as a tensor, or a dict of all outputs by their names."""
        size = self.batch or len(inputs)
        names = [output.name for output in self.session.get_outputs()]
        parts = [self._run(_filled(part, size), names) for part in torch.split(inputs, size)]
        outputs = {name: torch.cat([part[name] for part in parts])[: len(inputs)] for name in names}
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def _run(self, inputs: Tensor, names: list[str]) -> dict[str, Tensor]:
        array = np.ascontiguousarray(inputs.detach().cpu().numpy(), dtype=np.float32)
        try:
            values = self.session.run(names, {self.input_name: array})
        except Exception as error:  # onnxruntime's own tree of errors, without a public base
            raise ModelError(
                f"{self.path.name} does not take this data: {str(error).splitlines()[0]}",
                where=str(self.path),
                expected=f"an input of shape {self.session.get_inputs()[0].shape}",
                got=f"{tuple(array.shape)}",
                fix="give data of the shape that the teacher takes",
            ) from error
        return {name: torch.from_numpy(np.array(value)) for name, value in zip(names, values, strict=True)}


def _parameters(path: Path) -> int:
    """Elements of all weights: floating-point initialisers of more than one element."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    real = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
    sizes = [math.prod(t.dims) for t in model.graph.initializer if t.data_type in real]
    return sum(size for size in sizes if size > 1)


def _filled(part: Tensor, size: int) -> Tensor:
    """A file with a fixed batch wants it whole: the last sample is repeated."""
    if len(part) == size:
        return part
    return torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])


def _session(path: Path) -> InferenceSession:
    try:
        import onnxruntime
    except ImportError as error:
        raise PluginError(
            "a teacher in a file needs onnxruntime",
            where=str(path),
            expected="the extra `onnx`",
            got=str(error),
            fix="pip install 'edgedistill[onnx]'",
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own tree of errors, without a public base
        raise ModelError(
            f"onnxruntime refuses {path.name}: {str(error).splitlines()[0]}",
            where=str(path),
            expected="an ONNX model",
            got=type(error).__name__,
            fix="export the teacher again, or update onnxruntime",
        ) from error


def as_onnx(source: Path, target: Path) -> Path:
    """Copy an .onnx file, or convert a .pt2 to one, so that a run keeps what it was taught by.

    Raises:
        ModelError: unreadable, not convertible, or holding anything that would have to be unpickled.
    """
    if source.suffix == ".onnx":
        shutil.copyfile(source, target)
        data = source.with_name(source.name + ".data")  # where large models keep their weights
        if data.is_file():
            shutil.copyfile(data, target.with_name(data.name))
        return target
    program = load_program(source)
    try:
        converted = torch.onnx.export(program, dynamo=True, verbose=False)
        if converted is not None:
            converted.save(str(target))
    except Exception as error:
        raise ModelError(
            f"{source.name} cannot be converted for onnxruntime: {str(error).splitlines()[0]}",
            where=str(source),
            expected="a program that torch.onnx.export takes",
            got=type(error).__name__,
            fix="export the teacher to .onnx yourself",
        ) from error
    return target


def load_program(path: Path) -> torch.export.ExportedProgram:
    """Read a .pt2 without ever unpickling anything but tensors.

    Raises:
        ModelError: unreadable, or it holds pickled objects.
    """
    try:
        _refuse_pickles(path)
        with _weights_only():
            return torch.export.load(path)
    except ModelError:
        raise
    except Exception as error:  # a damaged archive makes the readers raise anything
        raise ModelError(
            f"{path.name} cannot be read as an exported program",
            where=str(path),
            expected="a .pt2 file written by torch.export.save",
            got=(str(error).splitlines() or [type(error).__name__])[0][:300],
            fix="save it with torch.export.save(torch.export.export(model, inputs), path)",
        ) from error


def _refuse_pickles(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        pickled = [n for n in archive.namelist() if n.rsplit("/", 1)[-1].startswith(("custom_obj", "opaque_obj"))]
    if pickled:
        raise ModelError(
            f"{path.name} holds pickled objects, which are never opened",
            where=f"{path}: {pickled[0]}",
            expected="a program of tensors alone",
            got=f"{len(pickled)} pickled objects",
            fix="export the model without script objects",
        )


@contextmanager
def _weights_only() -> Iterator[None]:
    """torch.export.load asks torch.load for arbitrary objects; torch's own switch refuses them."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
