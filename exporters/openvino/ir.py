"""OpenVINO IR files whose bytes depend on the model alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.types import Artifact, Precision, file_sha256

if TYPE_CHECKING:
    from pathlib import Path

    from openvino import Model

    from edgedistill.types import Json, Signature


def companions(path: Path) -> tuple[Path, ...]:
    """The .bin that holds the weights of an .xml."""
    return (path.with_suffix(".bin"),)


def save(
    model: Model,
    path: Path,
    name: str,
    precision: Precision,
    signature: Signature,
    producer: Json,
    *,
    half: bool = False,
) -> Artifact:
    """Write IR whose bytes depend on the model alone, the .xml vouching for the .bin; `half`: float weights as fp16."""
    import openvino

    for number, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() not in ("Parameter", "Result"):  # these carry the signature's names
            module, slash, _ = node.get_friendly_name().partition("/")
            before = f"{module}/" if slash else ""
            node.set_friendly_name(f"{before}{node.get_type_name()}_{number}")  # else a counter of the process
    openvino.save_model(model, path, compress_to_fp16=half)
    weights = path.with_suffix(".bin")
    model.set_rt_info(file_sha256(weights), ["edgedistill", "weights_sha256"])
    openvino.save_model(model, path, compress_to_fp16=half)
    return Artifact.of_files(
        path,
        model=name,
        fmt="openvino",
        precision=precision,
        signature=signature,
        companions=companions(path),
        producer=producer,
    )
