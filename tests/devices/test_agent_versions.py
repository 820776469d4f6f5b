"""One agent for Python 3.8 and newer, numpy 1 and 2: by its source, and (slowly) by running it there."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import edgedistill.agent
from edgedistill.plugins import known_runtimes
from tests.helpers.calls import opener_of
from tests.helpers.tflite_files import write

if TYPE_CHECKING:
    from collections.abc import Iterator

AGENT = Path(edgedistill.agent.__file__)
STAND_ALONE = [AGENT, *sorted({*(opener_of(name) for name in [*known_runtimes(), "tflite-micro"])})]
NEWER = {
    # attribute or function -> the Python that brought it
    "removeprefix": "3.9",
    "removesuffix": "3.9",
    "cache": "3.9",
    "randbytes": "3.9",
    "lcm": "3.9",
    "nextafter": "3.9",
    "is_relative_to": "3.9",
    "with_stem": "3.9",
    "readlink": "3.9",
    "to_thread": "3.9",
    "waitstatus_to_exitcode": "3.9",
    "unparse": "3.9",
    "bit_count": "3.10",
    "pairwise": "3.10",
    "aclosing": "3.10",
    "orig_argv": "3.10",
    "stdlib_module_names": "3.10",
    "packages_distributions": "3.10",
    "hardlink_to": "3.10",
    "file_digest": "3.11",
    "cbrt": "3.11",
    "exp2": "3.11",
    "batched": "3.12",
    "process_cpu_count": "3.13",
}
KEYWORDS = {
    "strict": "zip's is 3.10",
    "slots": "3.10",
    "kw_only": "3.10",
    "root_dir": "3.10",
    "delete_on_close": "3.12",
}
BUILTINS = {"list", "dict", "set", "frozenset", "tuple", "type"}


def too_new(source: str) -> list[str]:
    """What Python 3.8 does not have, as far as names tell."""
    try:
        tree = ast.parse(source, feature_version=(3, 8))
    except SyntaxError as error:
        return [f"grammar: {error.msg}"]
    return list(_newer(tree))


def _newer(tree: ast.AST) -> Iterator[str]:
    annotations = [n.annotation for n in ast.walk(tree) if isinstance(n, ast.arg | ast.AnnAssign) and n.annotation]
    annotations += [n.returns for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.returns]
    for annotation in annotations:
        if any(isinstance(n, ast.BinOp) and isinstance(n.op, ast.BitOr) for n in ast.walk(annotation)):
            yield f"union by | in line {annotation.lineno}: 3.10"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in NEWER:
            yield f"{node.attr} in line {node.lineno}: {NEWER[node.attr]}"
        if isinstance(node, ast.keyword) and node.arg in KEYWORDS:
            yield f"{node.arg}= in line {node.value.lineno}: {KEYWORDS[node.arg]}"
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in BUILTINS:
            yield f"{node.value.id}[...] in line {node.lineno}: 3.9"
        if isinstance(node, ast.ImportFrom):
            yield from (
                f"{alias.name} in line {node.lineno}: {NEWER[alias.name]}"
                for alias in node.names
                if alias.name in NEWER
            )


@pytest.mark.parametrize("path", STAND_ALONE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_source_is_python_3_8(path: Path) -> None:
    assert too_new(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "match x:\n    case 1: pass",
        "def f(x: int | None): pass",
        "def f() -> list[int]: ...",
        "x: dict[str, int] = {}",
        "import math; math.lcm(2, 3)",
        "dict(zip(a, b, strict=True))",
        "'a'.removeprefix('b')",
        "from functools import cache",
        "try: pass\nexcept* ValueError: pass",
        "def f[T](x: T): pass",
        "type X = int",
        "@dataclass(slots=True)\nclass A: pass",
    ],
)
def test_the_check_can_fail(line: str) -> None:
    assert too_new(line)


INTERPRETERS = [
    # python, packages, runtimes
    ("3.8", ("numpy==1.24.4", "onnxruntime==1.19.2", "tflite-runtime==2.14.0"), ("onnxruntime", "tflite-runtime")),
    ("3.11", ("numpy==1.26.4", "onnxruntime=={}", "tflite-runtime==2.14.0"), ("onnxruntime", "tflite-runtime")),
    ("3.11", ("numpy>=2", "onnxruntime=={}", "ai-edge-litert=={}"), ("onnxruntime", "litert")),
    ("3.13", ("numpy>=2", "onnxruntime=={}", "openvino=={}"), ("onnxruntime", "openvino")),
]
"""`{}`: the version that is installed here."""


def interpreter(wanted: str) -> str:
    """Such a Python, from the path or from pyenv; a skipped test where there is none."""
    found = [shutil.which(f"python{wanted}"), *map(str, Path.home().glob(f".pyenv/versions/{wanted}.*/bin/python"))]
    for one in filter(None, found):
        told = subprocess.run([one, "--version"], capture_output=True, text=True, check=False).stdout
        if told.startswith(f"Python {wanted}."):
            return str(one)
    pytest.skip(f"there is no Python {wanted}")


WEIGHTS = np.random.default_rng(0).integers(-127, 128, (4, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """y = x times the weights, in each runtime's format, and inputs."""
    import onnx
    from onnx import TensorProto, helper

    folder = tmp_path_factory.mktemp("versions")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, d]) for n, d in (("x", 6), ("y", 4))]
    held = helper.make_tensor("w", TensorProto.FLOAT, [6, 4], WEIGHTS.T.ravel())
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [held])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "dense.onnx"
    )
    shapes: list[tuple[tuple[int, ...], Any]] = [((1, 6), None), ((4, 6), WEIGHTS), ((4,), np.zeros(4)), ((1, 4), None)]
    tensors = [(shape, np.float32, 0.0, 0, content) for shape, content in shapes]
    tflite = write(folder / "dense.tflite", tensors, ["FULLY_CONNECTED"], [([0, 1, 2], 3)], [0, 3])
    np.savez(folder / "x.npz", x=np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32))
    return {
        "onnxruntime": folder / "dense.onnx",
        "openvino": folder / "dense.onnx",
        "litert": tflite,
        "tflite-runtime": tflite,
        "inputs": folder / "x.npz",
    }


