"""The release: artifacts, metadata.yaml, examples, and per format a script that runs it without us."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import yaml

from edgedistill.artifacts.metadata import beside, outside
from edgedistill.documents.reading import require
from edgedistill.documents.report import BUNDLE_SCHEMA, Verifiable
from edgedistill.errors import ArtifactError, UsageError
from edgedistill.plugins import find_plugin
from edgedistill.release.gate import gate_of
from edgedistill.types import Array, file_sha256

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.documents.report import BundledFile, BundleMetadata, Report, VerifiedBundle
    from edgedistill.types import Artifact, Normalization

EXAMPLES = 8


def path_in_bundle(artifact: Artifact) -> str:
    """`artifacts/NAME`; formats of several files have a folder of their own, since two of them write NAME.bin."""
    folder = f"artifacts/{artifact.format}" if artifact.companions else "artifacts"
    return f"{folder}/{artifact.path.name}"


def write(
    artifacts: list[Artifact],
    report: Report,
    normalization: Normalization,
    examples: Array,
    expected: Array,
    out: Path,
) -> None:
    """Write the bundle's files into `out`.

    Args:
        artifacts: the student's artifacts.
        report: the report with its gate.
        normalization: turned back, so that the examples are raw samples.
        examples: model-ready samples (n, ...).
        expected: the torch student's logits for them (n, classes).
        out: an empty folder.
    """
    for artifact in artifacts:
        target = out / path_in_bundle(artifact)
        target.parent.mkdir(parents=True, exist_ok=True)
        for file in artifact.files:
            shutil.copyfile(file, target.with_name(file.name))
        if beside(artifact.path).is_file():
            shutil.copyfile(beside(artifact.path), beside(target))
    shape = (1, -1) + (1,) * (examples.ndim - 2)
    raw = examples * np.reshape(normalization.std, shape) + np.reshape(normalization.mean, shape)
    np.save(out / "example_inputs.npy", raw.astype(np.float32), allow_pickle=False)
    np.save(out / "example_logits.npy", expected.astype(np.float32), allow_pickle=False)
    labels = list(artifacts[0].signature.labels)
    for fmt in sorted({artifact.format for artifact in artifacts}):
        name, script = find_plugin("exporters", fmt).RUNNER
        constants = f"MEAN, STD, LABELS = {list(normalization.mean)}, {list(normalization.std)}, {labels}"
        text = script.read_text(encoding="utf-8").replace("MEAN, STD, LABELS = [0.0], [1.0], []", constants)
        (out / name).write_text(text.replace("  # filled in when the bundle is made", ""), encoding="utf-8")
    (out / "metadata.yaml").write_text(_metadata(artifacts, report), encoding="utf-8")


def verify(bundle: Path) -> VerifiedBundle:
    """Check every file of a bundle against metadata.yaml, and that its gate passed.

    Raises:
        UsageError: this is no bundle.
        ArtifactError: a file is missing or changed, or the bundle did not pass its gate.
    """
    try:
        document = yaml.safe_load((bundle / "metadata.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(
            f"{bundle} is not a bundle: {error}",
            where=str(bundle / "metadata.yaml"),
            expected="a folder that `edgedistill compress` or `edgedistill bundle` wrote",
            got=type(error).__name__,
            fix="give the bundle's folder",
        ) from error
    metadata = require(document, Verifiable, bundle / "metadata.yaml", "fetch the bundle again, or make it again")
    listed = {f["path"]: f["sha256"] for artifact in metadata["artifacts"] for f in artifact["files"]}
    verdict = metadata["gate"]["verdict"]
    for name, digest in listed.items():
        file = bundle / name
        if not file.is_file() or file_sha256(file) != digest:
            raise ArtifactError(
                f"{name} is not the file that was released",
                where=str(file),
                expected=f"sha256 {digest}",
                got=f"sha256 {file_sha256(file)}" if file.is_file() else "no file",
                fix="fetch the bundle again, or make it again with `edgedistill bundle`",
            )
    if verdict != "pass":
        raise ArtifactError(
            f"every file is intact, but the gate's verdict is {verdict}",
            where=str(bundle / "metadata.yaml"),
            expected="gate: pass",
            got=verdict,
            fix="do not ship it; the report says which check did not pass",
        )
    return {"bundle": str(bundle), "files": listed, "gate": verdict}


def _metadata(artifacts: list[Artifact], report: Report) -> str:
    facts = {a["id"]: a for a in report["artifacts"]}
    runtimes = {
        artifact.id: {
            m["runtime"]: m["runtime_version"]
            for m in report["measurements"]
            if m["source"] == "measured" and m["artifact"] == artifact.id
        }
        for artifact in artifacts
    }
    signature, gate = artifacts[0].signature.to_json(), gate_of(report)
    document: BundleMetadata = {
        "schema": BUNDLE_SCHEMA,
        "name": report["name"],
        "created": report["created"],
        "recipe_sha256": report["recipe_sha256"],
        "licence": (outside(artifacts[0].path) or {}).get("licence", ""),
        "task": report["task"]["kind"],
        "labels": signature["labels"],
        "normalization": signature["normalization"],
        "gate": {"verdict": gate["verdict"], "policy_sha256": gate["policy_sha256"]},
        "release": gate["verdict"] == "pass",
        "examples": {"inputs": "example_inputs.npy", "logits": "example_logits.npy"},
        "artifacts": [
            {
                "id": artifact.id,
                "format": artifact.format,
                "precision": artifact.precision.value,
                "size_bytes": artifact.size_bytes,
                "files": _files(artifact),
                "inputs": artifact.signature.to_json()["inputs"],
                "outputs": artifact.signature.to_json()["outputs"],
                "runtimes_checked": runtimes[artifact.id],
                "quality": facts[artifact.id]["quality"],
                "parity": facts[artifact.id]["parity"]["reason"],
                "integer_mac_share": facts[artifact.id]["integer_mac_share"],
            }
            for artifact in artifacts
        ],
        "tool_versions": report["environment"]["packages"],
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)


def _files(artifact: Artifact) -> list[BundledFile]:
    main = path_in_bundle(artifact)
    folder = main.rsplit("/", 1)[0]
    companions: list[BundledFile] = [
        {"path": f"{folder}/{name}", "sha256": digest} for name, digest in artifact.companions.items()
    ]
    told = beside(artifact.path)
    if told.is_file():
        companions.append({"path": f"{folder}/{told.name}", "sha256": file_sha256(told)})
    return [{"path": main, "sha256": artifact.sha256}, *companions]
