"""What a file is: its format, its operators, the artifact that it makes with its companions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.errors import ArtifactError, UsageError, nearest

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.types import Artifact, Inventory


def described(path: Path) -> Artifact:
    """A file as an artifact, its format told by its ending; of it are read its digest and which files hold its weights.

    Raises:
        UsageError: there is no file, its ending is unknown, or the file that holds its weights is not beside it.
    """
    from edgedistill.types import Artifact, Normalization, Precision, Signature

    endings = _endings()
    if path.suffix not in endings or not path.is_file():
        raise UsageError(
            f"{path} is not an artifact",
            where=str(path),
            expected="an existing file" if path.suffix in endings else "a file; " + nearest(path.suffix, endings),
            got="nothing at this path" if path.suffix in endings else repr(path.suffix),
            fix="correct the path" if path.suffix in endings else "give a file of a known format",
        )
    weights = companions_of(path)
    for companion in weights:
        if not companion.is_file():
            raise UsageError(
                f"{companion.name} is not beside {path.name}",
                where=str(path),
                expected=f"{companion.name}, which holds the weights",
                got="nothing at this path",
                fix="keep the two files together",
            )
    return Artifact.of_files(
        path,
        model=path.stem,
        fmt=endings[path.suffix],
        precision=Precision.FP32,
        signature=Signature((), (), Normalization((0.0,), (1.0,)), ()),
        companions=weights,
    )


def companions_of(path: Path) -> tuple[Path, ...]:
    """Files beside a file that hold its weights, as its format's exporter tells; none for an unknown ending."""
    from edgedistill.contracts import HasCompanions
    from edgedistill.plugins import find_exporters, offers

    fmt = _endings().get(path.suffix)
    teller = offers(find_exporters()[fmt], HasCompanions) if fmt is not None else None
    return teller.companions(path) if teller is not None else ()


def _endings() -> dict[str, str]:
    """Ending of a main file -> its format."""
    from edgedistill.plugins import find_exporters

    return {exporter.SUFFIX: name for name, exporter in find_exporters().items()}


def inventory_of(artifact: Artifact) -> Inventory:
    """What the file is made of, read without its runtime; nothing for a format whose exporter does not tell.

    Raises:
        ArtifactError: the file is damaged or of another format.
    """
    from edgedistill.contracts import TellsOperators
    from edgedistill.plugins import load_exporter, offers
    from edgedistill.types import Inventory

    teller = offers(load_exporter(artifact.format), TellsOperators)
    try:
        return teller.inventory(artifact) if teller is not None else Inventory({}, ())
    except Exception as error:  # each format's reader has errors of its own for a file it cannot read
        told = (str(error).strip().splitlines() or [""])[0][:200]
        raise _unreadable(artifact, f"{type(error).__name__}: {told}") from error


def artifact_of(path: Path) -> Artifact:
    """A file as an artifact that its runtimes open, its format told by its ending, its precision by its MACs.

    It is opened in processes of their own first: runtimes die of damaged files.

    Raises:
        UsageError: there is no such file.
        ArtifactError: it is damaged, of another format, or every runtime refuses it.
    """
    from dataclasses import replace

    from edgedistill.plugins import load_exporter
    from edgedistill.types import Precision

    artifact = described(path)
    exporter = load_exporter(artifact.format)
    refused = inventory_of(artifact).refusals
    checks = [] if set(exporter.RUNTIMES) <= set(refused) else exporter.check_support(artifact)
    told = [check.reason for check in checks if check.state != "pass"] or [f"{k}: {why}" for k, why in refused.items()]
    if all(check.state != "pass" for check in checks):
        raise ArtifactError(
            f"no runtime takes {path.name}: {'; '.join(told)}",
            where=str(path),
            expected=f"a file that one of {', '.join(exporter.RUNTIMES)} takes",
            got="; ".join(told),
            fix="`edgedistill operators` lists what it is made of; if it is damaged, export it again",
        )
    try:
        integer = exporter.count_macs(artifact).integer
    except Exception as error:  # each library has errors of its own for a file it cannot read
        told = (str(error).strip().splitlines() or [""])[:1]
        raise _unreadable(artifact, f"{type(error).__name__}: {told[0]}") from error
    return replace(artifact, precision=Precision.INT8_STATIC if integer else Precision.FP32)


def _unreadable(artifact: Artifact, got: str) -> ArtifactError:
    return ArtifactError(
        f"{artifact.path} cannot be read as {artifact.format}",
        where=str(artifact.path),
        expected=f"a valid {artifact.format} file",
        got=got,
        fix="export it again; the file may be damaged or of another format",
    )