@pytest.mark.slow
@pytest.mark.parametrize(("python", "packages", "runtimes"), INTERPRETERS)
def test_the_same_file_runs_there(
    python: str, packages: tuple[str, ...], runtimes: tuple[str, ...], files: dict[str, Path], tmp_path: Path
) -> None:
    subprocess.run([interpreter(python), "-m", "venv", tmp_path / "env"], check=True)
    pins = [pin.format(version(pin.split("==", maxsplit=1)[0])) if "{}" in pin else pin for pin in packages]
    here = tmp_path / "env" / "bin" / "python"
    subprocess.run([here, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins], check=True)
    (tmp_path / "board").mkdir()
    alone = shutil.copy(AGENT, tmp_path / "board" / "agent.py")
    with np.load(files["inputs"]) as archive:
        expected = archive["x"] @ WEIGHTS.T
    for runtime in runtimes:
        opener = shutil.copy(opener_of(runtime), tmp_path / "board" / "runtime.py")
        command = [here, alone, files[runtime], "--opener", opener, "--runtime", runtime, "--inputs", files["inputs"]]
        command += ["--outputs", tmp_path / "y.npz", "--queries", "70", "--profile", "3", "--sustained", "0.001"]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        document = json.loads(done.stdout.splitlines()[-1])
        assert document["python"].startswith(f"{python}.")
        assert document["numpy"].split(".")[0] == ("2" if "numpy>=2" in packages else "1")
        assert len(document["latency_ns"]) >= 70
        with np.load(tmp_path / "y.npz") as archive:
            np.testing.assert_allclose(archive[archive.files[0]], expected, rtol=1e-4, atol=1e-3)
