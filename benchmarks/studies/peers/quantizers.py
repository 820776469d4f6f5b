"""What each tool makes of an fp32 ONNX file: one process a tool, which tells its CPU time and its peak memory.

    python -m benchmarks.studies.peers.quantizers TOOL MODEL.onnx CALIBRATION.npz VALIDATION.npz OUT

Every tool gets the same calibration samples; ours also gets the validation samples with their labels, to choose by.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgedistill.types import Array


class _Reader:
    """Samples as onnxruntime's quantiser asks for them."""

    def __init__(self, calibration: dict[str, Array]) -> None:
        count = len(next(iter(calibration.values())))
        self.samples: Iterator[dict[str, Array]] = (
            {name: rows[i : i + 1] for name, rows in calibration.items()} for i in range(count)
        )

    def get_next(self) -> dict[str, Array] | None:
        return next(self.samples, None)


def onnxruntime_defaults(model: Path, calibration: dict[str, Array], out: Path) -> Path:
    """`quantize_static` as it comes, after the preparation that its documentation asks for."""
    return _by_onnxruntime(model, calibration, out)


def onnxruntime_per_channel(model: Path, calibration: dict[str, Array], out: Path) -> Path:
    """`quantize_static` with a scale for each channel and uint8 activations, as it advises for x86 with VNNI."""
    from onnxruntime.quantization import QuantType

    return _by_onnxruntime(model, calibration, out, per_channel=True, activation_type=QuantType.QUInt8)


def _by_onnxruntime(model: Path, calibration: dict[str, Array], out: Path, **options: Any) -> Path:
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, made = out / "prepared.onnx", out / "model.onnx"
    try:
        quant_pre_process(str(model), str(prepared))
    except Exception:  # noqa: BLE001 - symbolic inference gives up on some graphs: its documentation says to skip it
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    reader: Any = _Reader(calibration)  # by its verb
    quantize_static(str(prepared), str(made), reader, **options)
    return made


def onnxruntime_dynamic(model: Path, calibration: dict[str, Array], out: Path) -> Path:
    """`quantize_dynamic` as it comes; it takes no samples."""
    from onnxruntime.quantization import quantize_dynamic

    del calibration
    quantize_dynamic(str(model), str(out / "model.onnx"))
    return out / "model.onnx"


def nncf(model: Path, calibration: dict[str, Array], out: Path) -> Path:
    """`nncf.quantize` on the ONNX file as it comes."""
    import nncf as tool
    import onnx

    count = len(next(iter(calibration.values())))
    samples = [{name: rows[i : i + 1] for name, rows in calibration.items()} for i in range(count)]
    quantized = tool.quantize(onnx.load(str(model)), tool.Dataset(samples), subset_size=count)
    onnx.save(quantized, str(out / "model.onnx"))
    return out / "model.onnx"


def edgedistill(model: Path, calibration: dict[str, Array], out: Path, validation: Path) -> Path:
    """`edgedistill export` with int8 and dynamic int8; the file that it recommends."""
    from edgedistill.conversion.export import Settings, write
    from edgedistill.conversion.loading import Options, load

    with np.load(validation, allow_pickle=False) as archive:
        judging = {name: archive[name] for name in archive.files}
    source = load(str(model), Options(name="model"), {name: rows[:32] for name, rows in calibration.items()})
    settings = Settings(to=["onnx"], precisions=["int8", "int8-dynamic"], calibration=calibration, validation=judging)
    document = write(source, out / "export", settings)
    (said,) = document.get("recommendations", [])
    path = next(a["path"] for a in document["artifacts"] if a["id"] == said["artifact"])
    shutil.copy(out / "export" / path, out / "model.onnx")
    return out / "model.onnx"


TOOLS: dict[str, Callable[..., Path]] = {
    "onnxruntime, defaults": onnxruntime_defaults,
    "onnxruntime, per channel": onnxruntime_per_channel,
    "onnxruntime, dynamic": onnxruntime_dynamic,
    "nncf": nncf,
    "edgedistill": edgedistill,
}


def _peak_mb() -> float:
    """Of this process since it was started; getrusage would tell the peak of the one that started it, too."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    """Make the file, and print what it took."""
    tool, model, calibration, validation, out = sys.argv[1], *map(Path, sys.argv[2:])
    with np.load(calibration, allow_pickle=False) as archive:
        samples = {name: archive[name] for name in archive.files}
    out.mkdir(parents=True, exist_ok=True)
    more = (validation,) if tool == "edgedistill" else ()
    made = TOOLS[tool](model, samples, out, *more)
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    document = {
        "path": str(made),
        "cpu_s": own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime,
        "peak_mb": _peak_mb(),
    }
    sys.stdout.write(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
