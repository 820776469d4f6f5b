"""Models that people bring: a program, an ONNX file, an import path; each with samples to prove exports with."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from edgedistill.conversion.samples import check_samples
from edgedistill.errors import ModelError, UsageError
from edgedistill.models.reference import Reference, of_module
from edgedistill.types import Array, Normalization, Signature, TensorSpec
from edgedistill.user_code import call

if TYPE_CHECKING:
    from collections.abc import Mapping

_SAMPLES = 32


@dataclass(frozen=True)
class Options:
    """What the command line says of a model beyond its path."""

    name: str = ""
    shapes: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def normalization(self) -> Normalization:
        """Of raw samples; model-ready ones where nothing is said."""
        if not self.mean and not self.std:
            return Normalization((0.0,), (1.0,), "model-ready")
        return Normalization(self.mean or (0.0,), self.std or (1.0,), "raw samples, as --mean and --std take them")


def load(target: str, options: Options, given: Mapping[str, Array] | None) -> Reference:
    """A model and its own answers for the given samples, or for seeded ones.

    Raises:
        EdgeDistillError: unreadable, of another kind, or not fit for the samples.
    """
    path = Path(target)
    if path.suffix == ".onnx":
        return _of_onnx(_existing(path), options, given)
    if path.suffix == ".pt2":
        return _of_program(_existing(path), options, given)
    if ":" in target:
        return _of_import(target, options, given)
    raise UsageError(
        f"{target} is no model",
        where=target,
        expected="a .pt2 program, an .onnx file, or package.module:function",
        got=path.suffix or "no ending",
        fix="save a torch model with torch.export.save(torch.export.export(model, inputs), 'model.pt2')",
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(
            f"there is no file at {path}", where=str(path), expected="a file", got="nothing", fix="correct the path"
        )
    return path


def _of_program(path: Path, options: Options, given: Mapping[str, Array] | None) -> Reference:
    """A .pt2: shapes and types stand in it; its batch is dynamic or not as it was exported."""
    from edgedistill.teachers.file import load_program

    program = load_program(path)
    names = list(program.graph_signature.user_inputs)
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    specs, dynamic = [], True
    for name in map(str, names):
        shape = [d if isinstance(d, int) else "batch" for d in values[name].shape]
        dynamic = dynamic and shape[:1] == ["batch"]
        if "batch" in shape[1:]:
            raise ModelError(
                f"{path.name} has a dynamic axis besides the batch",
                where=f"{path}, input {name}",
                expected="fixed axes after the first",
                got=str(tuple(str(d) for d in values[name].shape)),
                fix="export it again with only axis 0 dynamic",
            )
        specs.append(TensorSpec(name, tuple(shape), str(values[name].dtype).removeprefix("torch.")))
    rows = _SAMPLES if dynamic else int(specs[0].shape[0])
    examples = _examples(specs, rows, given, program.example_inputs)
    return of_module(
        program.module(),
        examples,
        options.name or path.stem,
        options.normalization,
        options.labels,
        dynamic_batch=dynamic,
    )


def _of_import(target: str, options: Options, given: Mapping[str, Array] | None) -> Reference:
    import torch

    from edgedistill.models.signature import parameters_of

    module = call(target, _keywords(options.arguments), Path())
    if not isinstance(module, torch.nn.Module):
        raise ModelError(
            f"{target} did not return a torch module",
            where=target,
            expected="a torch.nn.Module",
            got=type(module).__name__,
            fix="name a function that returns the module",
        )
    specs = [_spec(text) for text in options.shapes]
    if not specs and given is None:
        raise UsageError(
            "the shapes of the inputs are needed",
            where="--input",
            expected="--input NAME:SHAPE[:DTYPE] for each input, or --inputs with samples",
            got="neither",
            fix=f"for example --input {parameters_of(module, 1)[0]}:3,32,32",
        )
    examples = _examples(specs, _SAMPLES, given, None) if specs else dict(given or {})
    name = options.name or target.rsplit(":", 1)[1]
    return of_module(module, examples, name, options.normalization, options.labels)


def _of_onnx(path: Path, options: Options, given: Mapping[str, Array] | None) -> Reference:
    """An ONNX file: its own answers are those of onnxruntime."""
    from edgedistill.artifacts.identify import companions_of
    from edgedistill.artifacts.running import call_for, compute_all, subjects
    from edgedistill.plugins import load_device
    from edgedistill.types import Artifact, Precision

    normalization = options.normalization
    blank = Signature((), (), normalization, options.labels)
    artifact = Artifact.of_files(
        path,
        model="source",
        fmt="onnx",
        precision=Precision.FP32,
        signature=blank,
        companions=companions_of(path),
    )
    (subject,) = subjects([artifact])
    taken = load_device("cpu").run("cpu", call_for(subject)).document["inputs"]
    specs = [TensorSpec(one["name"], ("batch", *one["shape"][1:]), one["dtype"]) for one in taken]
    examples = _examples(specs, _SAMPLES, given, None)
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "inputs.npz"
        np.savez(samples, **dict(examples))
        expected = compute_all(subject, samples, Path(folder) / "outputs.npz")
    outputs = tuple(TensorSpec(name, ("batch", *array.shape[1:]), array.dtype.name) for name, array in expected.items())
    signature = Signature(tuple(specs), outputs, normalization, options.labels)
    return Reference(path, options.name or path.stem, signature, examples, expected)


def _examples(specs: list[TensorSpec], rows: int, given: Mapping[str, Array] | None, own: Any) -> dict[str, Array]:
    """Samples: the given ones; else seeded, integers being those that the program was exported with, or 0 and 1."""
    if given is not None:
        check_samples(Signature(tuple(specs), (), Normalization((0.0,), (1.0,)), ()), given, "--inputs")
        return {spec.name: np.asarray(given[spec.name], dtype=spec.dtype) for spec in specs}
    rng = np.random.default_rng(0)
    examples = {}
    for number, spec in enumerate(specs):
        shape = (rows, *(int(d) for d in spec.shape[1:]))
        if spec.dtype.startswith("float"):
            examples[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
        elif own is not None and len(own[0]) > number:
            examples[spec.name] = np.resize(own[0][number].numpy(), shape)
        else:
            examples[spec.name] = rng.integers(0, 2, shape).astype(spec.dtype)
    return examples


def _spec(text: str) -> TensorSpec:
    name, _, rest = text.partition(":")
    shape, _, dtype = rest.partition(":")
    try:
        sizes = tuple(int(d) for d in shape.split(",") if d and d != "batch")
        np.dtype(dtype or "float32")
    except (ValueError, TypeError):
        sizes = ()
    if not name or not sizes:
        raise UsageError(
            f"--input {text!r} is no input",
            where="--input",
            expected="NAME:SHAPE[:DTYPE] of one sample, such as image:3,32,32 or ids:128:int64",
            got=repr(text),
            fix="write the name, a colon, and the sizes with commas",
        )
    return TensorSpec(name, ("batch", *sizes), dtype or "float32")


def _keywords(arguments: tuple[str, ...]) -> dict[str, Any]:
    found = {}
    for text in arguments:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(
                f"--arg {text!r} is no argument", where="--arg", expected="NAME=VALUE", got=repr(text), fix="NAME=VALUE"
            )
        found[key] = yaml.safe_load(value)
    return found
