"""Look into a file while ncnn runs it: blobs by name, sample by sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.errors import ArtifactError
from edgedistill.opening import opens
from edgedistill.types import State

from . import runtime
from .file import graph

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from edgedistill.types import Array, Artifact

    from .library import Network


def opened(artifact: Artifact) -> Network:
    """The file in ncnn, in this process, after it has run in a process of its own: ncnn may die of a damaged one.

    Raises:
        ArtifactError: ncnn refuses the file.
    """
    check = opens(artifact, "ncnn", Path(runtime.__file__))
    if check.state is not State.PASS:
        raise _refused(artifact, check.reason)
    kinds = {layer.kind for layer in graph(artifact.path)}
    net = runtime.loaded(str(artifact.path), kinds, 1)  # computed as the agent computes
    net.opt.lightmode = False  # keep what lies between
    return net


def blobs(
    artifact: Artifact, net: Network, names: Iterable[str], samples: Iterable[Mapping[str, Array]]
) -> Iterator[dict[str, Array]]:
    """The named blobs for each sample, one sample after the other; a sample: input name -> array without a batch.

    Raises:
        ArtifactError: ncnn does not run a sample.
    """
    ncnn = runtime.library()
    inputs = runtime.inputs_of(runtime.layers_of(str(artifact.path)))
    wanted = list(dict.fromkeys(names))
    for sample in samples:
        found: dict[str, Array] = {}
        with net.create_extractor() as extractor:
            for spec in inputs:
                array = np.ascontiguousarray(sample[spec["name"]], spec["dtype"]).reshape(spec["shape"][1:])
                extractor.input(spec["name"], ncnn.Mat(array).clone())
            for name in wanted:
                code, mat = extractor.extract(name)
                if code != 0:
                    raise _refused(artifact, f"ncnn fails at {name} with code {code}")
                found[name] = np.array(mat)
        yield found


def zeros(artifact: Artifact) -> dict[str, Array]:
    """A sample of zeros for every input.

    Raises:
        ArtifactError: the file does not tell the shape of an input.
    """
    inputs = runtime.inputs_of(runtime.layers_of(str(artifact.path)))
    for spec in inputs:
        if spec["shape"] is None:
            raise _refused(artifact, f"it does not tell the shape of {spec['name']}")
    return {spec["name"]: np.zeros(spec["shape"][1:], spec["dtype"]) for spec in inputs}


def _refused(artifact: Artifact, why: str) -> ArtifactError:
    return ArtifactError(
        f"{artifact.path.name} does not run: {why}",
        where=str(artifact.path),
        expected="a file that ncnn runs",
        got=why,
        fix="export the model to ncnn again, and keep its two files together",
    )
