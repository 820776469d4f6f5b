"""A file as a graph, and a file that the emulated runtime opens."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.errors import ArtifactError, PluginError, UsageError, nearest
from edgedistill.types import file_sha256

from ..._param import input_shapes, layers_of
from .graph import UnfitError

if TYPE_CHECKING:
    from .graph import Graph

READERS = {
    ".onnx": (".onnx", "onnx"),
    ".tflite": (".tflite", "tflite"),
    ".xml": (".openvino", "openvino"),
    ".param": (".ncnn", "ncnn"),
}
"""Ending -> the reader's module, and the extra that it needs."""
RUNTIME_OF = {".onnx": "onnxruntime", ".tflite": "tflite", ".xml": "openvino", ".param": "ncnn"}
_CONVERSION_S = 1800


def read_graph(path: Path) -> Graph:
    """The network in a file.

    Raises:
        UsageError: no such file, or an ending that nobody reads.
        PluginError: the extra that reads it is not installed.
        ArtifactError: the file is damaged, or nothing can be predicted of it.
    """
    if path.suffix not in READERS or not path.is_file():
        raise UsageError(
            f"{path} is not an artifact",
            where=str(path),
            expected="an existing file; " + nearest(path.suffix, READERS),
            got="nothing at this path" if path.suffix in READERS else repr(path.suffix),
            fix="give a file of a known format",
        )
    module, extra = READERS[path.suffix]
    try:
        graph: Graph = import_module(module, __package__).read(path)
    except ImportError as error:
        raise PluginError(
            f"{path.name} is read by a library that this environment does not have",
            where=str(path),
            expected=f"the extra {extra!r} installed",
            got=str(error),
            fix=f"pip install 'edgedistill[{extra}]'",
        ) from error
    except UnfitError as error:
        raise ArtifactError(
            f"nothing can be predicted of {path.name}: {error}",
            where=str(path),
            expected="one sample, and sizes that are known before it runs",
            got=str(error),
            fix=error.fix,
        ) from error
    except Exception as error:  # each library has errors of its own for a file it cannot read
        raise ArtifactError(
            f"{path} cannot be read",
            where=str(path),
            expected=f"a valid {path.suffix} file",
            got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}",
            fix="export it again; the file may be damaged or of another format",
        ) from error
    if all(layer.kind == "free" for layer in graph.layers):
        raise ArtifactError(
            f"nothing can be predicted of {path.name}: no layer in it takes time",
            where=str(path),
            expected="a network that computes",
            got=f"{len(graph.layers)} layers",
            fix="give the whole network",
        )
    return graph


def runnable(files: tuple[Path, ...], runtime: str) -> tuple[tuple[Path, ...], dict[str, tuple[int, ...]]]:
    """A file that the runtime opens and those that hold its weights, with its inputs' shapes (ncnn asks for them).

    An ONNX file becomes one of ncnn by pnnx, kept by its digest: weights and shapes are the file's, batch 1.

    Args:
        files: the file, and those beside it that hold its weights.
        runtime: that shall open it.

    Raises:
        ArtifactError: pnnx cannot convert it.
    """
    path = files[0]
    if path.suffix == ".onnx" and runtime == "ncnn":
        shapes = _onnx_inputs(path)
        made = _converted(files, shapes)
        return (made, made.with_suffix(".bin")), {f"in{n}": shape for n, shape in enumerate(shapes)}
    return files, ncnn_inputs(path) if runtime == "ncnn" else {}


def ncnn_inputs(path: Path) -> dict[str, tuple[int, ...]]:
    """Input -> shape with a batch of 1, as the .param tells it.

    Raises:
        ArtifactError: it does not.
    """
    found = input_shapes(layers_of(path))
    told = {name: (1, *shape) for name, shape in found.items() if shape is not None}
    if len(told) < len(found):
        raise ArtifactError(
            f"{path.name} does not tell the shape of its input",
            where=str(path),
            expected="Input layers with 0=W 1=H 2=C",
            got="none",
            fix="export it with EdgeDistill, or add the sizes to the Input layer's line",
        )
    return told


def _onnx_inputs(path: Path) -> list[tuple[int, ...]]:
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [
        tuple(axis.dim_value or 1 for axis in value.type.tensor_type.shape.dim)
        for value in graph.input
        if value.name not in weights
    ]


def _converted(files: tuple[Path, ...], shapes: list[tuple[int, ...]]) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    folder = Path(cache) / "edgedistill" / "converted" / _key(files)
    target = folder / "model.ncnn.param"
    if not target.is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".converting-", dir=folder.parent) as work:
            _pnnx(files, shapes, Path(work))
            kept = Path(work) / "kept"
            kept.mkdir()
            for ending in (".param", ".bin"):
                (Path(work) / f"model.ncnn{ending}").rename(kept / f"model.ncnn{ending}")
            shutil.rmtree(folder, ignore_errors=True)
            kept.rename(folder)
    return target


def _key(files: tuple[Path, ...]) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        tool = version("pnnx")
    except PackageNotFoundError as error:
        raise PluginError(
            "an ONNX file is turned into one of ncnn by pnnx, which this environment does not have",
            where=str(files[0]),
            expected="the extra 'ncnn' installed",
            got=str(error),
            fix="pip install 'edgedistill[ncnn]', or --predictor graph",
        ) from error
    digests = [file_sha256(file) for file in files if file.is_file()]
    return hashlib.sha256(" ".join([tool, *digests]).encode()).hexdigest()[:32]


def _pnnx(files: tuple[Path, ...], shapes: list[tuple[int, ...]], work: Path) -> None:
    package = import_module("pnnx")
    path, *companions = files
    shutil.copyfile(path, work / "model.onnx")
    for companion in companions:
        shutil.copyfile(companion, work / companion.name)
    told = ",".join(f"[{','.join(map(str, shape))}]" for shape in shapes)
    command = [package.EXEC_PATH, "model.onnx", f"inputshape={told}", "fp16=0"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False, timeout=_CONVERSION_S)
    if not (work / "model.ncnn.param").is_file() or not (work / "model.ncnn.bin").is_file():
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["nothing"]
        raise ArtifactError(
            f"{path.name} could not be turned into a file of ncnn",
            where=str(path),
            expected="operators that pnnx knows",
            got=last[0],
            fix="--predictor graph, or export to ncnn yourself",
        )
